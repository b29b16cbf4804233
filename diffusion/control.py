"""Sketch and colour map in the shape a ControlNet reads."""

import re

import numpy as np
import torch
from PIL import Image, ImageEnhance

COLOUR_SCALE = 8  # pixels of the picture to one of its colour map, each way


def control_channels(control: str) -> int:
    """Channels that the ControlNet must take for a preset's `control`.

    Raises ValueError when `control` is neither "picture" nor "space to depth F".
    """
    return 3 if control == "picture" else _fold(control) ** 2 + 3 * (_fold(control) // COLOUR_SCALE) ** 2 + 2


def takes_colour(control: str) -> bool:
    """Whether a ControlNet of this `control` reads the colour map."""
    return control != "picture"


def control_tensor(sketch: np.ndarray | None, control: str, colour: np.ndarray | None = None) -> torch.Tensor:
    """What is known of a picture as the conditioning input of a ControlNet.

    sketch: uint8 HxW, 255 = edge; colour: uint8 H/8xW/8x3 RGB; each may be None, "picture" needs the sketch and takes
    no colour.
    Returns float32 on the CPU:
    "picture": 1x3xHxW in 0..1, sharpened by 2 as the paper does after decoding, which its ControlNet expects;
    "space to depth F": 1xCxH/FxW/F: F*F channels of the sketch in 0..1, channel F*y + x holding the pixel at (y, x) of
    each FxF block; 1 or 0: whether there is a sketch; 3*(F/8)**2 channels of the colour map in -1..1, folded alike;
    1 or 0: whether there is one. What is absent is 0.

    Raises ValueError when `control` is neither, or F does not divide H and W.
    """
    if control == "picture":
        sharp = ImageEnhance.Sharpness(Image.fromarray(sketch)).enhance(2.0)
        return _planes(sharp).expand(1, 3, -1, -1)
    fold = _fold(control)
    height, width = sketch.shape if colour is None else (COLOUR_SCALE * side for side in colour.shape[:2])
    if height % fold or width % fold:
        raise ValueError(f"sketch or colour map of {height}x{width} pixels: both must be multiples of {fold}")
    lines = torch.zeros(1, 1, height, width) if sketch is None else _planes(sketch)
    colours = torch.zeros(1, 3, height // 8, width // 8) if colour is None else 2 * _planes(colour) - 1
    flags = torch.tensor([float(sketch is not None), float(colour is not None)]).view(1, 2, 1, 1)
    flags = flags.expand(-1, -1, height // fold, width // fold)
    unshuffle = torch.nn.functional.pixel_unshuffle
    return torch.cat([unshuffle(lines, fold), unshuffle(colours, fold // COLOUR_SCALE), flags], 1)


def _planes(picture: np.ndarray | Image.Image) -> torch.Tensor:
    """uint8 HxW or HxWx3 as 1xCxHxW in 0..1."""
    array = np.atleast_3d(np.asarray(picture, dtype=np.float32)) / 255
    return torch.from_numpy(array).permute(2, 0, 1)[None]


def _fold(control: str) -> int:
    match = re.fullmatch(r"space to depth (\d+)", control)
    if match is None or int(match[1]) == 0 or int(match[1]) % COLOUR_SCALE:
        raise ValueError(f'control is {control!r}: it must be "picture" or "space to depth F", F a multiple of 8')
    return int(match[1])

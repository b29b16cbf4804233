"""A sketch in the shape its ControlNet reads."""

import re

import numpy as np
import torch
from PIL import Image, ImageEnhance


def control_channels(control: str) -> int:
    """Channels that the ControlNet must take for a preset's `control`.

    Raises ValueError when `control` is neither "picture" nor "space to depth F".
    """
    return 3 if control == "picture" else _fold(control) ** 2


def control_tensor(sketch: np.ndarray, control: str) -> torch.Tensor:
    """The sketch as the conditioning input of a ControlNet.

    sketch: uint8 HxW, 255 = edge.
    Returns float32 in 0..1, on the CPU:
    "picture": 1x3xHxW, sharpened by 2 as the paper does after decoding, which its ControlNet expects;
    "space to depth F": 1xF*FxH/FxW/F, channel F*y + x holding the pixel at (y, x) of each FxF block.

    Raises ValueError when `control` is neither, or F does not divide H and W.
    """
    if control == "picture":
        sharp = ImageEnhance.Sharpness(Image.fromarray(sketch)).enhance(2.0)
        return _unit(np.asarray(sharp)).expand(1, 3, -1, -1)
    fold = _fold(control)
    if any(side % fold for side in sketch.shape):
        raise ValueError(f"sketch of {sketch.shape[0]}x{sketch.shape[1]}: both must be multiples of {fold}")
    return torch.nn.functional.pixel_unshuffle(_unit(sketch), fold)


def _unit(sketch: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(sketch.astype(np.float32) / 255)[None, None]


def _fold(control: str) -> int:
    match = re.fullmatch(r"space to depth (\d+)", control)
    if match is None or int(match[1]) == 0:
        raise ValueError(f'control is {control!r}: it must be "picture" or "space to depth F"')
    return int(match[1])

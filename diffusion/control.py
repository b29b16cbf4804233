"""Sketch and color map -> the control image of a ControlNet.

    color_map(base, height, width)                          # (H/8, W/8, 3), of a base layer
    control_tensor(sketch, "picture")                       # (1, 3, H, W)
    control_tensor(sketch, "space to depth 16", color)      # (1, 270, H/16, W/16)

A preset's `control` names a format, which `presets.block_side` parses:

- "picture": the sketch as an RGB image, sharpened by 2 as the paper does after decoding, which
  the ControlNets of Stable Diffusion expect. It holds no color map.
- "plain picture": the sketch as it is. "plain picture of 0.5 to 128": 127.5 times it, plus 0.5,
  which the ControlNet "canny" of Stable Diffusion 3.5 expects.
- "space to depth F", F a multiple of 8: the pixels of each FxF block, folded into channels: F*F
  of the sketch in 0..1, row by row; 3*(F/8)**2 of the color map in -1..1, the block of R, then of
  G, then of B; and two that are 1 or 0: whether there is a sketch, and whether there is a color
  map. What is absent is 0.
"""

from collections.abc import Sequence

import numpy as np
import torch
from einops import rearrange
from PIL import Image, ImageEnhance

from presets.row import PICTURES, Preset, block_side

COLOR_SCALE = 8  # pixels of the image to one of its color map, each way
SHARPNESS = 2.0  # of the paper
SHARPENED, _, WIDE = PICTURES


def control_channels(control: str) -> int:
    """Return the number of channels of the control image. Raises ValueError as `block_side`."""
    side = block_side(control)
    if not side:
        return 3
    return side**2 + 3 * (side // COLOR_SCALE) ** 2 + 2


def takes_color(control: str) -> bool:
    """Return whether the control image holds the color map."""
    return control not in PICTURES


def color_map(color: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the color map (H/8, W/8, 3) of the colors of an image of height x width pixels.

    color: uint8, a color map, which is returned as it is; or a base (H, W, 3), whose squares of
    8 x 8 pixels are averaged, float32 in 0..255.
    """
    if color.shape[:2] != (height, width):
        return color
    squares = rearrange(color, "(h y) (w x) c -> h w c (y x)", y=COLOR_SCALE, x=COLOR_SCALE)
    return squares.mean(-1, dtype=np.float32)


def control_tensor(
    sketch: np.ndarray | None, control: str, color: np.ndarray | None = None, signed: bool = False
) -> torch.Tensor:
    """Return the control image of a sketch and a color map, (1, C, h, w) float32 on the CPU.

    sketch: uint8 (H, W), 255 = edge; color: RGB of 0..255, (H/8, W/8, 3). Either may be None, but
    a picture needs the sketch. signed: pictures are in -1..1, not in 0..1. The format is described
    above. Raises ValueError for an unknown `control`, or if F does not divide H and W.
    """
    side = block_side(control)
    if not side:
        return _picture(sketch, control, signed).expand(1, 3, -1, -1)
    height, width = _size(sketch, color)
    if height % side or width % side:
        raise ValueError(
            f"sketch or color map of {height}x{width} pixels: both must be multiples of {side}"
        )
    edges = torch.zeros(1, 1, height, width)
    if sketch is not None:
        edges = _planes(sketch[..., None])
    colors = torch.zeros(1, 3, height // COLOR_SCALE, width // COLOR_SCALE)
    if color is not None:
        colors = 2 * _planes(color) - 1
    flags = torch.tensor([float(sketch is not None), float(color is not None)])
    flags = flags[None, :, None, None].expand(1, 2, height // side, width // side)
    folded = [_space_to_depth(edges, side), _space_to_depth(colors, side // COLOR_SCALE)]
    return torch.cat([*folded, flags], dim=1)


def control_tensors(
    sketches: Sequence[np.ndarray] | None,
    control: str,
    colors: Sequence[np.ndarray] | None,
    signed: bool,
) -> torch.Tensor | None:
    """Return the control images (N, C, h, w) of a batch, or None if there is nothing to show."""
    if not takes_color(control):
        colors = None
    if sketches is None and colors is None:
        return None
    count = len(sketches or colors or ())
    pairs = zip(sketches or [None] * count, colors or [None] * count, strict=True)
    return torch.cat([control_tensor(sketch, control, color, signed) for sketch, color in pairs])


def control_settings(row: Preset, control: torch.Tensor, name: str) -> dict:
    """Return the arguments of a pipeline with a ControlNet, or with several that see the same.

    control: (N, C, h, w). name: that of the argument for it.
    """
    settings: dict = {name: control, "controlnet_conditioning_scale": row.control_scale}
    if row.control_mode >= 0:
        settings["control_mode"] = row.control_mode
    if row.control_end < 1:
        settings["control_guidance_end"] = row.control_end
    count = 1 + len(row.more_controlnets)
    return settings if count == 1 else {key: [value] * count for key, value in settings.items()}


def later_settings(row: Preset) -> list[str]:
    """Return the settings of a ControlNet that older files did not know, if they are set."""
    parts = []
    if row.control_mode >= 0:
        parts.append(f"control mode {row.control_mode}")
    if row.control_end < 1:
        parts.append(f"control end {row.control_end}")
    return parts


def check_sizes(scale: int, height: int, width: int, sketches, colors) -> None:
    """Raise ValueError for sizes that a model cannot take or that do not agree.

    scale: the model's, of which both sides are multiples. Others as of `Generator.generate_each`.
    """
    if height % scale or width % scale or min(height, width) < scale:
        raise ValueError(f"cannot generate {height}x{width}: both must be multiples of {scale}")
    size = f"{height}x{width}"
    for sketch in sketches or ():
        if sketch.shape != (height, width):
            raise ValueError(f"sketch of shape {sketch.shape} for an image of {size}")
    small = (height // COLOR_SCALE, width // COLOR_SCALE, 3)
    for color in colors or ():
        if color.shape not in (small, (height, width, 3)):
            raise ValueError(f"color map of shape {color.shape} for an image of {size}")


def _picture(sketch: np.ndarray, control: str, signed: bool) -> torch.Tensor:
    """Return the sketch as (1, 1, H, W)."""
    if control == SHARPENED:
        sketch = np.asarray(ImageEnhance.Sharpness(Image.fromarray(sketch)).enhance(SHARPNESS))
    plane = _planes(sketch[..., None])
    if control == WIDE:
        return 127.5 * plane + 0.5
    return 2 * plane - 1 if signed else plane


def _size(sketch: np.ndarray | None, color: np.ndarray | None) -> tuple[int, int]:
    """Return height and width of the image in pixels."""
    if color is None:
        return sketch.shape
    height, width, _ = color.shape
    return COLOR_SCALE * height, COLOR_SCALE * width


def _planes(image: np.ndarray) -> torch.Tensor:
    """Return an image (H, W, C) of 0..255 as (1, C, H, W) float32 in 0..1."""
    scaled = torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)
    return rearrange(scaled, "h w c -> 1 c h w")


def _space_to_depth(planes: torch.Tensor, side: int) -> torch.Tensor:
    """Fold each block of side x side pixels into channels, (n, c, H, W) -> (n, c*side**2, h, w)."""
    return rearrange(planes, "n c (h y) (w x) -> n (c y x) h w", y=side, x=side)

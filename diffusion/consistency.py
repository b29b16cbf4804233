"""The reconstruction keeps what the stream says of colors and coarse structure.

    image = consistent(generated, base)

A text-to-image model repaints the colors and the structure that it was given. What the decoder
knows of them is put back, at no cost in bytes (data consistency, e.g. Wang et al., "Zero-Shot Image
Restoration Using Denoising Diffusion Null-Space Model", 2023, arXiv 2212.00490: the range-space
part of a mean over blocks):

- The low band, means of SCALE x SCALE pixels, is that of the color or base layer.
- Above it, a base layer still knows much: it stays, sharpened, and DETAIL of what the model draws
  there is added. A color map knows nothing there.

DETAIL and SHARPENING were chosen on BSDS500 (docs/design.md).
"""

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image, ImageFilter

SCALE = 8  # pixels to one of the low band, each way
DETAIL = 0.7  # of the model's, above the low band
SHARPENING = ImageFilter.UnsharpMask(radius=1.5, percent=100, threshold=0)


def consistent(image: np.ndarray, color: np.ndarray) -> np.ndarray:
    """Return a generated image with the low band of a color map or a base layer.

    image: uint8 RGB (H, W, 3). color: uint8 RGB, (H/8, W/8, 3) or (H, W, 3). Returns uint8 RGB.
    """
    generated = _planes(image)
    detail = generated - low_band(generated)
    if color.shape == image.shape:
        sharp = _planes(np.asarray(Image.fromarray(color).filter(SHARPENING)))
        known = low_band(_planes(color)) - low_band(sharp) + sharp
        kept = known + DETAIL * detail
    else:
        kept = enlarged(_planes(color)) + detail
    return rearrange(kept.clamp(0, 255).round(), "1 c h w -> h w c").to(torch.uint8).numpy()


def _planes(image: np.ndarray) -> torch.Tensor:
    """Return an image as float32 (1, 3, H, W) in 0..255."""
    return rearrange(torch.from_numpy(image.astype(np.float32)), "h w c -> 1 c h w")


def low_band(planes: torch.Tensor) -> torch.Tensor:
    """Return the means of the blocks of images, (N, C, H, W), enlarged to their size."""
    return enlarged(F.avg_pool2d(planes, SCALE))


def enlarged(blocks: torch.Tensor) -> torch.Tensor:
    """Return a color map or the means of blocks, (N, C, h, w), at the size of the image."""
    return F.interpolate(blocks, scale_factor=SCALE, mode="bicubic", align_corners=False)

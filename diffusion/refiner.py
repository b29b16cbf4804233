"""A small network that sharpens reconstructions on top of what was sent of colors and structure.

    refine = load_refiner(get_preset("tiny"), "cpu")
    image = refine(reconstruction, color, sketch)

A generator of a few million weights draws no fine detail. The refiner looks at its
reconstruction, at the color or base layer and at the sketch, in one step, and adds detail above the
low band, which stays as `diffusion.consistency` left it. It enlarges by interpolation, not by a
pixel shuffle, whose period the eye sees (docs/metrics.md). Trained by tiny/train_refiner.py.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from common.weights import UnavailableError, from_mirrors
from diffusion.consistency import enlarged, low_band
from diffusion.control import planes
from diffusion.library import ConfigMixin, ModelMixin, register_to_config
from diffusion.loading import refuse_missing, without_data
from presets import Preset, PresetError, cure
from pretrained.model_folders import check_config, check_size, local_folder, one_error

FOLD = 4  # pixels, each way, to one of the first feature map
# Part of the detail that is added to a drawing of a color map, which knows no structure: with all
# of it, edges become rows of light dots.
DETAIL_OF_MAPS = 0.5
INPUTS = 9  # planes: reconstruction, colors, sketch; whether they are a map's, whether there is one

Refine = Callable[[np.ndarray, np.ndarray, np.ndarray | None], np.ndarray]


class Residual(nn.Module):
    """Two convolutions whose output is added to their input."""

    def __init__(self, width: int):
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return float32 (N, C, H, W) of the same shape."""
        return x + self.second(F.silu(self.first(F.silu(x))))


class Refiner(ModelMixin, ConfigMixin):
    """A U-Net at 1/4, 1/8 and 1/16 of the size, and three convolutions at the larger sizes.

    widths: channels at 1/4, 1/8, 1/16, 1/2 and the full size.
    """

    @register_to_config
    def __init__(self, widths: tuple[int, ...] = (64, 96, 112, 32, 16)):
        super().__init__()
        quarter, eighth, sixteenth, half, full = widths
        self.stem = nn.Conv2d(INPUTS * FOLD**2, quarter, 3, padding=1)
        self.quarter = nn.Sequential(Residual(quarter), Residual(quarter))
        self.down1 = nn.Conv2d(quarter, eighth, 3, stride=2, padding=1)
        self.eighth = nn.Sequential(Residual(eighth), Residual(eighth))
        self.down2 = nn.Conv2d(eighth, sixteenth, 3, stride=2, padding=1)
        self.sixteenth = nn.Sequential(Residual(sixteenth), Residual(sixteenth))
        self.up1 = nn.Conv2d(sixteenth, eighth, 1)
        self.eighth_up = nn.Sequential(Residual(eighth))
        self.up2 = nn.Conv2d(eighth, quarter, 1)
        self.quarter_up = nn.Sequential(Residual(quarter), Residual(quarter))
        self.to_half = nn.Conv2d(quarter, half, 3, padding=1)
        self.halves = nn.Conv2d(half, half, 3, padding=1)
        self.to_full = nn.Conv2d(half, full, 3, padding=1)
        self.detail = nn.Conv2d(INPUTS, full, 3, padding=1)
        self.last = nn.Conv2d(full, 3, 3, padding=1)
        nn.init.zeros_(self.last.weight)  # an untrained refiner changes nothing
        nn.init.zeros_(self.last.bias)

    def forward(self, given: Tensor) -> Tensor:
        """Return what is added, float32 (N, 3, H, W) in units of 255, for `planes_of`'s."""
        quarter = self.quarter(self.stem(F.pixel_unshuffle(given, FOLD)))
        eighth = self.eighth(self.down1(quarter))
        sixteenth = self.sixteenth(self.down2(eighth))
        eighth = self.eighth_up(eighth + _doubled(self.up1(sixteenth)))
        quarter = self.quarter_up(quarter + _doubled(self.up2(eighth)))
        half = F.silu(self.to_half(_doubled(F.silu(quarter))))
        half = half + F.silu(self.halves(half))
        full = F.silu(self.to_full(_doubled(half)) + self.detail(given))
        return self.last(full)


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def planes_of(image: Tensor, color: Tensor, sketch: Tensor, flags: Tensor) -> Tensor:
    """Return a refiner's input, (N, 9, H, W).

    image, color: (N, 3, H, W) in 0..1. sketch: (N, 1, H, W) in 0..1, zeros if there is none. flags:
    (N, 2), whether the colors are a map's, enlarged, and whether there is a sketch.
    """
    given = torch.cat([image, color, sketch], 1) * 2 - 1
    constant = rearrange(flags, "n c -> n c 1 1").expand(-1, -1, *image.shape[2:])
    return torch.cat([given, constant], 1)


def refined(
    network: nn.Module, image: Tensor, color: Tensor, sketch: Tensor, flags: Tensor
) -> Tensor:
    """Return the images with detail, (N, 3, H, W), not clipped. Arguments as of `planes_of`."""
    added = network(planes_of(image, color, sketch, flags))
    return image + added - low_band(added)


def load_refiner(preset: Preset, device: str) -> Refine:
    """Return what refines the reconstructions of a preset.

    It takes an image, uint8 RGB (H, W, 3) with sides that are multiples of 64, its color map or
    base, uint8 RGB (H/8, W/8, 3) or (H, W, 3), and its sketch, uint8 (H, W) or None, and returns
    an image. Raises UnavailableError if the weights cannot be had.
    """

    def load(source: str, revision: str | None, local_files_only: bool) -> Refiner:
        where = {"revision": revision, "local_files_only": local_files_only}
        with one_error("refiner", PresetError, UnavailableError):
            config = Refiner.load_config(source, **where)
            check_config(config)
            check_size(local_folder(source), partial(Refiner.from_config, config))
            network = Refiner.from_pretrained(source, low_cpu_mem_usage=True, **where)
            refuse_missing("network", without_data(network))
        return network

    what = f"preset {preset.name}: refiner"
    network = from_mirrors(load, preset.refiner, what, cure(preset.name))
    network = network.eval().to(device, memory_format=torch.channels_last)

    def refine(image: np.ndarray, color: np.ndarray, sketch: np.ndarray | None) -> np.ndarray:
        height, width = image.shape[:2]
        is_map = color.shape != image.shape
        colors = planes(color)
        if is_map:
            colors = enlarged(colors).clamp(0, 1)
        lines = np.zeros((height, width), np.uint8) if sketch is None else sketch
        flags = torch.tensor([[is_map, sketch is not None]], dtype=torch.float32)
        given = planes(image), colors, planes(lines[..., None]), flags
        with torch.no_grad():
            drawn, *others = (each.to(device) for each in given)
            result = refined(network, drawn, *others)
        return pixels_of(torch.lerp(drawn, result, DETAIL_OF_MAPS) if is_map else result)

    return refine


def pixels_of(image: Tensor) -> np.ndarray:
    """Return float (1, 3, H, W) in 0..1 as uint8 (H, W, 3)."""
    levels = image.clamp(0, 1).mul(255).round().to(torch.uint8)
    return rearrange(levels, "1 c h w -> h w c").cpu().numpy()

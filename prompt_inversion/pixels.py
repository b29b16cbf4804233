"""Images -> the pixels that a CLIP sees, by its preprocessor_config.json.

    processor = load_processor("tiny/bundle/clip", side=96)
    pixels = processor(image)       # (1, 3, 96, 96) float32

The same numbers as transformers' CLIPImageProcessor on torchvision, which takes longer to import
than all the rest of a CLIP.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange

from pretrained.libraries import lean
from pretrained.model_folders import MAX_PROCESSOR_SIDE, check_numbers

with lean():
    from transformers import ImageProcessingMixin

FILTERS = {2: "bilinear", 3: "bicubic"}  # by Pillow's numbers
# What OpenAI's CLIP does, for what a file does not say.
DEFAULTS = {
    "size": 224,
    "crop_size": 224,
    "resample": 3,
    "rescale_factor": 1 / 255,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "do_resize": True,
    "do_center_crop": True,
    "do_rescale": True,
    "do_normalize": True,
}


@dataclass(frozen=True)
class Processor:
    """Resizes, crops and normalizes an image for a CLIP."""

    size: tuple[int, ...]  # height and width, or the shorter side alone
    crop: tuple[int, int] | None  # height and width; None: no crop
    filter: str  # of FILTERS
    rescale: float  # of the pixels' values, 1 / 255
    image_mean: Sequence[float]  # of red, green and blue
    image_std: Sequence[float]

    def __call__(self, image: np.ndarray) -> torch.Tensor:
        """Return pixels, float32 (1, 3, h, w), of an image, uint8 (H, W, 3)."""
        # A copy, for torch takes no read-only or flipped arrays.
        pixels = torch.from_numpy(np.array(rearrange(image, "h w c -> 1 c h w"), order="C"))
        size = self._resized(*image.shape[:2])
        if size != image.shape[:2]:
            pixels = F.interpolate(pixels, size, mode=self.filter, antialias=True)
        if self.crop is not None:
            pixels = center_crop(pixels, *self.crop)
        mean = torch.tensor(self.image_mean) * (1.0 / self.rescale)
        deviation = torch.tensor(self.image_std) * (1.0 / self.rescale)
        return pixels.float().sub(mean[:, None, None]).div(deviation[:, None, None])

    def _resized(self, height: int, width: int) -> tuple[int, ...]:
        """Return height and width after resizing."""
        if len(self.size) == 2:
            return self.size
        (side,) = self.size
        if height < width:
            return side, int(side * width / height)
        return int(side * height / width), side


def center_crop(pixels: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Return the middle of pixels (1, 3, H, W), with black around it where they are smaller."""
    above = max(0, height - pixels.shape[-2])
    beside = max(0, width - pixels.shape[-1])
    pixels = F.pad(pixels, (beside // 2, (beside + 1) // 2, above // 2, (above + 1) // 2))
    top = (pixels.shape[-2] - height) // 2
    left = (pixels.shape[-1] - width) // 2
    return pixels[..., top : top + height, left : left + width]


def load_processor(source: str, side: int, **where: object) -> Processor:
    """Return the Processor of a model, a local folder or a hub id.

    side: of the images that the model takes, pixels. where: what from_pretrained takes beside the
    source. Raises ValueError for a file that says something else, OSError if there is none.
    """
    stored, _ = ImageProcessingMixin.get_image_processor_dict(source, **where)
    check_numbers(stored, MAX_PROCESSOR_SIDE)
    values = DEFAULTS | stored
    if not (values["do_resize"] and values["do_rescale"] and values["do_normalize"]):
        raise ValueError("it does not resize, rescale and normalize")
    if values["resample"] not in FILTERS:
        raise ValueError(f"its filter is {values['resample']}: it must be 2 or 3")
    processor = Processor(
        size=_sides(values["size"]),
        crop=_pair(values["crop_size"]) if values["do_center_crop"] else None,
        filter=FILTERS[values["resample"]],
        rescale=float(values["rescale_factor"]),
        image_mean=_three_numbers(values["image_mean"]),
        image_std=_three_numbers(values["image_std"]),
    )
    made = tuple(processor(np.zeros((60, 60, 3), np.uint8)).shape)
    if made != (1, 3, side, side):
        raise ValueError(f"it makes images of shape {made}, the model takes {(1, 3, side, side)}")
    return processor


def _sides(size: object) -> tuple[int, ...]:
    """Return height and width, or the shorter side, of a size as a file has it."""
    if isinstance(size, dict) and "shortest_edge" in size:
        return (int(size["shortest_edge"]),)
    if isinstance(size, int):
        return (size,)
    return _pair(size)


def _pair(size: object) -> tuple[int, int]:
    """Return height and width of a size as a file has it: a number, or an object of both."""
    if isinstance(size, int):
        return size, size
    return int(size["height"]), int(size["width"])


def _three_numbers(values: object) -> tuple[float, ...]:
    """Return the numbers of the three channels. Raises ValueError unless they are three."""
    numbers = tuple(map(float, values))
    if len(numbers) != 3:
        raise ValueError(f"{len(numbers)} numbers for three channels")
    return numbers

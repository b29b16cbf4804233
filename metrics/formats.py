"""Image formats by Pillow: the table of their options, and files <-> arrays.

    data = encode_image(image, FORMATS["webp"].options(40))
    decode_image(data)

The options are for RGB images and for the best compression that takes little time. Single ones can
be replaced, for gray images for example `FORMATS["avif"].options(40) | {"subsampling": "4:0:0"}`.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image, features

from common.files import load_gray, load_image
from common.weights import UnavailableError


@dataclass(frozen=True)
class Codec:
    """An image codec with one setting."""

    name: str
    qualities: range  # ascending in size of the file
    encode: Callable[[np.ndarray, int], bytes]  # (h, w, 3) uint8, quality -> the whole file
    decode: Callable[[bytes], np.ndarray]  # (h, w, 3) uint8
    recipe: str


class ImageFormat(NamedTuple):
    """How Pillow writes a format."""

    feature: str  # the library behind it, for PIL.features.check
    options: Callable[..., dict]  # setting -> options of Image.save


def _jpeg(quality: float) -> dict:
    return {"format": "JPEG", "quality": quality, "subsampling": "4:2:0", "optimize": True}


def _webp(quality: float) -> dict:
    return {"format": "WEBP", "quality": quality, "method": 6}


def _avif(quality: float) -> dict:
    return {
        "format": "AVIF",
        "quality": quality,
        "speed": 4,
        "subsampling": "4:2:0",
        "max_threads": 1,
    }


def _jpeg2000(ratio: float) -> dict:
    return {
        "format": "JPEG2000",
        "no_jp2": True,  # the codestream alone (.j2k): a file of its own, 85 bytes shorter
        "irreversible": True,  # 9/7 wavelet
        "quality_mode": "rates",
        "quality_layers": [ratio],
    }


def _png(setting: None = None) -> dict:
    return {"format": "PNG", "optimize": True}


def _group4(setting: None = None) -> dict:
    return {"format": "TIFF", "compression": "group4"}


# The setting is the format's own quality, for JPEG 2000 the compression ratio; PNG and CCITT group
# 4 (of bi-level images) have none.
FORMATS = {
    "jpeg": ImageFormat("jpg", _jpeg),
    "webp": ImageFormat("webp", _webp),
    "avif": ImageFormat("avif", _avif),
    "jpeg2000": ImageFormat("jpg_2000", _jpeg2000),
    "png": ImageFormat("zlib", _png),
    "group4": ImageFormat("libtiff", _group4),
}


def check_format(name: str) -> None:
    """Raise UnavailableError if Pillow was built without a format of FORMATS."""
    feature = FORMATS[name].feature
    if not features.check(feature):
        raise UnavailableError(
            f"{name}: this Pillow was built without {feature}; its wheels on PyPI have it"
        )


def encode_image(image: np.ndarray, options: dict) -> bytes:
    """Return the file that Pillow writes of an image, uint8 (h, w, 3) or (h, w), or bool (h, w).

    options: of Image.save.
    """
    file = io.BytesIO()
    Image.fromarray(image).save(file, **options)
    return file.getvalue()


def decode_image(data: bytes, mode: str = "RGB") -> np.ndarray:
    """Return the image of a file: uint8 (h, w, 3) for the mode "RGB", (h, w) for "L" (gray)."""
    load = load_gray if mode == "L" else load_image
    return load(io.BytesIO(data))

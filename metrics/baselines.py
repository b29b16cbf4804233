"""Baselines at the same size: common image codecs that meet a budget of bytes by down-scaling.

    from metrics.baselines import compress, load_codec
    len(compress(image, load_codec("webp"), 339).data)

An image is scaled down, coded, decoded and enlarged to its size again; of all scales and qualities
whose file is within the budget, the one with the highest PSNR is kept. Files are counted whole, as
they lie on the disk. The size to enlarge to is not in them (4 bytes that the baseline is given).

CODECS names the codecs: image formats by Pillow (`formats.py`), JPEG XL (`jpegxl.py`), and
CompressAI's zoo (`zoo.py`).
"""

from functools import partial
from typing import NamedTuple

import numpy as np
from PIL import Image

from metrics import jpegxl
from metrics.formats import FORMATS, Codec, check_format, decode_image, encode_image
from metrics.zoo import ZOO_CODECS, load_zoo_codec

SCALES = (1, 3 / 4, 1 / 2, 3 / 8, 1 / 4, 3 / 16, 1 / 8, 3 / 32, 1 / 16, 3 / 64, 1 / 32)
BITS = 24  # of a pixel that is not compressed


class BudgetError(Exception):
    """No file of a codec is small enough; the message gives the smallest."""


class Baseline(NamedTuple):
    """The best file within a budget, and what it decodes to."""

    data: bytes  # the whole file
    image: np.ndarray  # (h, w, 3) uint8, decoded and enlarged to the original's size
    scale: float  # of SCALES, both sides
    quality: int
    squared_error: float  # mean over the image, in levels squared; the lowest one chose the file


class PillowCodec(NamedTuple):
    """One row: the qualities of an image format."""

    qualities: range
    recipe: str


PILLOW_FORMATS = {
    "jpeg": PillowCodec(
        range(1, 96), "baseline JPEG, 4:2:0, optimized Huffman tables, quality 1 to 95"
    ),
    "webp": PillowCodec(range(101), "lossy WebP, method 6, quality 0 to 100"),
    "avif": PillowCodec(range(101), "AVIF, 4:2:0, speed 4, quality 0 to 100"),
    "jpeg2000": PillowCodec(
        range(1, 1001),
        "JPEG 2000 codestream (.j2k, which costs 85 bytes less than .jp2), 9/7 wavelet, "
        "one layer of quality/100 bits a pixel, 0.01 to 10",
    ),
}
IMAGE_FORMATS = (*PILLOW_FORMATS, jpegxl.NAME)
CODECS = (*IMAGE_FORMATS, *ZOO_CODECS)


def load_codec(name: str, device: str = "cpu") -> Codec:
    """Return the codec of that name, one of CODECS.

    Raises ValueError for an unknown name, UnavailableError if the format's library or the model's
    weights are not available.
    """
    if name not in CODECS:
        raise ValueError(f"unknown codec {name!r}: choose of {', '.join(CODECS)}")
    if name in PILLOW_FORMATS:
        return _pillow_codec(name)
    if name == jpegxl.NAME:
        return jpegxl.load_jpegxl()
    return load_zoo_codec(name, device)


def compress(image: np.ndarray, codec: Codec, budget_bytes: int) -> Baseline:
    """Return the best file of at most budget_bytes for an image, uint8 (h, w, 3).

    Down-scaling and enlarging are Lanczos's. At each of SCALES the highest quality that fits is
    tried; the lowest squared error over the whole image, which is the highest PSNR, chooses among
    them. Raises BudgetError if no file fits.
    """
    best = None
    smallest = b""
    height, width = image.shape[:2]
    for scale in SCALES:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        small = _resize(image, size)
        data, quality = _best_quality(small, codec, budget_bytes)
        if len(data) > budget_bytes:
            smallest = min(smallest or data, data, key=len)
            continue
        decoded = _resize(codec.decode(data), (width, height))
        error = float(np.mean((image.astype(np.float64) - decoded) ** 2))
        if best is None or error < best.squared_error:
            best = Baseline(data, decoded, scale, quality, error)
    if best is None:
        raise BudgetError(
            f"{codec.name}: the smallest file of this {width}x{height} image has "
            f"{len(smallest)} bytes, the budget is {budget_bytes}"
        )
    return best


def _best_quality(image: np.ndarray, codec: Codec, budget_bytes: int) -> tuple[bytes, int]:
    """Return the largest file within the budget and its quality, found by bisection.

    If none is within the budget, it is the file of the lowest quality.
    """
    low = codec.qualities[0]  # fits, or nothing does
    high = codec.qualities[-1] + 1  # does not fit
    data = codec.encode(image, low)
    while len(data) <= budget_bytes and high - low > 1:
        middle = (low + high) // 2
        larger = codec.encode(image, middle)
        if len(larger) <= budget_bytes:
            data = larger
            low = middle
        else:
            high = middle
    return data, low


def _resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return an image at another size, (width, height), by Lanczos's filter."""
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def _pillow_codec(name: str) -> Codec:
    """Return an image format as a codec. Raises UnavailableError if Pillow lacks it."""
    check_format(name)
    row = PILLOW_FORMATS[name]
    return Codec(name, row.qualities, partial(_encode, name), decode_image, row.recipe)


def _encode(name: str, image: np.ndarray, quality: int) -> bytes:
    setting: float = quality
    if name == "jpeg2000":  # quality is in hundredths of a bit per pixel
        setting = 100 * BITS / quality
    return encode_image(image, FORMATS[name].options(setting))

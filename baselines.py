"""What an engineer would use at this size: common codecs, made to meet a budget of bytes by down-scaling.

    python -c "from baselines import *; print(len(compress(picture, load_codec('webp'), 339).data))"

A picture is scaled down, coded, decoded and enlarged to its size again; of all scales and qualities whose file is
within the budget the one with the highest PSNR is kept. Files are counted whole, as they lie on the disk. The size
to enlarge to is not in them (4 bytes that the baseline is given).
"""

import io
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

SCALES = (1, 3 / 4, 1 / 2, 3 / 8, 1 / 4, 3 / 16, 1 / 8, 3 / 32, 1 / 16, 3 / 64, 1 / 32)
REACH_S = 5  # seconds that the host of CompressAI's weights has to answer


class CodecError(Exception):
    """A codec cannot be had here; the message says why."""


class BudgetError(Exception):
    """No file of a codec is small enough; the message gives the smallest."""


@dataclass(frozen=True)
class Codec:
    """A picture codec with one knob."""

    name: str
    qualities: range  # ascending in size of the file
    encode: Callable[[np.ndarray, int], bytes]  # (h, w, 3) uint8, quality -> the whole file
    decode: Callable[[bytes], np.ndarray]  # (h, w, 3) uint8
    recipe: str


class Baseline(NamedTuple):
    """The best file within a budget, and what it decodes to."""

    data: bytes  # the whole file
    image: np.ndarray  # (h, w, 3) uint8, decoded and enlarged to the original's size
    scale: float  # of SCALES, both sides
    quality: int
    squared_error: float  # mean over the picture, in levels squared; the least one chose the file


class PillowFormat(NamedTuple):
    """One row: how Pillow writes a format, `q` being the quality."""

    feature: str  # Pillow's name of the library behind it
    qualities: range
    options: Callable[[int], dict]  # of Image.save
    recipe: str


PILLOW_FORMATS = {
    "jpeg": PillowFormat(
        "jpg",
        range(1, 96),
        lambda q: {"format": "JPEG", "quality": q, "subsampling": "4:2:0", "optimize": True},
        "baseline JPEG, 4:2:0, optimised Huffman tables, quality 1 to 95",
    ),
    "webp": PillowFormat(
        "webp",
        range(101),
        lambda q: {"format": "WEBP", "quality": q, "method": 6},
        "lossy WebP, method 6, quality 0 to 100",
    ),
    "avif": PillowFormat(
        "avif",
        range(101),
        lambda q: {"format": "AVIF", "quality": q, "speed": 4, "subsampling": "4:2:0", "max_threads": 1},
        "AVIF, 4:2:0, speed 4, quality 0 to 100",
    ),
    "jpeg2000": PillowFormat(
        "jpg_2000",
        range(1, 1001),
        lambda q: {
            "format": "JPEG2000",
            "no_jp2": True,
            "irreversible": True,
            "quality_mode": "rates",
            "quality_layers": [2400 / q],
        },
        "JPEG 2000 codestream (.j2k, which costs 85 bytes less than .jp2), 9/7 wavelet, one layer of quality/100 "
        "bits a pixel, 0.01 to 10",
    ),
}

ZOO = (
    "bmshj2018-factorized",
    "bmshj2018-hyperprior",
    "mbt2018-mean",
    "mbt2018",
    "cheng2020-anchor",
    "cheng2020-attn",
)
CODECS = (*PILLOW_FORMATS, *ZOO, *(f"{name}-ms-ssim" for name in ZOO))  # the last: trained with that loss


def load_codec(name: str, device: str = "cpu") -> Codec:
    """Return the codec of that name, one of CODECS.

    Raises ValueError for an unknown name, CodecError where Pillow lacks it or its weights cannot be had.
    """
    if name not in CODECS:
        raise ValueError(f"unknown codec {name!r}: choose of {', '.join(CODECS)}")
    return _pillow_codec(name) if name in PILLOW_FORMATS else _zoo_codec(name, device)


def compress(image: np.ndarray, codec: Codec, budget_bytes: int) -> Baseline:
    """Return the best file of at most budget_bytes for a picture (h, w, 3) uint8.

    Down-scaling and enlarging are Lanczos's. At each of SCALES the highest quality that fits is tried; the
    least squared error over the whole picture, which is the highest PSNR, chooses among them. Raises
    BudgetError where no file fits.
    """
    best, smallest = None, None
    for scale in SCALES:
        small = _resize(image, [max(1, round(side * scale)) for side in image.shape[1::-1]])
        data, quality = _best_quality(small, codec, budget_bytes)
        if len(data) > budget_bytes:
            smallest = min(smallest or data, data, key=len)
            continue
        decoded = _resize(codec.decode(data), image.shape[1::-1])
        error = float(np.mean((image.astype(np.float64) - decoded) ** 2))
        if best is None or error < best.squared_error:
            best = Baseline(data, decoded, scale, quality, error)
    if best is None:
        height, width = image.shape[:2]
        raise BudgetError(
            f"{codec.name}: the smallest file of this {width}x{height} picture has {len(smallest)} bytes, "
            f"the budget is {budget_bytes}"
        )
    return best


def _best_quality(image: np.ndarray, codec: Codec, budget_bytes: int) -> tuple[bytes, int]:
    """Return the largest file within the budget and its quality, found by halving; the lowest if none is."""
    low, high = codec.qualities[0], codec.qualities[-1] + 1  # low fits and high does not
    data = codec.encode(image, low)
    while len(data) <= budget_bytes and high - low > 1:
        middle = (low + high) // 2
        larger = codec.encode(image, middle)
        if len(larger) <= budget_bytes:
            data, low = larger, middle
        else:
            high = middle
    return data, low


def _resize(image: np.ndarray, size: Iterable[int]) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.fromarray(image).resize(tuple(size), Image.Resampling.LANCZOS))


def _pillow_codec(name: str) -> Codec:
    from PIL import Image, features

    row = PILLOW_FORMATS[name]
    if not features.check(row.feature):
        raise CodecError(f"{name}: this Pillow was built without {row.feature}; its wheels on PyPI have it")

    def encode(image: np.ndarray, quality: int) -> bytes:
        file = io.BytesIO()
        Image.fromarray(image).save(file, **row.options(quality))
        return file.getvalue()

    def decode(data: bytes) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))

    return Codec(name, row.qualities, encode, decode, row.recipe)


ZOO_HEADER = struct.Struct(">BHHBBH")  # quality, height, width, latent height and width, length of the first string


def _zoo_codec(name: str, device: str) -> Codec:
    from compressai.zoo.image import model_urls

    architecture = name.removesuffix("-ms-ssim")
    metric = "mse" if architecture == name else "ms-ssim"
    urls = model_urls[architecture][metric]  # by quality
    load = cache(lambda quality: _zoo_model(architecture, urls[quality], device))
    load(min(urls))  # what cannot be had is to be known before the first picture

    return Codec(
        name,
        range(min(urls), max(urls) + 1),
        lambda image, quality: _zoo_encode(image, quality, load(quality)),
        lambda data: _zoo_decode(data, load(data[0])),
        f"{name} of CompressAI's zoo, quality {min(urls)} to {max(urls)}, with a header of {ZOO_HEADER.size} bytes",
    )


def _zoo_model(architecture: str, url: str, device: str):
    """Load a model of CompressAI's zoo. Raises CodecError where its weights cannot be had."""
    import torch
    from compressai.zoo.image import model_architectures
    from compressai.zoo.pretrained import load_pretrained

    path = Path(torch.hub.get_dir(), "checkpoints", Path(url).name)
    try:
        if not path.exists():
            _check_reach(url)  # a download has no time limit of its own
        weights = torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise CodecError(f"{url} cannot be fetched ({reason}); lay the file at {path}") from error
    model = model_architectures[architecture].from_state_dict(load_pretrained(weights))
    model.update()
    return model.eval().to(device)


def _check_reach(url: str) -> None:
    """Raise OSError where the host does not answer."""
    import urllib.request

    urllib.request.urlopen(url, timeout=REACH_S).close()  # noqa: S310 - an address of CompressAI's own list


def _zoo_encode(image: np.ndarray, quality: int, model) -> bytes:
    """ZOO_HEADER, then the strings of the latents and, where the model has them, of the hyperlatents."""
    import torch
    import torch.nn.functional as F

    height, width = image.shape[:2]
    pixels = torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32) / 255)[None]
    pixels = F.pad(pixels, (0, -width % 64, 0, -height % 64))
    with torch.inference_mode():
        coded = model.compress(pixels.to(next(model.parameters()).device))
    strings = [strings[0] for strings in coded["strings"]]
    return ZOO_HEADER.pack(quality, height, width, *coded["shape"], len(strings[0])) + b"".join(strings)


def _zoo_decode(data: bytes, model) -> np.ndarray:
    import torch

    _, height, width, *shape, length = ZOO_HEADER.unpack_from(data)
    body = data[ZOO_HEADER.size :]
    strings = [[part] for part in (body[:length], body[length:]) if part]
    with torch.inference_mode():
        pixels = model.decompress(strings, shape)["x_hat"][0, :, :height, :width]
    return (pixels.clamp(0, 1) * 255).round().byte().cpu().numpy().transpose(1, 2, 0)

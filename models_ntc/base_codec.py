"""Base layers: colors and structure of an image in one layer <-> some 30 to 2,000 bytes.

    base = load_base_codec().fit(image, 350)
    picture = load_base_codec().decode(base.payload, *image.shape[:2])

The network is `picture_hyperprior` with three channels; the payload is that of `hyperprior_coder`:
the rate, 0 to 63, in one byte, then the symbols. The size of the image is in the stream's header.
From the bytes to the picture all arithmetic is exact, so every machine gets the same picture.
"""

import hashlib
import math
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from models_ntc.bundled import FOLDER
from models_ntc.codec_file import load_file
from models_ntc.entropy import PayloadError
from models_ntc.errors import refusing
from models_ntc.hyperprior_coder import HyperpriorCoder

KIND = "base codec"
# Growth of the logarithm of the bytes from one rate to the next, about: it guides the search.
SLOPE = 0.07
START = 24  # the rate that it looks at first


class BaseError(PayloadError):
    """Bytes that are no base layer."""


class Base(NamedTuple):
    """A base layer and what a decoder makes of it."""

    payload: bytes
    picture: np.ndarray  # uint8 RGB (height, width, 3)


class BaseCodec:
    """The bundled codec of base layers, made by `load_base_codec`.

    digest: SHA-256 of the weight file, 32 bytes.
    """

    def __init__(self, coder: HyperpriorCoder, digest: bytes) -> None:
        self.coder = coder
        self.digest = digest

    def fit(self, image: np.ndarray, budget_bytes: int) -> Base | None:
        """Return the base of the finest rate that fits into the budget, None if none does.

        image: uint8 RGB (height, width, 3), sides multiples of 64 from 64 to 4096; ValueError for
        any other array. The search takes for granted that a finer rate takes more bytes.
        """
        _check(image.dtype == np.uint8 and image.ndim == 3, image.shape)
        _check_size(*image.shape[:2])
        pixels = torch.from_numpy(image.astype(np.float32) / 255)
        analyzed = self.coder.analyze(rearrange(pixels, "h w c -> 1 c h w").contiguous())
        fitting: tuple[bytes, Tensor] | None = None
        finest, too_fine = -1, self.coder.net.RATES  # a rate that fits, and one that does not
        step = START
        while too_fine - finest > 1:
            tried = self.coder.encode_analyzed(analyzed, step)
            room = math.log(budget_bytes / len(tried[0])) / SLOPE
            if len(tried[0]) <= budget_bytes:
                finest, fitting = step, tried
            else:
                too_fine = step
            step = min(max(math.floor(step + room), finest + 1), too_fine - 1)
        if fitting is None:
            return None
        payload, features = fitting
        return Base(payload, self._picture(features))

    def decode(self, payload: bytes, height: int, width: int) -> np.ndarray:
        """Return the picture, uint8 RGB (height, width, 3), the same on every machine.

        Raises BaseError for bytes that `fit` never writes, ValueError for a size that it refuses.
        """
        _check_size(height, width)
        try:
            features = self.coder.decode(payload, (height // 64, width // 64))
        except PayloadError as error:
            raise BaseError(f"base {error}") from error
        return self._picture(features)

    def _picture(self, features: Tensor) -> np.ndarray:
        """Return the picture, uint8 (height, width, 3), of features."""
        pixels = self.coder.synthesize(features).mul_(255).round_().to(torch.uint8)
        return rearrange(pixels, "1 c h w -> h w c").contiguous().numpy()


def load_base_codec() -> BaseCodec:
    """Load the bundled codec; see `models_ntc.load_base_codec`."""
    path = FOLDER / "base.safetensors"
    with refusing(path, KIND):
        net, _ = load_file(path)
        return BaseCodec(HyperpriorCoder(net), hashlib.sha256(path.read_bytes()).digest())


def _check_size(height: int, width: int) -> None:
    if not (64 <= height <= 4096 and 64 <= width <= 4096) or height % 64 or width % 64:
        raise ValueError(f"{width}x{height} pixels: sides must be multiples of 64 from 64 to 4096")


def _check(is_image: bool, shape: tuple[int, ...]) -> None:
    if not is_image or shape[2] != 3:
        raise ValueError(f"an image is uint8 (height, width, 3), got shape {list(shape)}")

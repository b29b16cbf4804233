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
# What guides the search: an image of TYPICAL_PIXELS has about TYPICAL_BYTES at TYPICAL_RATE, and
# their logarithm grows by SLOPE from one rate to the next (Kodak, short side 256).
TYPICAL_RATE = 20
TYPICAL_BYTES = 175
TYPICAL_PIXELS = 98304
SLOPE = 0.07


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
        typical = TYPICAL_BYTES * image.shape[0] * image.shape[1] / TYPICAL_PIXELS
        search = _Search(math.log(budget_bytes), self.coder.net.RATES)
        step = round(TYPICAL_RATE + math.log(budget_bytes / typical) / SLOPE)
        fitting: tuple[bytes, Tensor] | None = None
        while not search.done:
            step = min(max(step, search.finest + 1), search.too_fine - 1)
            tried = self.coder.encode_analyzed(analyzed, step)
            if len(tried[0]) <= budget_bytes:
                fitting = tried
            step = search.after(step, math.log(len(tried[0])))
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


class _Search:
    """The finest of `rates` rates whose bytes fit, if a finer one takes more.

    Numbers of bytes are logarithms, which are nearly straight lines. target: of the budget.
    Attributes: `finest`, that fits, -1 before there is one; `too_fine`, that does not.
    """

    def __init__(self, target: float, rates: int) -> None:
        self.target = target
        self.finest = -1
        self.too_fine = rates
        self.sizes: dict[int, float] = {}  # of the rates tried

    @property
    def done(self) -> bool:
        """Whether there is nothing between."""
        return self.too_fine - self.finest == 1

    def after(self, step: int, size: float) -> int:
        """Take the size of a rate, and return the one to try next, before it is limited."""
        self.sizes[step] = size
        if size <= self.target:
            self.finest = step
        else:
            self.too_fine = step
        if self.finest in self.sizes and self.too_fine in self.sizes:
            rise = self.sizes[self.too_fine] - self.sizes[self.finest]
            width = self.too_fine - self.finest
            return self.finest + round(width * (self.target - self.sizes[self.finest]) / rise)
        # Until there is one on either side, each jump is longer than the last.
        jump = math.floor((self.target - size) / SLOPE)
        least = len(self.sizes)
        return step + (max(jump, least) if jump >= 0 else min(jump, -least))


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

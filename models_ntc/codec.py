"""`SketchCodec`: find and load a trained network; code uint8 sketches.

    from models_ntc import load_sketch_codec
    payload = load_sketch_codec(0.2).encode(sketch)

Codec files are read and written in `codec_file`. The payload of a sketch:

    height / 64 and width / 64    4 bits each; or a zero byte and a byte each if one is over 15
    the network's own bytes       see HyperpriorCoder and ZooCoder

Their first byte is the rate: 0 to 31 of the first network, `sketch_hyperprior`, 32 to 95 of the
second, `picture_hyperprior`. (CompressAI's networks have none.)
"""

import copy
import hashlib
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from common.files import printable
from models_ntc.bundled import FOLDER, SECOND, SECOND_RATES, sketch_network, writer_file
from models_ntc.codec_file import KIND, load_compressai, load_file, save_codec
from models_ntc.entropy import NotFiniteError, PayloadError, SketchError
from models_ntc.errors import CodecFileError, refusing
from models_ntc.hyperprior import ExactHyperprior
from models_ntc.hyperprior_coder import HyperpriorCoder
from models_ntc.networks import new_network
from models_ntc.picture_hyperprior import PictureHyperprior

if TYPE_CHECKING:
    from models_ntc.zoo import ZooCoder

__all__ = [
    "CodecFileError",
    "SketchCodec",
    "SketchError",
    "load_file",
    "load_sketch_codec",
    "new_network",
    "save_codec",
]

MOST_BLOCKS = 4096  # 64x64 squares in one sketch: 16.8 megapixels
LONG_HEADER = 3  # bytes


class SketchCodec:
    """A trained codec, made by `load_sketch_codec`.

    path: the file that it was loaded from.
    name: the file's name without its ending.
    digest: SHA-256 of the weight file, 32 bytes.
    network: the one that writes, 1 or 2, if it is the bundled codec.
    config: {"model", "lambda", "metric", "sizes"}. The lambda is that of the sketches it writes; it
        reads those of all lambdas. Lambda and metric are None if the file does not tell them.

    Its methods raise CodecFileError if the weights give no finite numbers.
    """

    def __init__(
        self, coder: "HyperpriorCoder | ZooCoder", path: Path, digest: bytes, config: dict
    ) -> None:
        self.coder = coder
        self.path = path
        self.name = path.stem
        self.digest = digest
        self.network = 1
        self.config = config

    def digest_of(self, network: int) -> bytes:
        """Return the digest of what decodes the payloads of a network, 1 or 2."""
        return self.digest

    def encode(self, sketch: np.ndarray) -> bytes:
        """Return the payload of a sketch, uint8 (H, W), 255 = edge, sides multiples of 64.

        Raises ValueError for any other array.
        """
        payload, _ = self._encode(sketch)
        return payload

    def encode_and_decode(self, sketch: np.ndarray) -> tuple[bytes, np.ndarray]:
        """Return the payload and what `decode` will return for it, without entropy decoding."""
        payload, latents = self._encode(sketch)
        return payload, self._synthesize(latents)

    def decode(self, payload: bytes) -> np.ndarray:
        """Return the sketch, uint8 (H, W), of a payload.

        Raises SketchError if the payload is truncated, damaged or of another codec.
        """
        blocks, rest = split_blocks(payload)
        try:
            latents = self.coder.decode(rest, blocks)
        except PayloadError as error:
            raise SketchError(f"sketch {error}") from error
        return self._synthesize(latents)

    def shape(self, payload: bytes) -> tuple[int, int]:
        """Return height and width in pixels from a payload's header. Raises SketchError."""
        (rows, columns), _ = split_blocks(payload)
        return 64 * rows, 64 * columns

    @property
    def lambdas(self) -> tuple[float, ...]:
        """The lambdas that it can write at, ascending; none if its network has one rate alone."""
        if not isinstance(self.coder, HyperpriorCoder):
            return ()
        low, high = self.coder.net.config.lambda_range
        rates = self.coder.net.RATES
        return tuple(low * (high / low) ** (step / (rates - 1)) for step in range(rates))

    def at(self, lmbda: float) -> "SketchCodec":
        """Return the same codec, which writes at another of its `lambdas`, the nearest one."""
        coder = copy.copy(self.coder)
        coder.step = coder.net.rate_step(lmbda)
        return SketchCodec(coder, self.path, self.digest, self.config | {"lambda": lmbda})

    def like(self, payload: bytes) -> "SketchCodec":
        """Return the same codec, which writes at the rate of a payload.

        Raises SketchError if the payload has none of its rates.
        """
        if not self.lambdas:
            return self
        _, rest = split_blocks(payload)
        step = rest[0] - self.coder.first if rest else -1
        if not 0 <= step < len(self.lambdas):
            raise SketchError(f"sketch payload of {len(payload)} bytes has no rate of this codec")
        return self.at(self.lambdas[step])

    def _encode(self, sketch: np.ndarray) -> tuple[bytes, Tensor]:
        """Return the payload of a sketch, and the latents that the decoder will have."""
        header = blocks_as_bytes(*blocks_of(sketch))
        pixels = torch.from_numpy(sketch.astype(np.float32) / 255)
        x = rearrange(pixels, "h w -> 1 1 h w")
        try:
            coded, latents = self.coder.encode(x)
        except NotFiniteError as error:
            raise self._useless() from error
        return header + coded, latents

    def _synthesize(self, latents: Tensor) -> np.ndarray:
        """Return the sketch, uint8 (H, W), of latents."""
        pixels = rearrange(self.coder.synthesize(latents), "1 1 h w -> h w")
        if not torch.isfinite(pixels).all():
            raise self._useless()
        return pixels.mul(255).round().to(torch.uint8).numpy()

    def _useless(self) -> CodecFileError:
        """Return the error of weights that are too large to code with."""
        return CodecFileError(
            f"{printable(self.path)} is no {KIND}: its weights give numbers that are not finite"
        )


class BundledCodec(SketchCodec):
    """The bundled codec: it writes with one of its two networks, and reads the sketches of both.

    other: the weight file of the network with which it does not write.
    """

    def __init__(
        self, coder: HyperpriorCoder, path: Path, digest: bytes, config: dict, other: Path
    ) -> None:
        super().__init__(coder, path, digest, config)
        self.network = 2 if isinstance(coder.net, PictureHyperprior) else 1
        self._other_file = other

    @cached_property
    def other(self) -> SketchCodec:
        """The codec of the other network, loaded when it is first needed."""
        return load_sketch_codec(self._other_file)

    def digest_of(self, network: int) -> bytes:
        """Return the digest of the weight file of a network, 1 or 2."""
        return self.digest if network == self.network else self.other.digest

    def decode(self, payload: bytes) -> np.ndarray:
        """Return the sketch, uint8 (H, W), of a payload of either network. Raises SketchError."""
        if sketch_network(payload) == self.network:
            return super().decode(payload)
        return self.other.decode(payload)

    def like(self, payload: bytes) -> SketchCodec:
        """Return the codec that writes at the rate of a payload of either network."""
        if sketch_network(payload) == self.network:
            return super().like(payload)
        return self.other.like(payload)


def blocks_of(sketch: np.ndarray) -> tuple[int, int]:
    """Return rows and columns of 64x64 squares of a sketch; ValueError for any other array."""
    if sketch.dtype != np.uint8 or sketch.ndim != 2:
        raise ValueError(f"a sketch is uint8 (H, W), got {sketch.dtype} {sketch.shape}")
    height, width = sketch.shape
    rows = height // 64
    columns = width // 64
    fits = 0 < rows < 256 and 0 < columns < 256 and rows * columns <= MOST_BLOCKS
    if height % 64 or width % 64 or not fits:
        raise ValueError(
            f"a sketch has sides of 64 n pixels, {MOST_BLOCKS} squares at most, "
            f"got {width}x{height}"
        )
    return rows, columns


def blocks_as_bytes(rows: int, columns: int) -> bytes:
    """Return the header of a payload."""
    if max(rows, columns) <= 15:
        return bytes([rows << 4 | columns])
    return bytes([0, rows, columns])


def split_blocks(payload: bytes) -> tuple[tuple[int, int], bytes]:
    """Return rows and columns of 64x64 squares from a payload's header, and the bytes after it.

    Raises SketchError if there is no valid header.
    """
    rows = columns = 0
    is_long = payload[:1] == b"\0"
    if not is_long and payload:
        rows, columns = divmod(payload[0], 16)
    elif len(payload) > LONG_HEADER:
        rows, columns = payload[1:LONG_HEADER]
    should_be_short = is_long and max(rows, columns) <= 15
    if should_be_short or not 0 < rows * columns <= MOST_BLOCKS:
        raise SketchError(
            f"sketch payload of {len(payload)} bytes asks for {64 * rows}x{64 * columns} pixels"
        )
    start = LONG_HEADER if is_long else 1
    return (rows, columns), payload[start:]


def codec_file(lam_or_file: float | str | Path, family: str) -> tuple[Path, float | None]:
    """Return the codec file that a lambda, a file or FILE@LAMBDA names, and the lambda.

    The lambda is None for a file alone. Raises ValueError if there is no such file.
    """
    if isinstance(lam_or_file, (int, float)):
        return writer_file(family, lam_or_file), float(lam_or_file)
    if is_file(lam_or_file):
        return Path(lam_or_file), None
    name, _, number = str(lam_or_file).rpartition("@")
    if is_file(name):
        with suppress(ValueError):
            return Path(name), float(number)
    raise ValueError(f"no sketch codec at {printable(lam_or_file)}")


def is_file(name: str | Path) -> bool:
    """Return whether there is a file of this name; a name that is too long is none's."""
    with suppress(OSError, ValueError):
        return Path(name).is_file()
    return False


def codec_lambda(net: nn.Module, config: dict, lmbda: float | None) -> float | None:
    """Return the lambda that a codec writes at: the one asked for, or by default the file's.

    Raises ValueError if the codec does not have that lambda.
    """
    if not isinstance(net, ExactHyperprior):
        if lmbda not in (None, config["lambda"]):
            raise ValueError("the sketch codec has but the one it was trained with")
        return config["lambda"]
    low, high = net.config.lambda_range
    if lmbda is None:
        return (low * high) ** 0.5
    if not low <= lmbda <= high:
        raise ValueError(f"the sketch codec has {low:g} to {high:g}")
    return lmbda


def load_sketch_codec(
    lam_or_file: float | str | Path, device: str = "cpu", family: str = "sketch"
) -> SketchCodec:
    """Load a codec; see `models_ntc.load_sketch_codec`."""
    path, lmbda = codec_file(lam_or_file, family)
    load = load_file if path.suffix == ".safetensors" else load_compressai
    net, config = load(path)
    try:
        config["lambda"] = codec_lambda(net, config, lmbda)
    except ValueError as error:
        raise ValueError(f"{printable(path)}: lambda {lmbda:g}: {error}") from error
    with refusing(path, KIND):
        coder = make_coder(net, config["lambda"], device)
        digest = hashlib.sha256(path.read_bytes()).digest()
    if isinstance(lam_or_file, (int, float)) and family in SECOND:
        names = {family, SECOND[family]} - {path.stem}
        return BundledCodec(coder, path, digest, config, FOLDER / f"{names.pop()}.safetensors")
    return SketchCodec(coder, path, digest, config)


def make_coder(net: nn.Module, lmbda: float | None, device: str) -> "HyperpriorCoder | ZooCoder":
    """Return what codes with a network."""
    if isinstance(net, PictureHyperprior):
        if net.config.channels != 1:
            raise ValueError(f"its network is for pictures of {net.config.channels} channels")
        return HyperpriorCoder(net, net.rate_step(lmbda), SECOND_RATES)
    if isinstance(net, ExactHyperprior):
        return HyperpriorCoder(net, net.rate_step(lmbda))
    from models_ntc.zoo import ZooCoder  # here, because it needs CompressAI

    return ZooCoder(net, device)

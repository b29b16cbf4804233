"""Codec files and `SketchCodec`: write, find and load a trained network; code uint8 sketches.

    from models_ntc import load_sketch_codec
    payload = load_sketch_codec(0.2).encode(sketch)

A codec file is a safetensors file with the network's state dict, integer coding tables included. In
files of the network `sketch`, the decoder's weights are integers, multiples of 2^-WEIGHT_BITS, and
the encoder's are float16. The metadata is

    {"config": JSON of {"model", "lambda", "metric", "sizes"}}.

The payload of a sketch:

    height / 64 and width / 64    4 bits each; or a zero byte and a byte each if one is over 15
    the network's own bytes       see SketchHyperpriorCoder and ZooCoder
"""

import hashlib
import json
import pickle
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from common.files import write
from models_ntc.bundled import FOLDER
from models_ntc.entropy import SketchError
from models_ntc.sketch_coder import SketchHyperpriorCoder
from models_ntc.sketch_hyperprior import WEIGHT_BITS, SketchHyperprior, SketchHyperpriorConfig
from models_ntc.zoo import ARCHITECTURES, ZooCoder, recognize, unwrap, zoo_sizes

ENCODER_PARTS = ("analysis", "to_latent", "hyper_analysis")  # stored as float16
MOST_BLOCKS = 4096  # 64x64 squares in one sketch: 16.8 megapixels
LONG_HEADER = 3  # bytes
# What the libraries raise on files that are damaged or hold something else.
LOAD_ERRORS = (
    SafetensorError,
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    LookupError,
    TypeError,
)


class SketchCodec:
    """A trained codec, made by `load_sketch_codec`.

    name: the file's name without its ending.
    digest: SHA-256 of the weight file, 32 bytes.
    config: {"model", "lambda", "metric", "sizes"}. The lambda is that of the sketches it writes; it
        reads those of all lambdas. Lambda and metric are None if the file does not tell them.
    """

    def __init__(
        self, coder: SketchHyperpriorCoder | ZooCoder, name: str, digest: bytes, config: dict
    ) -> None:
        self.coder = coder
        self.name = name
        self.digest = digest
        self.config = config

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
        return self._synthesize(self.coder.decode(rest, blocks))

    def shape(self, payload: bytes) -> tuple[int, int]:
        """Return height and width in pixels from a payload's header. Raises SketchError."""
        (rows, columns), _ = split_blocks(payload)
        return 64 * rows, 64 * columns

    def _encode(self, sketch: np.ndarray) -> tuple[bytes, Tensor]:
        """Return the payload of a sketch, and the latents that the decoder will have."""
        header = blocks_as_bytes(*blocks_of(sketch))
        pixels = torch.from_numpy(sketch.astype(np.float32) / 255)
        coded, latents = self.coder.encode(rearrange(pixels, "h w -> 1 1 h w"))
        return header + coded, latents

    def _synthesize(self, latents: Tensor) -> np.ndarray:
        """Return the sketch, uint8 (H, W), of latents."""
        pixels = rearrange(self.coder.synthesize(latents), "1 1 h w -> h w")
        return pixels.mul(255).round().to(torch.uint8).numpy()


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


def new_network(model: str, sizes: dict | None = None) -> nn.Module:
    """Return an untrained network.

    model: "sketch" or a key of zoo.ARCHITECTURES; ValueError for any other.
    sizes: keyword arguments of the network, as a codec file has them.
    """
    sizes = sizes or {}
    if model == "sketch":
        return SketchHyperprior(SketchHyperpriorConfig(**sizes))
    if model not in ARCHITECTURES:
        raise ValueError(f"unknown model {model!r}: choose sketch, {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[model](**sizes)


def sizes_of(net: nn.Module) -> dict:
    """Return the keyword arguments that make a network of the same shape."""
    if isinstance(net, SketchHyperprior):
        return vars(net.config)
    return zoo_sizes(net)


def packed(net: nn.Module) -> dict[str, Tensor]:
    """Return the state dict as it is stored: in number formats no larger than needed."""
    state = {name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()}
    if isinstance(net, SketchHyperprior):
        for name, value in state.items():
            part = name.split(".")[0]
            if part in net.decoder_parts():
                state[name] = numerators(value)
            elif part in ENCODER_PARTS:
                state[name] = value.half()
    return state


def numerators(value: Tensor) -> Tensor:
    """Return `value` in units of 2^-WEIGHT_BITS, rounded: int16 if all of it fits, else int32."""
    rounded = value.double().mul(2.0**WEIGHT_BITS).round()
    dtype = torch.int16 if rounded.abs().max() < 2**15 else torch.int32
    return rounded.to(dtype)


def unpacked(state: dict[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    """Return the float32 state dict of a stored one; integer tables stay as they are."""
    if isinstance(net, SketchHyperprior):
        for name, value in state.items():
            part = name.split(".")[0]
            if part in net.decoder_parts():
                state[name] = value.float() / 2**WEIGHT_BITS
            elif part in ENCODER_PARTS:
                state[name] = value.float()
    return state


def save_codec(
    net: nn.Module, path: Path, model: str, lmbda: float | None, metric: str | None
) -> None:
    """Compute the coding tables of a trained network and write it as a codec file.

    model: its name for `new_network`. lmbda, metric: what it was trained with, for the config.
    """
    net.update(force=True)
    config = {"model": model, "lambda": lmbda, "metric": metric, "sizes": sizes_of(net)}
    write(path, save(packed(net), {"config": json.dumps(config)}))


def codec_file(lam_or_file: float | str | Path, family: str) -> tuple[Path, float | None]:
    """Return the codec file that a lambda, a file or FILE@LAMBDA names, and the lambda.

    The lambda is None for a file alone. Raises ValueError if there is no such file.
    """
    if isinstance(lam_or_file, (int, float)):
        return FOLDER / f"{family}.safetensors", float(lam_or_file)
    if Path(lam_or_file).is_file():
        return Path(lam_or_file), None
    name, _, number = str(lam_or_file).rpartition("@")
    if Path(name).is_file():
        with suppress(ValueError):
            return Path(name), float(number)
    raise ValueError(f"no sketch codec at {lam_or_file}")


def codec_lambda(net: nn.Module, config: dict, lmbda: float | None) -> float | None:
    """Return the lambda that a codec writes at: the one asked for, or by default the file's.

    Raises ValueError if the codec does not have that lambda.
    """
    if not isinstance(net, SketchHyperprior):
        if lmbda not in (None, config["lambda"]):
            raise ValueError(
                f"lambda {lmbda:g}: the sketch codec has but the one it was trained with"
            )
        return config["lambda"]
    low, high = net.config.lambda_range
    if lmbda is None:
        return (low * high) ** 0.5
    if not low <= lmbda <= high:
        raise ValueError(f"lambda {lmbda:g}: the sketch codec has {low:g} to {high:g}")
    return lmbda


def load_file(path: Path) -> tuple[nn.Module, dict]:
    """Return network and config of a codec file written by `save_codec`."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- not a dict
    if "config" not in metadata:
        raise ValueError(f"{path} is not a sketch codec: it carries no config")
    config = json.loads(metadata["config"])
    net = new_network(config["model"], config["sizes"])
    net.load_state_dict(unpacked(state, net))
    return net, config


def load_compressai(path: Path) -> tuple[nn.Module, dict]:
    """Return network and config of a checkpoint in CompressAI's keys, with or without tables."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds a {type(state).__name__}, not named weights")
    state = unwrap(state)
    model, sizes = recognize(state)
    net = new_network(model, sizes)
    net.load_state_dict(state)
    net.update()
    return net, {"model": model, "lambda": None, "metric": None, "sizes": sizes}


def load_sketch_codec(
    lam_or_file: float | str | Path, device: str = "cpu", family: str = "sketch"
) -> SketchCodec:
    """Load a codec; see `models_ntc.load_sketch_codec`."""
    path, lmbda = codec_file(lam_or_file, family)
    load = load_file if path.suffix == ".safetensors" else load_compressai
    try:
        net, config = load(path)
    except LOAD_ERRORS as error:
        raise ValueError(
            f"{path} is damaged, or holds other things than a sketch codec's weights"
        ) from error
    config["lambda"] = codec_lambda(net, config, lmbda)
    if isinstance(net, SketchHyperprior):
        coder = SketchHyperpriorCoder(net, config["lambda"])
    else:
        coder = ZooCoder(net, device)
    digest = hashlib.sha256(path.read_bytes()).digest()
    return SketchCodec(coder, path.stem, digest, config)

"""Sketch codecs as files: how a trained network is written, found, loaded, and used on uint8 sketches.

A codec file is a safetensors holding the network's state dict, integer coding tables included. Where it is
ours, the decoder's weights are whole multiples of 2^-WEIGHT_BITS and the encoder's float16. The metadata is

    {"config": JSON of {"model", "lambda", "metric", "sizes"}}.

Payload of one sketch: height / 64 and width / 64, a nibble each, or 0 and a byte each where one is over 15;
then the coder's own bytes, which end in the number of `entropy.encode`.
"""

import hashlib
import json
import pickle
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from models_ntc import FOLDER
from models_ntc.entropy import SketchError
from models_ntc.sketch_hyperprior import (
    WEIGHT_BITS,
    SketchHyperprior,
    SketchHyperpriorCoder,
    SketchHyperpriorConfig,
)
from models_ntc.zoo import ARCHITECTURES, ZooCoder, recognise, unwrap, zoo_sizes

ENCODER_PARTS = ("analysis", "to_latent", "hyper_analysis")  # stored as float16
MOST_BLOCKS = 4096  # 64x64 squares in one sketch: 16.8 megapixels


class SketchCodec:
    """A trained codec; `load_sketch_codec` makes one.

    Attributes:
        name: file name without its ending. digest: sha256 of the weight file's contents, 32 bytes. config:
        {"model", "lambda", "metric", "sizes"}; lambda is that of the sketches it writes (it reads those of all),
        None, as the metric, where the file does not say.
    """

    def __init__(self, coder: SketchHyperpriorCoder | ZooCoder, name: str, digest: bytes, config: dict) -> None:
        self.coder, self.name, self.digest, self.config = coder, name, digest, config

    def compress(self, sketch: np.ndarray) -> bytes:
        """Payload of a sketch, uint8 (H, W), 255 = edge; sides multiples of 64, else ValueError."""
        return self.encode(sketch)[0]

    def compress_and_draw(self, sketch: np.ndarray) -> tuple[bytes, np.ndarray]:
        """Payload, and the sketch that `decompress` will give for it, without decoding."""
        payload, latents = self.encode(sketch)
        return payload, self.picture(latents)

    def decompress(self, payload: bytes) -> np.ndarray:
        """Sketch, uint8 (H, W), of a payload; SketchError when it is truncated, garbled or foreign."""
        blocks, rest = split_blocks(payload)
        return self.picture(self.coder.decode(rest, blocks))

    def shape(self, payload: bytes) -> tuple[int, int]:
        """Height and width in pixels that a payload says, before anything is decoded; SketchError for none."""
        rows, columns = split_blocks(payload)[0]
        return 64 * rows, 64 * columns

    def encode(self, sketch: np.ndarray) -> tuple[bytes, Tensor]:
        """Payload of a sketch, and the latents that the decoder will have."""
        blocks = blocks_of(sketch)
        number, latents = self.coder.encode(torch.from_numpy(sketch.astype(np.float32) / 255)[None, None])
        return blocks_as_bytes(*blocks) + number, latents

    def picture(self, latents: Tensor) -> np.ndarray:
        """Sketch, uint8 (H, W), drawn from latents."""
        return self.coder.draw(latents)[0, 0].mul(255).round().to(torch.uint8).numpy()


def blocks_of(sketch: np.ndarray) -> tuple[int, int]:
    """Rows and columns of 64x64 squares; ValueError for a picture that is no sketch of ours."""
    if sketch.dtype != np.uint8 or sketch.ndim != 2:
        raise ValueError(f"a sketch is uint8 (H, W), got {sketch.dtype} {sketch.shape}")
    height, width = sketch.shape
    rows, columns = height // 64, width // 64
    fits = 0 < rows < 256 and 0 < columns < 256 and rows * columns <= MOST_BLOCKS
    if height % 64 or width % 64 or not fits:
        raise ValueError(f"a sketch has sides of 64 n pixels, {MOST_BLOCKS} squares at most, got {width}x{height}")
    return rows, columns


def blocks_as_bytes(rows: int, columns: int) -> bytes:
    """How a payload begins."""
    return bytes([rows << 4 | columns]) if max(rows, columns) <= 15 else bytes([0, rows, columns])


def split_blocks(payload: bytes) -> tuple[tuple[int, int], bytes]:
    """Rows and columns of 64x64 squares that a payload begins with, and the rest; SketchError where there are none."""
    long = payload[:1] == b"\0"
    rows, columns = payload[1:3] if long and len(payload) > 3 else divmod(payload[0] if payload else 0, 16)
    if not 0 < rows * columns <= MOST_BLOCKS or (long and max(rows, columns) <= 15):
        raise SketchError(f"sketch payload of {len(payload)} bytes asks for {64 * rows}x{64 * columns} pixels")
    return (rows, columns), payload[3 if long else 1 :]


def new_network(model: str, sizes: dict | None = None) -> nn.Module:
    """Untrained network by name, "sketch" or one of zoo.ARCHITECTURES; sizes as in a codec file."""
    if model == "sketch":
        return SketchHyperprior(SketchHyperpriorConfig(**(sizes or {})))
    if model not in ARCHITECTURES:
        raise ValueError(f"unknown model {model!r}: choose sketch, {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[model](**(sizes or {}))


def sizes_of(net: nn.Module) -> dict:
    """Arguments that make a network of the same shape."""
    return vars(net.config) if isinstance(net, SketchHyperprior) else zoo_sizes(net)


def packed(net: nn.Module) -> dict[str, Tensor]:
    """State dict as it is stored: small number formats where nothing depends on more."""
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
    """Whole multiples of 2^-WEIGHT_BITS nearest to `value`: int16 where all fit, else int32."""
    whole = value.double().mul(2.0**WEIGHT_BITS).round()
    return whole.to(torch.int16 if whole.abs().max() < 2**15 else torch.int32)


def unpacked(state: dict[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    """The float32 state dict of a stored one; integer tables stay as they are."""
    if isinstance(net, SketchHyperprior):
        for name, value in state.items():
            part = name.split(".")[0]
            if part in net.decoder_parts():
                state[name] = value.float() / 2**WEIGHT_BITS
            elif part in ENCODER_PARTS:
                state[name] = value.float()
    return state


def save_codec(net: nn.Module, path: Path, model: str, lmbda: float | None, metric: str | None) -> None:
    """Write a trained network as a codec file with new coding tables, under a temporary name first."""
    net.update(force=True)
    config = {"model": model, "lambda": lmbda, "metric": metric, "sizes": sizes_of(net)}
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(save(packed(net), {"config": json.dumps(config)}))
    temporary.replace(path)


def codec_file(lam_or_file: float | str | Path, family: str) -> tuple[Path, float | None]:
    """Path of the codec that a lambda, a file or FILE@LAMBDA stands for, and the lambda; ValueError for neither."""
    if isinstance(lam_or_file, (int, float)):
        return FOLDER / f"{family}.safetensors", float(lam_or_file)
    path, lmbda = Path(lam_or_file), None
    if not path.is_file():
        name, _, number = str(lam_or_file).rpartition("@")
        with suppress(ValueError):
            path, lmbda = Path(name), float(number)
    if not path.is_file():
        raise ValueError(f"no sketch codec at {lam_or_file}")
    return path, lmbda


def codec_lambda(net: nn.Module, config: dict, lmbda: float | None) -> float | None:
    """The lambda that a codec writes at: the one asked for, else the file's; ValueError where it has not that one."""
    if not isinstance(net, SketchHyperprior):
        if lmbda not in (None, config["lambda"]):
            raise ValueError(f"lambda {lmbda:g}: the sketch codec has but the one it was trained with")
        return config["lambda"]
    low, high = net.config.lambda_range
    if lmbda is None:
        return (low * high) ** 0.5
    if not low <= lmbda <= high:
        raise ValueError(f"lambda {lmbda:g}: the sketch codec has {low:g} to {high:g}")
    return lmbda


def load_file(path: Path) -> tuple[nn.Module, dict]:
    """Network and config of a codec file of ours."""
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
    """Network and config of a checkpoint in CompressAI's keys; coding tables are made if it has none."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds a {type(state).__name__}, not named weights")
    state = unwrap(state)
    model, sizes = recognise(state)
    net = new_network(model, sizes)
    net.load_state_dict(state)
    net.update()
    return net, {"model": model, "lambda": None, "metric": None, "sizes": sizes}


def load_sketch_codec(lam_or_file: float | str | Path, device: str = "cpu", family: str = "sketch") -> SketchCodec:
    """Load a codec; see `models_ntc.load_sketch_codec`."""
    path, lmbda = codec_file(lam_or_file, family)
    try:
        net, config = load_file(path) if path.suffix == ".safetensors" else load_compressai(path)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, LookupError, TypeError) as error:
        raise ValueError(f"{path} is damaged, or holds other things than a sketch codec's weights") from error
    config["lambda"] = lmbda = codec_lambda(net, config, lmbda)
    coder = SketchHyperpriorCoder(net, lmbda) if isinstance(net, SketchHyperprior) else ZooCoder(net, device)
    return SketchCodec(coder, path.stem, hashlib.sha256(path.read_bytes()).digest(), config)

"""Sketch codecs as files: how a trained network is written, found, loaded, and used on uint8 sketches.

A codec file is a safetensors holding the network's state dict, integer coding tables included. Where it is
ours, the decoder's weights are whole multiples of 2^-WEIGHT_BITS and the encoder's float16. The metadata is

    {"config": JSON of {"model", "lambda", "metric", "sizes"}}.

Payload of one sketch: height / 64 and width / 64, a byte each, then the number of `entropy.encode`.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from models_ntc import FOLDER, bundled_lambdas
from models_ntc.cheng2020 import ChengCoder, SketchCheng2020, channels_of, unwrap
from models_ntc.entropy import SketchError
from models_ntc.sketch_hyperprior import (
    WEIGHT_BITS,
    SketchHyperprior,
    SketchHyperpriorCoder,
    SketchHyperpriorConfig,
)

MOST_BLOCKS = 4096  # 64x64 squares in one sketch: 16.8 megapixels


class SketchCodec:
    """A trained codec; `load_sketch_codec` makes one.

    Attributes:
        name: file name without its ending. digest: sha256 of the weight file's contents, 32 bytes. config:
        {"model", "lambda", "metric", "sizes"}; lambda and metric are None where the file does not say.
    """

    def __init__(self, coder: SketchHyperpriorCoder | ChengCoder, name: str, digest: bytes, config: dict) -> None:
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
        height, width = payload[:2] if len(payload) > 2 else (0, 0)
        if not 0 < height * width <= MOST_BLOCKS:
            raise SketchError(f"sketch payload of {len(payload)} bytes asks for {64 * height}x{64 * width} pixels")
        return self.picture(self.coder.decode(payload[2:], (height, width)))

    def encode(self, sketch: np.ndarray) -> tuple[bytes, Tensor]:
        """Payload of a sketch, and the latents that the decoder will have."""
        blocks = self.blocks(sketch)
        number, latents = self.coder.encode(torch.from_numpy(sketch.astype(np.float32) / 255)[None, None])
        return bytes(blocks) + number, latents

    def blocks(self, sketch: np.ndarray) -> tuple[int, int]:
        """Rows and columns of 64x64 squares; ValueError for a picture that is no sketch of ours."""
        if sketch.dtype != np.uint8 or sketch.ndim != 2:
            raise ValueError(f"a sketch is uint8 (H, W), got {sketch.dtype} {sketch.shape}")
        height, width = sketch.shape
        rows, columns = height // 64, width // 64
        fits = 0 < rows < 256 and 0 < columns < 256 and rows * columns <= MOST_BLOCKS
        if height % 64 or width % 64 or not fits:
            raise ValueError(f"a sketch has sides of 64 n pixels, {MOST_BLOCKS} squares at most, got {width}x{height}")
        return rows, columns

    def picture(self, latents: Tensor) -> np.ndarray:
        """Sketch, uint8 (H, W), drawn from latents."""
        return self.coder.draw(latents)[0, 0].mul(255).round().to(torch.uint8).numpy()


def new_network(model: str, sizes: dict | None = None) -> nn.Module:
    """Untrained network by name, "sketch" or "cheng2020-attn"; sizes as in a codec file."""
    if model == "sketch":
        return SketchHyperprior(SketchHyperpriorConfig(**(sizes or {})))
    if model == "cheng2020-attn":
        return SketchCheng2020(**(sizes or {}))
    raise ValueError(f"unknown model {model!r}: choose sketch or cheng2020-attn")


def sizes_of(net: nn.Module) -> dict:
    """Arguments that make a network of the same shape."""
    return vars(net.config) if isinstance(net, SketchHyperprior) else {"N": net.N}


def packed(net: nn.Module) -> dict[str, Tensor]:
    """State dict as it is stored: small number formats where nothing depends on more."""
    state = {name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()}
    if isinstance(net, SketchHyperprior):
        for name, value in state.items():
            part = name.split(".")[0]
            if part in net.decoder_parts():
                state[name] = numerators(value)
            elif part in ("analysis", "hyper_analysis"):
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
            elif part in ("analysis", "hyper_analysis"):
                state[name] = value.float()
    return state


def save_codec(net: nn.Module, path: Path, model: str, lmbda: float | None, metric: str | None) -> None:
    """Write a trained network as a codec file with new coding tables, under a temporary name first."""
    net.update(force=True)
    config = {"model": model, "lambda": lmbda, "metric": metric, "sizes": sizes_of(net)}
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(save(packed(net), {"config": json.dumps(config)}))
    temporary.replace(path)


def codec_file(lam_or_file: float | str | Path, family: str) -> Path:
    """Path of the codec that a lambda or a file name stands for; ValueError when there is none."""
    if not isinstance(lam_or_file, (int, float)):
        if not Path(lam_or_file).is_file():
            raise ValueError(f"no sketch codec at {lam_or_file}")
        return Path(lam_or_file)
    path = FOLDER / f"{family}_lmbda{float(lam_or_file)}.safetensors"
    if not path.is_file():
        known = ", ".join(map(str, bundled_lambdas(family))) or "none"
        raise ValueError(f"no {family} codec for lambda {lam_or_file}: there are {known}")
    return path


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
    """Network and config of a Cheng2020Attention checkpoint; coding tables are made if it has none."""
    state = unwrap(torch.load(path, map_location="cpu", weights_only=True))
    net = SketchCheng2020(channels_of(state))
    net.load_state_dict(state)
    net.update()
    return net, {"model": "cheng2020-attn", "lambda": None, "metric": None, "sizes": {"N": net.N}}


def load_sketch_codec(lam_or_file: float | str | Path, device: str = "cpu", family: str = "sketch") -> SketchCodec:
    """Load a codec; see `models_ntc.load_sketch_codec`."""
    path = codec_file(lam_or_file, family)
    net, config = load_file(path) if path.suffix == ".safetensors" else load_compressai(path)
    coder = ChengCoder(net, device) if config["model"] == "cheng2020-attn" else SketchHyperpriorCoder(net)
    return SketchCodec(coder, path.stem, hashlib.sha256(path.read_bytes()).digest(), config)

"""Codec files: a trained network as a safetensors file, or in CompressAI's keys.

    save_codec(net, Path("codec.safetensors"), "sketch", None, "ms-ssim")
    net, config = load_file(Path("codec.safetensors"))

A codec file is a safetensors file with the network's state dict, integer coding tables included. In
files of our own networks, the decoder's weights are integers, multiples of 2^-WEIGHT_BITS, and
the encoder's are float16. The metadata is

    {"config": JSON of {"model", "lambda", "metric", "sizes"}}.

A file is checked against its declared form (`schema`) before a network is made of it.
"""

import json
import re
from collections.abc import Container, Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from common.files import printable, write
from models_ntc.errors import CodecFileError, refusing
from models_ntc.hyperprior import ExactHyperprior
from models_ntc.networks import (
    coding_network,
    expected_tensors,
    packed,
    sizes_of,
    stored_dtypes,
    unpacked,
)
from models_ntc.pickled import StoredTensor
from models_ntc.schema import (
    any_float,
    check_config,
    check_density,
    check_layout,
    check_sizes,
    check_values,
)
from models_ntc.torch_file import TorchFile, open_torch_file
from pretrained.libraries import training_packages

KIND = "sketch codec"
MOST_HEADER = 2**22  # bytes of a safetensors file before its tensors; ours have 10 to 50 kB
PLURALS = {"matrix": "matrices", "bias": "biases", "factor": "factors"}
# safetensors' names of number formats
DTYPES = {
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "F32": torch.float32,
}


class Listed(NamedTuple):
    """A tensor of a safetensors file that is not read yet."""

    shape: tuple[int, ...]
    dtype: torch.dtype | None  # None: a format that no codec file has


def save_codec(
    net: nn.Module, path: Path, model: str, lmbda: float | None, metric: str | None
) -> None:
    """Compute the coding tables of a trained network and write it as a codec file.

    model: its name for `new_network`. lmbda, metric: what it was trained with, for the config.
    Raises CodecFileError, and writes nothing, if `load_file` would not read it.
    """
    with refusing(path, KIND):
        compute_tables(net, search=isinstance(net, ExactHyperprior))
        state = packed(net)
        check_values(state, tables=True)
    config = {"model": model, "lambda": lmbda, "metric": metric, "sizes": sizes_of(net)}
    write(path, save(state, {"config": json.dumps(config)}))


def compute_tables(net: nn.Module, search: bool) -> None:
    """Compute the coding tables of a trained network.

    search: find the quantiles of the hyper-latents first. Raises CodecFileError for weights that
    are not finite, or whose density is too wide: the search would not end, or the tables would take
    gigabytes.
    """
    check_values(on_cpu(net), tables=False)
    if search:
        net.entropy_bottleneck._update_quantiles()
        check_density(on_cpu(net))
    net.update(force=True)


def on_cpu(net: nn.Module) -> dict[str, Tensor]:
    """Return a network's state dict on the CPU."""
    return {name: value.cpu() for name, value in net.state_dict().items()}


def load_file(path: Path) -> tuple[nn.Module, dict]:
    """Return network and config of a codec file written by `save_codec`. Raises CodecFileError."""
    with refusing(path, KIND):
        check_header(path)
        with safe_open(path, "pt") as file:
            config = check_config((file.metadata() or {}).get("config"))
            model = config["model"]
            expected = expected_tensors(model, config["sizes"])
            names = current_names(file.keys(), expected)
            check_layout(listed(file, names), expected, partial(stored_dtypes, model))
            state = {name: file.get_tensor(names[name]) for name in expected}
        check_values(state, tables=True)
        net = coding_network(model, config["sizes"])
        net.load_state_dict(unpacked(state, net))
    return net, config


def check_header(path: Path) -> None:
    """Raise CodecFileError if a safetensors file has a header that would take long to read."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > MOST_HEADER:
        raise CodecFileError("it is not a safetensors file, or has a header that is too long")


def listed(file: safe_open, names: dict[str, str]) -> dict[str, Listed]:
    """Return shape and format of each tensor of a file, by its current name."""
    found = {}
    for name, stored in names.items():
        tensor = file.get_slice(stored)
        found[name] = Listed(tuple(tensor.get_shape()), DTYPES.get(tensor.get_dtype()))
    return found


def load_compressai(path: Path) -> tuple[nn.Module, dict]:
    """Return network and config of a file in CompressAI's keys, with or without coding tables.

    Raises CodecFileError.
    """
    with training_packages(printable(path)):
        from models_ntc.zoo import recognize, unwrap

    with refusing(path, KIND), open_torch_file(path) as file:
        found = unwrap(file.content)
        check_dense(found)
        model, sizes = recognize(found)
        check_sizes(model, sizes)
        expected = expected_tensors(model, sizes)
        names = current_names(found, expected)
        found = {name: found[stored] for name, stored in names.items()}
        check_layout(found, expected, any_float)
        state = read_tensors(file, found)
        check_values(state, tables=False)
        net = coding_network(model, sizes)
        net.load_state_dict(state)
        net.update()
    return net, {"model": model, "lambda": None, "metric": None, "sizes": sizes}


def check_dense(found: dict[str, object]) -> None:
    """Raise CodecFileError unless all values are tensors."""
    for name, value in found.items():
        if not isinstance(value, StoredTensor):
            raise CodecFileError(f"its {name} is a {type(value).__name__}, not a tensor")


def current_names(found: Iterable[str], expected: Container[str]) -> dict[str, str]:
    """Return the names of a file's tensors, by the names that they have in the network.

    Older releases of CompressAI have entropy_bottleneck._matrix0 for entropy_bottleneck.matrices.0.
    """
    names = {}
    for stored in found:
        older = re.fullmatch(r"(entropy_bottleneck\.)_(matrix|bias|factor)(\d+)", stored)
        name = stored
        if older and stored not in expected:
            name = f"{older[1]}{PLURALS[older[2]]}.{older[3]}"
        names[name] = stored
    return names


def read_tensors(file: TorchFile, found: dict[str, StoredTensor]) -> dict[str, Tensor]:
    """Return tensors of a file, which together must not be larger than the file."""
    size = 0
    for stored in found.values():
        size += stored.count * stored.dtype.itemsize
    if size > len(file.data):
        raise CodecFileError(f"its tensors have {size} bytes, the file {len(file.data)}")
    return {name: file.tensor(stored) for name, stored in found.items()}

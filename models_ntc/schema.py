"""The declared form of a codec file, checked before a network is made.

    config = check_config(file.metadata()["config"])
    check_layout(found, expected_tensors(config["model"], config["sizes"]), allowed)
    check_values(state)

All checks raise CodecFileError; `errors.refusing` adds the file's name. Ranges are in `limits`.
"""

import json
import math
from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from models_ntc.errors import CodecFileError
from models_ntc.limits import (
    CHANNELS,
    DENSITY,
    LAMBDAS,
    METRICS,
    MODEL,
    MOST_TABLE,
    PICTURE,
    PICTURE_CHANNELS,
    SCALE_LEVELS,
    SCALES,
    SKETCH_CHANNELS,
    SYMBOLS,
    WEIGHT,
)
from pretrained.libraries import ZOO

CONFIG = {"model", "lambda", "metric", "sizes"}
# A network's coding tables: their sizes are known only when it was trained.
TABLE, LENGTH, OFFSET = "_quantized_cdf", "_cdf_length", "_offset"
TABLES = (TABLE, LENGTH, OFFSET)
SCALE_TABLE = "scale_table"
TOTAL = 2**16  # of the frequencies of a coding table
SHORTEST_TABLE = 3  # entries: from 0 to a symbol's end, to the tail's end
INTEGERS = (torch.int32, torch.int64)
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Found(Protocol):
    """A tensor of a file that is not read yet."""

    shape: tuple[int, ...]
    dtype: torch.dtype


# ---- config


def check_config(text: str | None) -> dict:
    """Return the config of a codec file, {"model", "lambda", "metric", "sizes"}, from its JSON."""
    if text is None:
        raise CodecFileError("it carries no config")
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CodecFileError("its config is not JSON") from error
    if type(config) is not dict or set(config) != CONFIG:
        raise CodecFileError(f"its config is not an object of {', '.join(sorted(CONFIG))}")
    model = config["model"]
    if type(model) is not str or model not in (MODEL, PICTURE, *ZOO):
        raise CodecFileError("its config has a model that is not known")
    if config["metric"] not in (None, *METRICS):
        raise CodecFileError("its config has a metric that is not known")
    if config["lambda"] is not None:
        check_number("lambda", config["lambda"], LAMBDAS)
    check_sizes(model, config["sizes"])
    return config


def check_number(name: str, value: object, limits: tuple[float, float]) -> None:
    """Raise unless a value is a finite number within its limits."""
    low, high = limits
    if type(value) not in (int, float) or not low <= value <= high:
        raise CodecFileError(f"its {name} is {shown(value)}, not a number from {low:g} to {high:g}")


def check_integer(name: str, value: object, limits: tuple[int, int]) -> None:
    """Raise unless a value is an integer within its limits."""
    low, high = limits
    if type(value) is not int or not low <= value <= high:
        raise CodecFileError(f"its {name} is {shown(value)}, not an integer from {low} to {high}")


def shown(value: object) -> str:
    """Return a value of a file as a message shows it: numbers in full, else the type."""
    if type(value) is float:
        return f"{value:g}"
    if type(value) is int:
        return str(value) if abs(value) < 2**64 else "too large"
    return f"of type {type(value).__name__}"


def check_sizes(model: str, sizes: object) -> None:
    """Raise unless these are keyword arguments of a network, each within its limits."""
    if type(sizes) is not dict:
        raise CodecFileError(f"its sizes are {shown(sizes)}, not an object")
    if model in (MODEL, PICTURE):
        _check_own_sizes(model, sizes)
        return
    names = {"N"} if model.startswith("cheng") else {"N", "M"}
    if set(sizes) != names:
        raise CodecFileError(f"its sizes are not those of {model}: {', '.join(sorted(names))}")
    for name, value in sizes.items():
        check_integer(name, value, CHANNELS)


def _check_own_sizes(model: str, sizes: dict) -> None:
    """Check the fields of a HyperpriorConfig, or for PICTURE of a PictureHyperpriorConfig."""
    channels = PICTURE_CHANNELS if model == PICTURE else SKETCH_CHANNELS
    others = {"scale_min", "scale_max", "scale_levels", "lambda_range"}
    if set(sizes) != {*channels, *others}:
        raise CodecFileError(f"its sizes are not those of a network {model}")
    for name in channels:
        check_integer(name, sizes[name], CHANNELS)
    if sizes["latent"] % sizes["groups"]:
        raise CodecFileError(
            f"its latent channels, {sizes['latent']}, are not a multiple of its groups, "
            f"{sizes['groups']}"
        )
    check_integer("scale_levels", sizes["scale_levels"], SCALE_LEVELS)
    check_ascending("scale", [sizes["scale_min"], sizes["scale_max"]], SCALES)
    if sizes["scale_min"] == sizes["scale_max"]:
        raise CodecFileError("its scale_min is its scale_max")
    check_ascending("lambda_range", sizes["lambda_range"], LAMBDAS)


def check_ascending(name: str, pair: object, limits: tuple[float, float]) -> None:
    """Raise unless these are two numbers within the limits, the first not above the second."""
    if type(pair) is not list or len(pair) != 2:
        raise CodecFileError(f"its {name} is not a list of two numbers")
    for value in pair:
        check_number(name, value, limits)
    if pair[0] > pair[1]:
        raise CodecFileError(f"its {name} is {pair[0]:g} to {pair[1]:g}, not ascending")


# ---- names, shapes, formats


def check_layout(
    found: Mapping[str, Found],
    expected: Mapping[str, Tensor],
    allowed: Callable[[str, torch.dtype], tuple[torch.dtype, ...]],
    tables: bool = True,
) -> None:
    """Raise unless a file has exactly the tensors of a network.

    expected: the network's state dict, see `networks.expected_tensors`.
    allowed: called with a tensor's name and its format in the network; returns the formats that it
        may have in the file.
    tables: whether coding tables, which the network's code leaves empty, may be there.
    """
    check_names(found, expected)
    for name, wanted in expected.items():
        tensor = found[name]
        formats = allowed(name, wanted.dtype)
        if tensor.dtype not in formats:
            raise CodecFileError(f"its {name} is not of {' or '.join(map(str, formats))}")
        if tables and is_table(name) and not wanted.numel():
            check_table_shape(name, tensor.shape)
        elif tuple(tensor.shape) != tuple(wanted.shape):
            raise CodecFileError(
                f"its {name} is {list(tensor.shape)}, expected {list(wanted.shape)}"
            )


def check_names(found: Mapping[str, object], expected: Mapping[str, object]) -> None:
    """Raise unless both have the same names."""
    missing = sorted(expected.keys() - found.keys())
    if missing:
        raise CodecFileError(f"it has no {missing[0]}")
    if len(found) > len(expected):
        raise CodecFileError(f"it has {len(found)} tensors, expected {len(expected)}")


def is_table(name: str) -> bool:
    """Return whether a tensor is one of those whose size a network's code does not tell."""
    return name.rpartition(".")[2] in (*TABLES, SCALE_TABLE)


def check_table_shape(name: str, shape: tuple[int, ...]) -> None:
    """Raise unless a coding table has a sane number of entries."""
    dimensions = 2 if name.endswith(TABLE) and list(shape) != [0] else 1
    if len(shape) != dimensions or math.prod(shape) > MOST_TABLE:
        raise CodecFileError(f"its {name} is {list(shape)}")


def any_float(name: str, dtype: torch.dtype) -> tuple[torch.dtype, ...]:
    """Return the formats of a tensor in files that CompressAI's users write, for `check_layout`."""
    return FLOATS if dtype.is_floating_point else INTEGERS


# ---- values


def check_values(state: Mapping[str, Tensor], tables: bool) -> None:
    """Raise unless all weights are within their limits and the coding tables can be used.

    tables: whether there must be tables; otherwise they may be empty.
    """
    for name, value in state.items():
        check_finite(name, value)
    check_density(state)
    for name, value in state.items():
        if name.endswith(f".{LENGTH}") and (tables or value.numel()):
            check_tables(state, name.removesuffix(f".{LENGTH}"))


def check_finite(name: str, value: Tensor, largest: float = WEIGHT) -> None:
    """Raise unless the numbers of a tensor of floats are finite, and none is beyond `largest`."""
    if not value.is_floating_point() or not value.numel():
        return
    if not torch.isfinite(value).all():
        raise CodecFileError(f"its {name} is not finite")
    if value.abs().max() > largest:
        raise CodecFileError(f"its {name} is beyond {largest:g}")


def check_density(state: Mapping[str, Tensor]) -> None:
    """Raise unless the density of the hyper-latents can be made into tables.

    state: of a network; the density's names begin with "entropy_bottleneck.", perhaps after others.
    """
    for name, value in state.items():
        part = name.partition("entropy_bottleneck.")[2].split(".")[0]
        limit = DENSITY.get(part)
        if limit and value.abs().max() > limit:
            raise CodecFileError(f"its {name} is beyond {limit:g}")
        if part == "quantiles":
            longest = float((value.amax((1, 2)) - value.amin((1, 2))).max())
            if len(value) * longest > MOST_TABLE:
                raise CodecFileError(f"its {name} ask for coding tables of {longest:g} entries")


def check_tables(state: Mapping[str, Tensor], model: str) -> None:
    """Raise unless the coding tables of an entropy model are sound.

    Each row holds cumulative frequencies from 0 to 2^16, strictly ascending over the row's length.

    state: of the network. model: the name of the entropy model in it.
    """
    table, lengths, offsets = (state[f"{model}.{name}"].long().numpy() for name in TABLES)
    scales = state.get(f"{model}.{SCALE_TABLE}")
    if scales is not None:
        check_scales(model, scales)
    rows = len(state[f"{model}.quantiles"] if scales is None else scales)
    if not rows == len(table) == len(lengths) == len(offsets) or table.ndim != 2:
        raise CodecFileError(f"its {model} has not {rows} coding tables with lengths and offsets")
    check_lengths(model, table, lengths, offsets)
    check_frequencies(model, table, lengths)


def check_scales(model: str, scales: Tensor) -> None:
    """Raise unless the standard deviations of a table of Gaussians are positive and ascend."""
    if len(scales) < SCALE_LEVELS[0] or scales[0] <= 0 or not (scales.diff() > 0).all():
        raise CodecFileError(f"its {model}.{SCALE_TABLE} does not ascend from above 0")


def check_lengths(model: str, table: np.ndarray, lengths: np.ndarray, offsets: np.ndarray) -> None:
    """Raise unless the lengths lie within the table, and its symbols within SYMBOLS."""
    if lengths.min() < SHORTEST_TABLE or lengths.max() > table.shape[1]:
        raise CodecFileError(
            f"its {model}.{LENGTH} is {lengths.min()} to {lengths.max()}, "
            f"expected {SHORTEST_TABLE} to {table.shape[1]}"
        )
    lowest, highest = SYMBOLS
    # The last symbol of a table comes before its tail.
    longest = offsets.clip(lowest, highest) + lengths - SHORTEST_TABLE
    if offsets.min() < lowest or offsets.max() > highest or longest.max() > highest:
        raise CodecFileError(f"its {model}.{OFFSET} is not within {lowest} to {highest}")


def check_frequencies(model: str, table: np.ndarray, lengths: np.ndarray) -> None:
    """Raise unless each row ascends strictly from 0 to TOTAL over its length."""
    columns = np.arange(table.shape[1])
    steps = np.diff(table, axis=1)[columns[None, 1:] < lengths[:, None]]
    ends = table[np.arange(len(table)), lengths - 1]
    outside = (table < 0) | (table > TOTAL)
    if outside.any() or table[:, 0].any() or (steps <= 0).any() or (ends != TOTAL).any():
        raise CodecFileError(f"its {model}.{TABLE} does not ascend from 0 to {TOTAL}")

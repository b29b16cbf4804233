"""Codec files that must be refused, by what is wrong with them.

for name, (suffix, data) in hostile_codecs().items(): ...
"""

import json
import pickle
import zipfile

import torch

from helpers.codec_files import (
    archive,
    config_of,
    joined,
    pickled_tensor,
    records_of,
    saved,
    sketch_file,
    split,
    spoiled_tensor,
    text,
    with_config,
    with_pickle,
    with_sizes,
    with_tensors,
    zoo_state,
)

NAN = float("nan")
INFINITY = float("inf")
LARGE = b"\x8a\x05\2\2\2\2\2"  # the operation that pushes 8.6 * 10^9
FIRST = "g_a.0.weight"  # of CompressAI's networks


def hostile_codecs() -> dict[str, tuple[str, bytes]]:
    """Return suffix and content of each file, by what is wrong with it."""
    good = sketch_file()
    safe = {**configs(good), **sizes(good), **tensors(good), **tables(good), **containers(good)}
    files = {name: (".safetensors", data) for name, data in safe.items()}
    state = zoo_state()
    torch_files = {**states(state), **zoo_tables(state), **pickles(), **archives(state)}
    files.update({name: (".pt", data) for name, data in torch_files.items()})
    return files


def configs(good: bytes) -> dict[str, bytes]:
    """Spoil the config."""
    config = config_of(good)
    header, body = split(good)
    del header["__metadata__"]
    spoiled = {
        "config is a list": [],
        "config lacks the lambda": {key: config[key] for key in ("model", "metric", "sizes")},
        "model is unknown": {**config, "model": "other"},
        "model is a number": {**config, "model": 7},
        "model is of another network": {**config, "model": "mbt2018-mean"},
        "lambda is not a number": {**config, "lambda": NAN},
        "lambda is a text": {**config, "lambda": "1"},
        "lambda is negative": {**config, "lambda": -1},
        "metric is unknown": {**config, "metric": "fid"},
        "metric is a list": {**config, "metric": []},
        "sizes are a list": {**config, "sizes": []},
        "sizes of CompressAI: 10^9": {**config, "model": "mbt2018", "sizes": {"N": 10**9, "M": 1}},
        "sizes of CompressAI: a text": {**config, "model": "mbt2018", "sizes": {"N": "8", "M": 8}},
    }
    files = {name: with_config(good, value) for name, value in spoiled.items()}
    files["config is missing"] = joined(header, body)
    files["config is not JSON"] = with_config(good, "{'model'")
    files["config is nested 100,000 times"] = with_config(good, "[" * 100_000)
    files["config has a line break in a name"] = with_config(good, json.dumps({"a\nb\x1b": 1}))
    return files


def sizes(good: bytes) -> dict[str, bytes]:
    """Spoil the sizes of the network in the config."""
    spoiled = {
        "channels: 0": {"quarter": 0},
        "channels: -8": {"latent": -8},
        "channels: 1.5": {"hyper": 1.5},
        "channels: true": {"hyper": True},
        "channels: null": {"hyper_latent": None},
        "channels: 10^9": {"sixteenth": 10**9},
        "channels: 10^30": {"eighth": 10**30},
        "channels: of another network": {"eighth": 5},
        "groups do not divide the latents": {"groups": 3},
        "an unknown size": {"depth": 3},
        "scale levels: 1": {"scale_levels": 1},
        "scale levels: 10^9": {"scale_levels": 10**9},
        "scale levels: another number": {"scale_levels": 9},
        "scale: 0": {"scale_min": 0},
        "scale: not a number": {"scale_min": NAN},
        "scale: infinite": {"scale_max": INFINITY},
        "scales: descending": {"scale_min": 9.0},
        "scales: equal": {"scale_min": 4.0},
        "lambda range: descending": {"lambda_range": [1, 0.1]},
        "lambda range: from 0": {"lambda_range": [0, 1]},
        "lambda range: to infinity": {"lambda_range": [0.1, INFINITY]},
        "lambda range: one number": {"lambda_range": [0.1]},
        "lambda range: a number": {"lambda_range": 0.1},
    }
    return {name: with_sizes(good, **value) for name, value in spoiled.items()}


def tensors(good: bytes) -> dict[str, bytes]:
    """Spoil the weights."""
    return {
        "a tensor is missing": with_tensors(good, analysis__1__bias=None),
        "a tensor too many": with_tensors(good, other=torch.zeros(3)),
        "a tensor of another name": with_tensors(
            good, analysis__1__bias=None, analysis__1__other=torch.zeros(4).half()
        ),
        "a tensor of another shape": with_tensors(good, analysis__1__bias=torch.zeros(5).half()),
        "a tensor without dimensions": with_tensors(good, analysis__1__bias=torch.zeros(()).half()),
        "a tensor of doubles": with_tensors(
            good, log_gain__curve__weight=torch.ones(4, 3).double()
        ),
        "a decoder's tensor of floats": with_tensors(good, from_latent__bias=torch.zeros(4)),
        "an encoder's weight is not a number": spoiled_tensor(good, "analysis.1.weight", NAN),
        "a gain is infinite": spoiled_tensor(good, "log_gain.curve.weight", INFINITY),
        "a gain overflows": spoiled_tensor(good, "log_gain.curve.weight", 3e38),
        "a quantile is not a number": spoiled_tensor(good, "entropy_bottleneck.quantiles", NAN),
        "a quantile is 10^30": spoiled_tensor(good, "entropy_bottleneck.quantiles", 1e30),
        "a density overflows": spoiled_tensor(good, "entropy_bottleneck.matrices.0", 1e38),
        "decoder's weights break the bound": with_tensors(
            good, from_latent__weight=torch.full((4, 4, 3, 3), 2**31 - 1, dtype=torch.int32)
        ),
    }


def tables(good: bytes) -> dict[str, bytes]:
    """Spoil the coding tables."""
    table = "gaussian_conditional._quantized_cdf"
    lengths = "gaussian_conditional._cdf_length"
    offsets = "gaussian_conditional._offset"
    bottleneck = "entropy_bottleneck._cdf_length"
    none = torch.zeros(0, dtype=torch.int32)
    return {
        "a table begins above 0": spoiled_tensor(good, table, 5),
        "a table begins at the end": spoiled_tensor(good, table, 2**16),
        "a table is negative": spoiled_tensor(good, table, -5),
        "a table's length is negative": spoiled_tensor(good, lengths, -5),
        "a table's length is 0": spoiled_tensor(good, lengths, 0),
        "a table's length is 2": spoiled_tensor(good, bottleneck, 2),
        "a table's length is cut": spoiled_tensor(good, lengths, 4),
        "a table's length is 10^9": spoiled_tensor(good, bottleneck, 10**9),
        "an offset is 10^9": spoiled_tensor(good, offsets, 10**9),
        "an offset is -10^9": spoiled_tensor(good, offsets, -(10**9)),
        "tables are empty": with_tensors(
            good,
            gaussian_conditional___quantized_cdf=none,
            gaussian_conditional___cdf_length=none,
            gaussian_conditional___offset=none,
        ),
        "lengths of no rows": with_tensors(good, gaussian_conditional___cdf_length=none),
        "tables of one dimension": with_tensors(good, gaussian_conditional___quantized_cdf=none),
        "tables of zeros": with_tensors(
            good, gaussian_conditional___quantized_cdf=torch.zeros(8, 60, dtype=torch.int32)
        ),
    }


def containers(good: bytes) -> dict[str, bytes]:
    """Spoil the file around it."""
    header, body = split(good)
    huge = json.loads(json.dumps(header))
    huge["analysis.1.bias"]["shape"] = [2**40, 2**20]
    beyond = json.loads(json.dumps(header))
    beyond["analysis.1.bias"]["data_offsets"] = [0, 2**50]
    return {
        "an empty file": b"",
        "a text": b"sketch codec\n" * 100,
        "zeros": bytes(1000),
        "a header of 2^63 bytes": (2**63).to_bytes(8, "little") + good[8:],
        "a header of 64 MB": (2**26).to_bytes(8, "little") + good[8:],
        "a header that is not JSON": joined("{" * 100, body),
        "a header that is a list": joined("[]", body),
        "a header of one number": joined("7", body),
        "a body that is cut off": good[:-100],
        "a body that is too long": good + bytes(100),
        "a shape of 2^60 numbers": joined(huge, body),
        "data beyond the end": joined(beyond, body),
    }


def states(state: dict) -> dict[str, bytes]:
    """Spoil a state dict in CompressAI's keys."""
    first = state[FIRST]
    spoiled = {
        "a list": [state],
        "a tensor": first,
        "a number": 7,
        "names that are numbers": dict(enumerate(state.values())),
        "a state dict that is a list": {"state_dict": [first]},
        "weights that are None": dict.fromkeys(state),
        "weights that are lists": {**state, FIRST: [[1.0, 2.0]]},
        "three channels": {**state, FIRST: first.expand(4, 3, 5, 5).contiguous()},
        "a missing tensor": {key: value for key, value in state.items() if key != "g_s.0.bias"},
        "another tensor too many": {**state, "other": first},
        "another shape": {**state, "g_s.0.bias": torch.zeros(7)},
        "one name twice": {**state, f"module.{FIRST}": first},
        "an expanded view": {**state, FIRST: torch.ones(1).expand(100_000, 1, 100, 100)},
        "a sparse tensor": {**state, FIRST: first.to_sparse()},
        "a complex tensor": {**state, FIRST: first.to(torch.complex64)},
        "a tensor without memory": {**state, FIRST: first.to("meta")},
        "a quantized tensor": {
            **state,
            FIRST: torch.quantize_per_tensor(first, 0.1, 0, torch.qint8),
        },
        "weights of integers": {**state, FIRST: first.long()},
        "a weight that is not a number": {**state, FIRST: first * NAN},
        "a double beyond float32": {**state, FIRST: first.double() * 1e300},
        "weights that overflow": {**state, FIRST: first * 1e38},
    }
    return {name: saved(value) for name, value in spoiled.items()}


def zoo_tables(state: dict) -> dict[str, bytes]:
    """Spoil what coding tables are made of, or the tables, of one of CompressAI's networks."""
    none = torch.zeros(0, dtype=torch.int32)
    untrained = dict(state)
    for model in ("entropy_bottleneck", "gaussian_conditional"):
        for name in ("_quantized_cdf", "_cdf_length", "_offset"):
            untrained[f"{model}.{name}"] = none
    lengths = state["gaussian_conditional._cdf_length"]
    scales = state["gaussian_conditional.scale_table"]
    wide = torch.tensor([-1e9, 0, 1e9]).repeat(4, 1, 1)
    matrix = state["entropy_bottleneck.matrices.0"]
    spoiled = {
        "negative lengths": {**state, "gaussian_conditional._cdf_length": -lengths},
        "lengths only": {**untrained, "gaussian_conditional._cdf_length": lengths},
        "descending scales": {**state, "gaussian_conditional.scale_table": scales.flip(0)},
        "one scale": {**state, "gaussian_conditional.scale_table": scales[:1]},
        "quantiles of 10^9": {**untrained, "entropy_bottleneck.quantiles": wide},
        "a density that overflows": {**untrained, "entropy_bottleneck.matrices.0": matrix * 1e38},
    }
    return {name: saved(value) for name, value in spoiled.items()}


def pickles() -> dict[str, bytes]:
    """Pickles that run code, take memory or time, or are damaged."""
    twice = pickle.BINPUT + b"\0" + pickle.BINGET + b"\0" + pickle.TUPLE2
    nested = text("x") + twice * 60
    name = text(FIRST)
    return {
        "a pickle that runs a command": with_pickle(b"cos\nsystem\n" + text("false") + b"\x85R"),
        "a pickle that takes 10 GB": with_pickle(
            b"cbuiltins\nbytearray\n\x8a\x05" + b"\2" * 5 + b"\x85R"
        ),
        "a pickle with a name that takes forever": with_pickle(b"}" + nested + b"K\1s"),
        "a pickle with a large memo": with_pickle(b"}" + pickle.LONG_BINPUT + b"\xff" * 4),
        "a pickle of a million operations": with_pickle(b"}" + pickle.BINPUT * 2 * 500_000),
        "a pickle that is cut off": archive({"data.pkl": b"\x80\x02}X\xff\xff\xff\x7fabc"}),
        "a pickle without an end": archive({"data.pkl": b"\x80\x02}"}),
        "a pickle that calls a text": with_pickle(text("x") + b")R"),
        "a pickle that pops nothing": with_pickle(b"sss"),
        "a pickle that contains itself": with_pickle(b"]q\0h\0a"),
        "a tensor of 2^31 numbers in a storage of 1": with_pickle(
            b"}" + name + pickled_tensor(1, (2**31 - 1, 1, 1, 1), (0, 1, 1, 1)) + b"s"
        ),
        "a storage of 2^31 numbers": with_pickle(
            b"}" + name + pickled_tensor(2**31 - 1, (2**31 - 1, 1, 1, 1), (1, 1, 1, 1)) + b"s"
        ),
    }


def archives(state: dict) -> dict[str, bytes]:
    """Spoil the archive around a state dict, or the older form."""
    good = saved(state)
    records = records_of(good)
    older = saved(state, zipped=False)
    return {
        "an archive that is compressed": archive(records, compression=zipfile.ZIP_DEFLATED),
        "an archive that is cut off": good[:-1000],
        "an archive of 30,000 records": archive({f"data/{n}": b"" for n in range(30_000)}),
        "an archive of something else": archive({"readme.txt": b"hello"}),
        "an archive of big numbers": archive({**records, "byteorder": b"big"}),
        "an archive without its numbers": archive({"data.pkl": records["data.pkl"]}),
        "an archive with short numbers": archive({**records, "data/0": b"\0" * 4}),
        "an older file that is cut off": older[:-1000],
        "an older file of an older pickle": older[:200],
        "random bytes": bytes(range(7, 256)) * 40,
    }

"""Small well-formed codec files, and their parts to change and to put together again.

data = sketch_file()
header, body = split(data)
spoiled = joined({**header, "x": 1}, body)
"""

import io
import json
import pickle
import zipfile

import torch
from safetensors.torch import load, save

from models_ntc.codec_file import compute_tables
from models_ntc.networks import new_network, packed, sizes_of

SMALL = {
    "quarter": 4,
    "eighth": 4,
    "sixteenth": 4,
    "latent": 4,
    "groups": 2,
    "hyper_latent": 4,
    "hyper": 4,
    "scale_levels": 8,
    "scale_max": 4.0,
}
# Enough channels for a training.
TRAINABLE = {
    "quarter": 8,
    "eighth": 12,
    "sixteenth": 16,
    "latent": 12,
    "groups": 2,
    "hyper_latent": 6,
    "hyper": 16,
}
ZOO = {"mbt2018-mean": {"N": 4, "M": 6}, "bmshj2018-factorized": {"N": 4, "M": 6}}
HEADER = 8  # bytes of the header's length in a safetensors file


def small_network(model: str = "sketch"):
    """A network of a few channels with its coding tables."""
    torch.manual_seed(0)
    net = new_network(model, SMALL if model == "sketch" else ZOO[model])
    compute_tables(net, search=True)
    return net


def sketch_file() -> bytes:
    """A codec file of the network `sketch`."""
    net = small_network()
    config = {"model": "sketch", "lambda": None, "metric": "ms-ssim", "sizes": sizes_of(net)}
    return save(packed(net), {"config": json.dumps(config)})


def zoo_state(model: str = "mbt2018-mean") -> dict:
    """A state dict in CompressAI's keys, with few and short coding tables."""
    net = small_network(model)
    if hasattr(net, "gaussian_conditional"):
        net.gaussian_conditional.update_scale_table([0.11, 0.5, 1.0, 2.0, 4.0], force=True)
    return net.state_dict()


def saved(content: object, zipped: bool = True) -> bytes:
    """What torch.save writes."""
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


# ---- safetensors


def split(data: bytes) -> tuple[dict, bytes]:
    """Return header and body of a safetensors file."""
    end = HEADER + int.from_bytes(data[:HEADER], "little")
    return json.loads(data[HEADER:end]), data[end:]


def joined(header: dict | str, body: bytes) -> bytes:
    """Return a safetensors file, with the length that its header has."""
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return len(text).to_bytes(HEADER, "little") + text + body


def config_of(data: bytes) -> dict:
    """Return the config of a codec file."""
    return json.loads(split(data)[0]["__metadata__"]["config"])


def with_config(data: bytes, config: dict | str) -> bytes:
    """Return a codec file with another config."""
    header, body = split(data)
    text = config if isinstance(config, str) else json.dumps(config)
    return joined({**header, "__metadata__": {"config": text}}, body)


def with_sizes(data: bytes, **sizes: object) -> bytes:
    """Return a codec file with other sizes in its config."""
    config = config_of(data)
    return with_config(data, {**config, "sizes": {**config["sizes"], **sizes}})


def with_tensors(data: bytes, **tensors: torch.Tensor | None) -> bytes:
    """Return a codec file with some tensors changed; None takes one out.

    In the names, "__" stands for ".".
    """
    state = load(data)
    for name, value in tensors.items():
        state.pop(name.replace("__", "."), None)
        if value is not None:
            state[name.replace("__", ".")] = value
    return save(state, split(data)[0]["__metadata__"])


def spoiled_tensor(data: bytes, name: str, value: float) -> bytes:
    """Return a codec file with one number of a tensor changed."""
    tensor = load(data)[name].clone()
    tensor.view(-1)[0] = value
    return with_tensors(data, **{name.replace(".", "__"): tensor})


# ---- torch.save


def archive(records: dict[str, bytes], **options: int) -> bytes:
    """Return a zip archive as torch.save writes it, with any records."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", **options) as target:
        for name, content in records.items():
            target.writestr(f"archive/{name}", content)
    return file.getvalue()


def records_of(data: bytes) -> dict[str, bytes]:
    """Return the records of an archive of torch.save."""
    with zipfile.ZipFile(io.BytesIO(data)) as source:
        return {name.partition("/")[2]: source.read(name) for name in source.namelist()}


def with_pickle(operations: bytes) -> bytes:
    """Return an archive of torch.save whose pickle is made of these operations."""
    return archive({"data.pkl": b"\x80\x02" + operations + b".", "byteorder": b"little"})


def text(value: str) -> bytes:
    """Return the operation of a pickle that pushes a text."""
    return pickle.BINUNICODE + len(value.encode()).to_bytes(4, "little") + value.encode()


def number(value: int) -> bytes:
    """Return the operation of a pickle that pushes a number below 2^31."""
    return pickle.BININT + value.to_bytes(4, "little", signed=True)


def pickled_tensor(count: int, sides: tuple[int, ...], strides: tuple[int, ...]) -> bytes:
    """Return the operations that push a tensor of a storage "0" of `count` numbers."""
    storage = (
        pickle.MARK
        + text("storage")
        + b"ctorch\nFloatStorage\n"
        + text("0")
        + text("cpu")
        + number(count)
        + pickle.TUPLE
        + pickle.BINPERSID
    )
    view = number(0) + _tuple(sides) + _tuple(strides)
    rest = pickle.NEWFALSE + b"ccollections\nOrderedDict\n)R"
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n"
    return rebuild + pickle.MARK + storage + view + rest + pickle.TUPLE + pickle.REDUCE


def _tuple(values: tuple[int, ...]) -> bytes:
    """Return the operations that push a tuple of numbers."""
    return pickle.MARK + b"".join(number(value) for value in values) + pickle.TUPLE

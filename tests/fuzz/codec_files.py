"""Codec files and checkpoints for the fuzzers: small well-formed ones, and mutants of them.

    from fuzz.codec_files import Reader, corpus, mutant      # in tests
    outcome = Reader(folder).read(*mutant(corpus(), random.Random(0))[1:])

A mutant knows the structure of its file: lengths and checksums are put right afterwards, so that
the checks behind them are reached.
"""

import copy
import io
import json
import pickletools
import random
from pathlib import Path

import numpy as np
import torch
from helpers.codec_files import (
    archive,
    config_of,
    joined,
    records_of,
    saved,
    sketch_file,
    split,
    with_config,
    zoo_state,
)
from safetensors.torch import load, save

from models_ntc import load_sketch_codec
from models_ntc.checkpoint import read_checkpoint
from models_ntc.codec import CodecFileError
from models_ntc.training import CodecTraining

SAFE, TORCH, OLDER = ".safetensors", ".pt", ".pth"
# What a mutation changes: a value of the config, a tensor, the text of the header or the operations
# of the pickle, the whole file.
WAYS = ("config", "tensor", "header", "flipped", "cut", "spliced")
VALUES = (
    *(None, True, False, 0, 1, -1, 2, 3, 7, 255, 4096, 2**31, 10**9, 10**30, -(10**9)),
    *(0.5, -0.5, 1e-30, 1e30, float("nan"), float("inf"), "", "8", "sketch", "mbt2018", [], {}),
    *([1, 2], [0.1, 1.0], [1.0, 0.1]),
)
NUMBERS = (0.0, 1.0, -1.0, 3.0, -5.0, 300.0, 65536.0, 1e9, 3e38, float("nan"), float("inf"))
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int16, torch.int64)
SKETCH = np.zeros((64, 64), np.uint8)
SKETCH[20:30] = 255


def corpus() -> list[tuple[str, bytes]]:
    """Return suffix and content of well-formed codec files of every form."""
    state = zoo_state()
    bare = zoo_state("bmshj2018-factorized")
    for name, value in bare.items():
        if name.rpartition(".")[2] in ("_quantized_cdf", "_cdf_length", "_offset"):
            bare[name] = value[:0].reshape(0)
    zoo = {"model": "mbt2018-mean", "lambda": 0.5, "metric": "mse", "sizes": {"N": 4, "M": 6}}
    return [
        (SAFE, sketch_file()),
        (SAFE, save(state, {"config": json.dumps(zoo)})),
        (TORCH, saved({"epoch": 3, "state_dict": state})),
        (TORCH, saved(bare)),
        (OLDER, saved(state, zipped=False)),
    ]


def mutant(files: list[tuple[str, bytes]], rng: random.Random) -> tuple[str, str, bytes]:
    """Return how a file was changed, one of WAYS, its suffix, and the changed content."""
    way = rng.choice(WAYS)
    suffix, data = rng.choice(files)
    other = rng.choice(files)[1]
    if way == "config" and suffix != SAFE:
        way = "tensor"
    if way == "flipped":
        return way, suffix, flipped(data, rng)
    if way == "cut":
        first, end = sorted(rng.randint(0, len(data)) for _ in range(2))
        return way, suffix, data[:first] + data[end:]
    if way == "spliced":
        return way, suffix, data[: rng.randint(0, len(data))] + other[rng.randint(0, len(other)) :]
    if suffix == SAFE:
        return way, suffix, SAFE_WAYS[way](data, rng)
    change = torch_tensor if way == "tensor" else torch_pickle
    return way, suffix, change(data, suffix, rng)


def flipped(data: bytes, rng: random.Random) -> bytes:
    """Change 1 to 8 bits; of nothing, make a byte."""
    changed = bytearray(data or b"\0")
    for _ in range(rng.randint(1, 8)):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


# ---- safetensors


def safe_config(data: bytes, rng: random.Random) -> bytes:
    """Change one or two values of the config, or their names."""
    config = config_of(data)
    for _ in range(rng.randint(1, 2)):
        sizes = config.get("sizes")
        place = sizes if isinstance(sizes, dict) and rng.random() < 0.8 else config
        name = rng.choice([*place, "other"])
        if rng.random() < 0.1:
            place.pop(name, None)
        else:
            place[name] = rng.choice(VALUES)
    return with_config(data, config)


def safe_tensor(data: bytes, rng: random.Random) -> bytes:
    """Change one or two tensors."""
    return save(changed_state(load(data), rng), split(data)[0]["__metadata__"])


def safe_header(data: bytes, rng: random.Random) -> bytes:
    """Change the text of the header, whose length is put right."""
    header, body = split(data)
    name = rng.choice(list(header))
    if name != "__metadata__":
        field = rng.choice(("dtype", "shape", "data_offsets"))
        header[name][field] = rng.choice((*VALUES, "F32", "I32", "BOOL", [2**40, 2**40], [0, 8]))
    text = json.dumps(header)
    if rng.random() < 0.3:
        at = rng.randrange(len(text))
        text = text[:at] + rng.choice('{}[],:"0x\n') + text[at + 1 :]
    return joined(text, body)


SAFE_WAYS = {"config": safe_config, "tensor": safe_tensor, "header": safe_header}


# ---- tensors of any file


def changed_state(state: dict, rng: random.Random) -> dict:
    """Return a state dict with one or two tensors changed."""
    state = dict(state)
    for _ in range(rng.randint(1, 2)):
        name = rng.choice([name for name in state if rng.random() < 0.2 or "_" in name])
        tensor = state.pop(name)
        if not isinstance(tensor, torch.Tensor) or rng.random() < 0.05:
            continue
        tensor = tensor.clone()
        kind = rng.randrange(6)
        if kind == 0:
            name = rng.choice(("other", f"{name}s", name.replace("matrices.", "_matrix")))
        elif kind == 1:
            tensor = tensor.to(rng.choice(DTYPES))
        elif kind == 2 and tensor.ndim:
            tensor = tensor[: rng.randrange(len(tensor) + 1)].clone()
        elif tensor.numel():
            spoil(tensor, rng)
        state[name] = tensor
    return state


def spoil(tensor: torch.Tensor, rng: random.Random) -> None:
    """Change some numbers of a tensor, or all."""
    number = rng.choice(NUMBERS)
    if not tensor.is_floating_point():
        limits = torch.iinfo(tensor.dtype)
        number = int(min(max(np.nan_to_num(number), limits.min), limits.max - 1000))
    value = torch.tensor(number).to(tensor.dtype)
    if rng.random() < 0.3:
        tensor.fill_(value)
        return
    for _ in range(rng.randint(1, 4)):
        tensor[np.unravel_index(rng.randrange(tensor.numel()), tensor.shape)] = value


# ---- torch.save


def torch_tensor(data: bytes, suffix: str, rng: random.Random) -> bytes:
    """Change tensors, or how they are held."""
    content = torch.load(io.BytesIO(data), weights_only=True)
    state = content.get("state_dict", content)
    state = changed_state(state, rng)
    kind = rng.randrange(12)
    name = rng.choice(list(state) or ["x"])
    if kind == 0:
        state[name] = torch.ones(1).expand(1000, 1, 100, 100)
    elif kind == 1:
        state[name] = rng.choice(VALUES)
    elif kind == 2:
        state = dict(enumerate(state.values()))
    elif kind == 3:
        state = {f"module.{name}": value for name, value in state.items()}
    elif kind == 4:
        state = rng.choice(([state], {"state_dict": [state]}, {"state_dict": {"x": 1}}))
    return saved(state, zipped=suffix == TORCH)


def torch_pickle(data: bytes, suffix: str, rng: random.Random) -> bytes:
    """Change the operations of the pickle; the archive around it is put right."""
    if suffix == OLDER:
        return changed_pickle(data, rng)
    records = records_of(data)
    if rng.random() < 0.2:
        name = rng.choice(list(records))
        records[name] = flipped(records[name], rng)[: rng.choice((None, 7))]
        return archive(records)
    return archive({**records, "data.pkl": changed_pickle(records["data.pkl"], rng)})


def changed_pickle(data: bytes, rng: random.Random) -> bytes:
    """Take out, repeat, exchange or overwrite a few operations of the first pickles."""
    starts = [0]
    file = io.BytesIO(data)
    for _ in range(4 if data[:20].find(b"\x8a\x0a") >= 0 else 1):
        starts += [position for _, _, position in pickletools.genops(file)]
    pieces = [data[start:end] for start, end in zip(starts, [*starts[1:], None], strict=True)]
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(pieces))
        kind = rng.randrange(4)
        if kind == 0:
            pieces[at] = b""
        elif kind == 1:
            pieces[at] *= 2
        elif kind == 2:
            pieces[at] = rng.choice(pieces)
        else:
            pieces[at] = pieces[at][:1] + rng.randbytes(len(pieces[at][1:]))
    return b"".join(pieces)


# ---- checkpoints


def checkpoint_mutant(good: dict, content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """Return how a checkpoint was changed, one of WAYS, and the changed content.

    good, content: a checkpoint of a training, as a dict and as a file.
    """
    way = rng.choice(("config", "tensor", "header", "flipped", "cut"))
    if way == "header":
        return way, torch_pickle(content, TORCH, rng)
    if way == "flipped":
        return way, flipped(content, rng)
    if way == "cut":
        first, end = sorted(rng.randint(0, len(content)) for _ in range(2))
        return way, content[:first] + content[end:]
    changed = copy.deepcopy(good)
    for _ in range(rng.randint(1, 2)):
        if way == "tensor":
            changed["state_dict"] = changed_state(changed["state_dict"], rng)
        else:
            change_leaf(changed, rng)
    return way, saved(changed)


def change_leaf(content: dict, rng: random.Random) -> None:
    """Change something in a nest of dicts and lists, more often what a training reads."""
    place: dict | list = content
    name: object = rng.choice(("training", "optimizer_states", "optimizer_states", *content))
    while name in (place if isinstance(place, dict) else range(len(place))):
        inner = place[name]
        if not isinstance(inner, (dict, list)) or not inner or rng.random() < 0.1:
            break
        place = inner
        name = rng.choice(list(place) if isinstance(place, dict) else range(len(place)))
    if name not in (place if isinstance(place, dict) else range(len(place))):
        return
    value = place[name]
    if isinstance(value, torch.Tensor) and value.numel() and rng.random() < 0.8:
        place[name] = value.clone()
        spoil(place[name], rng)
    elif isinstance(place, dict) and rng.random() < 0.2:
        place[rng.choice((*VALUES[4:9], "other"))] = place.pop(name)
    else:
        place[name] = rng.choice(VALUES)


# ---- reading


class Reader:
    """Reads mutants, which it writes into a folder under one name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, suffix: str, data: bytes) -> str:
        """Load a codec file, and code a sketch with it if that is possible.

        Return "read", or "CodecFileError". Any other error passes through.
        """
        path = self.folder / f"mutant{suffix}"
        path.write_bytes(data)
        try:
            codec = load_sketch_codec(path)
            payload, sketch = codec.encode_and_decode(SKETCH)
            assert np.array_equal(codec.decode(payload), sketch), "both ends do not agree"
        except CodecFileError as error:
            check_message(str(error), path)
            return "CodecFileError"
        return "read"

    def read_checkpoint(self, training: CodecTraining, data: bytes) -> str:
        """Read a checkpoint. Return "read", or "CodecFileError"."""
        path = self.folder / "mutant.pth.tar"
        path.write_bytes(data)
        try:
            checkpoint = read_checkpoint(path, training)
            training.load_state_dict(checkpoint.weights)
            training.restore(checkpoint)
            training.configure_optimizers()
            training.optimizer_states = []
        except CodecFileError as error:
            check_message(str(error), path)
            return "CodecFileError"
        return "read"


def check_message(message: str, path: Path) -> None:
    """Raise AssertionError unless a message is one line that begins with a path."""
    assert message.startswith(f"{path} is no "), f"it does not name the file: {message}"
    assert message.isprintable() and len(message) < len(str(path)) + 300, message

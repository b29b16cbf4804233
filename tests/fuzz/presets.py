"""Presets and model folders, spoiled where it hurts: what the quick tests and tests/long/presets.py
share.

    from fuzz.presets import Victim
    victim = Victim(folder)                       # small random models, made there
    mutant = victim.spoiled(random.Random(0))     # one file is changed
    outcome = victim.read(mutant)                 # "used", or the name of a documented error
    victim.restore(mutant)

JSON is changed in its structure: a value anywhere in it becomes another one's, or one of HOSTILE;
the header of a .safetensors file likewise, and gets the length that belongs to it.
"""

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from helpers.hostile_models import make_models

from common.weights import UnavailableError, from_mirrors
from diffusion import load_generator, load_tokenizer
from diffusion.controlnets import load_controlnet
from presets import PresetError, get_preset
from prompt_inversion.clip import load_clip

ERRORS = (PresetError, UnavailableError)  # the documented ones of loading, and no other
USE_ERRORS = (*ERRORS, ValueError)  # of generating with what was loaded
WAYS = ("value", "key", "shape", "bytes", "cut", "gone")
# Of any JSON value: numbers that are too large, too small or none, text, and nesting.
HOSTILE = (
    None,
    True,
    0,
    -1,
    1,
    2,
    3,
    7,
    1000,
    2**31 - 1,
    2**31,
    2**63,
    10**12,
    10**30,
    -(10**12),
    0.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "evil",
    "x" * 5000,
    "../../evil",
    "/dev/zero",
    "\0",
    "\ud800",
    "evil/evil",
    [],
    [[]],
    [0],
    [-1, 10**9],
    ["evil", "Evil"],
    [None] * 100,
    {},
    {"type": "Evil"},
    {"0": {"content": "a"}},
    json.loads("[" * 60 + "]" * 60),
)
ROW = "preset.json"
# The files that are changed, and what reads them. The weights of a part stand for all.
KINDS = {
    "row": (ROW,),
    "index": ("generator/model_index.json",),
    "config": (
        "generator/unet/config.json",
        "generator/vae/config.json",
        "generator/text_encoder/config.json",
        "generator/scheduler/scheduler_config.json",
    ),
    "tokenizer": tuple(
        f"generator/tokenizer/{name}"
        for name in (
            "tokenizer.json",
            "vocab.json",
            "merges.txt",
            "tokenizer_config.json",
            "special_tokens_map.json",
        )
    ),
    "controlnet": ("controlnet/config.json",),
    "clip": ("clip/config.json", "clip/preprocessor_config.json", "clip/tokenizer_config.json"),
    "weights": (
        "generator/vae/diffusion_pytorch_model.safetensors",
        "generator/text_encoder/model.safetensors",
        "controlnet/diffusion_pytorch_model.safetensors",
        "clip/model.safetensors",
    ),
}


class Mutant(NamedTuple):
    """What was changed."""

    kind: str  # of KINDS
    way: str  # of WAYS
    name: str  # of the file
    good: bytes  # its content before


class Victim:
    """A folder of good models that are spoiled one after another."""

    def __init__(self, folder: Path):
        self.folder = make_models(folder)
        write_tokenizer_file(folder / "generator" / "tokenizer")

    def spoiled(self, rng: random.Random, kinds: tuple[str, ...] = tuple(KINDS)) -> Mutant:
        """Change one file; the same for the same state of `rng`."""
        kind = rng.choice(kinds)
        name = rng.choice(KINDS[kind])
        way = rng.choice(WAYS)
        file = self.folder / name
        good = file.read_bytes()
        if way == "gone":
            file.unlink()
        else:
            file.write_bytes(CHANGES[way](good, rng))
        return Mutant(kind, way, name, good)

    def restore(self, mutant: Mutant) -> None:
        """Put the good file back."""
        (self.folder / mutant.name).write_bytes(mutant.good)

    def read(self, mutant: Mutant) -> str:
        """Load what reads the changed file, and use it.

        Return "used", or the name of the documented error. Any other error passes through.
        """
        try:
            use = self._load(mutant)
        except ERRORS as error:
            lines = str(error).splitlines()
            assert len(lines) <= 3, f"not one line: {error}"
            assert max(map(len, lines)) < 1000, f"long: {error}"
            assert str(self.folder) in str(error), f"names no file: {error}"
            return type(error).__name__
        try:
            use()
        except USE_ERRORS:
            return "refused in use"
        return "used"

    def _load(self, mutant: Mutant) -> Callable[[], object]:
        """Return a function that uses the loaded models."""
        row = get_preset(self.folder)
        if mutant.kind == "row":
            return lambda: None
        part = mutant.name.partition("/")[0]
        if part == "clip":
            clip = load_clip(row.clip, "cpu")
            return lambda: clip.similarity(IMAGE, [IMAGE])
        if part == "controlnet":
            from_mirrors(load_controlnet, row.controlnet, "ControlNet")
        if mutant.kind == "tokenizer":
            tokenizer = load_tokenizer(row)
            return lambda: tokenizer.decode([5, 6])
        generator = load_generator(row, "cpu")
        sketch = np.zeros((64, 64), np.uint8) if part == "controlnet" else None
        return lambda: generator.generate([5, 6], [0], 64, 64, sketch)


IMAGE = np.zeros((64, 64, 3), np.uint8)


def write_tokenizer_file(folder: Path) -> None:
    """Write a tokenizer's tokenizer.json, which is then read in place of the other files."""
    from transformers import CLIPTokenizer

    CLIPTokenizer.from_pretrained(folder).save_pretrained(folder)


def _places(content: object) -> list[tuple]:
    """Return all (container, key) of a JSON value, the value itself left out."""
    found: list[tuple] = []
    waiting = [content]
    while waiting:
        container = waiting.pop()
        if isinstance(container, dict):
            keys = list(container)
        elif isinstance(container, list):
            keys = list(range(len(container)))
        else:
            continue
        for key in keys[:200]:  # of a vocabulary, some of its tokens
            found.append((container, key))
            waiting.append(container[key])
    return found


def _changed_json(data: bytes, rng: random.Random, rename: bool) -> bytes:
    """Change a value of a JSON text, or the name of one; of another text, some bytes."""
    try:
        content = json.loads(data)
    except ValueError:
        return _bytes(data, rng)
    places = _places(content)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        container, key = rng.choice(places)
        other, other_key = rng.choice(places)
        value = rng.choice(HOSTILE)
        try:
            if rng.random() < 0.3:
                value = other[other_key]
            if rename and isinstance(container, dict):
                container[rng.choice(NAMES)] = container.pop(key)
            else:
                container[key] = value
            return json.dumps(content).encode()
        except (LookupError, ValueError, RecursionError):  # gone already, or inside itself
            content = json.loads(data)
            places = _places(content)
    return data


# Keys that libraries look for.
NAMES = (
    "auto_map",
    "attn_implementation",
    "quantization_config",
    "model_type",
    "text_config",
    "tokenizer_class",
    "added_tokens_decoder",
    "extra_special_tokens",
    "fast_tokenizer_files",
    "gguf_file",
    "_class_name",
    "num_hidden_layers",
    "layers_per_block",
    "normalizer",
    "__class__",
    "self",
    "",
    "x" * 5000,
)


def _value(data: bytes, rng: random.Random) -> bytes:
    return _header(data, rng, False) if _is_weights(data) else _changed_json(data, rng, False)


def _key(data: bytes, rng: random.Random) -> bytes:
    return _header(data, rng, True) if _is_weights(data) else _changed_json(data, rng, True)


def _shape(data: bytes, rng: random.Random) -> bytes:
    """Grow or shrink every number of a JSON file by a factor, as in a model of another size."""
    if _is_weights(data):
        return _header(data, rng, False)
    try:
        content = json.loads(data)
    except ValueError:
        return _bytes(data, rng)
    factor = rng.choice((0, -1, 2, 3, 10, 1000, 10**6, 10**12))
    for container, key in _places(content):
        if type(container[key]) is int and rng.random() < 0.3:
            container[key] *= factor
    return json.dumps(content).encode()


def _is_weights(data: bytes) -> bool:
    return data[8:9] == b"{" and data[7:8] == b"\0"


def _header(data: bytes, rng: random.Random, rename: bool) -> bytes:
    """Change the header of a .safetensors file, and give it the length that belongs to it."""
    size = struct.unpack("<Q", data[:8])[0]
    header = _changed_json(data[8 : 8 + size], rng, rename)
    return struct.pack("<Q", len(header)) + header + data[8 + size :]


def _bytes(data: bytes, rng: random.Random) -> bytes:
    """Change 1 to 8 bytes."""
    mutant = bytearray(data or b"\0")
    for _ in range(rng.randint(1, 8)):
        mutant[rng.randrange(len(mutant))] = rng.randrange(256)
    return bytes(mutant)


def _cut(data: bytes, rng: random.Random) -> bytes:
    """Leave out a piece."""
    first, end = sorted((rng.randint(0, len(data)), rng.randint(0, len(data))))
    return data[:first] + data[end:]


CHANGES = {"value": _value, "key": _key, "shape": _shape, "bytes": _bytes, "cut": _cut}

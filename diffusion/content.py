"""Names of loaded models by their content: the same for whoever has the same weights.

    names = Names("owner/name", "revision", ["owner/name@revision"], {"unet": unet})
    names.content

A copy in a folder, a mirror, the float16 file of a repository beside its float32 file, and a .bin
file converted to .safetensors all hold the same weights: so the name is of the loaded weights, each
rounded to float16, in which a GPU computes, and of the settings that are not a class's own. To hash
those of Stable Diffusion takes seconds: the result is kept in a folder of the user's cache.
"""

import hashlib
import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from huggingface_hub import cached_assets_path, try_to_load_from_cache

from common.files import write
from diffusion.loading import is_small, weights_name

MARKERS = ("model_index.json", "config.json")  # one of them lies in the folder of every model
# Of a text encoder's configuration: what its output depends on beside the weights.
TEXT_SETTINGS = (
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "layer_norm_eps",
    "num_attention_heads",
    "num_hidden_layers",
)
VERSION = "1"  # of how the weights are hashed


@dataclass(frozen=True, eq=False)
class Names:
    """The names of models that were loaded from one of several sources."""

    source: str  # that was loaded: a folder or a hub id without revision
    revision: str | None
    sources: Sequence[str]  # all of them, with revisions
    models: Mapping[str, object]  # of diffusers and transformers, by part

    @cached_property
    def written(self) -> str:
        """The name that new files carry: of a small folder, its files; otherwise the content.

        Of a folder with preset.json the content too: a card and settings lie there that may change.
        """
        is_preset = (Path(self.source) / "preset.json").is_file()
        return self.content if is_preset else self.by_size

    @cached_property
    def by_size(self) -> str:
        """The name that new files carried when a folder with preset.json was like any other."""
        folder = Path(self.source)
        return self.earlier if folder.is_dir() and is_small(folder) else self.content

    @cached_property
    def earlier(self) -> str:
        """The name that files carried when large folders were named by sizes, the hub by ids."""
        if self.source.endswith(".safetensors"):  # a single file, which was not known then
            return self.content
        return weights_name(self.source, self.sources)

    @cached_property
    def content(self) -> str:
        """The name of the weights and settings, 64 hexadecimal digits."""
        parts = [(part, _settings(model)) for part, model in sorted(self.models.items())]
        weights = _kept(self._key(), lambda: _weights(self.models))
        return hashlib.sha256(repr((parts, weights)).encode()).hexdigest()

    def _key(self) -> str:
        """Return what the weights are kept by: path, size and time of all files; "" for none."""
        folder = _folder(self.source, self.revision)
        if folder is None:
            return ""
        seen = []
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                state = path.stat()
                seen.append((str(path.resolve()), state.st_size, state.st_mtime_ns))
        kinds = [str(getattr(model, "dtype", "")) for model in self.models.values()]
        return hashlib.sha256(repr((VERSION, kinds, seen)).encode()).hexdigest()


def _folder(source: str, revision: str | None) -> Path | None:
    """Return the folder that a source was read from; None if the hub's cache does not say, or for
    a single file.
    """
    if source.endswith(".safetensors"):
        return None
    if Path(source).exists():
        return Path(source)
    for marker in MARKERS:
        found = try_to_load_from_cache(source, marker, revision=revision)
        if isinstance(found, str):
            return Path(found).parent
    return None


def _settings(model) -> list[tuple[str, str]]:
    """Return the settings of a model or sampler that differ from its class's own, as JSON."""
    config = model.config
    if not isinstance(config, Mapping):
        return [(name, _text(getattr(config, name, None))) for name in TEXT_SETTINGS]
    found = []
    for name, parameter in sorted(inspect.signature(type(model).__init__).parameters.items()):
        value, default = config.get(name, parameter.default), parameter.default
        if name != "self" and _text(value) != _text(default):
            found.append((name, _text(value)))
    return found


def _text(value: object) -> str:
    """Return a value as JSON, in which a tuple is a list; what has no JSON by its repr."""
    return json.dumps(value, default=repr)


def _weights(models: Mapping[str, object]) -> str:
    """Return the hash of all weights of some models.

    The weights' own names are left out: files of different ages spell them differently.
    """
    digest = hashlib.sha256()
    for part, model in sorted(models.items()):
        if isinstance(model, torch.nn.Module):
            digest.update(f"{part}\0".encode())
            for line in sorted(_each(model)):
                digest.update(line.encode())
    return digest.hexdigest()


def _each(model: torch.nn.Module) -> Iterator[str]:
    """Yield shape and hash of each weight of a model, as float16."""
    for weight in model.parameters():
        plain = weight.detach().to("cpu", torch.float16).contiguous()
        yield f"{tuple(weight.shape)} {hashlib.sha256(plain.numpy()).hexdigest()}\n"


def _kept(key: str, make: Callable[[], str]) -> str:
    """Return what was kept for a key, or make it and keep it; "" keeps nothing.

    A cache that cannot be read or written, or holds something else, does no harm.
    """
    if not key:
        return make()
    file = None
    with suppress(OSError, ValueError):
        file = cached_assets_path("text-sketch", "weights") / key
        with file.open("rb") as stream:
            text = stream.read(65).decode("ascii")
        if re.fullmatch("[0-9a-f]{64}", text):
            return text
    made = make()
    with suppress(OSError):
        if file:
            write(file, made.encode())
    return made

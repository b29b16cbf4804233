"""Weights of models: found on this machine or downloaded, and one error if they are not available.

    from_mirrors(load, ["owner/name@revision", "/folder/of/a/copy"], "ControlNet")
    fetch("https://example.org/network.pth")

`from_mirrors` loads a model that transformers or diffusers read; `fetch` gets a single file into
torch.hub's cache. A host that does not answer within five seconds counts as unreachable; then only
what is on this machine is used.
"""

import os
import pickle
import re
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TypeVar

Model = TypeVar("Model")
Load = Callable[[str, str | None, bool], Model]  # (source, revision, local_files_only) -> model

ANSWER_SECONDS = 5  # that a host has to answer
HUB = "https://huggingface.co"
LONGEST_REASON = 200  # characters of a library's error message
# Errors of libraries that are imported with the models, by module: they say that a source is not
# available.
LIBRARY_ERRORS = {"safetensors": "SafetensorError", "httpx": "HTTPError", "httpx2": "HTTPError"}


class UnavailableError(Exception):
    """A model, file or tool is not available; the message says what was tried and what to do."""


def from_mirrors(load: Load[Model], sources: Sequence[str], what: str, cure: str = "") -> Model:
    """Return the first of `sources` that loads.

    load: called with (source, revision, local_files_only). It reports a source that is not
        available by OSError, ValueError, ImportError, or an error of the libraries that download
        and read weights; any other error passes through.
    sources: local folders or hub ids "owner/name[@revision]", in order of preference. What exists
        as a path, or looks like one, is a local folder.
    what: the model's name in the message, for example "ControlNet".
    cure: what the user can do.

    Raises UnavailableError: a line for each source with the reason, then the cure.
    """
    reasons = []
    for source in sources:
        try:
            return _load_from(load, source)
        except load_errors() as error:
            reasons.append(f"  {source}: {_first_line(error)}")
    lines = [f"{what} could not be loaded; tried", *reasons, cure]
    raise UnavailableError("\n".join(lines).strip())


def _load_from(load: Load[Model], source: str) -> Model:
    """Load one source. Raises what `load` raises, and OSError for a path that does not exist."""
    folder = Path(source).expanduser()
    if folder.exists():
        return load(str(folder), None, True)
    if is_path(source):
        raise FileNotFoundError("no such file or folder")
    name, _, revision = source.partition("@")
    if not why_unreachable(os.environ.get("HF_ENDPOINT", HUB)):
        return load(name, revision or None, False)
    try:
        return load(name, revision or None, True)
    except load_errors() as error:
        raise OSError(f"the hub cannot be reached; its cache: {_first_line(error)}") from error


def is_path(source: str) -> bool:
    """Return whether a source that does not exist was meant as a path, not as a hub id.

    Hub ids are "owner/name[@revision]", or a file "owner/name/file.safetensors[@revision]".
    """
    file = r"(/[\w./-]+\.safetensors)?"
    return re.fullmatch(rf"\w[\w.-]*/\w[\w.-]*{file}(@[\w./-]+)?", source) is None


def load_errors() -> tuple[type[BaseException], ...]:
    """Return the errors that mean: this source is not available."""
    errors = [OSError, ValueError, ImportError, pickle.UnpicklingError]
    for module, name in LIBRARY_ERRORS.items():
        if hasattr(sys.modules.get(module), name):
            errors.append(getattr(sys.modules[module], name))
    return tuple(errors)


def _first_line(error: BaseException) -> str:
    """Return the first line of an error's message, shortened, with the error's type."""
    text = (str(error).strip().splitlines() or [""])[0]
    if len(text) > LONGEST_REASON:
        text = text[: LONGEST_REASON - 3] + "..."
    if type(error) in (OSError, FileNotFoundError):
        return text  # the type says nothing that the text does not
    return f"{type(error).__name__}: {text}"


@cache
def why_unreachable(address: str) -> str:
    """Say why the host of an address does not answer; "" if it does or if there is a proxy.

    The libraries' downloads have long time limits, or none: without a network they would hang.
    """
    import socket
    from urllib.parse import urlsplit
    from urllib.request import getproxies

    if getproxies():
        return ""
    parts = urlsplit(address)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    try:
        socket.create_connection((parts.hostname, port), ANSWER_SECONDS).close()
    except OSError as error:
        return str(error)
    return ""


def fetch(url: str) -> Path:
    """Return the path of a file in torch.hub's cache, downloaded from `url` if it is not there.

    Raises UnavailableError, which names the path to put the file at.
    """
    import torch

    path = Path(torch.hub.get_dir(), "checkpoints", Path(url).name)
    if path.exists():
        return path
    reason = why_unreachable(url)
    if not reason:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path))
        except OSError as error:
            reason = str(error)
    if reason:
        raise UnavailableError(f"{url} cannot be fetched ({reason}); put the file at {path}")
    return path


def fetch_checkpoint(url: str) -> Path:
    """Fetch a PyTorch file and check that it holds nothing but tensors, as `fetch`.

    Raises UnavailableError.
    """
    import torch

    path = fetch(url)
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise UnavailableError(
            f"{path} is broken, or holds more than weights: delete it"
        ) from error
    return path

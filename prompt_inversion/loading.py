"""Models loaded from the first of their sources that is available."""

from collections.abc import Callable, Sequence
from os import PathLike
from typing import TypeVar

import torch

from common.weights import from_mirrors
from presets import cure

Model = TypeVar("Model")


def load_first(
    load_one: Callable[..., Model],
    sources: str | PathLike | Sequence[str | PathLike],
    device: str | torch.device,
    what: str,
) -> Model:
    """Return the model of the first source that loads.

    load_one: called with (source, device) and, by name, `revision` and `local_files_only`.
    sources: one source or several in order, see `common.weights.from_mirrors`.
    what: the model's name in the message.

    Raises UnavailableError if none of them loads.
    """
    if isinstance(sources, str | PathLike):
        sources = [sources]

    def load(source: str, revision: str | None, local_files_only: bool) -> Model:
        return load_one(source, device, revision=revision, local_files_only=local_files_only)

    return from_mirrors(load, list(map(str, sources)), what, cure(""))

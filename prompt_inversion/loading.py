"""Models loaded from the first of their sources that is available."""

from collections.abc import Callable, Sequence
from os import PathLike
from typing import TypeVar

import torch

from common.weights import from_mirrors
from presets import cure
from pretrained.hub import announce_weights
from pretrained.libraries import without_draws
from pretrained.model_folders import check_transformers, local_folder, one_error

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


def load_model(
    kind: type,
    source: str,
    device: str | torch.device,
    what: str,
    use_safetensors: bool | None = None,
    **where,
) -> torch.nn.Module:
    """Return a model of transformers on `device`, for inference only.

    It is in float16 on a CUDA device and in float32 elsewhere.

    kind: a subclass of PreTrainedModel. source: a local folder or a hub id. what: the model's name
    in messages. use_safetensors: as in from_pretrained. where: `revision` and `local_files_only`.

    Raises ValueError if it is not such a model or lacks weights, OSError if it is not available.
    """
    options = {"use_safetensors": use_safetensors, "output_loading_info": True, **where}
    dtype = torch.float16 if torch.device(device).type == "cuda" else torch.float32
    folder = local_folder(source)
    with one_error(what), without_draws():
        check_transformers(kind, source, folder, **where)
        if folder is None and not where.get("local_files_only"):
            announce_weights(what, source, where.get("revision"), ["model", "pytorch_model"])
        model, report = kind.from_pretrained(source, dtype=dtype, **options)
        model = model.eval().requires_grad_(False).to(device)
    missing = sorted([*report["missing_keys"], *report["mismatched_keys"]])
    if missing:
        raise ValueError(f"{source} lacks {len(missing)} weights of a {what}, such as {missing[0]}")
    return model

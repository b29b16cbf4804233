"""The hub: the files of a repository, which of them are here, and a line before they are fetched.

files = listing("owner/name", "revision")               # {"unet/config.json": 911, ...}
announce_fetch("sd21", "owner/name", "revision", {"model.safetensors": 3_940_000_000})
"""

import sys
from collections.abc import Iterable, Mapping, Sequence

from common.weights import load_errors

LEAST_ANNOUNCED = 10_000_000  # bytes: less is fetched in seconds
ENDINGS = (".safetensors", ".bin")  # of weights, in the order in which the libraries look for them


def listing(name: str, revision: str | None) -> dict[str, int]:
    """Return the size of each file of a repository, 0 where it is not known; {} if none can be had.

    revision: None for the newest.
    """
    from huggingface_hub import HfApi

    try:
        found = HfApi().model_info(name, revision=revision, files_metadata=True).siblings
    except load_errors():
        return {}  # the loading says what is wrong
    return {file.rfilename: file.size or 0 for file in found or ()}


def weight_file(files: Iterable[str], stem: str) -> str:
    """Return the file of weights that the libraries read, "" if there is none.

    stem: its name without ending, for example "unet/diffusion_pytorch_model.fp16".
    """
    for ending in ENDINGS:
        if stem + ending in files:
            return stem + ending
    return ""


def split_file(source: str) -> tuple[str, str]:
    """Return the repository and the file of "owner/name/folder/file.safetensors"."""
    owner, name, file = source.split("/", 2)
    return f"{owner}/{name}", file


def is_here(name: str, revision: str | None, file: str) -> bool:
    """Return whether a file of a repository is in the cache."""
    from huggingface_hub import try_to_load_from_cache

    return bool(file) and isinstance(try_to_load_from_cache(name, file, revision=revision), str)


def announce_weights(what: str, name: str, revision: str | None, stems: Sequence[str]) -> None:
    """As `announce_fetch` of a model's one file of weights; the hub is asked if it is not here.

    stems: as in `weight_file`, the first of which there is one.
    """
    for stem in stems:
        if any(is_here(name, revision, stem + ending) for ending in ENDINGS):
            return
    files = listing(name, revision)
    file = next(filter(None, (weight_file(files, stem) for stem in stems)), "")
    announce_fetch(what, name, revision, {file: files.get(file, 0)})


def announce_fetch(what: str, name: str, revision: str | None, sizes: Mapping[str, int]) -> None:
    """Say on stderr how much is going to be fetched of some files, and to which folder.

    what: they are for. sizes: bytes, by file. Nothing is said of what is here, and of little.
    """
    from huggingface_hub import constants

    missing = [size for file, size in sizes.items() if not is_here(name, revision, file)]
    if sum(missing) >= LEAST_ANNOUNCED:
        amount = f"{sum(missing) / 1e9:.2g} GB"
        text = f"{what}: fetching about {amount} of {name} to {constants.HF_HUB_CACHE}"
        print(text, file=sys.stderr, flush=True)

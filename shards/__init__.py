"""Data sets that are no folders of images: tar shards, and data sets of the hub.

name, keys, images = list_shards("photos-{000..009}.tar", {".png", ".jpg"})
name, keys, images = list_shards("hf:owner/name:train", ())
images[0].read()    # its bytes
"""

import os
from collections.abc import Collection, Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path

from common.files import file_name
from shards.hub import HubRow, hub_split, list_rows
from shards.tar import Member, list_members, shards_name, tar_files

__all__ = ["HubRow", "Member", "Source", "list_shards", "opened", "read_into_cache"]

Source = str | Member | HubRow  # where an image is: a path, or what reads its bytes


def list_shards(
    data_root: str | os.PathLike | None, endings: Collection[str]
) -> tuple[str, Sequence[str], Sequence[Source]] | None:
    """Return the name of the data set that a data root names, and the names and sources of its
    images; None if it names no shards and no data set of the hub.

    endings: of images, in lower case. Raises ValueError, OSError.
    """
    if data_root is None:
        return None
    split = hub_split(str(data_root))
    if split:
        return file_name("_".join(split)), *list_rows(*split)
    shards = tar_files(str(data_root))
    return (shards_name(shards), *list_members(shards, endings)) if shards else None


def opened(source: Source | os.PathLike) -> str | os.PathLike | BytesIO:
    """Return a path, or the bytes of an image that has none, as a file. Raises OSError."""
    if isinstance(source, str | os.PathLike):
        return source
    return BytesIO(source.read())


def read_into_cache(source: Source) -> None:
    """Read an image into the system's cache; one that cannot be read is passed over."""
    with suppress(OSError):
        if isinstance(source, Member):
            source.read()
        elif isinstance(source, str) and Path(source).is_file():  # a pipe might take for ever
            Path(source).read_bytes()

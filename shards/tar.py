"""Tar shards in the layout of WebDataset: one file an image, beside others of the same key.

    names, members = list_members(tar_files("photos-{000..009}.tar"), {".png", ".jpg"})

The headers are read once, so that an image is read alone from its place; members that are no images
(labels, captions) are passed over. Which part of a name is the key is WebDataset's rule.
Source: https://github.com/webdataset/webdataset
"""

import glob
import os
import tarfile
from array import array
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, overload

from common.files import file_name, name_paths, printable

NEEDS = "tar shards need the package webdataset: pip install webdataset"


class Member(NamedTuple):
    """An image in a shard."""

    path: str  # of the shard
    offset: int  # of its bytes there
    size: int

    def read(self) -> bytes:
        """Return its bytes. Raises OSError."""
        with Path(self.path).open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


class Members(Sequence[Member]):
    """Images in shards, as three arrays (for why, see `common.compact`)."""

    def __init__(self, shards: Sequence[str]):
        self._shards = tuple(shards)
        self._shard, self._offset, self._size = array("q"), array("q"), array("q")

    def add(self, shard: int, offset: int, size: int) -> None:
        """Append an image of the shard with this number."""
        self._shard.append(shard)
        self._offset.append(offset)
        self._size.append(size)

    def __len__(self) -> int:
        return len(self._shard)

    @overload
    def __getitem__(self, index: int) -> Member: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Member, ...]: ...
    def __getitem__(self, index):
        if isinstance(index, slice):
            return tuple(self[number] for number in range(len(self))[index])
        shard = self._shards[self._shard[index]]
        return Member(shard, self._offset[index], self._size[index])


def tar_files(data_root: str) -> list[str]:
    """Return the shards that a data root names, in the order of their names; [] if it names none.

    data_root: a shard, a folder of shards, or a pattern of shards with *, ? or {000..009}. Raises
    ValueError without the package webdataset.
    """
    path = Path(data_root).expanduser()
    if path.is_dir():
        return sorted(str(file) for file in path.glob("*.tar") if file.is_file())
    if not data_root.endswith(".tar"):
        return []
    try:
        from webdataset.shardlists import expand_urls
    except ImportError:
        raise ValueError(NEEDS) from None
    files: list[str] = []
    for name in expand_urls(str(path)):
        files += sorted(glob.glob(name))  # noqa: PTH207 - the pattern may be absolute
    return files


def shards_name(shards: Sequence[str]) -> str:
    """Return the name of a data set of shards: the first one's, without its number."""
    stem = Path(shards[0]).stem
    return file_name(stem.rstrip("-_.0123456789") or stem)


def list_members(shards: Sequence[str], endings: Collection[str]) -> tuple[list[str], Members]:
    """Return the names and the images of all members of some shards with one of these endings.

    Names are unique, even if case is ignored: a name is the image's key; if several share it, the
    shard's name comes before it. Raises ValueError for a shard that is damaged, if there is no
    image, or without the package webdataset; OSError.
    """
    try:
        from webdataset.tariterators import base_plus_ext
    except ImportError:
        raise ValueError(NEEDS) from None
    members, paths = Members(shards), []
    for number, shard in enumerate(shards):
        folder = os.path.abspath(shard).removesuffix(".tar")  # noqa: PTH100 - links stay
        for info in _headers(shard):
            key, ending = base_plus_ext(info.name)
            if key and info.isreg() and f".{ending.lower()}".endswith(tuple(endings)):
                members.add(number, info.offset_data, info.size)
                # As if each shard were a folder, and its place in it the image's ending.
                paths.append(f"{folder}/{key.replace('/', '_')}.{info.offset_data}")
    if not members:
        raise ValueError(f"{printable(shards[0])}: no pictures in {len(shards)} shards")
    root = Path(paths[0]).parent.parent
    return [name for name, _ in name_paths(paths, str(root))], members


def _headers(shard: str) -> Iterator[tarfile.TarInfo]:
    """Yield the headers of a tar file. Raises ValueError for one that is damaged, OSError."""
    try:
        with tarfile.open(shard, "r:") as archive:
            for info in archive:
                archive.members = []  # which tarfile would keep
                yield info
    except tarfile.TarError as error:
        raise ValueError(f"{printable(shard)}: no tar file, or damaged: {error}") from None

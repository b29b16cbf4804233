"""Files of torch.save: described first, then read tensor by tensor.

    with open_torch_file(Path("network.pt")) as file:
        weight = file.tensor(file.content["g_a.0.weight"])

Both forms are read: the zip archive, and what torch.save wrote before version 1.6 (some pickles,
then the storages). The file is mapped into memory; a tensor is a copy of its own numbers and of
nothing else, so that memory follows what is asked for and not what the file claims.
"""

import io
import mmap
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from models_ntc.errors import CodecFileError
from models_ntc.pickled import StoredTensor, describe

MOST_PICKLE = 2**24  # bytes; the paper's network with its optimizer has 118 kB
MOST_RECORDS = 20_000  # in an archive
MOST_DIRECTORY = 2**22  # bytes of an archive's list of records
# An archive ends in a record, and most in another one for large archives before it: the signature
# of each, its length, and where the number of records and the length of their list are.
END, END_BYTES, END_COUNTS = b"PK\5\6", 22, ("<HL", 10)
LOCATOR, LOCATOR_BYTES = b"PK\6\7", 20
END64_BYTES, END64_COUNTS = 56, ("<QQ", 32)
LONGEST_COMMENT = 2**16
LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, lengths of the name and of the rest
MAGIC = 0x1950A86A20F9469CFC6C  # of the older form
PROTOCOL = 1001
FOREIGN = "it is not a file of torch.save"


@dataclass(frozen=True)
class TorchFile:
    """What a file describes, and where its storages lie.

    places: first byte and number of bytes of each storage, by its key.
    """

    content: object
    data: mmap.mmap
    places: dict[str, tuple[int, int]]

    def tensor(self, stored: StoredTensor) -> Tensor:
        """Return a tensor of the file, on the CPU, its own memory, strides as in the file.

        Raises CodecFileError if its numbers are not all in the file.
        """
        storage = stored.storage
        place, size = self.places.get(storage.key, (0, -1))
        width = storage.dtype.itemsize
        if size != storage.count * width:
            raise CodecFileError(f"storage {storage.key} is not there, or of another size")
        if not stored.count:
            return torch.empty(stored.shape, dtype=storage.dtype)
        numbers = torch.frombuffer(
            self.data,
            dtype=storage.dtype,
            count=stored.reach,
            offset=place + stored.offset * width,
        )
        return numbers.as_strided(stored.shape, stored.strides).clone()


@contextmanager
def open_torch_file(path: Path) -> Iterator[TorchFile]:
    """Open a file of torch.save and describe what it holds.

    Raises CodecFileError, OSError, ValueError, zipfile.BadZipFile, struct.error or EOFError for
    any other file, or for one that holds more than dense tensors and plain values.
    """
    with path.open("rb") as file:
        if not path.stat().st_size:
            raise CodecFileError("it is empty")
        # A private copy: what is written into it, which nobody does, stays in memory.
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        if data[:2] == b"PK":
            yield _archive(file, data)
        elif data[:2] == b"\x80\2":  # a pickle of protocol 2
            yield _older(data)
        else:
            raise CodecFileError(FOREIGN)


def _archive(file: io.BufferedReader, data: mmap.mmap) -> TorchFile:
    """Describe a zip archive of torch.save."""
    _check_directory(data)
    with zipfile.ZipFile(file) as archive:
        records = {record.filename: record for record in archive.infolist()}
    names = [name for name in records if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(names) != 1:
        raise CodecFileError(FOREIGN)
    root = names[0].removesuffix("data.pkl")
    order = records.get(f"{root}byteorder")
    if order and _bytes(data, *_place(data, order)) != b"little":
        raise CodecFileError("its numbers are not in little-endian order")
    pickle = _bytes(data, *_place(data, records[names[0]]))
    places = {}
    for name, record in records.items():
        if name.startswith(f"{root}data/"):
            places[name.removeprefix(f"{root}data/")] = _place(data, record)
    return TorchFile(describe(io.BytesIO(pickle)).content, data, places)


def _check_directory(data: mmap.mmap) -> None:
    """Raise CodecFileError for a list of records that would take long to read."""
    end = data.rfind(END, max(0, len(data) - END_BYTES - LONGEST_COMMENT))
    if end < 0:
        raise CodecFileError("it is cut off")
    layout, at = END_COUNTS
    counts = struct.unpack_from(layout, data, end + at)
    locator = end - LOCATOR_BYTES
    if locator >= END64_BYTES and data[locator : locator + len(LOCATOR)] == LOCATOR:
        layout, at = END64_COUNTS
        counts = struct.unpack_from(layout, data, locator - END64_BYTES + at)
    records, size = counts
    if records > MOST_RECORDS or size > MOST_DIRECTORY:
        raise CodecFileError(f"its archive has {records} records in a list of {size} bytes")


def _place(data: mmap.mmap, record: zipfile.ZipInfo) -> tuple[int, int]:
    """Return first byte and number of bytes of a record that is stored as it is."""
    if record.compress_type != zipfile.ZIP_STORED or record.flag_bits & 1:
        raise CodecFileError("its archive is compressed or encrypted")
    signature, name, rest = LOCAL_HEADER.unpack_from(data, record.header_offset)
    start = record.header_offset + LOCAL_HEADER.size + name + rest
    if signature != b"PK\3\4" or start + record.file_size > len(data):
        raise CodecFileError("its archive is damaged or cut off")
    return start, record.file_size


def _bytes(data: mmap.mmap, start: int, size: int) -> bytes:
    """Return the bytes of a record that is no storage."""
    if size > MOST_PICKLE:
        raise CodecFileError(f"its archive has a pickle of {size} bytes")
    return data[start : start + size]


def _older(data: mmap.mmap) -> TorchFile:
    """Describe a file in the form before the archive: pickles, then the storages.

    The pickles are a magic number, a version, facts about the machine, what was saved, and the
    keys of the storages. A storage is its count, 8 bytes, and its numbers.
    """
    file = io.BytesIO(data[:MOST_PICKLE])
    if describe(file).content != MAGIC or describe(file).content != PROTOCOL:
        raise CodecFileError(FOREIGN)
    describe(file)
    described = describe(file)
    keys = describe(file).content
    if type(keys) is not list or not all(type(key) is str for key in keys):
        raise CodecFileError(FOREIGN)
    places = {}
    start = file.tell()
    for key in keys:
        if key not in described.storages:
            raise CodecFileError(FOREIGN)
        (count,) = struct.unpack_from("<q", data, start)
        size = count * described.storages[key].dtype.itemsize
        start += 8
        if not 0 <= size <= len(data) - start:
            raise CodecFileError("it is cut off")
        places[key] = start, size
        start += size
    return TorchFile(described.content, data, places)

"""results.jsonl: the log of a run, a line an image, each with a checksum; it is read once.

    with LogWriter(log_path(folder, start=1, rank=0)) as log:
        log.append([line_of(entry)])        # they are on the disk when it returns
    entries = scan(folder, names)
    for record in entries.records(): ...

Every process of a run appends to a file of its own, results-<start>-<rank>.jsonl, where `start`
counts how often the run was started; what a later start says of an image counts. At the end
`merge` makes one file of them, results.jsonl, in the order of the data set. A line is a record
(`records.py`), or {name, failed: why}, with the image's place in the data set ("index") and the
CRC-32 of the line before this field ("check"): a line that a killed process left half is passed
over.
"""

import contextlib
import json
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np

from common.compact import Strings
from common.files import complain, write_parts
from reporting.reading import NoRunError, no_run, open_regular
from reporting.records import MAX_RECORD_BYTES, SCHEMA
from reporting.schema import SchemaError

MERGED = "results.jsonl"
LOG = re.compile(r"results-([0-9]{1,6})-([0-9]{1,6})\.jsonl")
MAX_LOG_BYTES = 1 << 36
PER_FOLDER = 1000  # images whose files share a folder
MARK = b', "check": "'
MISSING, FAILED, DONE = 0, 1, 2  # states of an image


# ---- lines


def line_of(entry: dict) -> bytes:
    """Return an entry as a line with its checksum. Raises SchemaError for a long one."""
    text = json.dumps(entry, ensure_ascii=False).encode()
    line = text[:-1] + MARK + b'%08x"}\n' % zlib.crc32(text)
    if len(line) > MAX_RECORD_BYTES:
        raise SchemaError(f"a record of {len(line)} bytes, at most {MAX_RECORD_BYTES} are read")
    return line


def entry_in(line: bytes) -> dict | None:
    """Return the entry of a line; None if it is not whole, or no line of a log."""
    body, mark, check = line.rpartition(MARK)
    text = body + b"}"
    if not mark or check != b'%08x"}\n' % zlib.crc32(text):
        return None
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return entry if _is_entry(entry) else None


def _is_entry(entry: object) -> bool:
    """Return whether a value says of which image it speaks, and where that stands."""
    if not isinstance(entry, dict):
        return False
    name, index = entry.get("name"), entry.get("index")
    return isinstance(name, str) and type(index) is int and 0 <= index < 1 << 31


def record_in(entry: dict) -> dict:
    """Return the record of an entry that is no failure. Raises SchemaError if it holds none."""
    record = dict(entry)
    del record["index"]
    SCHEMA(record)
    return record


# ---- files


def folder_name(index: int) -> str:
    """Return the name of the folder, in the run's, of an image's files: "" for that itself, which
    has the first thousand images; each later thousand has its own.

    index: of the image in the data set.
    """
    return f"{index // PER_FOLDER:06d}" if index >= PER_FOLDER else ""


def place_of(folder: Path, index: int) -> Path:
    """Return the folder of an image's files."""
    return folder / folder_name(index)


def log_path(folder: Path, start: int, rank: int) -> Path:
    """Return the path of a process's log."""
    return folder / f"results-{start}-{rank}.jsonl"


def logs_of(folder: Path) -> list[tuple[int, int, Path]]:
    """Return (start, rank, path) of the logs of a run, the earliest first; [] without a folder."""
    logs: list[tuple[int, int, Path]] = []
    if not folder.is_dir():
        return logs
    for entry in os.scandir(folder):
        match = LOG.fullmatch(entry.name)
        if match:
            logs.append((int(match[1]), int(match[2]), Path(entry.path)))
        elif entry.name == MERGED:
            logs.append((0, 0, Path(entry.path)))
    return sorted(logs)


class LogWriter:
    """Appends lines to a new log, which the first of them makes."""

    def __init__(self, path: Path):
        self.path = path
        self.file: BinaryIO | None = None

    def __enter__(self) -> "LogWriter":
        return self

    def __exit__(self, *_: object) -> None:
        if self.file:
            self.file.close()

    def append(self, lines: Sequence[bytes]) -> None:
        """Write lines; they are on the disk when this returns. Raises OSError."""
        if not lines:
            return
        if self.file is None:
            self.file = self.path.open("xb")
        self.file.write(b"".join(lines))
        self.file.flush()
        os.fsync(self.file.fileno())


class LogFollower:
    """Counts the lines that other processes append to their logs."""

    def __init__(self, paths: Sequence[Path]):
        self.offsets = dict.fromkeys(paths, 0)

    def count(self) -> int:
        """Return how many lines have come since the last call. Raises OSError."""
        lines = 0
        for path, offset in self.offsets.items():
            with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
                file.seek(offset)
                lines += sum(block.count(b"\n") for block in iter(partial(file.read, 1 << 20), b""))
                self.offsets[path] = file.tell()
        return lines


# ---- reading


class Entries:
    """The last word of a run's logs on each image of a data set: where it stands, not what it says.

    state: MISSING, FAILED or DONE of each image, in the order of the data set. index: what the
    entry gives as its place, which decides in which folder its files are. sha256: of its file.
    """

    def __init__(self, folder: Path, names: Sequence[str]):
        count = len(names)
        self.folder, self.names = folder, names
        self.paths: list[Path] = []
        self.state = np.zeros(count, np.uint8)
        self.index = np.zeros(count, np.int32)
        self.sha256 = np.zeros((count, 32), np.uint8)
        self._file = np.zeros(count, np.int32)
        self._offset = np.zeros(count, np.int64)
        self._numbers: dict[str, int] | None = None

    def number_of(self, entry: dict) -> int | None:
        """Return an image's place in the data set as it is now, None if it has none."""
        index, name = entry["index"], entry["name"]
        if index < len(self.names) and self.names[index] == name:
            return index
        if self._numbers is None:  # images were added to the data set, or removed
            self._numbers = {name: number for number, name in enumerate(self.names)}
        return self._numbers.get(name)

    def add(self, path: Path) -> None:
        """Read a log. Raises NoRunError if it is no regular file, OSError."""
        self.paths.append(path)
        for entry, offset in entries_of(path):
            self._set(entry, offset)

    def _set(self, entry: dict, offset: int) -> None:
        number = self.number_of(entry)
        if number is None:
            return
        self.state[number] = FAILED if "failed" in entry else DONE
        self.index[number] = entry["index"]
        self._file[number], self._offset[number] = len(self.paths) - 1, offset
        with contextlib.suppress(ValueError):  # one that is none
            digest = bytes.fromhex(str(entry.get("sha256")))
            self.sha256[number] = np.frombuffer(digest, np.uint8)

    def place(self, number: int) -> Path:
        """Return the folder of an image's files."""
        return place_of(self.folder, int(self.index[number]))

    def lines(self, state: int) -> Iterator[bytes]:
        """Yield the lines of images in a state, in the order of the data set. Raises OSError."""
        with contextlib.ExitStack() as held:
            files: list[BinaryIO] = []
            for path in self.paths:
                files.append(held.enter_context(open_regular(path, MAX_LOG_BYTES)))
            for number in np.flatnonzero(self.state == state):
                file, offset = files[self._file[number]], int(self._offset[number])
                if file.tell() != offset:
                    file.seek(offset)
                yield file.readline(MAX_RECORD_BYTES)

    def records(self) -> Iterator[tuple[str, dict]]:
        """Yield (name of the folder of its files, record) of each image that is done, "" for the
        run's own folder. Raises NoRunError for a record that does not hold.
        """
        for line in self.lines(DONE):
            entry = entry_in(line)
            try:
                record = record_in(entry or {})
            except (SchemaError, KeyError) as error:
                raise no_run(self.folder / MERGED, error) from None
            yield folder_name(entry["index"]), record  # type: ignore[index]

    def failures(self) -> dict[str, str]:
        """Return {name: why} of what failed."""
        reasons = {}
        for line in self.lines(FAILED):
            entry = entry_in(line) or {}
            reasons[entry["name"]] = str(entry["failed"])
        return reasons


def entries_of(path: Path) -> Iterator[tuple[dict, int]]:
    """Yield the entries of a log and where their lines begin. Raises NoRunError if it is no regular
    file, OSError.
    """
    offset = 0
    with open_regular(path, MAX_LOG_BYTES) as file:
        for line in iter(partial(file.readline, MAX_RECORD_BYTES), b""):
            entry = entry_in(line)
            if entry is not None:
                yield entry, offset
            offset += len(line)


def names_in(folder: Path) -> Strings:
    """Return the names of the images that the logs of a run speak of, in the order of the data set.

    Raises as `entries_of`.
    """
    places: dict[str, int] = {}
    for _, _, path in logs_of(folder):
        for entry, _ in entries_of(path):
            places[entry["name"]] = entry["index"]
    return Strings(in_order(places))


def in_order(places: dict[str, int]) -> list[str]:
    """Return names in the order of the data set; places: {name: its index there}."""
    return sorted(places, key=lambda name: (places[name], name))


def scan(folder: Path, names: Sequence[str]) -> Entries:
    """Return what the logs of a run say of the images of a data set, each file read once.

    A log that is no regular file is passed over, with a line on stderr. Raises OSError.
    """
    entries = Entries(folder, names)
    for _, _, path in logs_of(folder):
        try:
            entries.add(path)
        except NoRunError as error:
            entries.paths.pop()
            complain(f"again: {error}")
    return entries


def merge(entries: Entries) -> None:
    """Make one file, results.jsonl, of what is done, and remove the logs of the processes.

    No process may be writing. Raises OSError.
    """
    write_parts(entries.folder / MERGED, entries.lines(DONE), sync=True)
    for start, _, path in logs_of(entries.folder):
        if start:
            path.unlink()

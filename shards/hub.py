"""Data sets of the hub, streamed by the package datasets: nothing is stored but what it caches.

    keys, images = list_rows(*hub_split("hf:owner/name:test"))

Rows are read in their order; one before the last that was read begins the stream again.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

PREFIX = "hf:"
NEEDS = "data sets of the hub need the package datasets: pip install datasets"


@dataclass(eq=False)
class HubStream:
    """The images of a split, one after another."""

    rows: object  # datasets.IterableDataset, whose images are not decoded
    column: str  # of the images
    next: int = 0
    _iterator: Iterator | None = field(default=None, repr=False)

    def read(self, number: int) -> bytes:
        """Return the bytes of an image. Raises OSError for a row without one."""
        if self._iterator is None or number < self.next:
            self._iterator, self.next = iter(self.rows.skip(number)), number
        for row in self._iterator:
            self.next += 1
            if self.next > number:
                return _bytes_of(row[self.column])
        raise OSError(f"the data set ended before row {number}")


@dataclass(frozen=True)
class HubRow:
    """An image of a data set of the hub."""

    stream: HubStream
    number: int

    def read(self) -> bytes:
        """Return its bytes. Raises OSError."""
        return self.stream.read(self.number)


def hub_split(data_root: str) -> tuple[str, str] | None:
    """Return (name, split) of "hf:owner/name[:split]", None for another data root."""
    if not data_root.startswith(PREFIX):
        return None
    name, _, split = data_root.removeprefix(PREFIX).partition(":")
    return name, split or "train"


def list_rows(name: str, split: str) -> tuple[list[str], list[HubRow]]:
    """Return the keys and the images of all rows of a split; a key is the row's number.

    Raises ValueError if there is no such data set, it has no images or does not say how many, or
    without the package datasets.
    """
    try:
        from datasets import Image, load_dataset
    except ImportError:
        raise ValueError(NEEDS) from None
    try:
        rows = load_dataset(name, split=split, streaming=True)
    except Exception as error:  # it passes on whatever its readers and the network raise
        raise ValueError(f"hf:{name}:{split}: {' '.join(str(error).split())}") from error
    features = rows.features or {}
    columns = [column for column, kind in features.items() if isinstance(kind, Image)]
    if not columns:
        raise ValueError(f"hf:{name}:{split}: no column of images")
    rows = rows.cast_column(columns[0], Image(decode=False)).select_columns(columns[:1])
    stream = HubStream(rows, columns[0])
    numbers = range(_count(rows, split))
    keys = [f"{split}-{number:09d}" for number in numbers]
    return keys, [HubRow(stream, number) for number in numbers]


def _count(rows, split: str) -> int:
    """Return the number of rows: as the data set says, else by reading it once."""
    known = (rows.info.splits or {}).get(split)
    if known is not None and known.num_examples:
        return known.num_examples
    return sum(1 for _ in rows)


def _bytes_of(cell: dict) -> bytes:
    """Return the bytes of an image that the package has not decoded."""
    if cell and cell.get("bytes"):
        return cell["bytes"]
    if cell and cell.get("path"):
        from datasets.download.streaming_download_manager import xopen

        with xopen(cell["path"], "rb") as file:
            return file.read()
    raise OSError("a row without an image")

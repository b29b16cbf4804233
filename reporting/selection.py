"""The images that the page of a long run shows: the best, the worst, the median, a random sample.

    chosen = select(lambda: read_csv(path, most), count)
    chosen.rows, chosen.note

The rows are read once to rank them and once to take the chosen ones, so that memory does not grow
with them. The sample is that of the smallest CRC-32 of names: runs of one data set share it.
"""

import zlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from reporting.columns import column_of

MOST_SHOWN = 1_000  # images of which a page shows every one; some 4 kB of HTML each
OF_A_KIND = 200  # best, worst, ... of more
# What images are ranked by: the first of these that all runs of today can have.
RANKED_BY = ("dists", "lpips_alex", "lpips_squeeze", "ms_ssim", "psnr", "clip", "bytes")


@dataclass(frozen=True)
class Selection:
    """Some rows of a run, and what is known of all."""

    rows: list[dict] = field(default_factory=list)  # in the order of the data set
    images: int = 0
    counts: Counter[str] = field(default_factory=Counter)  # of numbers by column, of all rows
    note: str = ""  # a sentence on which rows these are; "" if they are all


def select(read: Callable[[], Iterable[dict]], images: int) -> Selection:
    """Return the rows that a page shows, of those that `read` gives anew each time.

    images: how many to expect. Raises what `read` and its iterator raise.
    """
    counts: Counter[str] = Counter()
    kept: list[dict] = []
    hashes, values = array("Q"), array("d")
    column = ""
    for row in read():
        column = column or ranking(row)
        counts.update(name for name, value in row.items() if isinstance(value, float | int))
        if images <= MOST_SHOWN:
            kept.append(row)
        hashes.append(zlib.crc32(row["name"].encode()))
        values.append(_rank(row.get(column), column))
    if images <= MOST_SHOWN:
        return Selection(kept, len(kept), counts)
    chosen = choose(np.asarray(values), np.asarray(hashes))
    rows = [row for number, row in enumerate(read()) if number in chosen]
    return Selection(rows, len(hashes), counts, note_of(column))


def note_of(column: str) -> str:
    """Return the sentence that says which images of a long run are shown."""
    label = column_of(column).label
    return (
        f"Shown are the {OF_A_KIND} best, worst and middle ones by {label}, "
        f"and {OF_A_KIND} at random."
    )


def ranking(row: dict) -> str:
    """Return the column that images are ranked by, which a row has."""
    return next((name for name in RANKED_BY if name in row), "bytes")


def choose(values: np.ndarray, hashes: np.ndarray) -> set[int]:
    """Return the numbers of the best, worst and middle values, and of the smallest hashes.

    values: (n,), larger is better; NaN is none of these.
    """
    order = np.argsort(values, kind="stable")  # NaN comes last
    order = order[: len(order) - np.isnan(values).sum()]
    middle = max(0, (len(order) - OF_A_KIND) // 2)
    parts = [order[-OF_A_KIND:], order[:OF_A_KIND], order[middle : middle + OF_A_KIND]]
    parts.append(np.argsort(hashes, kind="stable")[:OF_A_KIND])
    return set(np.concatenate(parts).tolist())


def _rank(value: object, column: str) -> float:
    """Return a value of a column so that larger is better."""
    if not isinstance(value, float | int):
        return float("nan")
    return float(value if column_of(column).better == "higher" else -value)

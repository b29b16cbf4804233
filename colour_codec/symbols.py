"""How values become decisions of an arithmetic coder, for writer and reader alike.

python -c "from colour_codec.symbols import step_size; print([step_size(step) / 64 for step in range(32)])"
"""

from collections.abc import Sequence

import numpy as np

from text_codec.intervals import Reader, Writer

from .model import ABOVE_ONE, ABOVE_TWO, ESCAPE, MORE, MOST, NEGATIVE, NONZERO, PROBABILITY_BITS
from .transform import UNIT

TOTAL = 1 << PROBABILITY_BITS


def step_size(step: int) -> int:
    """The quantiser's step in 1 / UNIT: about 0.75 times 2**(step / 5)."""
    return (48, 55, 63, 73, 84)[step % 5] << step // 5


def levels(step: int) -> int:
    """How many values the mean lightness, from 0 to 255, can have."""
    return 255 * UNIT // step_size(step) + 2


class Echo:
    """Reads, and writes what it reads: what comes out must be what went in."""

    def __init__(self, reader: Reader, writer: Writer):
        self.reader, self.writer = reader, writer

    def choice(self, total: int) -> int:
        """One of `total` values, all alike."""
        value = self.reader.slot(total)
        self._pass(value, 1, total)
        return value

    def share(self, starts: np.ndarray) -> int:
        """A value with shares of its own."""
        total = int(starts[-1])
        value = int(np.searchsorted(starts, self.reader.slot(total), side="right")) - 1
        self._pass(int(starts[value]), int(starts[value + 1] - starts[value]), total)
        return value

    def decision(self, share: int) -> bool:
        """Yes or no; of TOTAL, `share` is for yes."""
        yes = self.reader.slot(TOTAL) >= TOTAL - share
        self._pass(*_interval(yes, share))
        return yes

    def _pass(self, start: int, share: int, total: int) -> None:
        self.reader.take(start, share, total)
        self.writer.put(start, share, total)


def _interval(yes: bool, share: int) -> tuple[int, int, int]:
    """No comes first, so that nothing behind the end of a payload is a lot of zeros."""
    return (TOTAL - share, share, TOTAL) if yes else (0, TOTAL - share, TOTAL)


def take_value(coder: Echo, share: Sequence[int]) -> int:
    """Read a coefficient; share: of each head of the network."""
    if not coder.decision(share[NONZERO]):
        return 0
    size = 1 + coder.decision(share[ABOVE_ONE])
    if size == 2 and coder.decision(share[ABOVE_TWO]):
        size = 3
        while size < ESCAPE and coder.decision(share[MORE]):
            size += 1
    if size == ESCAPE:
        size += coder.choice(MOST - ESCAPE + 1)
    return -size if coder.decision(share[NEGATIVE]) else size


def put_value(writer: Writer, value: int, share: Sequence[int]) -> None:
    """The inverse of `take_value`."""
    size = abs(value)
    heads = [NONZERO, ABOVE_ONE, ABOVE_TWO] + [MORE] * (ESCAPE - 3)  # decision n: is it more than n?
    for least, head in enumerate(heads[: size + 1]):
        writer.put(*_interval(size > least, share[head]))
    if size >= ESCAPE:
        writer.put(size - ESCAPE, 1, MOST - ESCAPE + 1)
    if size:
        writer.put(*_interval(value < 0, share[NEGATIVE]))


def bits(shares: np.ndarray, sizes: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """float64 (positions, candidates): what `put_value` takes. shares: (positions, heads); negative: (positions,)."""
    yes, no = (-np.log2(part)[:, None] for part in (shares / TOTAL, 1 - shares / TOTAL))
    sign = np.where(negative[:, None], yes[..., NEGATIVE], no[..., NEGATIVE])
    end = np.where(sizes < ESCAPE, no[..., MORE], np.log2(MOST - ESCAPE + 1))
    more = (np.minimum(sizes, ESCAPE) - 3) * yes[..., MORE] + end
    two = np.where(sizes == 2, no[..., ABOVE_TWO], yes[..., ABOVE_TWO] + more)
    one = np.where(sizes == 1, no[..., ABOVE_ONE], yes[..., ABOVE_ONE] + two)
    return np.where(sizes == 0, no[..., NONZERO], yes[..., NONZERO] + sign + one)

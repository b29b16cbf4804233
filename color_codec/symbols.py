"""Quantized values <-> decisions of the arithmetic coder, for encoder and decoder alike.

    python -c "from color_codec.symbols import step_size; print([step_size(s) for s in range(32)])"

All probabilities here are integers, in 1 / TOTAL.
"""

from collections.abc import Sequence

import numpy as np

from color_codec.model import (
    ABOVE_ONE,
    ABOVE_TWO,
    ESCAPE,
    MAX_MAGNITUDE,
    MORE,
    NEGATIVE,
    NONZERO,
    PROBABILITY_BITS,
)
from color_codec.transform import UNIT
from common.arithmetic_coder import Reader, Writer

TOTAL = 1 << PROBABILITY_BITS

# Decision n asks if the magnitude is more than n.
DECISIONS = (NONZERO, ABOVE_ONE, ABOVE_TWO, *[MORE] * (ESCAPE - 3))


def step_size(step: int) -> int:
    """Return the quantizer's step in 1 / UNIT: about 0.75 times 2**(step / 5)."""
    return (48, 55, 63, 73, 84)[step % 5] << step // 5


def levels(step: int) -> int:
    """Return how many values the mean lightness, from 0 to 255, can have."""
    return 255 * UNIT // step_size(step) + 2


class Echo:
    """Reads symbols and writes them again, to compare a payload with its canonical form."""

    def __init__(self, reader: Reader, writer: Writer):
        self.reader = reader
        self.writer = writer

    def choice(self, total: int) -> int:
        """Read one of `total` values that are equally probable."""
        value = self.reader.slot(total)
        self._copy(value, 1, total)
        return value

    def symbol(self, starts: np.ndarray) -> int:
        """Read a value; starts: cumulative probabilities from 0 to their total, int64."""
        total = int(starts[-1])
        value = int(np.searchsorted(starts, self.reader.slot(total), side="right")) - 1
        self._copy(int(starts[value]), int(starts[value + 1] - starts[value]), total)
        return value

    def decision(self, probability: int) -> bool:
        """Read a yes or no; probability: of yes."""
        yes = self.reader.slot(TOTAL) >= TOTAL - probability
        self._copy(*_interval(yes, probability))
        return yes

    def _copy(self, start: int, frequency: int, total: int) -> None:
        self.reader.take(start, frequency, total)
        self.writer.put(start, frequency, total)


def _interval(yes: bool, probability: int) -> tuple[int, int, int]:
    """Return (start, frequency, total) of a decision."""
    # No is first: the zeros that follow a payload then decode as coefficients of 0.
    if yes:
        return TOTAL - probability, probability, TOTAL
    return 0, TOTAL - probability, TOTAL


def take_value(coder: Echo, probabilities: Sequence[int]) -> int:
    """Read a coefficient; probabilities: of yes, for each decision of the network."""
    magnitude = 0
    while magnitude < ESCAPE and coder.decision(probabilities[DECISIONS[magnitude]]):
        magnitude += 1
    if magnitude == 0:
        return 0
    if magnitude == ESCAPE:
        magnitude += coder.choice(MAX_MAGNITUDE - ESCAPE + 1)
    if coder.decision(probabilities[NEGATIVE]):
        return -magnitude
    return magnitude


def put_value(writer: Writer, value: int, probabilities: Sequence[int]) -> None:
    """Write a coefficient; the inverse of `take_value`."""
    magnitude = abs(value)
    for least, head in enumerate(DECISIONS[: magnitude + 1]):
        writer.put(*_interval(magnitude > least, probabilities[head]))
    if magnitude >= ESCAPE:
        writer.put(magnitude - ESCAPE, 1, MAX_MAGNITUDE - ESCAPE + 1)
    if magnitude > 0:
        writer.put(*_interval(value < 0, probabilities[NEGATIVE]))


def bits(probabilities: np.ndarray, magnitudes: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """Return the bits that `put_value` takes, float64 (positions, candidates).

    probabilities: int64 (positions, heads). magnitudes: int64 (positions, candidates). negative:
    bool (positions,).
    """
    yes = -np.log2(probabilities / TOTAL)[:, None]
    no = -np.log2(1 - probabilities / TOTAL)[:, None]
    sign = np.where(negative[:, None], yes[..., NEGATIVE], no[..., NEGATIVE])
    end = np.where(magnitudes < ESCAPE, no[..., MORE], np.log2(MAX_MAGNITUDE - ESCAPE + 1))
    more = (np.minimum(magnitudes, ESCAPE) - 3) * yes[..., MORE] + end
    two = np.where(magnitudes == 2, no[..., ABOVE_TWO], yes[..., ABOVE_TWO] + more)
    one = np.where(magnitudes == 1, no[..., ABOVE_ONE], yes[..., ABOVE_ONE] + two)
    return np.where(magnitudes == 0, no[..., NONZERO], yes[..., NONZERO] + sign + one)

"""Averages of a run of any length, row by row: exact means, intervals in bounded memory.

    averages = Averages()
    for row in rows:
        averages.add(row)
    averages.result()["mean"]["psnr"]

Up to MOST_VALUES values of a column are kept, and its interval is their bootstrap's. Of more, the
sums of GROUPS groups are kept, in which the values come in turns; the interval is the bootstrap's
of the groups' means, whose mean varies as that of the values does.
"""

import math
from collections.abc import Iterable

from metrics import Interval, mean_interval
from reporting.rows import TEXTS

MOST_VALUES = 10_000
GROUPS = 1_000


class Average:
    """The mean of numbers that come one by one."""

    def __init__(self) -> None:
        self.count = 0
        self._values: list[float] = []  # those that are in no group yet
        self._sums = [0.0] * GROUPS
        self._rests = [0.0] * GROUPS  # what the sums lack by rounding

    def add(self, value: float) -> None:
        """Take one more number, which must be finite."""
        self._values.append(value)
        self.count += 1
        if len(self._values) > MOST_VALUES:
            self._group()

    def _group(self) -> None:
        """Move the values to the groups. A sum is exact to twice a double's digits."""
        first = self.count - len(self._values)
        for group in range(GROUPS):
            number = (group - first) % GROUPS
            terms = [self._sums[group], self._rests[group], *self._values[number::GROUPS]]
            total = math.fsum(terms)
            self._sums[group], self._rests[group] = total, math.fsum([*terms, -total])
        self._values = []

    def interval(self) -> Interval | None:
        """Return the mean and its 95% bootstrap interval; None of no values."""
        if self.count <= MOST_VALUES:
            return mean_interval(self._values)
        self._group()
        mean = math.fsum([*self._sums, *self._rests]) / self.count
        means = []
        for group, total in enumerate(self._sums):
            means.append(total / (self.count // GROUPS + (group < self.count % GROUPS)))
        found = mean_interval(means)
        assert found is not None  # noqa: S101 - there are GROUPS means
        return Interval(mean, found.low, found.high, self.count)


class Averages:
    """The averages of rows that come one by one."""

    def __init__(self) -> None:
        self.rows = 0
        self.columns: dict[str, Average] = {}  # in the order in which they first occur

    def add(self, row: dict) -> None:
        """Take one more row; what is no number is passed over."""
        self.rows += 1
        for column, value in row.items():
            if column in TEXTS:
                continue
            average = self.columns.setdefault(column, Average())
            if isinstance(value, float | int):
                average.add(value)

    def result(self) -> dict:
        """Return {"mean": {column: mean of its numbers}, "intervals": {column: their 95% bootstrap
        intervals}}.
        """
        mean, intervals = {}, {}
        for column, average in self.columns.items():
            found = average.interval()
            if found is None:
                continue
            mean[column] = round(found.mean, 5)
            if found.values > 1:
                intervals[column] = [round(found.low, 5), round(found.high, 5)]
        return {"mean": mean, "intervals": intervals}


def averages(rows: Iterable[dict]) -> dict:
    """Return the averages of rows."""
    found = Averages()
    for row in rows:
        found.add(row)
    return found.result()

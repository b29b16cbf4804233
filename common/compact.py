"""Many strings in two arrays.

    names = Strings(["barn", "house"])
    names[1]            # "house", a new object each time

A million strings as objects are 100 MB. Forked workers would copy those they look at, page by page,
since each look counts a reference in them; arrays stay shared.
"""

from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np


class Strings(Sequence[str]):
    """Strings in the order in which they were given; file names may be no UTF-8."""

    def __init__(self, strings: Iterable[str]):
        encoded = [each.encode("utf-8", "surrogateescape") for each in strings]
        self._ends = np.cumsum([0, *map(len, encoded)])
        self._text = b"".join(encoded)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index):
        where = range(len(self))[index]
        if isinstance(where, range):
            return tuple(self[number] for number in where)
        text = self._text[self._ends[where] : self._ends[where + 1]]
        return text.decode("utf-8", "surrogateescape")

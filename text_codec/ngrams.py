"""A language model in whole numbers: interpolated n-grams, as shares of an interval.

The share of symbol w after the symbols h is

    F(h, w) = mass(h, w) * T(h') + backoff(h) * F(h', w)        T(h) = (sum of mass(h, .) + backoff(h)) * T(h')

where h' is h without its oldest symbol; F and T of no context at all are the masses of single symbols and their sum.
That is the interpolated Kneser-Ney estimate (Chen and Goodman 1998, "An empirical study of smoothing techniques for
language modeling", equation 26) times T(h), so that it is a whole number. Masses and backoffs are what
`tiny/train_text.py` counted, rounded to the 2-bit mantissas of `MASSES`. Symbol 0 is the end, and stands for what is
before the beginning.
"""

import sys
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import BinaryIO, NamedTuple

MASSES = (0, *((4 + step % 4) << step // 4 for step in range(112)))  # 0, 4, 5, 6, 7, 8, 10, 12, 14, 16, ...


class Level(NamedTuple):
    """All n-grams of one length, ordered by their symbols; entry i belongs to n-gram i."""

    last: Sequence[int]  # its last symbol
    mass: bytes  # of that symbol after the ones before it, as an index of MASSES
    backoff: bytes  # of the n-gram as a context, as an index of MASSES; unused where it has no children
    children: Sequence[int]  # how many (n + 1)-grams begin with it


class NGrams:
    """The model: intervals of symbols, given the symbols before them."""

    def __init__(self, levels: Sequence[Level]):
        self.levels = levels
        self.order = len(levels)
        self.symbols = len(levels[0].last)
        self._sums = [[0, *accumulate(map(MASSES.__getitem__, level.mass))] for level in levels]
        self._first = [[0, *accumulate(level.children)] for level in levels]

    def interval(self, history: Sequence[int], symbol: int) -> tuple[int, int, int]:
        """(start, size, total) of a symbol after a history."""
        contexts, total = self._contexts(history)
        start = self._below(symbol, contexts)
        return start, self._below(symbol + 1, contexts) - start, total

    def read(self, history: Sequence[int], reader) -> int:
        """Take the next symbol from a Reader."""
        contexts, total = self._contexts(history)
        slot = reader.slot(total)
        low, high = 0, self.symbols  # the last symbol whose share begins at the slot or before
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._below(middle, contexts) <= slot else (low, middle)
        start = self._below(low, contexts)
        reader.take(start, self._below(low + 1, contexts) - start, total)
        return low

    def _contexts(self, history: Sequence[int]) -> tuple[list[tuple[int, int, int, int, int]], int]:
        """(level, first child, last child + 1, backoff, total of the shorter context) of each context, shortest
        first, and the total of the longest."""
        padded = [*[0] * (self.order - 1), *history[1 - self.order :]]
        contexts, total = [], self._sums[0][-1]
        for length in range(1, self.order):
            place = self._find(padded[-length:])
            if place is None:
                break
            first, end = self._first[length - 1][place], self._first[length - 1][place + 1]
            if first == end:
                break
            backoff = MASSES[self.levels[length - 1].backoff[place]]
            contexts.append((length, first, end, backoff, total))
            total *= self._sums[length][end] - self._sums[length][first] + backoff
        return contexts, total

    def _find(self, ngram: Sequence[int]) -> int | None:
        """The place of an n-gram in its level, None where the model has no such n-gram."""
        place = ngram[0]
        for level, symbol in enumerate(ngram[1:], start=1):
            first, end = self._first[level - 1][place], self._first[level - 1][place + 1]
            place = bisect_left(self.levels[level].last, symbol, first, end)
            if place == end or self.levels[level].last[place] != symbol:
                return None
        return place

    def _below(self, symbol: int, contexts: list[tuple[int, int, int, int, int]]) -> int:
        """The sum of the shares of all symbols before this one."""
        below = self._sums[0][symbol]
        for level, first, end, backoff, total in contexts:
            place = bisect_left(self.levels[level].last, symbol, first, end)
            below = (self._sums[level][place] - self._sums[level][first]) * total + backoff * below
        return below


def to_bytes(model: NGrams) -> bytes:
    """The model as a block of a file: the number of levels (1 byte), then for each level the number of its n-grams
    (4 bytes, little-endian) and its columns, one behind the other: low bytes of `last`, high bytes, `mass`, `backoff`,
    low bytes of `children`, high bytes."""
    data = bytearray([model.order])
    for level in model.levels:
        data += len(level.last).to_bytes(4, "little")
        data += _planes(level.last) + level.mass + level.backoff + _planes(level.children)
    return bytes(data)


def read(file: BinaryIO) -> NGrams:
    """The inverse of `to_bytes`; the file is left behind the block."""
    levels = []
    for _ in range(file.read(1)[0]):
        count = int.from_bytes(file.read(4), "little")
        last = _numbers(file.read(2 * count))
        mass, backoff = file.read(count), file.read(count)
        levels.append(Level(last, mass, backoff, _numbers(file.read(2 * count))))
    return NGrams(levels)


def _planes(numbers: Sequence[int]) -> bytes:
    """16-bit numbers as all their low bytes, then all their high bytes, which deflate packs better."""
    return bytes(number & 255 for number in numbers) + bytes(number >> 8 for number in numbers)


def _numbers(planes: bytes) -> array:
    pairs = bytearray(planes)
    pairs[0::2], pairs[1::2] = planes[: len(planes) // 2], planes[len(planes) // 2 :]
    numbers = array("H", bytes(pairs))
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers

"""Language model on integers: interpolated n-grams that give each symbol a frequency.

    python -c "from text_codec.words import load_model; print(load_model().ngrams.interval([], 5))"

After the symbols h, the symbol w has the interval frequency F(h, w) / T(h), where

    F(h, w) = mass(h, w) * T(h') + backoff(h) * F(h', w)
    T(h) = (sum of mass(h, .) + backoff(h)) * T(h')

and h' is h without its oldest symbol. F and T of an empty h are the masses of single symbols and
their sum. F / T is the interpolated Kneser-Ney estimate; the factor T(h) makes it an integer.

Masses and backoffs are counted by `tiny/train_text.py`, rounded to the 2-bit mantissas of `MASSES`.
Symbol 0 is the end of a text, and pads the history before its beginning.

Source: Chen and Goodman 1998, "An empirical study of smoothing techniques for language modeling",
equation 26.
"""

import sys
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import BinaryIO, NamedTuple

from common.arithmetic_coder import Reader

# 0, 4, 5, 6, 7, 8, 10, 12, 14, 16, ...
MASSES = (0, *((4 + step % 4) << step // 4 for step in range(112)))


class Level(NamedTuple):
    """All n-grams of one length, ordered by their symbols; entry i belongs to n-gram i."""

    last: Sequence[int]  # its last symbol
    mass: bytes  # of that symbol after the ones before it, as an index of MASSES
    backoff: bytes  # of the n-gram as a context, as an index of MASSES; unused without children
    children: Sequence[int]  # how many (n + 1)-grams begin with it


class _Context(NamedTuple):
    """A context of the next symbol that the model knows."""

    level: int  # of its children: the n-grams that are this context and one symbol more
    first: int  # entry of the first child
    end: int  # entry after the last child
    backoff: int
    total: int  # T of the context without its oldest symbol


class NGrams:
    """The model: intervals of symbols, given the symbols before them."""

    def __init__(self, levels: Sequence[Level]):
        self.levels = levels
        self.order = len(levels)
        self.symbols = len(levels[0].last)
        self._sums = [[0, *accumulate(map(MASSES.__getitem__, level.mass))] for level in levels]
        self._first = [[0, *accumulate(level.children)] for level in levels]

    def interval(self, history: Sequence[int], symbol: int) -> tuple[int, int, int]:
        """Return (start, frequency, total) of a symbol after a history."""
        contexts, total = self._contexts(history)
        start = self._below(symbol, contexts)
        return start, self._below(symbol + 1, contexts) - start, total

    def read(self, history: Sequence[int], reader: Reader) -> int:
        """Read the next symbol."""
        contexts, total = self._contexts(history)
        slot = reader.slot(total)
        # Find the last symbol whose interval starts at the slot or before.
        symbol = 0
        end = self.symbols
        while end - symbol > 1:
            middle = (symbol + end) // 2
            if self._below(middle, contexts) <= slot:
                symbol = middle
            else:
                end = middle
        start = self._below(symbol, contexts)
        reader.take(start, self._below(symbol + 1, contexts) - start, total)
        return symbol

    def _contexts(self, history: Sequence[int]) -> tuple[list[_Context], int]:
        """Return the known contexts, shortest first, and the total T of the longest."""
        padded = [*[0] * (self.order - 1), *history[1 - self.order :]]
        contexts = []
        total = self._sums[0][-1]
        for level in range(1, self.order):
            entry = self._find(padded[-level:])
            if entry is None:
                break
            first, end = self._children(level - 1, entry)
            if first == end:
                break
            backoff = MASSES[self.levels[level - 1].backoff[entry]]
            contexts.append(_Context(level, first, end, backoff, total))
            total *= self._sums[level][end] - self._sums[level][first] + backoff
        return contexts, total

    def _find(self, ngram: Sequence[int]) -> int | None:
        """Return the entry of an n-gram in its level; None if the model has no such n-gram."""
        entry = ngram[0]
        for level, symbol in enumerate(ngram[1:], start=1):
            first, end = self._children(level - 1, entry)
            entry = bisect_left(self.levels[level].last, symbol, first, end)
            if entry == end or self.levels[level].last[entry] != symbol:
                return None
        return entry

    def _children(self, level: int, entry: int) -> tuple[int, int]:
        """Return the first and the end of an n-gram's children in the next level."""
        return self._first[level][entry], self._first[level][entry + 1]

    def _below(self, symbol: int, contexts: list[_Context]) -> int:
        """Return the sum of the frequencies of all symbols before this one."""
        below = self._sums[0][symbol]
        for level, first, end, backoff, total in contexts:
            entry = bisect_left(self.levels[level].last, symbol, first, end)
            mass = self._sums[level][entry] - self._sums[level][first]
            below = mass * total + backoff * below
        return below


def to_bytes(model: NGrams) -> bytes:
    """Return the model as a block of a file.

    The block is the number of levels (1 byte), then for each level the number of its n-grams
    (4 bytes, little-endian) and its columns, one after another: low bytes of `last`, high bytes,
    `mass`, `backoff`, low bytes of `children`, high bytes.
    """
    data = bytearray([model.order])
    for level in model.levels:
        data += len(level.last).to_bytes(4, "little")
        data += _byte_planes(level.last) + level.mass
        data += level.backoff + _byte_planes(level.children)
    return bytes(data)


def from_file(file: BinaryIO) -> NGrams:
    """Read a block of `to_bytes`; the file is left after the block."""
    levels = []
    for _ in range(file.read(1)[0]):
        count = int.from_bytes(file.read(4), "little")
        last = _numbers(file.read(2 * count))
        mass = file.read(count)
        backoff = file.read(count)
        children = _numbers(file.read(2 * count))
        levels.append(Level(last, mass, backoff, children))
    return NGrams(levels)


def _byte_planes(numbers: Sequence[int]) -> bytes:
    """Return the low bytes of 16-bit numbers, then their high bytes: deflate packs that better."""
    low = bytes(number & 255 for number in numbers)
    high = bytes(number >> 8 for number in numbers)
    return low + high


def _numbers(planes: bytes) -> array:
    """Return the 16-bit numbers of `_byte_planes`."""
    half = len(planes) // 2
    pairs = bytearray(planes)
    pairs[0::2] = planes[:half]
    pairs[1::2] = planes[half:]
    numbers = array("H", bytes(pairs))
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers

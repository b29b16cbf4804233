"""Token ids <-> one whole number: a mode, the number of ids, and the ids.

With V words, the lists of n ids are the numbers from offset(n) = 1 + V + ... + V**(n - 1) on, so that how many ids
there are is part of the number and costs next to nothing; within them the ids are digits in base V, first id first.
Ascending ids need not pay for their order: the multisets of n ids come behind those of fewer, by rank in the
combinatorial number system (Knuth, The Art of Computer Programming 4A, 7.2.1.3, theorem L).

The number is value * MODES + mode. The modes are 0, the whole vocabulary in order; 1, the same, ascending; 2k - 8 and
2k - 7, both again of a sub-vocabulary of 2**k words, k from 5 to 16.
"""

from bisect import bisect_right
from collections.abc import Sequence
from math import comb
from operator import index
from typing import NamedTuple

from .words import TextError

MAX_IDS = 256
BITS = range(5, 17)  # of a sub-vocabulary
MODES = 2 + 2 * len(BITS)


class Mode(NamedTuple):
    """How ids are written."""

    bits: int | None  # they are of a sub-vocabulary of 2**bits words; None: of the whole
    ascending: bool  # they are written without their order

    @property
    def number(self) -> int:
        """0 to MODES - 1."""
        return self.ascending + (0 if self.bits is None else 2 * (self.bits - BITS[0] + 1))


def mode_of(number: int) -> Mode:
    """The mode that the number of a payload says."""
    pair, ascending = divmod(number % MODES, 2)
    return Mode(BITS[pair - 1] if pair else None, bool(ascending))


def to_number(ids: Sequence[int], vocabulary: int, subset: Sequence[int] | None) -> int:
    """The smallest of the numbers that say these ids. Raises TextError."""
    ids = [index(id_) for id_ in ids]  # numpy's integers would overflow
    if len(ids) > MAX_IDS:
        raise TextError(f"{len(ids)} ids: at most {MAX_IDS} can be written")
    for id_ in ids:
        if not 0 <= id_ < vocabulary:
            raise TextError(f"id {id_} is outside the vocabulary of {vocabulary} words")
    numbers = _numbers(ids, vocabulary, None)
    if subset is not None:
        place = _places(subset, vocabulary)
        if all(id_ in place for id_ in ids):
            bits = len(place).bit_length() - 1
            numbers += _numbers([place[id_] for id_ in ids], 1 << bits, bits)
    return min(numbers)


def from_number(number: int, vocabulary: int, subset: Sequence[int] | None) -> list[int]:
    """The inverse of `to_number`, for the subset that the mode asks for. Raises TextError."""
    mode, value = mode_of(number), number // MODES
    if mode.bits is None:
        return _unpack(value, vocabulary, mode.ascending)
    if subset is None or len(subset) != 1 << mode.bits:
        given = "none" if subset is None else f"one of {len(subset)}"
        raise TextError(f"the ids are of a sub-vocabulary of {1 << mode.bits} words; {given} is given")
    words = list(_places(subset, vocabulary))
    return [words[place] for place in _unpack(value, len(subset), mode.ascending)]


def most_ids(size: int, words: int, ascending: bool = False) -> int:
    """How many ids of a vocabulary or sub-vocabulary of this many words `size` bytes hold, whichever they are."""
    room = 1 << max(0, 8 * size - 1)  # the first bit says that it is ids
    return bisect_right(range(1, MAX_IDS + 1), room, key=lambda count: _shorter(count + 1, words, ascending) * MODES)


def _places(subset: Sequence[int], vocabulary: int) -> dict[int, int]:
    """The place of each word of a sub-vocabulary, smallest id first. Raises TextError where it is none."""
    place = {id_: place for place, id_ in enumerate(sorted(map(index, subset)))}
    if len(place) != len(subset) or len(place) not in [1 << bits for bits in BITS]:
        sizes = f"{1 << BITS[0]}, {2 << BITS[0]}, ... {1 << BITS[-1]}"
        raise TextError(f"a sub-vocabulary of {len(place)} different words: it must have {sizes}")
    if not 0 <= min(place) <= max(place) < vocabulary:
        raise TextError(
            f"the sub-vocabulary has ids from {min(place)} to {max(place)}, the vocabulary {vocabulary} words"
        )
    return place


def _numbers(digits: Sequence[int], base: int, bits: int | None) -> list[int]:
    """The numbers that say these digits: in order, and without it where that leads back to them."""
    numbers = [_in_order(digits, base) * MODES + Mode(bits, False).number]
    if list(digits) == sorted(digits):
        numbers.append(_ascending(digits, base) * MODES + Mode(bits, True).number)
    return numbers


def _in_order(digits: Sequence[int], base: int) -> int:
    value = 0
    for digit in digits:
        value = value * base + digit
    return _shorter(len(digits), base, False) + value


def _ascending(digits: Sequence[int], base: int) -> int:
    rank = sum(comb(digit + place, place + 1) for place, digit in enumerate(digits))
    return _shorter(len(digits), base, True) + rank


def _shorter(count: int, base: int, ascending: bool) -> int:
    """How many lists, or multisets, have fewer than `count` digits."""
    if ascending:
        return comb(base + count - 1, count - 1) if count else 0
    return (base**count - 1) // (base - 1)


def _unpack(value: int, base: int, ascending: bool) -> list[int]:
    """The digits that `_in_order` or `_ascending` made this number of."""
    if value >= _shorter(MAX_IDS + 1, base, ascending):
        raise TextError(f"these bytes hold more than {MAX_IDS} ids of {base} words")
    count = bisect_right(range(1, MAX_IDS + 1), value, key=lambda count: _shorter(count, base, ascending))
    value -= _shorter(count, base, ascending)
    digits = []
    for place in range(count, 0, -1):
        if ascending:
            chosen = bisect_right(range(base + place), value, key=lambda top: comb(top, place)) - 1
            digits.append(chosen - place + 1)
            value -= comb(chosen, place)
        else:
            value, digit = divmod(value, base)
            digits.append(digit)
    return digits[::-1]

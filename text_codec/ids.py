"""Token ids <-> one integer: a mode, the number of ids, and the ids.

    python -c "from text_codec import ids; print(ids.to_number([320, 1125], 49408, None))"

The integer is value * MODES + mode. The modes are

    0, 1             ids of the whole vocabulary: in any order, ascending
    2k - 8, 2k - 7   ids of a subset of 2**k tokens, k from 5 to 16: in any order, ascending

The value says how many digits there are, and which; a digit is an id, or the position of an id in
the subset, sorted. In any order: with V tokens, the lists of n digits are the numbers from
offset(n) = 1 + V + ... + V**(n - 1) on, so that n costs next to nothing; within them the list is a
number in base V, first digit first. Ascending: the multisets of n digits follow those of fewer, by
their rank in the combinatorial number system, and their order costs nothing.

Source: Knuth, The Art of Computer Programming 4A, 7.2.1.3, theorem L.
"""

from bisect import bisect_right
from collections.abc import Sequence
from math import comb
from operator import index
from typing import NamedTuple

from text_codec.words import TextError

MAX_IDS = 256
BITS = range(5, 17)  # log2 of the size of a token subset
SUBSET_SIZES = [1 << bits for bits in BITS]
MODES = 2 + 2 * len(BITS)


class Mode(NamedTuple):
    """How ids are coded."""

    bits: int | None  # they are of a subset of 2**bits tokens; None: of the whole vocabulary
    ascending: bool  # they are coded without their order

    @property
    def number(self) -> int:
        """0 to MODES - 1."""
        pair = 0 if self.bits is None else self.bits - BITS[0] + 1
        return 2 * pair + int(self.ascending)


def mode_of(number: int) -> Mode:
    """Return the mode that the integer of a payload says."""
    pair, ascending = divmod(number % MODES, 2)
    bits = BITS[pair - 1] if pair else None
    return Mode(bits, bool(ascending))


def to_number(ids: Sequence[int], vocab_size: int, subset: Sequence[int] | None) -> int:
    """Return the smallest integer that stands for these ids. Raises TextError."""
    ids = [index(token_id) for token_id in ids]  # numpy's integers would overflow
    if len(ids) > MAX_IDS:
        raise TextError(f"{len(ids)} ids: at most {MAX_IDS} can be written")
    for token_id in ids:
        if not 0 <= token_id < vocab_size:
            raise TextError(f"id {token_id} is outside the vocabulary of {vocab_size} tokens")
    numbers = _numbers(ids, vocab_size, None)
    if subset is not None:
        tokens = _sorted_subset(subset, vocab_size)
        positions = {token_id: position for position, token_id in enumerate(tokens)}
        if positions.keys() >= set(ids):
            digits = [positions[token_id] for token_id in ids]
            numbers += _numbers(digits, len(tokens), len(tokens).bit_length() - 1)
    return min(numbers)


def from_number(number: int, vocab_size: int, subset: Sequence[int] | None) -> list[int]:
    """Return the ids of an integer of `to_number`; subset: the one of the mode's size.

    Raises TextError.
    """
    mode = mode_of(number)
    value = number // MODES
    if mode.bits is None:
        return _digits(value, vocab_size, mode.ascending)
    if subset is None or len(subset) != 1 << mode.bits:
        given = "none" if subset is None else f"one of {len(subset)}"
        raise TextError(f"the ids are of a subset of {1 << mode.bits} tokens; {given} is given")
    tokens = _sorted_subset(subset, vocab_size)
    return [tokens[digit] for digit in _digits(value, len(tokens), mode.ascending)]


def most_ids(size: int, vocab_size: int, ascending: bool = False) -> int:
    """Return how many ids fit into `size` bytes, whichever of vocab_size tokens they are.

    vocab_size: of the whole vocabulary, or of a token subset.
    """
    limit = 1 << max(0, 8 * size - 1)  # the first bit says that these are ids
    counts = range(1, MAX_IDS + 1)
    return bisect_right(
        counts, limit, key=lambda count: _offset(count + 1, vocab_size, ascending) * MODES
    )


def _sorted_subset(subset: Sequence[int], vocab_size: int) -> list[int]:
    """Return the ids of a token subset, ascending. Raises TextError if it is not a valid one."""
    tokens = sorted(set(map(index, subset)))
    if len(tokens) != len(subset) or len(tokens) not in SUBSET_SIZES:
        sizes = f"{SUBSET_SIZES[0]}, {SUBSET_SIZES[1]}, ... {SUBSET_SIZES[-1]}"
        raise TextError(f"a subset of {len(tokens)} different tokens: it must have {sizes}")
    if tokens[0] < 0 or tokens[-1] >= vocab_size:
        raise TextError(
            f"the token subset has ids from {tokens[0]} to {tokens[-1]}, "
            f"the vocabulary {vocab_size} tokens"
        )
    return tokens


def _numbers(digits: Sequence[int], base: int, bits: int | None) -> list[int]:
    """Return the integers that stand for these digits: in order; if ascending, also without it."""
    numbers = [_value_in_order(digits, base) * MODES + Mode(bits, False).number]
    if list(digits) == sorted(digits):
        numbers.append(_value_ascending(digits, base) * MODES + Mode(bits, True).number)
    return numbers


def _value_in_order(digits: Sequence[int], base: int) -> int:
    value = 0
    for digit in digits:
        value = value * base + digit
    return _offset(len(digits), base, False) + value


def _value_ascending(digits: Sequence[int], base: int) -> int:
    rank = 0
    for position, digit in enumerate(digits):
        rank += comb(digit + position, position + 1)
    return _offset(len(digits), base, True) + rank


def _offset(count: int, base: int, ascending: bool) -> int:
    """Return how many lists, or multisets if ascending, have fewer than `count` digits."""
    if not ascending:
        return (base**count - 1) // (base - 1)
    if count == 0:
        return 0
    return comb(base + count - 1, count - 1)


def _digits(value: int, base: int, ascending: bool) -> list[int]:
    """Return the digits of a value. Raises TextError if they are more than MAX_IDS."""
    if value >= _offset(MAX_IDS + 1, base, ascending):
        raise TextError(f"these bytes hold more than {MAX_IDS} ids of {base} tokens")
    counts = range(1, MAX_IDS + 1)
    count = bisect_right(counts, value, key=lambda count: _offset(count, base, ascending))
    value -= _offset(count, base, ascending)
    if ascending:
        return _digits_ascending(value, base, count)
    return _digits_in_order(value, base, count)


def _digits_in_order(value: int, base: int, count: int) -> list[int]:
    digits = []
    for _ in range(count):
        value, digit = divmod(value, base)
        digits.append(digit)
    return digits[::-1]


def _digits_ascending(rank: int, base: int, count: int) -> list[int]:
    digits = []
    for position in range(count, 0, -1):
        top = _largest_top(rank, position, base + position)
        digits.append(top - position + 1)
        rank -= comb(top, position)
    return digits[::-1]


def _largest_top(rank: int, position: int, end: int) -> int:
    """Return the largest number below `end` with comb(number, position) <= rank."""
    return bisect_right(range(end), rank, key=lambda top: comb(top, position)) - 1

"""Entropy coding of a few thousand symbols into one whole number: range asymmetric numeral systems (rANS).

The state of the coder is a Python integer and is itself the payload, so nothing is lost to flushing or to
word sizes, the number decodes to its starting value only if every symbol was right, and a decoder can run
out of digits but never out of its buffer. (Coders with 64-bit states, CompressAI's included, waste about
six bytes a string, and read beyond a truncated one.) Only beyond 2 * WORD bits is the state's lower part
set aside, WORD bits at a time, so that long payloads take linear time. Source: Duda 2013, arXiv 1311.2540.
"""

import zlib
from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
from compressai.entropy_models import EntropyModel
from torch import Tensor

PRECISION = 16  # bits; frequencies of a table sum to 2^16
WORD = 2048  # bits; the state of a long payload is kept in 2^WORD .. 2^(2 WORD)
ESCAPE = 1 << 15  # values sent after an escape are 16-bit, from -ESCAPE
FLOOR = 256  # the state starts at FLOOR + check and never falls below FLOOR


class SketchError(ValueError):
    """A sketch payload is truncated, garbled, or made by another codec."""


class Tables:
    """Integer distributions of one of CompressAI's entropy models, after its `update`.

    Row i holds the frequencies of the values offset[i] .. offset[i] + last[i], then that of the tail: the
    escape after which any 16-bit value follows.
    """

    def __init__(self, model: EntropyModel) -> None:
        self.cdf = model.quantized_cdf.cpu().numpy().astype(np.int64)
        self.last = model.cdf_length.cpu().numpy().astype(np.int64) - 3
        self.offset = model.offset.cpu().numpy().astype(np.int64)
        self.rows = [row[: last + 2].tolist() for row, last in zip(self.cdf, self.last, strict=True)]

    def intervals(self, values: np.ndarray, indexes: np.ndarray) -> list[tuple[int, int]]:
        """(start, frequency) of each value, int64 in -32768..32767, two for one that needs the escape."""
        places = values - self.offset[indexes]
        tail = self.last[indexes] + 1
        escaped = (places < 0) | (places >= tail)
        places = np.where(escaped, tail, places)
        starts = self.cdf[indexes, places]
        pairs = list(zip(starts.tolist(), (self.cdf[indexes, places + 1] - starts).tolist(), strict=True))
        for at in escaped.nonzero()[0][::-1].tolist():
            pairs.insert(at + 1, (int(values[at]) + ESCAPE, 1))
        return pairs


def whole(x: Tensor) -> np.ndarray:
    """Flat symbols, int64, of a tensor: rounded, and bounded by what the escape can hold."""
    return x.round().clamp(-ESCAPE, ESCAPE - 1).long().numpy().ravel()


def channel_indexes(shape: tuple[int, ...]) -> np.ndarray:
    """Flat table indexes of symbols (1, C, height, width), each channel by its own table."""
    return np.repeat(np.arange(shape[1]), shape[2] * shape[3])


def check_byte(symbols: Sequence[np.ndarray]) -> int:
    """0..255: a checksum of all symbols in coding order."""
    crc = 0
    for part in symbols:
        crc = zlib.crc32(part.astype("<i2").tobytes(), crc)
    return crc & 0xFF


def encode(intervals: list[tuple[int, int]], check: int) -> bytes:
    """Code (start, frequency) pairs, decoded in the same order; `check`, 0..255, comes out at the end."""
    state, words = FLOOR + check, []
    for start, frequency in reversed(intervals):
        if state >> (2 * WORD - PRECISION) >= frequency:
            words.append((state & ((1 << WORD) - 1)).to_bytes(WORD // 8, "little"))
            state >>= WORD
        quotient, rest = divmod(state, frequency)
        state = (quotient << PRECISION) + rest + start
    return b"".join(words) + state.to_bytes((state.bit_length() + 7) // 8, "little")


class SymbolDecoder:
    """Gives back, group by group, what `encode` was handed."""

    def __init__(self, data: bytes) -> None:
        if not data or not data[-1]:
            raise SketchError(f"sketch payload of {len(data)} bytes is truncated or padded")
        size = WORD // 8  # a payload with words set aside ends in a state of size + 1 to 2 * size bytes
        aside = max(0, (len(data) - 1) // size - 1) * size
        self.words = [int.from_bytes(data[at : at + size], "little") for at in range(0, aside, size)]
        self.state = int.from_bytes(data[aside:], "little")
        self.parts: list[np.ndarray] = []

    def decode(self, tables: Tables, indexes: np.ndarray) -> np.ndarray:
        """Next values, int64, one for each table index; SketchError when the payload ends before them."""
        state, mask, places = self.state, (1 << PRECISION) - 1, []
        offsets = tables.offset.tolist()
        for index in indexes.tolist():
            row = tables.rows[index]
            if state < FLOOR:
                raise SketchError("sketch payload is truncated or garbled: it ends before its symbols")
            slot = state & mask
            place = bisect_right(row, slot) - 1
            after = row[place + 1] if place + 1 < len(row) else 1 << PRECISION
            state = (after - row[place]) * (state >> PRECISION) + slot - row[place]
            state = self.refilled(state)
            if place + 1 == len(row):
                place = (state & mask) - ESCAPE - offsets[index]
                state = self.refilled(state >> PRECISION)
            places.append(place)
        self.state = state
        values = np.array(places, dtype=np.int64) + tables.offset[indexes]
        self.parts.append(values)
        return values

    def refilled(self, state: int) -> int:
        """The state after a symbol, with the next word set aside where it has become small."""
        return (state << WORD) + self.words.pop() if self.words and not state >> WORD else state

    def finish(self) -> None:
        """SketchError unless the number is used up and the check agrees with the symbols."""
        if self.words or self.state != FLOOR + check_byte(self.parts):
            raise SketchError("sketch payload decodes to the wrong symbols: it is garbled or made by another codec")

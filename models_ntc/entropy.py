"""Entropy coding of a few thousand symbols into one integer: range asymmetric numeral systems.

    payload = encode(tables.intervals(symbols, indexes), check_byte([symbols]))
    symbols = SymbolDecoder(payload).decode(tables, indexes)

The state of the coder is a Python integer, and this integer is the payload. Therefore no bits are
lost to flushing or to a word size, the state returns to its starting value only if every symbol was
right, and a decoder never reads beyond its payload. (Coders with states of 64 bits, CompressAI's
included, waste about six bytes a string, and read beyond a truncated one.) Only if the state is
longer than 2 * WORD bits are its lower WORD bits moved out, so that long payloads take linear time.

Source: Duda 2013, arXiv 1311.2540.
"""

import zlib
from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
from torch import Tensor, nn

PRECISION = 16  # bits; the frequencies of a table sum to 2^16
WORD = 2048  # bits; the state of a long payload is kept in 2^WORD .. 2^(2 WORD)
WORD_BYTES = WORD // 8
ESCAPE = 1 << 15  # after an escape, a value is sent in 16 bits, as value + ESCAPE
FLOOR = 256  # the state starts at FLOOR + check and never falls below FLOOR
SLOT_MASK = (1 << PRECISION) - 1
WORD_MASK = (1 << WORD) - 1


class PayloadError(ValueError):
    """A payload is truncated, damaged, or made by another codec."""


class SketchError(PayloadError):
    """That of a sketch."""


class NotFiniteError(ValueError):
    """A network's weights give latents that are not finite."""


class Tables:
    """Integer distributions of an entropy model, under CompressAI's names, after its `update`.

    Row i holds the cumulative frequencies of the values offset[i] .. offset[i] + last[i], then of
    the tail: an escape, which a 16-bit value follows.
    """

    def __init__(self, model: nn.Module) -> None:
        self.cdf = model._quantized_cdf.cpu().numpy().astype(np.int64)
        self.last = model._cdf_length.cpu().numpy().astype(np.int64) - 3
        self.offset = model._offset.cpu().numpy().astype(np.int64)
        self.rows = []
        for row, last in zip(self.cdf, self.last, strict=True):
            self.rows.append(row[: last + 2].tolist())

    def intervals(self, values: np.ndarray, indexes: np.ndarray) -> list[tuple[int, int]]:
        """Return (start, frequency) of each value, and a second pair after each escape.

        values: int64 (n,) in -32768..32767. indexes: int64 (n,), the table of each value.
        """
        positions = values - self.offset[indexes]
        tail = self.last[indexes] + 1
        escaped = (positions < 0) | (positions >= tail)
        positions = np.where(escaped, tail, positions)
        starts = self.cdf[indexes, positions]
        frequencies = self.cdf[indexes, positions + 1] - starts
        pairs = list(zip(starts.tolist(), frequencies.tolist(), strict=True))
        for at in reversed(np.flatnonzero(escaped).tolist()):
            pairs.insert(at + 1, (int(values[at]) + ESCAPE, 1))
        return pairs


def round_to_int(x: Tensor) -> np.ndarray:
    """Return the symbols of a tensor, int64 (n,): rounded, and clamped to what the escape holds.

    Raises NotFiniteError if the tensor is not finite.
    """
    if not x.isfinite().all():
        raise NotFiniteError("the latents are not finite")
    return x.round().clamp(-ESCAPE, ESCAPE - 1).long().numpy().ravel()


def channel_indexes(shape: tuple[int, ...]) -> np.ndarray:
    """Return the table indexes, int64 (n,), of symbols (1, C, height, width): a table a channel."""
    _, channels, height, width = shape
    return np.repeat(np.arange(channels), height * width)


def check_byte(symbols: Sequence[np.ndarray]) -> int:
    """Return a checksum, 0..255, of all symbols in coding order."""
    crc = 0
    for part in symbols:
        crc = zlib.crc32(part.astype("<i2").tobytes(), crc)
    return crc & 0xFF


def encode(intervals: list[tuple[int, int]], check: int) -> bytes:
    """Return the payload of (start, frequency) pairs, which are decoded in the same order.

    check: 0..255, what remains in the state when all are decoded.
    """
    state = FLOOR + check
    words = []
    for start, frequency in reversed(intervals):
        if state >> (2 * WORD - PRECISION) >= frequency:
            words.append((state & WORD_MASK).to_bytes(WORD_BYTES, "little"))
            state >>= WORD
        quotient, rest = divmod(state, frequency)
        state = (quotient << PRECISION) + rest + start
    return b"".join(words) + state.to_bytes((state.bit_length() + 7) // 8, "little")


class SymbolDecoder:
    """Decodes, group by group, the symbols that `encode` was given.

    data: a payload. Raises PayloadError if it is empty or padded.
    """

    def __init__(self, data: bytes) -> None:
        if not data or not data[-1]:
            raise PayloadError(f"payload of {len(data)} bytes is truncated or padded")
        # After words that were moved out, the state has WORD_BYTES + 1 to 2 * WORD_BYTES bytes.
        end = max(0, (len(data) - 1) // WORD_BYTES - 1) * WORD_BYTES
        self.words = []
        for at in range(0, end, WORD_BYTES):
            self.words.append(int.from_bytes(data[at : at + WORD_BYTES], "little"))
        self.state = int.from_bytes(data[end:], "little")
        self.parts: list[np.ndarray] = []

    def decode(self, tables: Tables, indexes: np.ndarray) -> np.ndarray:
        """Return the next values, int64 (n,), one for each table index.

        Raises PayloadError if the payload ends before them.
        """
        offsets = tables.offset.tolist()
        positions = []
        for index in indexes.tolist():
            row = tables.rows[index]
            position = self._next_position(row)
            if position + 1 == len(row):
                position = self._escaped_value() - offsets[index]
            positions.append(position)
        values = np.array(positions, dtype=np.int64) + tables.offset[indexes]
        self.parts.append(values)
        return values

    def finish(self) -> None:
        """Raise PayloadError unless the payload is used up and its checksum is right."""
        if self.words or self.state != FLOOR + check_byte(self.parts):
            raise PayloadError(
                "payload decodes to the wrong symbols: it is damaged or made by another codec"
            )

    def _next_position(self, row: list[int]) -> int:
        """Return the position of the next symbol in a table's row; the last one is the escape."""
        if self.state < FLOOR:
            raise PayloadError("payload is truncated or damaged: it ends before its symbols")
        slot = self.state & SLOT_MASK
        position = bisect_right(row, slot) - 1
        end = row[position + 1] if position + 1 < len(row) else 1 << PRECISION
        frequency = end - row[position]
        self.state = frequency * (self.state >> PRECISION) + slot - row[position]
        self._refill()
        return position

    def _escaped_value(self) -> int:
        """Return the 16-bit value that follows an escape."""
        value = (self.state & SLOT_MASK) - ESCAPE
        self.state >>= PRECISION
        self._refill()
        return value

    def _refill(self) -> None:
        """Put the next word back into the state if it has become small."""
        if self.words and not self.state >> WORD:
            self.state = (self.state << WORD) + self.words.pop()

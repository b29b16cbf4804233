"""A prompt <-> bytes: token ids as one whole number, or a text in words. Standard library only.

    python -c "import text_codec; print(text_codec.encode([320, 1125, 539], 49408).hex())"
    python -c "import text_codec; print(text_codec.encode_text('a red barn under a stormy sky').hex())"

The first bit says which. 0: ids; the bytes are one whole number, big-endian, that says how the ids are written, how
many there are, and which (`ids.py`). 1: a text; the bytes are a point in the interval that a language model gives
to it (`words.py`, `ngrams.py`, `intervals.py`). Everything is whole numbers, so both ends agree on every machine.
Every prompt has one form: encode(decode(data)) == data, and bytes that no encoder writes are refused.
"""

from collections.abc import Sequence
from typing import NamedTuple

from .ids import BITS as SUBSET_BITS
from .ids import from_number, mode_of, most_ids, to_number
from .intervals import Reader, Writer
from .words import MAX_CHARACTERS, TextError, put_text, read_text

__all__ = ["SUBSET_BITS", "Coding", "TextError", "coding", "decode", "decode_text", "encode", "encode_text", "most_ids"]

MAX_BYTES = 65535  # as many as a layer of the stream may have


class Coding(NamedTuple):
    """How a prompt is written."""

    text: bool  # in words; `decode_text` reads it
    bits: int | None = None  # ids of a sub-vocabulary of 2**bits words; None: of the whole
    ascending: bool = False  # ids in ascending order, which costs nothing then

    def __str__(self) -> str:
        if self.text:
            return "a text in words"
        of = "" if self.bits is None else f" of a sub-vocabulary of {1 << self.bits} words"
        return f"ids{of}{', ascending' if self.ascending else ''}"


def coding(data: bytes) -> Coding:
    """How the prompt in these bytes is written: what `decode` and `decode_text` need to be told."""
    if not 1 <= len(data) <= MAX_BYTES:
        raise TextError(f"{len(data)} bytes: a prompt takes 1 to {MAX_BYTES}")
    return Coding(True) if data[0] >> 7 else Coding(False, *mode_of(int.from_bytes(data, "big")))


def encode(ids: Sequence[int], vocabulary: int, subset: Sequence[int] | None = None) -> bytes:
    """Ids, each 0..vocabulary - 1, at most 256 of them -> the bytes of the shortest coding that there is.

    n ids take n log2(vocabulary) + 5.7 bits, rounded up to whole bytes: 16 of CLIP's 49,408 words 32 bytes. Ascending
    ids take log2(n!) bits less. subset: 2**k of the ids, in any order, k from 5 to 16; where all ids are among them,
    n k + 5.7 bits do. Raises TextError for ids or a subset outside these limits.
    """
    number = to_number(ids, vocabulary, subset)
    return number.to_bytes(number.bit_length() // 8 + 1, "big")


def decode(data: bytes, vocabulary: int, subset: Sequence[int] | None = None) -> list[int]:
    """The inverse of `encode`: decode(encode(ids, v, s), v, s) == ids, and the other way round.

    subset: that of 2**bits words where `coding(data).bits` asks for one; unused otherwise. Raises TextError for bytes
    that `encode` never writes.
    """
    how = coding(data)
    if how.text:
        raise TextError("these bytes hold a text, not ids")
    subset = subset if how.bits else None
    ids = from_number(int.from_bytes(data, "big"), vocabulary, subset)
    if encode(ids, vocabulary, subset) != data:
        raise TextError(f"these {len(data)} bytes hold {len(ids)} ids in a form that is never written")
    return ids


def encode_text(text: str) -> bytes:
    """A text of at most 4,096 characters, any of Unicode -> bytes; an English caption takes about 8.

    Raises TextError for a longer text, or one with half a surrogate pair.
    """
    if len(text) > MAX_CHARACTERS:
        raise TextError(f"a text of {len(text)} characters: at most {MAX_CHARACTERS} can be written")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TextError(f"character {error.start + 1} of the text is half a surrogate pair, not a character") from error
    writer = Writer()
    writer.put(1, 1, 2)
    put_text(text, writer)
    return writer.bytes()


def decode_text(data: bytes) -> str:
    """The inverse of `encode_text`. Raises TextError for bytes that it never writes."""
    if not coding(data).text:
        raise TextError("these bytes hold ids, not a text")
    reader = Reader(data)
    reader.take(1, 1, 2)
    text = read_text(reader)
    if encode_text(text) != data:
        raise TextError(f"these {len(data)} bytes hold a text in a form that is never written")
    return text

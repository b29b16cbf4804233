"""Prompt <-> bytes: token ids as one integer, or a text. Standard library only.

    python -c "import text_codec; print(text_codec.encode([320, 1125, 539], 49408).hex())"
    python -c "import text_codec; print(text_codec.encode_text('a red barn in the snow').hex())"

The first bit of the bytes says which of the two they hold.

0: token ids. The bytes are one integer, big-endian, that says how the ids are coded, how many there
   are, and which (`ids.py`).
1: a text. The bytes are a point in the interval that a language model gives to the text
   (`words.py`, `ngrams.py`, `common/arithmetic_coder.py`).

All arithmetic is on integers, so encoder and decoder agree on every machine. Every prompt has one
form: encode(decode(data)) == data, and bytes that no encoder writes are refused.
"""

from collections.abc import Sequence
from typing import NamedTuple

from common.arithmetic_coder import Reader, Writer
from text_codec.ids import BITS as SUBSET_BITS
from text_codec.ids import from_number, mode_of, most_ids, to_number
from text_codec.words import MAX_CHARACTERS, TextError, put_text, read_text

__all__ = [
    "SUBSET_BITS",
    "Coding",
    "TextError",
    "coding",
    "decode",
    "decode_text",
    "encode",
    "encode_text",
    "most_ids",
]

MAX_BYTES = 65535  # the limit of a layer of the stream


class Coding(NamedTuple):
    """How a prompt is coded."""

    text: bool  # as a text, for `decode_text`; otherwise as ids, for `decode`
    bits: int | None = None  # the ids are of a subset of 2**bits tokens; None: of all tokens
    ascending: bool = False  # the ids are in ascending order, which then costs nothing

    def __str__(self) -> str:
        if self.text:
            return "a text in words"
        name = "ids"
        if self.bits is not None:
            name += f" of the {1 << self.bits} most useful tokens"
        if self.ascending:
            name += ", ascending"
        return name


def coding(data: bytes) -> Coding:
    """Return how a prompt is coded, which says what decodes it. Raises TextError for a bad size."""
    if not 1 <= len(data) <= MAX_BYTES:
        raise TextError(f"{len(data)} bytes: a prompt takes 1 to {MAX_BYTES}")
    if data[0] >> 7:
        return Coding(True)
    return Coding(False, *mode_of(int.from_bytes(data, "big")))


def encode(ids: Sequence[int], vocab_size: int, subset: Sequence[int] | None = None) -> bytes:
    """Return the shortest payload of token ids: at most 256, each in 0..vocab_size - 1.

    n ids take n log2(vocab_size) + 5.7 bits, rounded up to bytes: 16 of CLIP's 49,408 tokens take
    32 bytes. Ascending ids take log2(n!) bits less.

    subset: 2**k different ids in any order, k from 5 to 16. If it holds all of `ids`, they take
    n k + 5.7 bits.

    Raises TextError for ids or a subset outside these limits.
    """
    number = to_number(ids, vocab_size, subset)
    return number.to_bytes(number.bit_length() // 8 + 1, "big")


def decode(data: bytes, vocab_size: int, subset: Sequence[int] | None = None) -> list[int]:
    """Return the token ids of a payload; the inverse of `encode`, in both directions.

    subset: the one of 2**bits tokens if `coding(data).bits` asks for one, otherwise unused. Raises
    TextError for bytes that `encode` never writes.
    """
    how = coding(data)
    if how.text:
        raise TextError("these bytes hold a text, not ids")
    if how.bits is None:
        subset = None
    ids = from_number(int.from_bytes(data, "big"), vocab_size, subset)
    if encode(ids, vocab_size, subset) != data:
        raise TextError(
            f"these {len(data)} bytes hold {len(ids)} ids in a form that is never written"
        )
    return ids


def encode_text(text: str) -> bytes:
    """Return the payload of a text of at most 4,096 characters of Unicode.

    An English caption takes about 8 bytes. Raises TextError for a longer text, or one with half a
    surrogate pair.
    """
    if len(text) > MAX_CHARACTERS:
        raise TextError(
            f"a text of {len(text)} characters: at most {MAX_CHARACTERS} can be written"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TextError(
            f"character {error.start + 1} of the text is half a surrogate pair, not a character"
        ) from error
    writer = Writer()
    writer.put(1, 1, 2)
    put_text(text, writer)
    return writer.bytes()


def decode_text(data: bytes) -> str:
    """Return the text of a payload. Raises TextError for bytes that `encode_text` never writes."""
    if not coding(data).text:
        raise TextError("these bytes hold ids, not a text")
    reader = Reader(data)
    reader.take(1, 1, 2)
    text = read_text(reader)
    if encode_text(text) != data:
        raise TextError(f"these {len(data)} bytes hold a text in a form that is never written")
    return text

"""Token ids <-> bytes: the ids of a prompt as one whole number in base V. Standard library only.

    python -c "import text_codec; print(text_codec.encode([320, 1125, 539], 49408).hex())"

n ids of a vocabulary of V words are the digits of a number below V**n, first id first. It is written
big-endian in L(n) bytes, the smallest L with 256**L >= V**n: n log2 V bits, rounded up to whole bytes. 16 ids
of CLIP's 49,408 words take 32 bytes, 16 ids of 2,048 words 22.

How many ids there are is not written, since for V > 256 the number of bytes says it: L increases strictly.
Proof: suppose L(n + 1) <= L(n) and write L for L(n). Then 256**L >= V**(n + 1), so
256**(L - 1) >= V**n * V / 256 > V**n, and L - 1 bytes would do for n ids, though L is the smallest that does.
"""

from collections.abc import Sequence
from operator import index

MAX_IDS = 1024


class TextError(ValueError):
    """Ids that cannot be written, or bytes that are no ids of this vocabulary; one line says why."""


def encode(ids: Sequence[int], vocabulary: int) -> bytes:
    """Ids, each 0..vocabulary - 1, at most 1024 of them -> ceil(n log2(vocabulary) / 8) bytes.

    Raises TextError for ids outside these limits, ValueError for a vocabulary of 256 words or fewer.
    """
    _check_vocabulary(vocabulary)
    if len(ids) > MAX_IDS:
        raise TextError(f"{len(ids)} ids: at most {MAX_IDS} can be written")
    number = 0
    for id_ in map(index, ids):  # numpy's integers would overflow
        if not 0 <= id_ < vocabulary:
            raise TextError(f"id {id_} is outside the vocabulary of {vocabulary} words")
        number = number * vocabulary + id_
    return number.to_bytes(_bytes_for(len(ids), vocabulary), "big")


def decode(data: bytes, vocabulary: int) -> list[int]:
    """The inverse of `encode`: decode(encode(ids, v), v) == ids and encode(decode(data, v), v) == data.

    Raises TextError for bytes that `encode` never writes, ValueError for a vocabulary of 256 words or fewer.
    """
    _check_vocabulary(vocabulary)
    count = _ids_in(len(data), vocabulary)
    number = int.from_bytes(data, "big")
    ids = []
    for _ in range(count):
        number, id_ = divmod(number, vocabulary)
        ids.append(id_)
    if number:
        raise TextError(f"these {len(data)} bytes are no {count} ids of a vocabulary of {vocabulary} words")
    return ids[::-1]


def _check_vocabulary(vocabulary: int) -> None:
    if vocabulary <= 256:
        raise ValueError(f"a vocabulary of {vocabulary} words: the coding needs more than 256")


def _bytes_for(count: int, vocabulary: int) -> int:
    """L(count): the smallest L with 256**L >= vocabulary**count."""
    return ((vocabulary**count - 1).bit_length() + 7) // 8


def _ids_in(size: int, vocabulary: int) -> int:
    """The one count with L(count) == size; TextError where there is none up to 1024."""
    if size > _bytes_for(MAX_IDS, vocabulary):
        raise TextError(f"{size} bytes are more than {MAX_IDS} ids of {vocabulary} words take")
    count = 8 * size // vocabulary.bit_length()  # at most the count sought, since vocabulary < 2**bit_length
    while _bytes_for(count, vocabulary) < size:
        count += 1
    if _bytes_for(count, vocabulary) != size:
        raise TextError(f"no number of ids of a vocabulary of {vocabulary} words takes {size} bytes")
    return count

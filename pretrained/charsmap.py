"""The character maps of tokenizers, which T5's tokenizer.json has: whether one is whole.

    check_charsmap("ALQCAACE...")

A map is a trie of byte strings, a double array as darts-clone makes it, with the texts that they
become. The tokenizers library trusts every number of it, and one that leads outside of the array
ends the process. Here all of them are followed first.

Sources: sentencepiece's normalizer.cc (the layout) and darts-clone's darts.h (its units).
"""

import base64

import numpy as np

SIZE_BYTES = 4  # of the trie's number of bytes, at the beginning
UNIT_BYTES = 4
LEAF = 1 << 31  # of a unit: the rest is a position in the texts
HAS_LEAF = 1 << 8  # of another unit: a string ends here, and the leaf is at its offset
FAR = 1 << 9  # of another unit: its offset is in steps of 256
OFFSET = 10  # bits before the offset
LAST_BYTE = 255


def check_charsmap(encoded: object) -> None:
    """Raise ValueError unless a map, in base64, can be followed from any string."""
    try:
        data = base64.b64decode(encoded, validate=True)
    except (TypeError, ValueError):
        raise ValueError("its map is not base64") from None
    size = int.from_bytes(data[:SIZE_BYTES], "little")
    texts = data[SIZE_BYTES + size :]
    if size == 0 or size % UNIT_BYTES or not texts.endswith(b"\0"):
        raise ValueError("its map is cut")
    texts.decode()
    units = np.frombuffer(data, "<u4", size // UNIT_BYTES, offset=SIZE_BYTES)
    _check_units(units, np.frombuffer(texts, np.uint8))


def _check_units(units: np.ndarray, texts: np.ndarray) -> None:
    """Raise ValueError if a unit leads outside of the units or into the middle of a character."""
    places = np.arange(len(units), dtype=np.uint64)
    inner = units < LEAF
    steps = np.where(units & FAR, np.uint64(8), np.uint64(0))
    targets = places ^ ((units >> OFFSET).astype(np.uint64) << steps)
    if np.any(targets[inner] | LAST_BYTE >= len(units)):
        raise ValueError("its map leads outside of itself")
    ends = targets[inner & (units & HAS_LEAF != 0)].astype(np.int64)
    if np.any(units[ends] < LEAF):
        raise ValueError("its map has a string that becomes nothing")
    positions = units[~inner] & np.uint32(LEAF - 1)
    if np.any(positions >= len(texts)) or np.any(texts[positions] & 0xC0 == 0x80):
        raise ValueError("its map has a text that is not there")

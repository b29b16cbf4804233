"""Count the language model that codes prompts as texts: `text_codec/captions.bin`.

    python -m tiny.train_text --captions captions.txt.gz

The file has one caption in each line. A fixed fraction is held out by hash. The last line on stdout
is JSON: the mean bytes of 1,000 held-out captions, coded with this model and as zlib, raw deflate
and token ids of fixed length. The model holds words and rounded counts of n-grams.
"""

import argparse
import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

import text_codec
from common.files import write
from presets import BUNDLE
from text_codec import words
from text_codec.ngrams import MASSES, Level, NGrams
from tiny.data import is_validation

RARE = 4  # words seen less often are spelled
# For each length, the least count (in contexts) of an n-gram that is kept.
WORD_KEPT = (1, 1, 2, 3)
LETTER_KEPT = (1, 1, 1, 1, 1)
SCALE = 16  # of counts, so that discounted counts can be rounded
# Lengths of artificial words of bytes above 127, which the captions do not have.
BYTE_RUNS = range(2, 13)
MEASURED = 1000  # held-out captions


class Counted(NamedTuple):
    """The n-grams of one length."""

    keys: np.ndarray  # int64, ascending: numbers in base `symbols`, oldest symbol first
    counts: np.ndarray  # int64


def train(captions: Sequence[str]) -> words.Model:
    """Return the model of words and letters of these captions."""
    texts = [words.tokens(caption) for caption in captions]
    counts = Counter(chain.from_iterable(texts))
    vocabulary = list(words.FIRST_WORDS)
    for word, number in counts.most_common():
        if number >= RARE and word not in words.FIRST_WORDS:
            vocabulary.append(word)
    symbols = {word: symbol for symbol, word in enumerate(vocabulary)}
    coded = [word_symbols(tokens, symbols) for tokens in texts]
    spelled = []
    for word in counts:
        if word not in words.FIRST_WORDS:
            spelled.append(words.letter_symbols(word.lstrip(" ")))
    for run in BYTE_RUNS:
        spelled.append([words.BYTE] * run)
    return words.Model(
        vocabulary,
        count(coded, len(vocabulary), WORD_KEPT),
        count(spelled, words.BYTE + 1, LETTER_KEPT),
    )


def word_symbols(tokens: Sequence[str], symbols: dict[str, int]) -> list[int]:
    """Return the symbols of a text's tokens."""
    found = []
    for token in tokens:
        unknown = words.SPACE_UNKNOWN if token[0] == " " else words.UNKNOWN
        found.append(symbols.get(token, unknown))
    return found


# ---- n-grams


def count(texts: Sequence[Sequence[int]], symbols: int, kept: Sequence[int]) -> NGrams:
    """Return interpolated Kneser-Ney n-grams, with discounts for counts of 1, 2 and more.

    symbols: number of symbols. kept: for each length, the least count of an n-gram that is kept;
    the contexts of these are kept too.
    """
    seen = ngrams_in(texts, symbols, len(kept))
    counted = [contexts_before(length, seen, symbols) for length in range(1, len(kept) + 1)]
    # Keys that are kept, from the longest n-grams to single symbols; after them, an empty end.
    entries = [np.zeros(0, np.int64)]
    for (keys, counts), least in zip(reversed(counted), reversed(kept), strict=True):
        entries.insert(0, np.union1d(keys[counts >= least], entries[0] // symbols))
    entries[0] = np.arange(symbols)
    masses = list(map(mass, entries, counted))  # the empty end has none
    masses[0] = np.maximum(masses[0], 1)  # any symbol may come
    levels = []
    for n in range(len(kept)):
        levels.append(level(n, entries, masses, counted, symbols))
    return NGrams(levels)


def ngrams_in(texts: Sequence[Sequence[int]], symbols: int, order: int) -> list[Counted]:
    """Return the n-grams of each length up to `order` that end at a symbol or the end of a text.

    Texts are padded with 0 before their beginning.
    """
    stream, is_coded = [], []
    for text in texts:
        stream.append([*[0] * (order - 1), *text, 0])
        is_coded.append([False] * (order - 1) + [True] * (len(text) + 1))
    stream = np.concatenate(stream)
    ends = np.flatnonzero(np.concatenate(is_coded))
    seen = []
    keys = np.int64(0)
    for length in range(1, order + 1):
        keys = keys + stream[ends - length + 1] * np.int64(symbols) ** (length - 1)
        seen.append(Counted(*np.unique(keys, return_counts=True)))
    return seen


def contexts_before(length: int, seen: Sequence[Counted], symbols: int) -> Counted:
    """Return the n-grams of a length with Kneser-Ney's counts: of different symbols before each.

    The longest n-grams, and those that begin before the text does, keep their plain counts.
    """
    keys, counts = seen[length - 1]
    if length == len(seen):
        return Counted(keys, counts)
    without_oldest = seen[length].keys % symbols**length
    _, before = np.unique(without_oldest, return_counts=True)  # of the same keys, in their order
    begins_before = (length > 1) & (keys < symbols ** (length - 1))
    return Counted(keys, np.where(begins_before, counts, before))


def mass(entries: np.ndarray, counted: Counted) -> np.ndarray:
    """Return indices of MASSES for SCALE * (count - discount).

    entries: keys; the index is 0 for those that are only contexts.
    """
    keys, counts = counted
    times_counted = np.bincount(counts, minlength=5)
    one, two, three, four = np.maximum(1, times_counted[1:5]).tolist()
    ratio = one / (one + 2 * two)
    discounts = np.array(
        [0, 1 - 2 * ratio * two / one, 2 - 3 * ratio * three / two, 3 - 4 * ratio * four / three]
    )
    discounts = np.clip(discounts, 0, np.arange(4) * 0.9)
    discounted = counts - discounts[np.minimum(counts, 3)]
    position = np.minimum(np.searchsorted(keys, entries), len(keys) - 1)
    return np.where(keys[position] == entries, rounded(SCALE * discounted)[position], 0)


def rounded(numbers: np.ndarray) -> np.ndarray:
    """Return the indices of the nearest entries of MASSES, except its first, 0."""
    steps = np.array(MASSES, np.float64)
    return 1 + np.searchsorted((steps[1:-1] + steps[2:]) / 2, numbers)


def level(n: int, entries: Sequence, masses: Sequence, counted: Sequence, symbols: int) -> Level:
    """Return the table of the n-grams of length n + 1.

    entries, masses: keys and masses for each length. counted: of `contexts_before`, for each.
    """
    keys = entries[n]
    children = np.zeros(len(keys), np.int64)
    backoff = np.zeros(len(keys), np.int64)
    if n + 1 < len(counted):
        parents = np.searchsorted(keys, entries[n + 1] // symbols)
        children = np.bincount(parents, minlength=len(keys))
        weights = np.array(MASSES)[masses[n + 1]].astype(np.float64)
        taken = np.bincount(parents, weights, minlength=len(keys))
        total = followers(keys, counted[n + 1], symbols)
        backoff = rounded(np.maximum(SCALE * total - taken, 0))
    backoff = np.where(children > 0, backoff, 0)
    return Level(
        (keys % symbols).tolist(),
        bytes(masses[n].tolist()),
        bytes(backoff.tolist()),
        children.tolist(),
    )


def followers(keys: np.ndarray, counted: Counted, symbols: int) -> np.ndarray:
    """Return for each key the sum of the counts of the n-grams that begin with it."""
    contexts = counted.keys // symbols
    parents = np.minimum(np.searchsorted(keys, contexts), len(keys) - 1)
    known = keys[parents] == contexts
    return np.bincount(parents[known], counted.counts[known], minlength=len(keys))


# ---- results


def sizes(captions: Sequence[str], ids_of: dict[str, Callable]) -> dict[str, float]:
    """Return the mean bytes of a caption as text and in other ways.

    ids_of: {name: function of a caption -> bytes}, more ways.
    """
    for caption in captions:
        if text_codec.decode_text(text_codec.encode_text(caption)) != caption:
            raise SystemExit(f"not coded exactly: {caption}")
    deflate = {"level": 9, "wbits": -15}
    ways = {
        "words": lambda caption: len(text_codec.encode_text(caption)),
        "characters": len,
        "zlib": lambda caption: len(zlib.compress(caption.encode(), 9)),
        "raw deflate": lambda caption: len(zlib.compress(caption.encode(), **deflate)),
        **ids_of,
    }
    means = {}
    for name, way in ways.items():
        total = sum(map(way, captions))
        means[name] = round(total / len(captions), 3)
    return means


def id_sizes() -> dict[str, Callable[[str], int]]:
    """Return functions of a caption -> bytes as token ids of fixed length.

    One is for the bundled vocabulary. The other is the least for any vocabulary of 49,408 tokens: a
    tokenizer of CLIP's kind splits at spaces and punctuation marks, so it has at least a token for
    each run of letters or marks.
    """
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(BUNDLE / "clip")

    def bundled(caption: str) -> int:
        return (11 * len(tokenizer(caption, add_special_tokens=False).input_ids) + 7) // 8

    def clip(caption: str) -> int:
        runs = len(re.findall(r"'s|'t|'re|'ve|'m|'ll|'d|[a-z]+|[0-9]|[^\sa-z0-9]+", caption))
        return ((49408**runs - 1).bit_length() + 7) // 8

    return {"2,048 ids": bundled, "49,408 ids, at least": clip}


def main(argv: list[str] | None = None) -> None:
    """Count, write the model, and print what held-out captions take."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--captions", type=Path, required=True, help="gzip file with one caption in each line")
    add("--out", type=Path, default=words.MODEL, help="file of the model")
    args = parser.parse_args(argv)
    training, held_out = [], []
    for caption in gzip.decompress(args.captions.read_bytes()).decode().splitlines():
        part = held_out if is_validation(caption) else training
        part.append(caption)
    write(args.out, words.model_to_bytes(train(training)))
    held_out = held_out[:MEASURED]
    summary = {
        "captions": len(held_out),
        "file": args.out.stat().st_size,
        "mean bytes": sizes(held_out, id_sizes()),
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()

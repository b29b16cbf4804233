"""Count the language model that codes prompts in words: `text_codec/captions.bin`, from a file of captions.

    python -m tiny.train_text --captions captions.txt.gz

One caption a line. A fixed share is held out by hash; the last line on stdout says, as JSON, what 1,000 of those
take, beside zlib, raw deflate and fixed-length ids. The file holds words and rounded counts of n-grams.
"""

import argparse
import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import text_codec
from presets import BUNDLE
from text_codec import words
from text_codec.ngrams import MASSES, Level, NGrams
from tiny.data import is_validation

RARE = 4  # words seen less often are spelled
WORD_KEPT = (1, 1, 2, 3)  # n-grams of words seen less often (in as many contexts) are left out
LETTER_KEPT = (1, 1, 1, 1, 1)
SCALE = 16  # of counts, so that discounts are whole enough
BYTE_RUNS = range(2, 13)  # lengths of made-up words of bytes above 127, which the captions do not have


def train(captions: Sequence[str]) -> words.Model:
    """Count words and letters."""
    cut = [words.tokens(caption) for caption in captions]
    counts = Counter(token for tokens in cut for token in tokens)
    known = [word for word, count in counts.most_common() if count >= RARE and word not in words.FIRST_WORDS]
    vocabulary = [*words.FIRST_WORDS, *known]
    symbols = {word: symbol for symbol, word in enumerate(vocabulary)}
    unknown = (words.UNKNOWN, words.SPACE_UNKNOWN)
    texts = [[symbols.get(token, unknown[token[0] == " "]) for token in tokens] for tokens in cut]
    spelled = [word.lstrip(" ") for word in counts if word not in words.FIRST_WORDS]
    letters = [words.letter_symbols(word) for word in spelled] + [[words.BYTE] * run for run in BYTE_RUNS]
    return words.Model(
        vocabulary, count(texts, len(vocabulary), WORD_KEPT), count(letters, words.BYTE + 1, LETTER_KEPT)
    )


def count(texts: Sequence[Sequence[int]], symbols: int, kept: Sequence[int]) -> NGrams:
    """Interpolated Kneser-Ney n-grams up to length len(kept), with discounts for counts of 1, 2 and more.

    kept: for each length, the least count of an n-gram of it that is kept; contexts of kept ones are kept too.
    """
    order = len(kept)
    stream = np.concatenate([[*[0] * (order - 1), *text, 0] for text in texts])
    coded = np.concatenate([[False] * (order - 1) + [True] * (len(text) + 1) for text in texts])
    ends, keys = coded.nonzero()[0], np.int64(0)  # an n-gram's key is a number in base `symbols`, oldest symbol first
    seen = []  # for each length: keys, ascending, and counts
    for length in range(1, order + 1):
        keys = keys + stream[ends - length + 1] * np.int64(symbols) ** (length - 1)
        seen.append(np.unique(keys, return_counts=True))
    counted = [(keys, contexts_before(n, seen, symbols)) for n, (keys, _) in enumerate(seen, start=1)]
    entries = [np.zeros(0, np.int64)]  # keys that are kept, from the longest to single symbols; behind them none
    for (keys, counts), least in zip(counted[::-1], kept[::-1], strict=True):
        entries.insert(0, np.union1d(keys[counts >= least], entries[0] // symbols))
    entries[0] = np.arange(symbols)
    masses = [mass(kept, *pair) for kept, pair in zip(entries, counted, strict=False)]
    masses[0] = np.maximum(masses[0], 1)  # any symbol may come
    return NGrams([level(n, entries, masses, counted, symbols) for n in range(order)])


def contexts_before(length: int, seen: Sequence[tuple], symbols: int) -> np.ndarray:
    """Before how many different symbols each n-gram was seen, Kneser-Ney's count for all but the longest.

    Plain counts for the longest, and for those that begin before the text does.
    """
    keys, counts = seen[length - 1]
    if length == len(seen):
        return counts
    _, before = np.unique(seen[length][0] % symbols**length, return_counts=True)  # of the same keys, in their order
    return np.where((length > 1) & (keys < symbols ** (length - 1)), counts, before)


def mass(entries: np.ndarray, keys: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Indices of MASSES for SCALE * (count - discount) of each entry; 0 for those that are contexts only."""
    one, two, three, four = (max(1, int((counts == n).sum())) for n in range(1, 5))
    share = one / (one + 2 * two)
    discounts = np.array([0, 1 - 2 * share * two / one, 2 - 3 * share * three / two, 3 - 4 * share * four / three])
    discounted = counts - np.clip(discounts, 0, np.arange(4) * 0.9)[np.minimum(counts, 3)]
    place = np.minimum(np.searchsorted(keys, entries), len(keys) - 1)
    return np.where(keys[place] == entries, rounded(SCALE * discounted)[place], 0)


def rounded(numbers: np.ndarray) -> np.ndarray:
    """Indices of the entries of MASSES, from the first that is not 0, that come nearest."""
    steps = np.array(MASSES, np.float64)
    return 1 + np.searchsorted((steps[1:-1] + steps[2:]) / 2, numbers)


def level(n: int, entries: Sequence, masses: Sequence, counted: Sequence, symbols: int) -> Level:
    """The table of the n-grams of length n + 1."""
    keys, children = entries[n], np.zeros(len(entries[n]), np.int64)
    backoff = np.zeros(len(keys), np.int64)
    if n + 1 < len(counted):
        children = np.bincount(np.searchsorted(keys, entries[n + 1] // symbols), minlength=len(keys))
        taken = np.bincount(
            np.searchsorted(keys, entries[n + 1] // symbols),
            np.array(MASSES)[masses[n + 1]].astype(np.float64),
            minlength=len(keys),
        )
        followers, counts = counted[n + 1]
        parents = np.minimum(np.searchsorted(keys, followers // symbols), len(keys) - 1)
        known = keys[parents] == followers // symbols
        total = np.bincount(parents[known], counts[known], minlength=len(keys))
        backoff = rounded(np.maximum(SCALE * total - taken, 0))
    backoff = np.where(children > 0, backoff, 0)
    return Level((keys % symbols).tolist(), bytes(masses[n].tolist()), bytes(backoff.tolist()), children.tolist())


def sizes(captions: Sequence[str], ids_of: dict) -> dict[str, float]:
    """Mean bytes of a caption in words, and in other ways."""
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
    return {name: round(sum(map(way, captions)) / len(captions), 3) for name, way in ways.items()}


def id_sizes() -> dict:
    """Bytes of fixed-length ids: of the bundled vocabulary, and the fewest of any of 49,408 words.

    A tokenizer of CLIP's kind cuts at spaces and punctuation marks, so it has at least a token for each run of letters
    or marks.
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=Path, required=True, help="a caption a line, .gz")
    parser.add_argument("--out", type=Path, default=words.MODEL)
    args = parser.parse_args(argv)
    captions = gzip.decompress(args.captions.read_bytes()).decode().splitlines()
    model = train([caption for caption in captions if not is_validation(caption)])
    args.out.write_bytes(words.model_to_bytes(model))
    held_out = [caption for caption in captions if is_validation(caption)][:1000]
    print(
        json.dumps(
            {"captions": len(held_out), "file": args.out.stat().st_size, "mean bytes": sizes(held_out, id_sizes())}
        )
    )


if __name__ == "__main__":
    main()

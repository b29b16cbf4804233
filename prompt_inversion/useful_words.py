"""The ranking of a vocabulary's tokens that `token_subset` reads: those that prompts use most.

    python -m prompt_inversion.useful_words --data_root PHOTOS --clip FOLDER --words words.txt
    python -m prompt_inversion.useful_words --captions captions.txt.gz --clip FOLDER

Prompts of the images are searched, the half of the tokens that they use most often is kept, and
again among those, down to 32 tokens; the tokens that stay longest come first. `--words` restricts
the tokens to whole words that the CLIP knows; tiny/train_clip.py writes such a list. That of the
bundled CLIP was made with BSDS500's 200 training photographs (four minutes on one core).

The ranking is written to text_codec/useful_words.json, under a hash of the tokenizer's vocabulary.
Files refer to it: an entry must never change.

Without the weights of a CLIP, `--captions` ranks the whole words of CLIP's own vocabulary of 49,408
tokens (`--clip`: its tokenizer's folder): by turns the words of the rankings that searches have
found, and the most frequent words of the captions; words that show nothing are left out. On the
bundled CLIP and 24 of BSDS500's test images, 256 words in this order have a mean cosine of 0.887
after 100 steps, those of its own ranking 0.885, the most frequent ones 0.880. They are written to
text_codec/clip_words.txt. A search among them with a CLIP on a GPU (`--words
text_codec/clip_words.txt --device cuda`) then finds a better order of the first 1,024.
"""

import argparse
import gzip
import json
import re
import sys
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from itertools import chain, zip_longest
from pathlib import Path

from transformers.utils import logging as transformers_logging

from common.weights import UnavailableError
from pretrained.model_folders import clip_tokenizer, quietly
from prompt_inversion.clip import Clip
from text_codec.vocabulary import (
    CLIP_VOCABULARY,
    CLIP_WORDS,
    RANKINGS,
    SHORTEST_WORD,
    name_of,
    rankings,
)

FEWEST, MOST = 5, 10  # bits of the smallest and of the largest token subset that is ranked
LENGTH = 24  # tokens of the searched prompts
STEPS = 150  # of the searches
SHORT_SIDE = 256  # of the images, pixels; CLIP sees them smaller
MOST_WORDS = 1 << 12  # of captions
# Written for this purpose: frequent words of captions that say nothing about a picture by itself.
SHOW_NOTHING = """
a an the of in on at to and or but with while is are was were be being been as for by from that this
these those it its he she his her him they them their there who which what where when into onto up
down out off over under through about after before all some any each other another one has have had
do does doing not no so than very just like near next along around during using
"""


def ranking(targets, clip: Clip, tokens: list[int]) -> list[int]:
    """Return at most 2**MOST of the ids `tokens`, most useful first, for image features (n, d)."""
    from prompt_inversion.search import PromptConfig, search

    ranked = []
    most = min(MOST, (len(tokens) - 1).bit_length() - 1)
    for bits in range(most, FEWEST - 1, -1):
        config = PromptConfig(
            length=min(LENGTH, clip.longest_prompt),
            steps=STEPS,
            ascending=True,
            allowed=tuple(tokens),
        )
        counts = Counter(dict.fromkeys(tokens, 0))
        for prompt in search(targets, clip, config):
            counts.update(prompt.ids)
        by_count = [token for token, _ in counts.most_common()]
        tokens = by_count[: 1 << bits]
        ranked = by_count[1 << bits :] + ranked
    return (tokens + ranked)[: 1 << MOST]


def ranking_of_words(
    captions: Iterable[str], searched: Iterable[str], vocabulary: Container[str]
) -> list[str]:
    """Return at most MOST_WORDS whole words of a vocabulary, most useful first.

    They are taken in turn from `searched`, words that searches found useful, and from the words of
    the captions by their frequency, without those that show nothing.
    """
    counts: Counter[str] = Counter()
    for caption in captions:
        counts.update(re.findall("[a-z]+", caption.lower()))
    for word in SHOW_NOTHING.split():
        del counts[word]
    frequent = [word for word, _ in counts.most_common()]
    ranked = []
    for word in dict.fromkeys(chain.from_iterable(zip_longest(searched, frequent, fillvalue=""))):
        if len(word) >= SHORTEST_WORD and f"{word}</w>" in vocabulary:
            ranked.append(word)
    return ranked[:MOST_WORDS]


@quietly(transformers_logging)
def load_tokenizer(folder: str):
    """Return the CLIPTokenizer of a folder. Raises ValueError."""
    return clip_tokenizer(folder)


def searched_words() -> list[str]:
    """Return the whole words of the bundled CLIP's ranking, most useful first."""
    from presets import PRESETS

    tokenizer = load_tokenizer(PRESETS["tiny"].clip[0])
    tokens = tokenizer.convert_ids_to_tokens(rankings()[name_of(tokenizer)])
    return [token.removesuffix("</w>") for token in tokens]


def ids_of(words: Sequence[str], clip: Clip) -> list[int]:
    """Return the ids of whole words. Raises ValueError for one that is not in the vocabulary."""
    vocabulary = clip.tokenizer.get_vocab()
    unknown = [word for word in words if f"{word}</w>" not in vocabulary]
    if unknown:
        raise ValueError(
            f"{unknown[0]!r} is no word of this vocabulary, nor are {len(unknown) - 1} others"
        )
    return sorted(vocabulary[f"{word}</w>"] for word in words)


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the parsed flags; wrong ones end the program with status 2."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    learned_from = parser.add_mutually_exclusive_group(required=True)
    learned_from.add_argument(
        "--data_root", help="images to learn from; not those to be measured on"
    )
    learned_from.add_argument(
        "--captions", type=Path, help="gzip file with one caption in each line, to learn from"
    )
    parser.add_argument("--clip", help="a folder or a hub id (default: the bundled one)")
    parser.add_argument(
        "--words", type=Path, help="file of words to choose from, one a line (default: all tokens)"
    )
    parser.add_argument("--device", default="cpu", help="where the CLIP runs (default: cpu)")
    args = parser.parse_args(argv)
    if args.captions and not args.clip:
        parser.error("--captions needs --clip, the folder of the tokenizer whose words are ranked")
    return args


def rank_tokens(args: argparse.Namespace) -> int:
    """Rank the tokens of a CLIP by searches and add the ranking to the file."""
    from dataloaders import load_samples
    from presets import PRESETS
    from prompt_inversion.clip import load_clip

    clip = load_clip(args.clip or PRESETS["tiny"].clip, args.device)
    name = name_of(clip.tokenizer)
    known = dict(rankings())
    if name in known:
        print(
            f"{RANKINGS} has this vocabulary already; as files may depend on it, it stays as it is",
            file=sys.stderr,
        )
        return 0
    samples = load_samples(args.data_root, None, SHORT_SIDE)
    targets = clip.image_features([samples[i].image for i in range(len(samples.names))])
    tokens = clip.printable.tolist()
    if args.words:
        tokens = ids_of(args.words.read_text(encoding="utf-8").split(), clip) or tokens
    known[name] = ranking(targets, clip, tokens)
    RANKINGS.write_text(json.dumps(known) + "\n", encoding="utf-8")
    first = clip.decode(known[name][:32])
    print(f"{len(known[name])} words from {len(targets)} photographs: {first} ...")
    return 0


def rank_words(args: argparse.Namespace) -> int:
    """Rank the whole words of CLIP's vocabulary by captions and write the file of them."""
    tokenizer = load_tokenizer(args.clip)
    if name_of(tokenizer) != CLIP_VOCABULARY:
        raise ValueError(f"{args.clip} has another vocabulary than CLIP's own")
    if CLIP_WORDS.exists():
        print(f"{CLIP_WORDS} is there; as files may depend on it, it stays", file=sys.stderr)
        return 0
    with gzip.open(args.captions, "rt", encoding="utf-8") as captions:
        words = ranking_of_words(captions, searched_words(), tokenizer.get_vocab())
    CLIP_WORDS.write_text("\n".join(words) + "\n", encoding="ascii")
    print(f"{len(words)} words: {' '.join(words[:32])} ...")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Rank the tokens of a vocabulary; return the exit status."""
    args = parse_args(argv)
    try:
        return rank_words(args) if args.captions else rank_tokens(args)
    except (OSError, ValueError, UnavailableError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())

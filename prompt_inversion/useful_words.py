"""The ranking of a vocabulary's tokens that `token_subset` reads: those that prompts use most.

    python -m prompt_inversion.useful_words --data_root PHOTOS --clip FOLDER --words words.txt

Prompts of the images are searched, the half of the tokens that they use most often is kept, and
again among those, down to 32 tokens; the tokens that stay longest come first. `--words` restricts
the tokens to whole words that the CLIP knows; tiny/train_clip.py writes such a list. That of the
bundled CLIP was made with BSDS500's 200 training photographs (four minutes on one core).

The ranking is written to text_codec/useful_words.json, under a hash of the tokenizer's vocabulary.
Files refer to it: an entry must never change.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from prompt_inversion.clip import Clip
from text_codec.vocabulary import RANKINGS, name_of, rankings

FEWEST, MOST = 5, 10  # bits of the smallest and of the largest token subset that is ranked
LENGTH = 24  # tokens of the searched prompts
STEPS = 150  # of the searches
SHORT_SIDE = 256  # of the images, pixels; CLIP sees them smaller


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


def ids_of(words: Sequence[str], clip: Clip) -> list[int]:
    """Return the ids of whole words. Raises ValueError for one that is not in the vocabulary."""
    vocabulary = clip.tokenizer.get_vocab()
    unknown = [word for word in words if f"{word}</w>" not in vocabulary]
    if unknown:
        raise ValueError(
            f"{unknown[0]!r} is no word of this vocabulary, nor are {len(unknown) - 1} others"
        )
    return sorted(vocabulary[f"{word}</w>"] for word in words)


def main(argv: Sequence[str] | None = None) -> int:
    """Rank the tokens of a CLIP and add the ranking to the file; return the exit status."""
    from dataloaders import load_samples
    from presets import PRESETS
    from prompt_inversion.clip import load_clip

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data_root", required=True, help="images to learn from; not those to be measured on"
    )
    parser.add_argument("--clip", help="a folder or a hub id (default: the bundled one)")
    parser.add_argument(
        "--words", type=Path, help="file of words to choose from, one a line (default: all tokens)"
    )
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(argv)

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


if __name__ == "__main__":
    sys.exit(main())

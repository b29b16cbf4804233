"""Which words of a vocabulary are worth a short code: make the ranking that `sub_vocabulary` reads.

    python -m prompt_inversion.useful_words --data_root PHOTOS --clip FOLDER --words words.txt

Prompts of the photographs are searched, the half of the words that they use most often is kept, and again within that,
down to 32 words; the words that stay longest come first. `--words` restricts them, to whole words that the CLIP knows
for example: tiny/train_clip.py writes such a list. That of the bundled CLIP is of BSDS500's 200 training photographs
(four minutes on one core). The ranking is written to useful_words.json beside this file,
under the digest of the tokenizer's vocabulary. Files already written refer to it: an entry must never change.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from prompt_inversion.clip import Clip
from prompt_inversion.words import RANKINGS, digest, rankings

FEWEST, MOST = 5, 10  # bits of the smallest and of the largest sub-vocabulary that is ranked
SHORT_SIDE = 256  # of the photographs, pixels; CLIP sees them smaller


def ranking(targets, clip: Clip, words: list[int]) -> list[int]:
    """At most 2**MOST of the ids `words`, most useful first, for features (n, d) of photographs."""
    from prompt_inversion.search import PromptConfig, search

    ranked = []
    most = min(MOST, (len(words) - 1).bit_length() - 1)
    for bits in range(most, FEWEST - 1, -1):
        counts = Counter(dict.fromkeys(words, 0))
        config = PromptConfig(length=min(24, clip.longest_prompt), steps=150, ascending=True, allowed=tuple(words))
        for prompt in search(targets, clip, config):
            counts.update(prompt.ids)
        words = [word for word, _ in counts.most_common()]
        ranked, words = words[1 << bits :] + ranked, words[: 1 << bits]
    return (words + ranked)[: 1 << MOST]


def ids_of(names: Sequence[str], clip: Clip) -> list[int]:
    """The ids of whole words; ValueError for one that the vocabulary does not have."""
    vocabulary = clip.tokenizer.get_vocab()
    if unknown := [name for name in names if f"{name}</w>" not in vocabulary]:
        raise ValueError(f"{unknown[0]!r} is no word of this vocabulary, nor are {len(unknown) - 1} others")
    return sorted(vocabulary[f"{name}</w>"] for name in names)


def main(argv: Sequence[str] | None = None) -> int:
    """Rank the words of a CLIP and add them to the file."""
    import json

    from dataloaders import load_samples
    from presets import PRESETS
    from prompt_inversion.clip import load_clip

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_root", required=True, help="photographs to learn from; not those to be measured on")
    parser.add_argument("--clip", help="a folder or a hub id (default: the bundled one)")
    parser.add_argument("--words", type=Path, help="the words to choose from, one a line (default: all)")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(argv)

    clip = load_clip(args.clip or PRESETS["tiny"].clip, args.device)
    key, known = digest(clip.tokenizer), dict(rankings())
    if key in known:
        print(f"{RANKINGS} has this vocabulary already; as files may depend on it, it stays as it is", file=sys.stderr)
        return 0
    samples = load_samples(args.data_root, None, SHORT_SIDE)
    targets = clip.image_features([samples[i].image for i in range(len(samples.names))])
    names = args.words and args.words.read_text(encoding="utf-8").split()
    known[key] = ranking(targets, clip, ids_of(names, clip) if names else clip.words.tolist())
    RANKINGS.write_text(json.dumps(known) + "\n", encoding="utf-8")
    print(f"{len(known[key])} words from {len(targets)} photographs: {clip.decode(known[key][:32])} ...")
    return 0


if __name__ == "__main__":
    sys.exit(main())

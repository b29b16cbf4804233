"""The best way to spend so many bytes on a prompt.

    config = within_bytes(14, clip, PromptConfig())

Many ascending ids of few useful words are worth more than few ids of many words. On Kodak with the bundled CLIP, mean
bytes and mean cosine (`benchmarks/prompt_search.py`):

    16 of all 2,048 words, in order       23.0  0.8609      16 of all, ascending              17.4  0.8586
    16 of the 256 most useful, in order   17.0  0.8627      20 of these, ascending            13.6  0.8616
    26 of the 128 most useful, ascending  13.0  0.8646      30 of the 64 most useful, asc.    11.0  0.8600
"""

from dataclasses import replace

import text_codec
from prompt_inversion.clip import Clip
from prompt_inversion.search import PromptConfig
from prompt_inversion.words import is_ranked, sub_vocabulary

# Bits of the smallest sub-vocabulary to choose from. Where no ranking says what is useful, frequent words must do, and
# more of them: 256 to 1,024 made no difference of 0.001 at 16 bytes.
RANKED, FREQUENT = 6, 8


def within_bytes(size: int, clip: Clip, config: PromptConfig, longest: int | None = None) -> PromptConfig:
    """`config` with length, allowed words and order such that every prompt takes at most `size` bytes.

    The sub-vocabulary is the smallest whose longest prompt of `size` bytes has at most `longest` tokens (and fits the
    text tower). Raises ValueError where not one token fits.
    """
    longest = min(longest or clip.longest_prompt, clip.longest_prompt)
    largest = len(clip.words).bit_length() - 1
    for bits in range(min(RANKED if is_ranked(clip.tokenizer) else FREQUENT, largest), largest + 1):
        length = text_codec.most_ids(size, 1 << bits, ascending=True)
        if length <= longest:
            break
    if not length:
        raise ValueError(f"a prompt of {size} bytes: not one token of {1 << bits} words fits; allow more")
    words = sub_vocabulary(clip.tokenizer, bits)
    return replace(config, length=min(length, longest), allowed=tuple(words), ascending=True)

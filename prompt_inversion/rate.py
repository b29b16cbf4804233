"""Settings of the prompt search for a number of tokens or bytes: how many, and of which subset.

    search = search_config(PromptOptions(size=14), preset, clip, longest=30)

Many ascending ids of few useful tokens are worth more than few ids of many tokens:
docs/experiments.md.
"""

import math
from dataclasses import replace

import text_codec
from presets import Preset
from prompt_inversion.clip import Clip
from prompt_inversion.options import PromptOptions
from prompt_inversion.published import STEPS, load_semantic_search
from prompt_inversion.search import PromptConfig
from text_codec.vocabulary import is_ranked, is_searched, token_subset

# Bits of the smallest token subset that is considered.
RANKED_BITS = 6  # for a vocabulary whose most useful tokens were searched
FREQUENT_BITS = 8  # for another: the tokens are in the order of their frequency


def search_config(options: PromptOptions, preset: Preset, clip: Clip, longest: int) -> PromptConfig:
    """Return the settings of the prompt search.

    longest: the most tokens that the generator takes. Raises ValueError if there is no such token
    subset, if `options.bits` asks for one of a vocabulary that has no ranking, or if not one token
    fits into `options.size` bytes; UnavailableError if the search needs a package that is not
    installed.
    """
    config = _plain_config(options, preset)
    bits = options.bits
    if bits is None:
        bits = 0 if options.size else preset.prompt_bits
    if options.size and not bits and not options.ascending:
        return within_bytes(options.size, clip, config, longest)
    if bits:
        config = replace(config, allowed=_subset(clip, bits))
    if options.bits:
        _check_ranked(clip, bits)
    if options.size:
        tokens = len(config.allowed or clip.tokenizer)
        most = text_codec.most_ids(options.size, tokens, options.ascending)
        length = min(most, clip.longest_prompt, longest)
        config = replace(config, length=_at_least_one(length, options.size, tokens))
    return config


def _plain_config(options: PromptOptions, preset: Preset) -> PromptConfig:
    """Return the settings that no CLIP has a say in. Raises UnavailableError."""
    steps, descent = options.steps or preset.prompt_steps, PromptConfig.descent
    published = options.search == "pez"
    if published:
        load_semantic_search()
        steps = descent = options.steps or STEPS
    return PromptConfig(
        length=options.length or preset.prompt_len,
        steps=steps,
        descent=descent,
        published=published,
        seconds=options.seconds or math.inf,
        lr=preset.prompt_lr,
        weight_decay=preset.prompt_weight_decay,
        ascending=options.ascending,
        seed=options.seed,
    )


def within_bytes(
    size: int, clip: Clip, config: PromptConfig, longest: int | None = None
) -> PromptConfig:
    """Return `config` with a length, subset and order whose prompts take at most `size` bytes.

    longest: the most tokens; None: as many as fit the text tower. The token subset is the smallest
    whose longest prompt of `size` bytes has at most `longest` tokens. Raises ValueError if not one
    token fits.
    """
    longest = min(longest or clip.longest_prompt, clip.longest_prompt)
    largest = len(clip.printable).bit_length() - 1
    smallest = min(RANKED_BITS if is_searched(clip.tokenizer) else FREQUENT_BITS, largest)
    for bits in range(smallest, largest + 1):
        length = text_codec.most_ids(size, 1 << bits, ascending=True)
        if length <= longest:
            break
    length = _at_least_one(min(length, longest), size, 1 << bits)
    allowed = tuple(token_subset(clip.tokenizer, bits))
    return replace(config, length=length, allowed=allowed, ascending=True)


def _subset(clip: Clip, bits: int) -> tuple[int, ...]:
    """Return the ids of the 2**bits most useful tokens. Raises ValueError for other bits."""
    if bits not in text_codec.SUBSET_BITS:
        first, last = text_codec.SUBSET_BITS[0], text_codec.SUBSET_BITS[-1]
        raise ValueError(
            f"no subset of 2^{bits} tokens: choose {first} to {last} bits, or 0 for all tokens"
        )
    return tuple(token_subset(clip.tokenizer, bits))


def _check_ranked(clip: Clip, bits: int) -> None:
    """Raise ValueError if it is not known which tokens of the vocabulary are useful."""
    if not is_ranked(clip.tokenizer):
        raise ValueError(
            f"--prompt_bits {bits}: which of this CLIP's {len(clip.tokenizer)} tokens are useful "
            "is not known; rank them by `python -m prompt_inversion.useful_words`, or leave it out"
        )


def _at_least_one(length: int, size: int, tokens: int) -> int:
    """Return `length`. Raises ValueError if it is 0."""
    if not length:
        raise ValueError(
            f"a prompt of {size} bytes is too small for one token of {tokens}: allow more"
        )
    return length

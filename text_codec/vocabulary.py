"""The tokens of a tokenizer that prompts are made of, and its subsets of useful ones: part of the
file format.

    from text_codec.vocabulary import token_subset
    token_subset(tokenizer, 9)      # 512 ids, the same for whoever has the tokenizer

`tokenizer` is a CLIPTokenizer of transformers.
"""

import hashlib
import json
from functools import cache, lru_cache
from pathlib import Path

RANKINGS = Path(__file__).with_name("useful_words.json")
# `name_of` the 49,408 tokens that OpenAI's CLIP, OpenCLIP and Stable Diffusion 1 and 2 share, and
# whole words of it, most useful first.
CLIP_VOCABULARY = "17f6fa1360714858"
CLIP_WORDS = Path(__file__).with_name("clip_words.txt")
SHORTEST_WORD = 2  # letters of a token that counts as a word


def token_subset(tokenizer, bits: int, words: bool = True) -> list[int]:
    """Return the ids of the 2**bits most useful tokens, ascending; the same for everyone who has
    the tokenizer.

    Tokens in the order of use: first those of `ranked_ids`; then whole words (letters, then
    "</w>"); then other printable tokens; both in the order of their ids. Byte-pair encoding merges
    what is most frequent first, so ids rise as frequency falls. A file need not say which tokens
    are meant: the digest of all subsets is part of its fingerprint (`PromptCodec.digest`).

    words: False: without CLIP_WORDS, as in the first files. Raises ValueError if the tokenizer has
    fewer printable tokens.
    """
    ranked = _by_use(tokenizer, words)
    if not 0 <= bits < 32 or 1 << bits > len(ranked):
        raise ValueError(
            f"a subset of 2^{bits} tokens: there are {len(ranked)} printable tokens to choose from"
        )
    return sorted(ranked[: 1 << bits])


@lru_cache(maxsize=4)
def _by_use(tokenizer, words: bool) -> list[int]:
    """Return all printable ids, most useful first; cached, for it takes a while to decode 49,408
    tokens.
    """
    ids = printable_ids(tokenizer)
    rank = {token_id: position for position, token_id in enumerate(ranked_ids(tokenizer, words))}
    tokens = dict(zip(ids, tokenizer.convert_ids_to_tokens(ids), strict=True))
    whole = {token_id for token_id, token in tokens.items() if _is_word(token)}
    return sorted(
        ids, key=lambda token_id: (rank.get(token_id, len(rank)), token_id not in whole, token_id)
    )


def _is_word(token: str) -> bool:
    letters = token.removesuffix("</w>")
    return letters != token and len(letters) >= SHORTEST_WORD and letters.isalpha()


def ranked_ids(tokenizer, words: bool = True) -> list[int]:
    """Return the ids of the tokens that are known to be useful, most useful first.

    First those that searches found useful, `rankings`; then the whole words of CLIP_WORDS, if the
    vocabulary is CLIP's (not with words=False). Empty for an unknown vocabulary.
    """
    name = name_of(tokenizer)
    ids = list(rankings().get(name, ()))
    if words and name == CLIP_VOCABULARY:
        vocabulary = tokenizer.get_vocab()
        ids += [vocabulary[f"{word}</w>"] for word in clip_words()]
    return list(dict.fromkeys(ids))


def is_ranked(tokenizer) -> bool:
    """Whether it is known which tokens of the tokenizer's vocabulary are the most useful."""
    return bool(ranked_ids(tokenizer))


def is_searched(tokenizer) -> bool:
    """Whether searches found which tokens of the tokenizer's vocabulary are the most useful."""
    return name_of(tokenizer) in rankings()


@cache
def rankings() -> dict[str, list[int]]:
    """Return the ids from the most useful down, by the name of each vocabulary that
    `useful_words.py` has ranked.
    """
    return json.loads(RANKINGS.read_text(encoding="utf-8"))


@cache
def clip_words() -> list[str]:
    """Return the words of CLIP_WORDS; `useful_words.py` says how they were ordered."""
    return CLIP_WORDS.read_text(encoding="ascii").split()


def name_of(tokenizer) -> str:
    """Return a name for the tokenizer's vocabulary: 16 hexadecimal digits of a hash."""
    return hashlib.sha256(repr(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()[:16]


def printable_ids(tokenizer) -> list[int]:
    """Return the ids of the tokens that are not special and printable when decoded alone,
    ascending.
    """
    texts = tokenizer.batch_decode(
        [[i] for i in range(len(tokenizer))], clean_up_tokenization_spaces=False
    )
    special = set(tokenizer.all_special_ids)
    printable = []
    for token_id, text in enumerate(texts):
        if token_id not in special and _is_printable(text):
            printable.append(token_id)
    return printable


def _is_printable(text: str) -> bool:
    # Half a UTF-8 character decodes to U+FFFD, which Python counts as printable.
    return bool(text.strip()) and text.isprintable() and "\ufffd" not in text

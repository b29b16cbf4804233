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
SHORTEST_WORD = 2  # letters of a token that counts as a word


def token_subset(tokenizer, bits: int) -> list[int]:
    """Return the ids of the 2**bits most useful tokens, ascending; the same for everyone who has
    the tokenizer.

    Tokens in the order of use: first those of the vocabulary's ranking in useful_words.json, if it
    has one; then whole words (letters, then "</w>"); then other printable tokens; both in the order
    of their ids. Byte-pair encoding merges what is most frequent first, so ids rise as frequency
    falls. A file need not say which tokens are meant.

    Raises ValueError if the tokenizer has fewer printable tokens.
    """
    ranked = _by_use(tokenizer)
    if not 0 <= bits < 32 or 1 << bits > len(ranked):
        raise ValueError(
            f"a subset of 2^{bits} tokens: there are {len(ranked)} printable tokens to choose from"
        )
    return sorted(ranked[: 1 << bits])


@lru_cache(maxsize=4)
def _by_use(tokenizer) -> list[int]:
    """Return all printable ids, most useful first; cached, for it takes a while to decode 49,408
    tokens.
    """
    ids = printable_ids(tokenizer)
    ranking = rankings().get(name_of(tokenizer), ())
    rank = {token_id: position for position, token_id in enumerate(ranking)}
    tokens = dict(zip(ids, tokenizer.convert_ids_to_tokens(ids), strict=True))
    words = {token_id for token_id, token in tokens.items() if _is_word(token)}
    return sorted(
        ids, key=lambda token_id: (rank.get(token_id, len(rank)), token_id not in words, token_id)
    )


def _is_word(token: str) -> bool:
    letters = token.removesuffix("</w>")
    return letters != token and len(letters) >= SHORTEST_WORD and letters.isalpha()


def is_ranked(tokenizer) -> bool:
    """Whether useful_words.json says which tokens of the tokenizer's vocabulary are the most
    useful.
    """
    return name_of(tokenizer) in rankings()


@cache
def rankings() -> dict[str, list[int]]:
    """Return the ids from the most useful down, by the name of each vocabulary that
    `useful_words.py` has ranked.
    """
    return json.loads(RANKINGS.read_text(encoding="utf-8"))


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

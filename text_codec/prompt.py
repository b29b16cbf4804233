"""Prompts <-> bytes for one tokenizer: the codec of the text layer.

    codec = PromptCodec(tokenizer, max_tokens=30)
    codec.decode(codec.encode_ids([320, 1125, 539])).ids
    codec.decode(codec.encode_text("a red barn")).text

Searched prompts are token ids, which travel in the shortest of several codings; a person's or a
captioner's prompt is a text. The generator is given ids in both cases: those that the tokenizer
makes of a text.
"""

import hashlib
from collections.abc import Sequence
from functools import cache, cached_property
from typing import NamedTuple

from text_codec import SUBSET_BITS, Coding, coding, decode, decode_text, encode, encode_text
from text_codec.vocabulary import token_subset


class Prompt(NamedTuple):
    """A decoded prompt."""

    ids: tuple[int, ...]  # token ids for the generator
    text: str  # as it was sent, or as the ids read
    coding: Coding | None  # None: there is no prompt


NO_PROMPT = Prompt((), "", None)


class PromptCodec:
    """Token ids or a text <-> bytes.

    tokenizer: a CLIPTokenizer. max_tokens: of a text, the most that the generator takes; the rest
    is sent but unused. words: as in `token_subset`.
    """

    def __init__(self, tokenizer, max_tokens: int, words: bool = True):
        self.tokenizer, self.max_tokens, self.words = tokenizer, max_tokens, words
        self.subset = cache(self._subset)

    def encode_ids(self, ids: Sequence[int]) -> bytes:
        """Return the shortest payload that decodes to these ids: as ids, or as a text if it
        tokenizes to them.

        Raises TextError for an id outside the vocabulary, or too many ids.
        """
        payload = encode(ids, len(self.tokenizer), self._smallest_subset(ids))
        text = self._text_of(ids)
        if self.tokenize(text) != tuple(ids):
            return payload
        return min(payload, encode_text(text), key=len)

    def encode_text(self, text: str) -> bytes:
        """Return the payload of a text of up to 4,096 characters. Raises TextError."""
        return encode_text(text)

    def decode(self, payload: bytes) -> Prompt:
        """Return the prompt of a payload. Raises TextError for bytes that no encoder writes."""
        how = coding(payload)
        if how.text:
            text = decode_text(payload)
            return Prompt(self.tokenize(text)[: self.max_tokens], text, how)
        subset = self.subset(how.bits) if how.bits else None
        ids = tuple(decode(payload, len(self.tokenizer), subset))
        return Prompt(ids, self._text_of(ids), how)

    def tokenize(self, text: str) -> tuple[int, ...]:
        """Return all token ids of a text, without start and end."""
        return tuple(self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids)

    @cached_property
    def digest(self) -> bytes:
        """32 bytes that name the vocabulary and its token subsets."""
        tokens = sorted(self.tokenizer.get_vocab().items())
        subsets = [self.subset(bits) for bits in SUBSET_BITS]
        return hashlib.sha256(repr((tokens, subsets)).encode()).digest()

    def _subset(self, bits: int) -> tuple[int, ...] | None:
        """Return the ids of the 2**bits most useful tokens; None if the tokenizer has fewer."""
        try:
            return tuple(token_subset(self.tokenizer, bits, self.words))
        except ValueError:
            return None

    def _smallest_subset(self, ids: Sequence[int]) -> tuple[int, ...] | None:
        """Return the smallest token subset that holds all of these ids; None if there is none."""
        for bits in SUBSET_BITS:
            subset = self.subset(bits)
            if subset and set(ids) <= set(subset):
                return subset
        return None

    def _text_of(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False).strip()

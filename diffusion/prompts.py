"""Prompts as a text-to-image model is given them: embedded ids, or texts.

prompts = IdPrompts(pipeline, family, device)       # or TextPrompts
prompts.settings([ids], suffix=", high quality", negative="blurry", guidance=9.0)
"""

from collections.abc import Sequence
from functools import cache

import torch

from diffusion.families import Family
from diffusion.library import CLIPTokenizer
from text_codec.words import MAX_CHARACTERS


def framed(ids: Sequence[int], tokenizer: CLIPTokenizer, length: int) -> list[int]:
    """Return the input of the text encoder, `length` ids: BOS, the prompt's, EOS, padding."""
    padding = [tokenizer.pad_token_id] * (length - 2 - len(ids))
    return [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id, *padding]


class IdPrompts:
    """Token ids for CLIP's text encoders, of which there are one or two with one vocabulary."""

    def __init__(self, pipeline, family: Family, device: torch.device):
        self.tokenizer = pipeline.tokenizer
        self.vocab_size = len(self.tokenizer)
        self._family, self._device = family, device
        self._encoders = []
        for part in family.encoders:
            tokenizer = getattr(pipeline, part.replace("text_encoder", "tokenizer"))
            self._encoders.append((getattr(pipeline, part), tokenizer))
        self._negative = cache(lambda text: self.embed(self.ids(text)))

    def ids(self, text: str) -> list[int]:
        """Return the ids of a text without BOS and EOS."""
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def longest(self, suffix: str) -> int:
        """Return the most ids that fit beside BOS, EOS and a suffix."""
        return self._length - 2 - len(self.ids(suffix))

    def whole(self, prompt: Sequence[int] | None, suffix: str) -> list[int]:
        """Return a prompt with a suffix; without both for None."""
        return [] if prompt is None else [*prompt, *self.ids(suffix)]

    def settings(
        self, prompts: Sequence[Sequence[int]], suffix: str, negative: str, guidance: float
    ) -> dict[str, torch.Tensor]:
        """Return the embeddings of prompts and of the negative prompt, as pipelines take them."""
        embedded = {}  # each prompt once and alone: in a batch it would be rounded otherwise
        for ids in map(tuple, prompts):
            if ids not in embedded:
                embedded[ids] = self.embed(self.whole(ids, suffix))
        each = [embedded[tuple(ids)] for ids in prompts]
        settings = {name: torch.cat([one[name] for one in each]) for name in each[0]}
        if guidance > self._family.unguided:
            for name, value in self._negative(negative).items():
                settings[f"negative_{name}"] = value.expand(len(prompts), *value.shape[1:])
        return settings

    @property
    def _length(self) -> int:
        lengths = [
            min(tokenizer.model_max_length, encoder.config.max_position_embeddings)
            for encoder, tokenizer in self._encoders
        ]
        return min(lengths)

    @torch.no_grad()
    def embed(self, ids: Sequence[int]) -> dict[str, torch.Tensor]:
        """Return the embeddings of ids without BOS and EOS.

        prompt_embeds: (1, L, D), the text encoder's last hidden state; of several, the last but one
        of each, side by side, with pooled_prompt_embeds (1, D) of the last of them.
        """
        length = self._length
        if len(ids) + 2 > length:
            raise ValueError(
                f"prompt and suffix have {len(ids)} tokens; {length - 2} fit this text encoder"
            )
        if ids and not 0 <= min(ids) <= max(ids) < self.vocab_size:
            raise ValueError(
                f"token ids from {min(ids)} to {max(ids)}; the vocabulary has {self.vocab_size}"
            )
        outputs = []
        for encoder, tokenizer in self._encoders:
            row = torch.tensor([framed(ids, tokenizer, length)], device=self._device)
            outputs.append(encoder(row, output_hidden_states=self._family.pooled))
        if not self._family.pooled:
            return {"prompt_embeds": outputs[0].last_hidden_state}
        states = [output.hidden_states[-2] for output in outputs]
        pooled = outputs[-1].text_embeds
        return {"prompt_embeds": torch.cat(states, -1), "pooled_prompt_embeds": pooled}


class TextPrompts:
    """Texts, which a pipeline reads by tokenizers of its own; `tokenizer` codes searched ids."""

    def __init__(self, tokenizer: CLIPTokenizer, family: Family):
        self.tokenizer = tokenizer
        self._family = family

    def longest(self, suffix: str) -> int:
        """Return the most ids of a prompt: no text that can be sent has more."""
        return MAX_CHARACTERS

    def whole(self, prompt: str | None, suffix: str) -> str:
        """Return a prompt with a suffix; without both for None."""
        return "" if prompt is None else f"{prompt}{suffix}"

    def settings(
        self, prompts: Sequence[str], suffix: str, negative: str, guidance: float
    ) -> dict[str, list[str]]:
        """Return prompts and negative prompts as pipelines take them."""
        settings = {"prompt": [self.whole(text, suffix) for text in prompts]}
        if self._family.negative and guidance > self._family.unguided:
            settings["negative_prompt"] = [negative] * len(prompts)
        return settings

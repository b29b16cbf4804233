"""Images -> prompts and their payloads, by a search, by a captioner, or from the user's own text.

prompter = Prompter(PromptOptions(), preset, clip, prompt_codec)
for found in prompter.find(images):
    print(found.payload.hex(), found.cosine)
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from presets import Preset, PresetError
from prompt_inversion.clip import Clip
from prompt_inversion.options import PromptOptions
from prompt_inversion.rate import search_config
from prompt_inversion.search import invert_prompts
from text_codec.prompt import PromptCodec

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

    from prompt_inversion.caption import Captioner

log = logging.getLogger(__name__)


class FoundPrompt(NamedTuple):
    """A prompt for one image."""

    payload: bytes | None  # of the text layer; None: it is not sent
    ids: tuple[int, ...]  # that the generator gets
    cosine: float  # of CLIP's features of these ids and of the image


NOT_SENT = FoundPrompt(None, (), math.nan)


def check_vocabulary(preset: str, searched: "CLIPTokenizer", generated: "CLIPTokenizer") -> None:
    """Raise PresetError unless CLIP and the text-to-image model have the same tokens."""
    tokens = searched.get_vocab()
    others = generated.get_vocab()
    if tokens != others:
        raise PresetError(
            f"preset {preset}: the vocabularies of the CLIP ({len(tokens)} tokens) "
            f"and of the text-to-image model ({len(others)}) differ: "
            "name two models with the same tokenizer"
        )


class Prompter:
    """Finds a prompt for each image.

    graphs: whether a GPU replays the search's steps as CUDA graphs.
    `captioner` is the preset's, or None if it is not loaded; `search` are the settings of searches.

    Raises UnavailableError if the captioner is needed and not available, ValueError for options
    that do not fit the models.
    """

    def __init__(
        self,
        options: PromptOptions,
        preset: Preset,
        clip: Clip,
        codec: PromptCodec,
        graphs: bool = False,
    ):
        self.options = options
        self.preset = preset
        self.clip = clip
        self.codec = codec
        search = search_config(options, preset, clip, codec.max_tokens)
        self.search = replace(search, graphs=graphs)
        self.captioner: Captioner | None = None
        source = options.source or preset.prompt_from
        self._captions = options.text is None and source == "caption"
        if self._captions:
            self.load_captioner()

    def load_captioner(self) -> "Captioner":
        """Return the preset's captioner, loaded by the first call. Raises UnavailableError."""
        if self.captioner is None:
            from prompt_inversion.caption import load_captioner

            self.captioner = load_captioner(self.preset.captioner, self.clip.model.device)
        return self.captioner

    def find(self, images: Sequence[np.ndarray]) -> list[FoundPrompt]:
        """Return a prompt for each image, uint8 (H, W, 3) of any sizes; one search finds all."""
        if not self.options.sent:
            return [NOT_SENT] * len(images)
        if self.options.text is not None:
            return self._from_texts(images, [self.options.text] * len(images))
        if self._captions:
            return self._from_texts(images, self.captioner.describe(images))
        prompts = []
        for found in invert_prompts(images, self.clip, self.search):
            payload = self.codec.encode_ids(found.ids)
            prompts.append(FoundPrompt(payload, found.ids, found.cosine))
        return prompts

    def shortened(self, found: FoundPrompt, image: np.ndarray, size: int) -> FoundPrompt | None:
        """Return an image's searched prompt in at most `size` bytes; None if no token fits.

        Nothing is searched again: tokens are left out one by one, each time that without which
        CLIP's features are nearest to the image's.
        """
        payload, ids, cosine = found
        if payload is None or len(payload) <= size:
            return found
        target = self.clip.image_features([image])[0]
        while len(payload) > size:
            if len(ids) == 1:
                return None
            shorter = [ids[:position] + ids[position + 1 :] for position in range(len(ids))]
            cosines = self.clip.text_features(shorter) @ target
            best = int(cosines.argmax())
            ids, cosine = shorter[best], float(cosines[best])
            payload = self.codec.encode_ids(ids)
        return FoundPrompt(payload, ids, cosine)

    def _from_texts(self, images: Sequence[np.ndarray], texts: Sequence[str]) -> list[FoundPrompt]:
        """Return the prompts of texts, one for each image."""
        texts = [_cleaned(text) for text in texts]
        self._warn_of_long_texts(texts)
        prompts = []
        for image, text in zip(images, texts, strict=True):
            ids = self.codec.tokenize(text)[: self.codec.max_tokens]
            features = self.clip.text_features([ids[: self.clip.longest_prompt]])
            cosine = float(features[0] @ self.clip.image_features([image])[0])
            prompts.append(FoundPrompt(self.codec.encode_text(text), ids, cosine))
        return prompts

    def _warn_of_long_texts(self, texts: Sequence[str]) -> None:
        most = self.codec.max_tokens
        for text in sorted(set(texts)):
            count = len(self.codec.tokenize(text))
            if count > most:
                log.warning(
                    "warning: a prompt of %d tokens: only the first %d are used", count, most
                )


def _cleaned(text: str) -> str:
    """Return a text without broken encodings and odd forms of letters, as CLIP's authors clean it.

    Straight quotes in place of curly ones, for example, take fewer bytes and tokens.
    """
    from ftfy import fix_text

    return fix_text(text)

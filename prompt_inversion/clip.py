"""CLIP as the rest of the project uses it: images and token ids -> unit feature vectors.

    from prompt_inversion.clip import load_clip
    clip = load_clip("openai/clip-vit-large-patch14", "cuda")
    clip.similarity(image, [candidate, candidate])

Any CLIPModel will do, whatever its size; what is special to one checkpoint is read from its files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike

import numpy as np
import torch
import torch.nn.functional as F

from pretrained.libraries import lean
from pretrained.model_folders import clip_tokenizer, one_error, quietly
from prompt_inversion.loading import load_first, load_model
from prompt_inversion.pixels import Processor, load_processor
from text_codec.vocabulary import printable_ids

with lean():
    from transformers import CLIPModel, CLIPTokenizer
    from transformers.utils import logging as transformers_logging


@dataclass(frozen=True, eq=False)
class Clip:
    """A CLIPModel with its own tokenizer and image processor."""

    model: CLIPModel  # eval mode, no gradients for its weights
    tokenizer: CLIPTokenizer
    processor: Processor

    @property
    def vocab_size(self) -> int:
        """Number of tokens; ids are 0 to vocab_size - 1."""
        return self.model.config.text_config.vocab_size

    @property
    def longest_prompt(self) -> int:
        """The most ids that fit between the start and the end token."""
        return self.model.config.text_config.max_position_embeddings - 2

    @cached_property
    def printable(self) -> torch.Tensor:
        """Ids that a search may use, (t,) int64, ascending: not special, and printable alone."""
        return torch.tensor(printable_ids(self.tokenizer), device=self.model.device)

    def image_features(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        """Return features (n, d) float32 of unit length of n images, uint8 (H, W, 3) of any sizes.

        The images go through the checkpoint's own Processor on the CPU, so that every
        device gets the same pixels, and through the vision tower one at a time: in a batch they
        would be rounded otherwise, and an image would get another prompt in another batch.

        Raises ValueError for an array of another shape or dtype, and for whatever the model raises.
        """
        features = [torch.empty(0, self.model.config.projection_dim, device=self.model.device)]
        with one_error("CLIP"):
            for image in images:
                features.append(self._image_features(image))
        return torch.cat(features)

    @torch.no_grad()
    def _image_features(self, image: np.ndarray) -> torch.Tensor:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            raise ValueError(f"an image must be HxWx3 uint8, not {image.shape} {image.dtype}")
        pixels = self.processor(image).to(self.model.device, self.model.dtype)  # (1, 3, h, w)
        pooled = self.model.vision_model(pixel_values=pixels).pooler_output  # (1, width)
        return F.normalize(self.model.visual_projection(pooled).float(), dim=-1)

    @torch.no_grad()
    def text_features(self, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Return features (n, d) float32 of unit length of n prompts, ids without start and end.

        The prompts may have different lengths. Raises ValueError if an id is not in the vocabulary
        or if a prompt is longer than the text tower.
        """
        lengths = [len(ids) for ids in prompts]
        longest = max(lengths, default=0)
        self.check_length(longest)
        device = self.model.device
        ids = torch.full((len(prompts), longest), self.tokenizer.eos_token_id, device=device)
        for row, prompt in zip(ids, prompts, strict=True):
            row[: len(prompt)] = torch.tensor(prompt, dtype=torch.long)
        if ids.numel() and not 0 <= ids.min() <= ids.max() < self.vocab_size:
            raise ValueError(
                f"ids run from {ids.min()} to {ids.max()}; there are {self.vocab_size} tokens"
            )
        ends = torch.tensor(lengths, dtype=torch.long, device=device) + 1
        return self.encode_text(ids, ends)

    def encode_text(self, ids: torch.Tensor, ends: torch.Tensor | int) -> torch.Tensor:
        """Return features (n, d) float32 of unit length of ids (n, length) int64.

        ids: without the start token and the end token. ends: the position of the end token, (n,)
            or one for all, at which the result is pooled; configs disagree about its id (those of
            openai/clip-* say 2).

        Only these positions are computed: the text tower is causal, so nothing behind the end token
        has an effect on it.
        """
        n = len(ids)
        start = ids.new_full((n, 1), self.tokenizer.bos_token_id)
        end = ids.new_full((n, 1), self.tokenizer.eos_token_id)
        framed = torch.cat([start, ids, end], dim=1)  # (n, length + 2)
        hidden = self.model.text_model(input_ids=framed).last_hidden_state
        # All positions are projected, though one is used: a product of few rows is rounded
        # differently.
        features = self.model.text_projection(hidden)  # (n, length + 2, d)
        return F.normalize(features[torch.arange(n, device=ids.device), ends].float(), dim=-1)

    def similarity(self, image: np.ndarray, images: Sequence[np.ndarray]) -> list[float]:
        """Return the cosine, -1..1, of the features of `image` and of each of `images`."""
        features = self.image_features([image, *images])
        return (features[1:] @ features[0]).tolist()

    def decode(self, ids: Sequence[int]) -> str:
        """Return the prompt as text, for people; the text need not tokenize to the same ids."""
        return self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)

    def check_length(self, length: int) -> None:
        """Raise ValueError if prompts of `length` tokens do not fit the text tower."""
        if length > self.longest_prompt:
            most = self.longest_prompt
            raise ValueError(
                f"a prompt of {length} tokens does not fit: this CLIP has {most + 2} positions, "
                f"two of them for start and end; use at most {most} tokens"
            )


def load_clip(
    sources: str | PathLike | Sequence[str | PathLike], device: str | torch.device
) -> Clip:
    """Return a Clip on `device`, in float16 on a CUDA device and float32 elsewhere.

    sources: one source or several tried in order, each a local folder in the layout of
        `save_pretrained` (model, tokenizer and image processor) or a hub id
        "owner/name[@revision]".

    Raises UnavailableError if none of them loads.
    """
    return load_first(_load, sources, device, "CLIP")


@quietly(transformers_logging)
@lean()
def _load(source: str, device: str | torch.device, **where) -> Clip:
    """Load one source; where: `revision` and `local_files_only` of from_pretrained."""
    model = load_model(CLIPModel, source, device, "CLIP", use_safetensors=True, **where)
    tokenizer = clip_tokenizer(source, model.config.text_config.vocab_size, **where)
    with one_error("image processor"):
        processor = load_processor(source, model.config.vision_config.image_size, **where)
    with one_error("CLIP"):
        clip = Clip(model, tokenizer, processor)
        clip.text_features([[0]])
    return clip

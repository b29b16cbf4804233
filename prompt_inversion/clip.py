"""CLIP as the rest of the project sees it: pictures and token ids in, unit feature vectors out.

    from prompt_inversion import load_clip
    clip = load_clip("openai/clip-vit-large-patch14", "cuda")
    clip.similarity(photograph, [candidate, candidate])

Any CLIPModel will do, whatever its size; what is special to one checkpoint is read from its files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike

import numpy as np
import torch
import torch.nn.functional as F
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

from presets import from_mirrors


@dataclass(frozen=True, eq=False)
class Clip:
    """A CLIPModel with the tokenizer and the image processor that came with it."""

    model: CLIPModel  # eval mode, no gradients for its weights
    tokenizer: CLIPTokenizer
    processor: CLIPImageProcessor

    @property
    def vocabulary(self) -> int:
        """Number of words; ids run from 0 to vocabulary - 1."""
        return self.model.config.text_config.vocab_size

    @property
    def longest_prompt(self) -> int:
        """The most ids that fit between the start and the end token."""
        return self.model.config.text_config.max_position_embeddings - 2

    @cached_property
    def words(self) -> torch.Tensor:
        """Ids a search may use, (w,) int64, ascending: not special, and printable when decoded alone."""
        return torch.tensor(printable_ids(self.tokenizer), device=self.model.device)

    def image_features(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        """Features of n pictures (HxWx3 uint8, any sizes): (n, d) float32 of unit length.

        The pictures go through the checkpoint's own CLIPImageProcessor on the CPU, so that every device sees
        the same pixels, and through the vision tower one at a time: side by side they would take each other's
        rounding, and a photograph would get another prompt in another batch.
        """
        empty = torch.empty(0, self.model.config.projection_dim, device=self.model.device)
        return torch.cat([empty, *map(self._image_features, images)])

    @torch.no_grad()
    def _image_features(self, image: np.ndarray) -> torch.Tensor:
        image = _channels_first(image)
        pixels = self.processor(images=image, return_tensors="pt", input_data_format="channels_first")
        pixels = pixels["pixel_values"].to(self.model.device, self.model.dtype)  # (1, 3, side, side)
        pooled = self.model.vision_model(pixel_values=pixels).pooler_output  # (1, width)
        return F.normalize(self.model.visual_projection(pooled).float(), dim=-1)

    @torch.no_grad()
    def text_features(self, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Features of n prompts (ids without start and end, any lengths): (n, d) float32 of unit length.

        Raises ValueError where an id is not in the vocabulary or a prompt is longer than the text tower.
        """
        lengths = [len(ids) for ids in prompts]
        longest = max(lengths, default=0)
        self.check_length(longest)
        padded = [[*ids, *[self.tokenizer.eos_token_id] * (longest - len(ids))] for ids in prompts]
        ids = torch.tensor(padded, dtype=torch.long, device=self.model.device).reshape(len(prompts), longest)
        if ids.numel() and not 0 <= ids.min() <= ids.max() < self.vocabulary:
            raise ValueError(f"ids run from {ids.min()} to {ids.max()}; there are {self.vocabulary} words")
        ends = torch.tensor(lengths, dtype=torch.long, device=self.model.device) + 1
        return self.encode_text(ids, ends)

    def encode_text(self, ids: torch.Tensor, ends: torch.Tensor | int) -> torch.Tensor:
        """Features (n, d) float32, unit length, of ids (n, length) int64 between start and end token.

        Only these positions run, for the text tower is causal and nothing behind the end token reaches it.
        Pooled at position `ends`, (n,) or one for all, where the end token is: configs disagree about its id
        (those of openai/clip-* say 2).
        """
        n = len(ids)
        start = ids.new_full((n, 1), self.tokenizer.bos_token_id)
        end = ids.new_full((n, 1), self.tokenizer.eos_token_id)
        hidden = self.model.text_model(input_ids=torch.cat([start, ids, end], dim=1)).last_hidden_state
        # Every position is projected and one is used: a product of few rows rounds differently.
        features = self.model.text_projection(hidden)  # (n, length + 2, d)
        return F.normalize(features[torch.arange(n, device=ids.device), ends].float(), dim=-1)

    def similarity(self, image: np.ndarray, images: Sequence[np.ndarray]) -> list[float]:
        """Cosine, -1..1, between the features of one picture and of each of `images` (HxWx3 uint8)."""
        features = self.image_features([image, *images])
        return (features[1:] @ features[0]).tolist()

    def decode(self, ids: Sequence[int]) -> str:
        """The prompt as text, for people; ids do not survive the way through text."""
        return self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)

    def check_length(self, length: int) -> None:
        """Raise ValueError if prompts of `length` tokens do not fit the text tower."""
        if length > self.longest_prompt:
            most = self.longest_prompt
            raise ValueError(
                f"a prompt of {length} tokens does not fit: this CLIP has {most + 2} positions, "
                f"two of them for start and end; use at most {most} tokens"
            )


def load_clip(sources: str | PathLike | Sequence[str | PathLike], device: str | torch.device) -> Clip:
    """A Clip on `device`, in float16 on a CUDA device and float32 elsewhere.

    `sources` is one source or several tried in order, each a local folder in the layout of
    `save_pretrained` (model, tokenizer and image processor) or a hub id "owner/name[@revision]".
    Raises presets.PresetError when none of them loads.
    """
    if isinstance(sources, str | PathLike):
        sources = [sources]
    return from_mirrors(lambda *where: _load(*where, device), [str(s) for s in sources], "CLIP")


def _load(source: str, revision: str | None, device: str | torch.device) -> Clip:
    dtype = torch.float16 if torch.device(device).type == "cuda" else torch.float32
    model, found = CLIPModel.from_pretrained(
        source, revision=revision, dtype=dtype, use_safetensors=True, output_loading_info=True
    )
    if missing := [*found["missing_keys"], *found["mismatched_keys"]]:
        raise ValueError(f"{source} lacks {len(missing)} weights of a CLIPModel, such as {missing[0]}")
    tokenizer = CLIPTokenizer.from_pretrained(source, revision=revision)
    if len(tokenizer) > (words := model.config.text_config.vocab_size):
        raise ValueError(f"{source} does not fit together: tokenizer {len(tokenizer)} words, model {words}")
    processor = CLIPImageProcessor.from_pretrained(source, revision=revision)
    return Clip(model.eval().requires_grad_(False).to(device), tokenizer, processor)


def printable_ids(tokenizer: CLIPTokenizer) -> list[int]:
    """Ids of the words that are not special and printable when decoded alone, ascending."""
    texts = tokenizer.batch_decode([[i] for i in range(len(tokenizer))], clean_up_tokenization_spaces=False)
    special = set(tokenizer.all_special_ids)
    return [i for i, text in enumerate(texts) if i not in special and _is_printable(text)]


def _channels_first(image: np.ndarray) -> torch.Tensor:
    """A 3xHxW copy; a copy, since torch warns of arrays that are read-only and refuses flipped ones."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(f"a picture must be HxWx3 uint8, not {image.shape} {image.dtype}")
    return torch.from_numpy(np.array(image.transpose(2, 0, 1), order="C"))


def _is_printable(text: str) -> bool:
    # Half a UTF-8 character decodes to U+FFFD, which Python counts as printable.
    return bool(text.strip()) and text.isprintable() and "\ufffd" not in text

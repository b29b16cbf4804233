"""A Clip that takes turns on the GPU with other models.

clip = load_clip(preset.clip, "cuda", turns)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch

from prompt_inversion import clip as clips
from prompt_inversion.clip import Clip


@dataclass(frozen=True, eq=False)
class WaitingClip(Clip):
    """A Clip that calls `come` before it computes; `come` brings `model` to its device.

    A search of prompts begins with the features of its images, and nothing else runs until it ends:
    so the model is there for all of it.
    """

    come: Callable[[], None]

    @cached_property
    def printable(self) -> torch.Tensor:
        """As Clip's, on the device of the work."""
        self.come()
        return super().printable

    def image_features(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        """As Clip's."""
        self.come()
        return super().image_features(images)

    def text_features(self, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """As Clip's."""
        self.come()
        return super().text_features(prompts)


def load_clip(sources: Sequence[str], device: str, turns=None) -> Clip:
    """Return a Clip on `device`, or one that comes there in its turn.

    turns: a `diffusion.turns.Turns`; None: the model stays on the device. Raises UnavailableError
    as `prompt_inversion.clip.load_clip`.
    """
    clip = clips.load_clip(sources, device)
    if turns is None:
        return clip
    turns.add("clip", clip.model)
    turns.take("clip")  # a captioner that is loaded next goes where the CLIP is
    return WaitingClip(clip.model, clip.tokenizer, clip.processor, partial(turns.take, "clip"))

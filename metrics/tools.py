"""What a caller lends to the metrics: models that it has loaded, and images to compare with.

Tools(clip=lambda original, recon: clip.similarity(original, [recon])[0], device="cpu")
Tools(reference=Unavailable("no folder was given"))
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from common.weights import UnavailableError
from metrics.networks import MINILM

PAPER_KID_SUBSET = 50  # --kid-subset-size of the paper's scripts/KID.sh, if no other is known
Image = np.ndarray  # uint8 (h, w, 3)
Describe = Callable[[Sequence[Image]], list[str]]  # images -> captions


class Pair(NamedTuple):
    """The input of a metric of one image."""

    original: Image
    recon: Image
    sketch: np.ndarray | None  # the annotator's, of the original, if it is known


@dataclass(frozen=True)
class Unavailable:
    """Stands for a tool that is not available."""

    reason: str


@dataclass(frozen=True)
class Tools:
    """Models and images that a caller lends to the metrics, or why one is not available."""

    clip: Callable[[Image, Image], float] | Unavailable = Unavailable("no CLIP was given")
    judge: Callable[[Image, Image], float] | Unavailable = Unavailable("the preset names no judge")
    annotator: Callable[[Image], np.ndarray] | Unavailable = Unavailable("no annotator was given")
    # Returns the function images -> captions; called if a metric needs it, so that it can be loaded
    # then, and may raise UnavailableError.
    captioner: Callable[[], Describe] | Unavailable = Unavailable("no captioner was given")
    sentence_encoder: str = MINILM  # a folder or hub id of a model of sentence-transformers
    reference: Iterable[Image] | Unavailable = Unavailable("no reference folder was given")
    kid_subset_size: int = PAPER_KID_SUBSET  # images of each subset of kid_folder
    device: str = "cpu"

    def get(self, name: str):
        """Return the tool of that name. Raises UnavailableError."""
        tool = getattr(self, name)
        if isinstance(tool, Unavailable):
            raise UnavailableError(tool.reason)
        return tool


NO_TOOLS = Tools()

"""The tokens that a prompt search chooses from, as rows of a matrix.

tokens = Tokens(clip, allowed=(320, 1125, 539))
ids = tokens.nearest(soft_embeddings)
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from prompt_inversion.clip import Clip
from prompt_inversion.linear import STEADY_ROWS, linear, repeat_to_steady

SCORES = 1 << 24  # scores that are held at a time: 64 MB of float32


class Tokens:
    """The allowed tokens of a CLIP, with normalized embeddings.

    Memory: `directions`, tokens x width float32 (200 MB for all of ViT-H/14's), and SCORES scores
    at a time. Raises ValueError for allowed ids that a search may not use.
    """

    def __init__(self, clip: Clip, allowed: tuple[int, ...] | None = None):
        self.ids = clip.printable  # (t,) int64, ascending
        if allowed is not None:
            self.ids = _checked(allowed, clip)
        self.embedding = clip.model.text_model.embeddings.token_embedding.weight
        vectors = self.embedding[self.ids].float()
        self.lengths = vectors.norm(dim=-1)  # (t,)
        self.directions = F.normalize(vectors, dim=-1)  # (t, width)

    def __len__(self) -> int:
        return len(self.ids)

    def embedded(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the embeddings (n, length, width) of ids (n, length), in the model's dtype."""
        return F.embedding(ids, self.embedding)

    def nearest(self, soft: torch.Tensor) -> torch.Tensor:
        """Return the ids (n, length) whose embeddings have the highest cosine to `soft`.

        soft: (n, length, width).
        """
        rows = F.normalize(soft, dim=-1).flatten(0, 1)
        best = [scores.argmax(dim=-1) for scores in self._scores(rows)]
        return self.ids[torch.cat(best)].view(soft.shape[:2])

    def promising(self, gradient: torch.Tensor, k: int) -> torch.Tensor:
        """Return the k ids (n, length, k) that lower the loss most, to first order.

        gradient: of the loss by the embeddings, (n, length, width).
        """
        k = min(k, len(self))
        best = []
        for scores in self._scores(gradient.flatten(0, 1)):
            best.append(scores.mul_(-self.lengths).topk(k).indices)
        return self.ids[torch.cat(best)].view(*gradient.shape[:2], k)

    def _scores(self, vectors: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield the products of vectors (m, width) and directions, (rows, tokens) at a time."""
        for part in vectors.split(max(STEADY_ROWS, SCORES // len(self))):
            yield linear(repeat_to_steady(part, len(part)), self.directions)[: len(part)]


def _checked(allowed: tuple[int, ...], clip: Clip) -> torch.Tensor:
    """Return the allowed ids, ascending. Raises ValueError if a search may not use one of them."""
    ids = sorted(set(allowed))
    if not ids or not set(ids) <= set(clip.printable.tolist()):
        raise ValueError(
            f"{len(ids)} tokens are allowed, "
            "some of them special, unprintable or unknown to this CLIP"
        )
    return torch.tensor(ids, device=clip.printable.device)

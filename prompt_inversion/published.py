"""The published search's choice of tokens: the nearest, by sentence-transformers.

tokens = PublishedTokens(clip)
ids = tokens.nearest(soft_embeddings)

Wen et al. 2023, "Hard Prompts Made Easy", arXiv 2302.03668, in the form of their code
(https://github.com/YuxinWenRick/hard-prompts-made-easy, `nn_project`): `semantic_search` with
`dot_score` over the normalized embeddings. Theirs are of the whole vocabulary, ours of the tokens
that may be sent.
"""

from collections.abc import Callable

import torch

from common.weights import UnavailableError
from prompt_inversion.clip import Clip
from prompt_inversion.tokens import Tokens

STEPS = 3000  # `iter` of the published settings


class PublishedTokens(Tokens):
    """As Tokens, but `nearest` is the published code's.

    Raises UnavailableError if sentence-transformers is not installed, ValueError as Tokens.
    """

    def __init__(self, clip: Clip, allowed: tuple[int, ...] | None = None):
        super().__init__(clip, allowed)
        self._search, self._score, self._normalize = load_semantic_search()

    def nearest(self, soft: torch.Tensor) -> torch.Tensor:
        """Return the ids (n, length) whose embeddings have the highest cosine to `soft`.

        soft: (n, length, width). One image at a time, as published, so that its ids do not depend
        on the others of a batch.
        """
        return torch.stack([self._nearest(own) for own in soft])

    def _nearest(self, soft: torch.Tensor) -> torch.Tensor:
        """Return the ids (length,) nearest to one prompt's embeddings (length, width)."""
        hits = self._search(
            self._normalize(soft),
            self.directions,
            query_chunk_size=len(soft),
            top_k=1,
            score_function=self._score,
        )
        best = [hit[0]["corpus_id"] for hit in hits]
        return self.ids[torch.tensor(best, device=self.ids.device)]


def load_semantic_search() -> tuple[Callable, Callable, Callable]:
    """Return sentence-transformers' semantic_search, dot_score and normalize_embeddings.

    Raises UnavailableError if that package is not installed.
    """
    try:
        from sentence_transformers.util import dot_score, normalize_embeddings, semantic_search
    except ImportError as error:
        raise UnavailableError(
            "the prompt search pez takes its nearest tokens from the package "
            "sentence-transformers, which is not installed: pip install sentence-transformers"
        ) from error
    return semantic_search, dot_score, normalize_embeddings

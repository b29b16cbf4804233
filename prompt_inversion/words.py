"""The words a prompt search chooses from: all printable ones, or a sub-vocabulary that costs fewer bits a token.

sub_vocabulary(clip.tokenizer, 9)  # 512 ids, the same for whoever has the tokenizer
"""

import hashlib
import json
from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import CLIPTokenizer

from prompt_inversion.clip import Clip, printable_ids
from prompt_inversion.linear import STEADY_ROWS, linear, steady

RANKINGS = Path(__file__).with_name("useful_words.json")
SCORES = 1 << 24  # products of a projection that are held at a time: 64 MB of float32


def sub_vocabulary(tokenizer: CLIPTokenizer, bits: int) -> list[int]:
    """2**bits ids, ascending: the most useful words, the same for everyone who has the tokenizer.

    First those of the vocabulary's ranking in useful_words.json, where it has one (of 2**10 words); then whole words
    (letters, then "</w>") and then other printable tokens, each in the order of their ids: byte-pair encoding merges
    what is most frequent first, so ids rise as frequency falls. A file need not say which words are meant.
    Raises ValueError where the tokenizer has fewer printable tokens.
    """
    words = _by_use(tokenizer)
    if not 0 <= bits < 32 or 1 << bits > len(words):
        raise ValueError(f"a sub-vocabulary of {bits} bits: there are {len(words)} printable tokens to choose from")
    return sorted(words[: 1 << bits])


@lru_cache(maxsize=4)
def _by_use(tokenizer: CLIPTokenizer) -> list[int]:
    """All printable ids, most useful first; remembered, for CLIP's 49,408 tokens take a while to decode."""
    usable = printable_ids(tokenizer)
    place = {id_: place for place, id_ in enumerate(rankings().get(digest(tokenizer), ()))}
    tokens = dict(zip(usable, tokenizer.convert_ids_to_tokens(usable), strict=True))
    whole = {i for i, token in tokens.items() if token.endswith("</w>") and len(token) > 5 and token[:-4].isalpha()}
    return sorted(usable, key=lambda i: (place.get(i, len(place)), i not in whole, i))


def is_ranked(tokenizer: CLIPTokenizer) -> bool:
    """Whether it is known which words of the tokenizer's vocabulary are the most useful."""
    return digest(tokenizer) in rankings()


@cache
def rankings() -> dict[str, list[int]]:
    """Ids from the most useful down, for the digest of each vocabulary that `useful_words.py` has ranked."""
    return json.loads(RANKINGS.read_text(encoding="utf-8"))


def digest(tokenizer: CLIPTokenizer) -> str:
    """A name for the tokenizer's vocabulary."""
    return hashlib.sha256(repr(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()[:16]


class Words:
    """The allowed words of a CLIP as rows of a matrix, normalised once.

    Memory: `directions`, words x width float32 (200 MB for all of ViT-H/14's), and SCORES products at a time.
    """

    def __init__(self, clip: Clip, allowed: tuple[int, ...] | None = None):
        self.ids = clip.words if allowed is None else _checked(allowed, clip)  # (w,) int64, ascending
        self.embedding = clip.model.text_model.embeddings.token_embedding.weight
        vectors = self.embedding[self.ids].float()
        self.lengths = vectors.norm(dim=-1)  # (w,)
        self.directions = F.normalize(vectors, dim=-1)  # (w, width)

    def __len__(self) -> int:
        return len(self.ids)

    def embedded(self, ids: torch.Tensor) -> torch.Tensor:
        """The embeddings (n, length, width) of ids (n, length), in the model's dtype."""
        return F.embedding(ids, self.embedding)

    def nearest(self, soft: torch.Tensor) -> torch.Tensor:
        """The id whose embedding has the highest cosine to each of `soft` (n, length, width): (n, length)."""
        rows = F.normalize(soft, dim=-1).flatten(0, 1)
        best = [scores.argmax(dim=-1) for scores in self._scores(rows)]
        return self.ids[torch.cat(best)].view(soft.shape[:2])

    def promising(self, gradient: torch.Tensor, k: int) -> torch.Tensor:
        """The k ids (n, length, k) that lower the loss most, to first order, by its gradient (n, length, width)."""
        rows, k = gradient.flatten(0, 1), min(k, len(self))
        best = [scores.mul_(-self.lengths).topk(k).indices for scores in self._scores(rows)]
        return self.ids[torch.cat(best)].view(*gradient.shape[:2], k)

    def _scores(self, vectors: torch.Tensor) -> Iterator[torch.Tensor]:
        """Products of vectors (m, width) and directions, (rows, words) at a time."""
        for part in vectors.split(max(STEADY_ROWS, SCORES // len(self))):
            yield linear(steady(part, len(part)), self.directions)[: len(part)]


def _checked(allowed: tuple[int, ...], clip: Clip) -> torch.Tensor:
    ids = sorted(set(allowed))
    if not ids or not set(ids) <= set(clip.words.tolist()):
        raise ValueError(f"{len(ids)} words are allowed, some of them special, unprintable or unknown to this CLIP")
    return torch.tensor(ids, device=clip.words.device)

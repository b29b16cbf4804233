"""PEZ: gradient descent to a hard prompt (Wen et al. 2023, "Hard Prompts Made Easy", arXiv 2302.03668).

    from prompt_inversion import PromptConfig, invert_prompts, load_clip
    prompts = invert_prompts(photographs, load_clip(folder, "cpu"), PromptConfig(steps=300))

A continuous embedding per token is pulled towards the photograph, and at each step the gradient is taken
not there but at the nearest words (algorithm 1 of the paper). The best words ever seen are the answer.
"""

import math
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from prompt_inversion.clip import Clip

# Matrix products of fewer rows than this add up in another order, so that a photograph alone would
# come out a rounding error apart from the same one in a batch, and in time with other ids.
STEADY_ROWS = 16


@dataclass(frozen=True)
class PromptConfig:
    """Settings of the search; the defaults are those of the Text + Sketch paper."""

    length: int = 16  # tokens, without start and end
    steps: int = 3000  # forward and backward passes of the text tower
    lr: float = 0.1  # AdamW step size
    weight_decay: float = 0.1  # AdamW, per unit of lr
    seed: int = 0  # of the words the search starts from, the same for every photograph
    batch: int = 64  # photographs searched together; bounds memory, does not change the result

    def __post_init__(self):
        for name in ("length", "steps", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"PromptConfig.{name} is {getattr(self, name)}; it must be at least 1")


@dataclass(frozen=True)
class Prompt:
    """The outcome of a search."""

    ids: tuple[int, ...]  # `length` words of the vocabulary, none of them special
    cosine: float  # -1..1, between the features of these ids and of the photograph


def invert_prompts(images: Sequence[np.ndarray], clip: Clip, config: PromptConfig) -> list[Prompt]:
    """One prompt per photograph (HxWx3 uint8, any sizes), in order, by PEZ.

    Photographs are searched `config.batch` at a time and independently of one another: on a CPU (float32)
    a photograph gets the same ids alone, in any batch and at any place in it, and the same in every run. On
    a GPU (float16) the batch's size may sway the rounding and, with it, the ids.

    Memory beside the model's: a normalised float32 copy of the vocabulary (words x width, 200 MB for
    ViT-H/14), the scores of the projection (batch x length x words float32, 200 MB for 64 photographs and
    49,408 words) and the activations of the text tower for batch x (length + 2) positions.
    Raises ValueError if the prompt does not fit the text tower.
    """
    clip.check_length(config.length)
    parts = [images[i : i + config.batch] for i in range(0, len(images), config.batch)]
    return [prompt for part in parts for prompt in _invert_batch(part, clip, config)]


def _invert_batch(images: Sequence[np.ndarray], clip: Clip, config: PromptConfig) -> list[Prompt]:
    targets = clip.image_features(images)
    fewest = math.ceil(STEADY_ROWS / config.length)  # photographs; short prompts are searched repeatedly
    repeated = targets.repeat(math.ceil(fewest / len(targets)), 1)
    ids, cosines = _search(repeated, clip, config)
    return [Prompt(tuple(i), c) for i, c in zip(ids.tolist(), cosines.tolist(), strict=True)][: len(images)]


@torch.enable_grad()
def _search(targets: torch.Tensor, clip: Clip, config: PromptConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Best ids (n, length) int64 and their cosines (n,) float32 for n target features (n, d)."""
    table = clip.model.text_model.embeddings.token_embedding.weight
    directions = F.normalize(table[clip.words].float(), dim=-1)  # (words, width)
    start = table[_random_words(clip, config)].float()  # (length, width)
    soft = start.repeat(len(targets), 1, 1).requires_grad_()  # (n, length, width)
    optimizer = torch.optim.AdamW([soft], lr=config.lr, weight_decay=config.weight_decay)

    best_ids = torch.zeros(soft.shape[:2], dtype=torch.long, device=soft.device)
    best = torch.full_like(targets[:, 0], -torch.inf)
    for _ in tqdm(range(config.steps), desc="prompt search", unit="step", leave=False, disable=None):
        ids = clip.words[_nearest(soft.detach(), directions)]
        cosines, soft.grad = _cosines_and_gradient(ids, targets, clip)
        optimizer.step()
        better = cosines > best
        best = torch.where(better, cosines, best)
        best_ids = torch.where(better[:, None], ids, best_ids)
    return best_ids, best


def _random_words(clip: Clip, config: PromptConfig) -> torch.Tensor:
    """The ids (length,) a search starts from; drawn on the CPU, so alike on every device."""
    generator = torch.Generator().manual_seed(config.seed)
    chosen = torch.randint(len(clip.words), (config.length,), generator=generator)
    return clip.words[chosen.to(clip.words.device)]


def _nearest(soft: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """Row of `directions` (words, width) with the highest cosine to each embedding: (n, length) int64."""
    return (F.normalize(soft, dim=-1).flatten(0, 1) @ directions.T).argmax(dim=-1).view(soft.shape[:2])


def _cosines_and_gradient(ids: torch.Tensor, targets: torch.Tensor, clip: Clip) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines (n,) of ids (n, length), and the gradient (n, length, width) at their embeddings; float32.

    The loss is the sum over photographs of 1 - cosine, so no photograph's gradient feels another's.
    """
    with _word_embeddings(clip) as caught:
        cosines = (clip.encode_text(ids, ids.shape[1] + 1) * targets).sum(dim=-1)
    (gradient,) = torch.autograd.grad(-cosines.sum(), caught)
    return cosines.detach(), gradient[:, 1:-1].float()  # without start and end


@contextmanager
def _word_embeddings(clip: Clip):
    """Catch the word embeddings that a text forward looks up, (n, length + 2, width), to differentiate by.

    CLIPModel takes ids only. The projected embeddings are the embeddings of words, so ids serve, and a hook
    makes what was looked up the root of the graph.
    """
    caught = []

    def root(module, arguments, looked_up):
        caught.append(looked_up.detach().requires_grad_())
        return caught[-1]

    handle = clip.model.text_model.embeddings.token_embedding.register_forward_hook(root)
    try:
        yield caught
    finally:
        handle.remove()

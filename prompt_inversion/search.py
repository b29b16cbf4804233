"""Image -> token ids with the nearest CLIP features: gradient descent, then swaps of tokens.

    from prompt_inversion.clip import load_clip
    from prompt_inversion.search import PromptConfig, invert_prompts
    prompts = invert_prompts(images, load_clip(folder, "cpu"), PromptConfig(steps=300))

The descent is PEZ (Wen et al. 2023, "Hard Prompts Made Easy", arXiv 2302.03668, algorithm 1): a
continuous embedding for each position moves towards the image, by the gradient not at itself
but at the nearest tokens. The swaps are greedy coordinate gradient (Zou et al. 2023, arXiv
2307.15043, algorithm 1): the gradient at the best tokens so far proposes other tokens for
single positions, a forward pass measures a batch of proposals, and the best one is kept if it
is better.

What other settings bring: docs/experiments.md.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from tqdm import tqdm

from pretrained.libraries import lean
from prompt_inversion.clip import Clip
from prompt_inversion.graphs import ReplayedTower
from prompt_inversion.published import PublishedTokens
from prompt_inversion.tokens import Tokens
from prompt_inversion.tower import TextTower

# token positions in the text tower at a time: 64 prompts of 16 tokens and the end
POSITIONS = 1088
# Cost of a forward pass in steps. Weights take no gradients, so a backward pass costs the same.
FORWARD = 0.5


@dataclass(frozen=True)
class PromptConfig:
    """Settings of the search; `descent=steps` is the published search with its lr and decay, and
    `published` takes its nearest tokens by the published code's means.

    Raises ValueError for a number below its minimum.
    """

    length: int = 16  # tokens, without start and end
    # Work for one prompt: a step is a forward and a backward pass; a forward pass alone is half
    # a step.
    steps: float = 300
    # Time limit for images searched together; if it ends a search, the ids may vary.
    seconds: float = math.inf
    descent: int = 60  # steps of PEZ before the swaps
    # Nearest tokens by sentence-transformers, as the published code: the same ids, more slowly.
    published: bool = False
    lr: float = 0.1  # AdamW step size
    weight_decay: float = 0.1  # AdamW, per unit of lr
    swaps: int = 16  # swaps of one token that are measured in a round, beside one gradient
    among: int = 64  # tokens that the gradient proposes for a position, one of which is tried
    # Ids to choose from, such as those of `token_subset`; None: all printable ones.
    allowed: tuple[int, ...] | None = None
    ascending: bool = False  # search ids in ascending order, which cost log2(length!) bits less
    seed: int = 0  # of the first tokens and of the swaps, the same for every image
    batch: int = 64  # images searched together; bounds memory, does not change the result
    progress: bool = True  # a bar on stderr, if that is a terminal
    graphs: bool = False  # on a GPU, replay the text tower's work as CUDA graphs

    def __post_init__(self):
        for name in ("length", "steps", "swaps", "among", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"PromptConfig.{name} is {getattr(self, name)}; it must be at least 1"
                )
        if self.seconds <= 0:
            raise ValueError(f"PromptConfig.seconds is {self.seconds}; it must be more than 0")


@dataclass(frozen=True)
class Prompt:
    """The outcome of a search."""

    ids: tuple[int, ...]  # `length` of the allowed ids
    cosine: float  # -1..1, between the features of these ids and of the image
    history: tuple[tuple[float, float, float], ...] = field(compare=False, repr=False, default=())
    """(steps of work, seconds, best cosine) after each move of the search."""


def invert_prompts(images: Sequence[np.ndarray], clip: Clip, config: PromptConfig) -> list[Prompt]:
    """Return a prompt for each image, uint8 (H, W, 3) of any sizes, in order.

    Images are searched `config.batch` at a time and independently of one another. On a CPU
    (float32) an image gets the same ids alone, in any batch, at any position in it, and in
    every run, unless `config.seconds` ends the search. On a GPU (float16) the batch size may
    change the rounding and, with it, the ids.

    Memory beside the model's does not grow with the number of images: a normalized float32 copy
    of the allowed embeddings (tokens x width, 200 MB for ViT-H/14), 64 MB of scores, the text
    tower's activations for POSITIONS positions (about 1.3 GB for ViT-H/14 in float32) and, for
    each image of the batch, 3 x length x width and (swaps + among) x length numbers.

    Raises ValueError if the prompt does not fit the text tower or if an id is not allowed,
    UnavailableError if `config.published` and sentence-transformers is not installed.
    """
    features = []
    for start in range(0, len(images), config.batch):
        features.append(clip.image_features(images[start : start + config.batch]))
    prompts = []
    for targets in features:
        prompts += search(targets, clip, config)
    return prompts


@lean()
def search(targets: torch.Tensor, clip: Clip, config: PromptConfig) -> list[Prompt]:
    """Return a prompt for each row of `targets` (n, d): unit features of images, or of texts."""
    clip.check_length(config.length)
    searches = _Search(targets, clip, config)
    searches.run()
    found = zip(searches.ids.tolist(), searches.cosines.tolist(), searches.history, strict=True)
    return [Prompt(tuple(ids), cosine, tuple(history)) for ids, cosine, history in found]


class _Search:
    """Searches side by side, one for each target (n, d).

    `ids` (n, length) and `cosines` (n,) are the best so far.
    """

    def __init__(self, targets: torch.Tensor, clip: Clip, config: PromptConfig):
        self.targets = targets
        self.config = config
        graphs = config.graphs and targets.is_cuda
        self.tower = ReplayedTower.of(clip) if graphs else TextTower(clip)
        self.tokens = (PublishedTokens if config.published else Tokens)(clip, config.allowed)
        # On the CPU, so that it is the same on every device.
        self.generator = torch.Generator().manual_seed(config.seed)
        # prompts in the tower at a time
        self.together = max(1, POSITIONS // (config.length + 1))
        n = len(targets)
        self.ids = torch.zeros(n, config.length, dtype=torch.long, device=targets.device)
        self.cosines = torch.full((n,), -torch.inf, device=targets.device)
        self.history = [[] for _ in range(n)]
        self.work = 0.0  # steps
        self.begun = time.monotonic()

    def run(self) -> None:
        """Descend, then swap, until the budget is spent."""
        config = self.config
        hidden = None if config.progress else True  # None: if stderr is no terminal
        with tqdm(
            total=config.steps, desc="prompt search", unit="step", leave=False, disable=hidden
        ) as self.bar:
            self._descend(min(config.descent, math.floor(config.steps)))
            work = 1 + config.swaps * FORWARD  # of a round
            while self.work + work <= config.steps and self._has_time():
                self._swap(work)

    def _descend(self, steps: int) -> None:
        """Do PEZ: move continuous embeddings by the gradient at the nearest tokens."""
        config = self.config
        soft = self._first_embeddings().requires_grad_()
        optimizer = torch.optim.AdamW([soft], lr=config.lr, weight_decay=config.weight_decay)
        for _ in range(steps):
            if not self._has_time():
                return
            ids = self.tokens.nearest(soft.detach())
            if config.ascending:
                ids, order = ids.sort(dim=-1)
            cosines, gradient = self._gradient(ids, self.targets)
            if config.ascending:  # back to the positions of `soft`
                index = order[..., None].expand_as(gradient)
                gradient = torch.empty_like(gradient).scatter_(1, index, gradient)
            soft.grad = gradient
            optimizer.step()
            self._keep(ids, cosines, 1)

    def _first_embeddings(self) -> torch.Tensor:
        """Return the embeddings of random tokens, (n, length, width) float32, alike for all n."""
        shape = (1, self.config.length)
        random = torch.randint(len(self.tokens), shape, generator=self.generator)
        ids = self.tokens.ids.cpu()[random].to(self.ids.device)
        return self.tokens.embedded(ids).float().repeat(len(self.targets), 1, 1)

    def _swap(self, work: float) -> None:
        """Do a round of swaps: propose, measure, keep the best."""
        config = self.config
        _, gradient = self._gradient(self.ids, self.targets)
        proposed = self.tokens.promising(gradient, config.among)  # (n, length, among)
        positions = self._swapped_positions().to(self.ids.device)
        ranks = torch.randint(proposed.shape[-1], (config.swaps,), generator=self.generator)
        swapped = self.ids[:, None].repeat(1, config.swaps, 1)  # (n, swaps, length)
        chosen = proposed[:, positions, ranks.to(self.ids.device)]
        swapped[:, torch.arange(config.swaps), positions] = chosen
        if config.ascending:
            swapped = swapped.sort(dim=-1).values
        targets = self.targets.repeat_interleave(config.swaps, dim=0)
        cosines = self._cosines(swapped.flatten(0, 1), targets)
        cosines, best = cosines.view(-1, config.swaps).max(dim=1)
        self._keep(swapped[torch.arange(len(best)), best], cosines, work)

    def _swapped_positions(self) -> torch.Tensor:
        """Return the position of each swap of a round, (swaps,).

        All positions have the same number of swaps, and a random choice of them has one more.
        """
        times, more = divmod(self.config.swaps, self.config.length)
        even = torch.arange(self.config.length).repeat(times)
        random = torch.randperm(self.config.length, generator=self.generator)
        return torch.cat([even, random[:more]])

    def _keep(self, ids: torch.Tensor, cosines: torch.Tensor, work: float) -> None:
        """Count the work of a move that found these ids and cosines, and keep what is better."""
        self.work += work
        self.bar.update(work)
        better = cosines > self.cosines
        self.cosines = torch.where(better, cosines, self.cosines)
        self.ids = torch.where(better[:, None], ids, self.ids)
        seconds = time.monotonic() - self.begun
        for history, cosine in zip(self.history, self.cosines.tolist(), strict=True):
            history.append((self.work, seconds, cosine))

    def _has_time(self) -> bool:
        return time.monotonic() - self.begun < self.config.seconds

    def _gradient(
        self, ids: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the cosines (n,) of ids (n, length), and the gradient at their embeddings.

        The gradient is of -cosine, (n, length, width) float32.
        """
        cosines = []
        gradients = []
        parts = zip(ids.split(self.together), targets.split(self.together), strict=True)
        for part, target in parts:
            cosine, gradient = self.tower.gradient(part, target)
            cosines.append(cosine)
            gradients.append(gradient)
        return torch.cat(cosines), torch.cat(gradients)

    def _cosines(self, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the cosines (n,) of ids (n, length)."""
        cosines = []
        parts = zip(ids.split(self.together), targets.split(self.together), strict=True)
        for part, target in parts:
            cosines.append(self.tower.cosines(part, target))
        return torch.cat(cosines)

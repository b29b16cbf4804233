"""Photograph -> the token ids whose CLIP features lie nearest: gradient descent, then swaps of single words.

    from prompt_inversion import PromptConfig, invert_prompts, load_clip
    prompts = invert_prompts(photographs, load_clip(folder, "cpu"), PromptConfig(steps=300))

Descent is PEZ (Wen et al. 2023, "Hard Prompts Made Easy", arXiv 2302.03668, algorithm 1): a continuous embedding per
token is pulled towards the photograph, and the gradient is taken not there but at the nearest words. Swaps are greedy
coordinate gradient (Zou et al. 2023, arXiv 2307.15043, algorithm 1): the gradient at the best words so far proposes
other words for single places, a forward batch measures the proposals and the best one is kept if it is better.

Mean best cosine on Kodak (24 photographs at short side 256, bundled CLIP, 16 tokens), work in steps of a forward and a
backward pass (a forward pass alone is half of one), seed 0 unless said:

    descent alone, lr 0.1 (published)   0.8477 at 100, 0.8538 at 300, 0.8567 at 1,000, 0.8581 at 3,000
    60 steps, then 16 swaps a round     0.8581 at 132 to 159, 0.8609 to 0.8620 at 294 (seeds 0 to 3); the default
    descent 1, 15, 30, 100, 150         with 32, 32, 32, 16, 16 swaps: 0.8478, 0.8581, 0.8597, 0.8624, 0.8615 at 300;
                                        30 missed 0.8581 with seed 2, 100 and more reach it no sooner than 145
    24, 48, 64 swaps (30 steps)         0.8607, 0.8594, 0.8592 at 300; 16: 0.8606, 32: 0.8597
    proposals drawn from 16, 32, 128    0.8590, 0.8599, 0.8595 (32 swaps, 30 steps); from 64: 0.8597
    lr 0.2 (60 steps, 16 swaps)         0.8619 to 0.8631 at 294, 0.8581 at 114 to 150; not taken: lr is the paper's
    2 and 4 restarts, same total work   0.8605 and 0.8539 (32 swaps, 30 steps); one: 0.8597. 2 at twice the work: 0.8634
    300, 600, 1,000 steps of work       0.8597, 0.8618, 0.8633 (32 swaps, 30 steps)
    patience 60 and 100                 0.8595 and 0.8596 for 5% and 2% less work: off by default

Slower at equal work and left out: the best proposals of all places instead of drawn ones (0.846 where drawn ones gave
0.859, from 10 steps), the best of each place in turn, one place a round, and joining the best swaps of a round.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from tqdm import tqdm

from prompt_inversion.clip import Clip
from prompt_inversion.tower import TextTower
from prompt_inversion.words import Words

POSITIONS = 1088  # token positions in the text tower at a time: 64 prompts of 16 tokens and the end
FORWARD = (
    0.5  # of a step, the work of a forward pass alone: the weights take no gradients, so back costs what forth does
)


@dataclass(frozen=True)
class PromptConfig:
    """Settings of the search. `descent=steps` is the published search, whose lr and decay are the defaults."""

    length: int = 16  # tokens, without start and end
    steps: float = 300  # work for one prompt; a step is a forward and a backward pass, a forward pass alone half a step
    seconds: float = math.inf  # by the clock, for photographs searched together; where it ends a search, ids may vary
    patience: float = math.inf  # steps' work without a better cosine after which a photograph is done
    restarts: int = 1  # searches of `steps` from different words, side by side; the best is kept
    descent: int = 60  # steps of PEZ before the swaps
    lr: float = 0.1  # AdamW step size
    weight_decay: float = 0.1  # AdamW, per unit of lr
    swaps: int = 16  # single-word swaps measured in a round, beside one gradient
    among: int = 64  # words per place that the gradient proposes and the swaps are drawn from
    allowed: tuple[int, ...] | None = None  # ids to choose from, such as `sub_vocabulary`'s; None: all printable ones
    ascending: bool = False  # search ids in ascending order, which cost log2(length!) bits less
    seed: int = 0  # of the words the search starts from and of the swaps, the same for every photograph
    batch: int = 64  # photographs searched together; bounds memory, does not change the result
    progress: bool = True  # a bar on stderr, where that is a terminal

    def __post_init__(self):
        for name in ("length", "steps", "restarts", "swaps", "among", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"PromptConfig.{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("seconds", "patience"):
            if getattr(self, name) <= 0:
                raise ValueError(f"PromptConfig.{name} is {getattr(self, name)}; it must be more than 0")


@dataclass(frozen=True)
class Prompt:
    """The outcome of a search."""

    ids: tuple[int, ...]  # `length` of the allowed words
    cosine: float  # -1..1, between the features of these ids and of the photograph
    history: tuple[tuple[float, float, float], ...] = field(compare=False, repr=False, default=())
    """(steps' work, seconds, best cosine) after each move of the search."""


def invert_prompts(images: Sequence[np.ndarray], clip: Clip, config: PromptConfig) -> list[Prompt]:
    """One prompt per photograph (HxWx3 uint8, any sizes), in order.

    Photographs are searched `config.batch` at a time and independently of one another: on a CPU (float32)
    a photograph gets the same ids alone, in any batch and at any place in it, and the same in every run, unless
    `config.seconds` ends the search. On a GPU (float16) the batch's size may sway the rounding and, with it, the ids.

    Memory beside the model's does not grow with the number of photographs: a normalised float32 copy of the allowed
    words (words x width, 200 MB for ViT-H/14), 64 MB of scores, the text tower's activations for POSITIONS
    positions (about 1.3 GB for ViT-H/14 in float32) and, a photograph of the batch, 3 x length x width and
    (swaps + among) x length numbers.
    Raises ValueError if the prompt does not fit the text tower or a word is not allowed.
    """
    features = [clip.image_features(images[i : i + config.batch]) for i in range(0, len(images), config.batch)]
    return [prompt for part in features for prompt in search(part, clip, config)]


def search(targets: torch.Tensor, clip: Clip, config: PromptConfig) -> list[Prompt]:
    """One prompt per row of `targets` (n, d), unit features of photographs or of anything else that CLIP knows."""
    clip.check_length(config.length)
    runs = _Search(targets.repeat_interleave(config.restarts, dim=0), clip, config)
    runs.run()
    best = runs.cosines.view(-1, config.restarts).argmax(dim=1) + config.restarts * torch.arange(
        len(targets), device=targets.device
    )
    ids, cosines = runs.ids[best].tolist(), runs.cosines[best].tolist()
    return [Prompt(tuple(i), c, tuple(runs.history[b])) for i, c, b in zip(ids, cosines, best.tolist(), strict=True)]


class _Search:
    """Searches side by side, one per target (n, d); `ids` (n, length) and `cosines` (n,) are the best so far."""

    def __init__(self, targets: torch.Tensor, clip: Clip, config: PromptConfig):
        self.targets, self.config = targets, config
        self.tower, self.words = TextTower(clip), Words(clip, config.allowed)
        self.draws = torch.Generator().manual_seed(config.seed)  # on the CPU, so alike on every device
        self.slice = max(1, POSITIONS // (config.length + 1))  # prompts in the tower at a time
        n, device = len(targets), targets.device
        self.ids = torch.zeros(n, config.length, dtype=torch.long, device=device)
        self.cosines = torch.full((n,), -torch.inf, device=device)
        self.moved = torch.zeros(n, device=device)  # the work done when `cosines` last rose
        self.work, self.begun = 0.0, time.monotonic()
        self.history = [[] for _ in range(n)]

    def run(self) -> None:
        """Descend, then swap, until the budget is spent or nothing moves."""
        config = self.config
        shown = None if config.progress else True  # None: where stderr is a terminal
        with tqdm(total=config.steps, desc="prompt search", unit="step", leave=False, disable=shown) as self.bar:
            self._descend(min(config.descent, math.floor(config.steps)))
            round_ = 1 + config.swaps * FORWARD
            while self.work + round_ <= config.steps and self._goes_on():
                self._swap(self._live(), round_)

    def _descend(self, steps: int) -> None:
        config = self.config
        starts = (config.restarts, config.length)
        start = self.words.ids.cpu()[torch.randint(len(self.words), starts, generator=self.draws)]
        soft = self.words.embedded(start.to(self.ids.device)).float()  # (restarts, length, width)
        soft = soft.repeat(len(self.targets) // config.restarts, 1, 1).requires_grad_()
        optimizer = torch.optim.AdamW([soft], lr=config.lr, weight_decay=config.weight_decay)
        for _ in range(steps):
            if not self._goes_on():
                return
            nearest = self.words.nearest(soft.detach())
            ids, order = nearest.sort(dim=-1) if config.ascending else (nearest, None)
            cosines, gradient = self._gradient(ids, self.targets)
            if order is not None:
                gradient = torch.empty_like(gradient).scatter_(1, order[..., None].expand_as(gradient), gradient)
            soft.grad = gradient
            optimizer.step()
            self._keep(self._live(), ids[self._live()], cosines[self._live()], 1)

    def _swap(self, rows: torch.Tensor, work: float) -> None:
        """One round for the searches `rows`: propose, measure, keep the best."""
        ids, targets, config = self.ids[rows], self.targets[rows], self.config
        words = self.words.promising(self._gradient(ids, targets)[1], config.among)  # (m, length, among)
        even = torch.arange(config.length).repeat(config.swaps // config.length)
        more = torch.randperm(config.length, generator=self.draws)[: config.swaps % config.length]
        places = torch.cat([even, more]).to(ids.device)
        ranks = torch.randint(words.shape[-1], (config.swaps,), generator=self.draws).to(ids.device)
        swapped = ids[:, None].repeat(1, config.swaps, 1)  # (m, swaps, length)
        swapped[:, torch.arange(config.swaps), places] = words[:, places, ranks]
        if config.ascending:
            swapped = swapped.sort(dim=-1).values
        cosines = self._cosines(swapped.flatten(0, 1), targets.repeat_interleave(config.swaps, dim=0))
        cosines, best = cosines.view(-1, config.swaps).max(dim=1)
        self._keep(rows, swapped[torch.arange(len(rows)), best], cosines, work)

    def _keep(self, rows: torch.Tensor, ids: torch.Tensor, cosines: torch.Tensor, work: float) -> None:
        """Account for a move of the searches `rows` that found these ids and cosines."""
        self.work += work
        self.bar.update(work)
        better = cosines > self.cosines[rows]
        self.cosines[rows] = torch.where(better, cosines, self.cosines[rows])
        self.ids[rows] = torch.where(better[:, None], ids, self.ids[rows])
        self.moved[rows] = torch.where(better, self.work, self.moved[rows])
        seconds = time.monotonic() - self.begun
        for row, cosine in zip(rows.tolist(), self.cosines[rows].tolist(), strict=True):
            self.history[row].append((self.work, seconds, cosine))

    def _live(self) -> torch.Tensor:
        """The searches whose best cosine moved not too long ago."""
        return (self.work - self.moved < self.config.patience).nonzero()[:, 0]

    def _goes_on(self) -> bool:
        return time.monotonic() - self.begun < self.config.seconds and len(self._live()) > 0

    @torch.enable_grad()
    def _gradient(self, ids: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines (n,) of ids (n, length), and the gradient of -cosine (n, length, width) at their embeddings."""
        cosines, gradients = [], []
        for part, target in zip(ids.split(self.slice), targets.split(self.slice), strict=True):
            embedded = self.words.embedded(part).requires_grad_()
            cosines.append((self.tower(embedded) * target).sum(dim=-1))
            gradients += torch.autograd.grad(-cosines[-1].sum(), embedded)  # no prompt's feels another's
        return torch.cat(cosines).detach(), torch.cat(gradients).float()

    @torch.no_grad()
    def _cosines(self, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Cosines (n,) of ids (n, length)."""
        parts = zip(ids.split(self.slice), targets.split(self.slice), strict=True)
        return torch.cat([(self.tower(self.words.embedded(i)) * t).sum(dim=-1) for i, t in parts])

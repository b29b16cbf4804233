"""Several candidates for each image, and the choice of the best among them.

chooser = Chooser(decoder.generate, clip.similarity, count=4, together=8)
seeds = [choice.seed for choice in chooser.choose(images, conditions)]
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np

LOSSES = ("clip", "ms-ssim", "lpips")  # how the best candidate is chosen
Score = Callable[[np.ndarray, Sequence[np.ndarray]], list[float]]  # (image, candidates) -> scores


class Choice(NamedTuple):
    """The best candidate of an image."""

    seed: int
    scores: tuple[float, ...]  # of all candidates, higher is better; empty if there was only one


@dataclass(frozen=True)
class Chooser:
    """Generates `count` candidates for each image, `together` in a batch, and chooses the best."""

    generate: Callable[..., list[np.ndarray]]  # (conditions, seeds, height, width) -> images
    score: Score
    count: int  # the paper's N; seeds are 0 to count - 1
    together: int  # bounds memory

    def choose(self, images: Sequence[np.ndarray], conditions: Sequence) -> list[Choice]:
        """Return the choice for each image, uint8 (H, W, 3) of any sizes, and its conditions.

        conditions: one for each image, as `generate` takes them.
        """
        if self.count == 1:
            return [Choice(0, ())] * len(images)

        def shape(index: int) -> tuple[int, ...]:
            return images[index].shape

        choices = {}
        for (height, width, _), group in groupby(sorted(range(len(images)), key=shape), shape):
            members = list(group)
            generated = self._candidates([conditions[i] for i in members], height, width)
            for i, candidates in zip(members, generated, strict=True):
                scores = self.score(images[i], candidates)
                choices[i] = Choice(int(np.argmax(scores)), tuple(scores))
        return [choices[i] for i in range(len(images))]

    def _candidates(self, conditions: Sequence, height: int, width: int) -> list[list[np.ndarray]]:
        """Return the candidates of images of one size, a list of `count` for each conditions."""
        repeated = []
        for each in conditions:
            repeated += [each] * self.count
        seeds = list(range(self.count)) * len(conditions)
        generated = []
        for start in range(0, len(seeds), self.together):
            part = slice(start, start + self.together)
            generated += self.generate(repeated[part], seeds[part], height, width)
        return [generated[i : i + self.count] for i in range(0, len(generated), self.count)]


def load_score(loss: str, clip, device: str) -> Score:
    """Return the function (image, candidates) -> scores, higher is better, of one of LOSSES.

    clip: a prompt_inversion.clip.Clip. Raises UnavailableError if LPIPS's weights are not
    available.
    """
    if loss == "clip":
        return clip.similarity
    if loss == "lpips":
        from metrics.networks import load_lpips

        distance = load_lpips(device)
        return lambda image, candidates: [-distance(image, candidate) for candidate in candidates]
    from metrics import ms_ssim

    return lambda image, candidates: [ms_ssim(image, candidate) for candidate in candidates]

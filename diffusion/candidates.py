"""Several candidates for each image, and the choice of the best among them.

chooser = Chooser(decoder.generate, clip.similarity, together=8)
seeds = [choice.seed for choice in chooser.choose(images, conditions, counts=[4, 1])]
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, islice
from typing import NamedTuple

import numpy as np

LOSSES = ("clip", "ms-ssim", "lpips")  # how the best candidate is chosen
Score = Callable[[np.ndarray, Sequence[np.ndarray]], list[float]]  # (image, candidates) -> scores


class Choice(NamedTuple):
    """The best candidate of an image."""

    seed: int  # or its number, where candidates differ in other things than seeds
    scores: tuple[float, ...]  # of all candidates, higher is better; empty if there was only one


class Job(NamedTuple):
    """An image to generate."""

    conditions: tuple  # as `generate` takes them
    seed: int
    height: int  # pixels
    width: int


def layers_of(conditions: tuple) -> tuple[bool, ...]:
    """Return which of its layers conditions have; those of one batch have the same."""
    return tuple(layer is not None for layer in conditions)


@dataclass(frozen=True)
class Chooser:
    """Generates candidates, `together` in a batch, and chooses the best of each image."""

    generate: Callable[..., list[np.ndarray]]  # (conditions, seeds, height, width) -> images
    score: Score
    together: int  # bounds memory

    def choose(
        self, images: Sequence[np.ndarray], conditions: Sequence[tuple], counts: Sequence[int]
    ) -> list[Choice]:
        """Return the choice for each image, uint8 (H, W, 3) of any sizes, and its conditions.

        conditions: one for each image, as `generate` takes them. counts: of its candidates, the
        paper's N; their seeds are 0 to count - 1.
        """
        jobs = []
        for image, each, count in zip(images, conditions, counts, strict=True):
            jobs.append([Job(each, seed, *image.shape[:2]) for seed in range(count)])
        return self.best(images, jobs)

    def best(self, images: Sequence[np.ndarray], jobs: Sequence[Sequence[Job]]) -> list[Choice]:
        """Return which of its jobs is the best of each image, by number; of a single one nothing is
        generated.
        """
        several = [each if len(each) > 1 else [] for each in jobs]
        generated = iter(self.generate_all(list(chain.from_iterable(several))))
        choices = []
        for image, each in zip(images, several, strict=True):
            scores = self.score(image, list(islice(generated, len(each)))) if each else ()
            choices.append(Choice(int(np.argmax(scores)) if each else 0, tuple(scores)))
        return choices

    def generate_all(self, jobs: Sequence[Job]) -> list[np.ndarray]:
        """Return an image for each job; those of one size and the same layers share batches."""

        def alike(index: int) -> tuple:
            job = jobs[index]
            return job.height, job.width, layers_of(job.conditions)

        generated = {}
        for (height, width, _), group in groupby(sorted(range(len(jobs)), key=alike), alike):
            members = list(group)
            for start in range(0, len(members), self.together):
                part = members[start : start + self.together]
                each = [jobs[index].conditions for index in part]
                seeds = [jobs[index].seed for index in part]
                generated |= zip(part, self.generate(each, seeds, height, width), strict=True)
        return [generated[index] for index in range(len(jobs))]


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

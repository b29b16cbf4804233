"""What is measured and shown of photographs that are not trained on.

held_out_error(base, crops, indices)   # {"decoded": ..., "clean": ...}
"""

import hashlib
from collections.abc import Sequence
from statistics import fmean

import numpy as np
import torch

from control_training.models import Base
from control_training.samples import Crops, together

FRACTION = 0.1  # of the photographs
MOST = 64  # photographs that are held out
PLACES = (0.3, 0.6, 0.9)  # on the way from image to noise, where the error is measured
SHOWN = 8  # photographs on the sheet


def split(names: Sequence[str]) -> tuple[list[int], list[int]]:
    """Return the indices of the photographs to train on, and of those held out.

    By the hash of their names, so that a photograph stays where it is when others come. Raises
    ValueError for fewer than two.
    """
    if len(names) < 2:
        raise ValueError(f"{len(names)} photographs: two are the least, one of them is held out")
    ranked = sorted(range(len(names)), key=lambda i: hashlib.sha256(names[i].encode()).digest())
    count = min(MOST, max(1, round(FRACTION * len(names))))
    return sorted(ranked[count:]), sorted(ranked[:count])


@torch.no_grad()
def held_out_error(base: Base, crops: Crops, indices: Sequence[int]) -> dict[str, float]:
    """Return the mean squared error of the prediction, by the sketch that is shown.

    "decoded": at the rate of the photograph's conditions; "clean": before coding. The noise is the
    same at every call.
    """
    errors: dict[str, list[float]] = {"decoded": [], "clean": []}
    for index in indices:
        for kind, values in errors.items():
            samples = [crops.held_out(index, place, kind == "clean") for place in PLACES]
            values.append(base.loss(together(samples)).item())
    return {kind: fmean(values) for kind, values in errors.items()}


def sheet(base: Base, crops: Crops, indices: Sequence[int]) -> np.ndarray:
    """Return rows of original, decoded sketch and what a decoder generates: uint8 (H, W, 3)."""
    rows = []
    side = crops.options.side
    for index in indices[:SHOWN]:
        prompt, image, sketch, color = crops.shown(index)
        with base.computing():
            drawn = base.generator.generate(prompt, [0], side, side, sketch, color)
        rows.append(np.concatenate([image, sketch[..., None].repeat(3, 2), *drawn], 1))
    return np.concatenate(rows)

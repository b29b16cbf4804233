"""What a coefficient may be, given those before it: three small networks that compute with whole numbers only.

    python -c "from colour_codec.model import load; print([w.shape for w, _ in load().networks[0]])"

The planes come one after another, each in anti-diagonals ky + kx = 0, 1, 2, ... up to its radius. A plane's network
sees magnitudes and signs in the diagonals before, the planes before, the frequency and the step, and says in logits:
is it more than 0, more than 1, more than 2, still more (geometric); is it negative; and where in their interval a
magnitude of 1, and a larger one, lie on average. Values are multiples of 1 / 128, products are shifted right by 8.
float64 holds them all without rounding, so that BLAS may add in any order.

Source of the idea, with larger networks: Mahoney 2005, "Adaptive weighing of context models for lossless data
compression"; of the binary decisions: Marpe, Schwarz, Wiegand 2003, "Context-based adaptive binary arithmetic coding".
"""

import functools
import json
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .transform import RADIUS, grid, radius_squared

TABLES = Path(__file__).parent / "tables.json"
STEPS = 32
RADII = (0, 12, 18, 24, 32, 40, 50, 62, 76, 92, 110, 132, 160, 192, 234, 8 * RADIUS)  # in 1 / 8
MOST = 255  # largest magnitude
ESCAPE = 18  # from this magnitude on all cost the same
PAD = 3
HEADS = NONZERO, ABOVE_ONE, ABOVE_TWO, MORE, NEGATIVE, PLACE_ONE, PLACE_MORE = tuple(range(7))
BEFORE = ((1, 0), (0, 1), (1, 1), (2, 0), (0, 2), (2, 1), (1, 2), (2, -1), (-1, 2), (3, 0), (0, 3), (2, 2))
SIGNED = ((1, 0), (0, 1), (2, 0), (0, 2), (2, 2))
AROUND = ((1, 0), (-1, 0), (0, 1), (0, -1))
FEATURES = len(BEFORE) + len(SIGNED) + 22
LOGARITHM = np.array([round(64 * math.log2(1 + n / 8)) for n in range(16 * RADIUS)])
MAGNITUDE = np.array([round(64 * math.log2(1 + min(n, 15))) for n in range(512)])  # the mean lightness is below 512
PROBABILITY_BITS = 16
RADII_TOTAL = 1024
LOGITS = 320  # the table of probabilities has logits of -LOGITS..LOGITS in 1 / 32


class Model(NamedTuple):
    """The content of tables.json."""

    networks: list  # of the planes: lists of (weights, bias), float64 whole numbers
    probabilities: np.ndarray  # of logits -LOGITS..LOGITS in 1 / 32
    radii: (
        np.ndarray
    )  # (2, STEPS, radii): starts of the shares of luma's and chroma's radius at a step, RADII_TOTAL last


class Scan(NamedTuple):
    """The positions within RADIUS in the order of coding, and their place in the picture's frequencies."""

    ky: np.ndarray
    kx: np.ndarray
    diagonal: np.ndarray
    radius: np.ndarray  # in 1 / 8
    place: np.ndarray  # features that do not depend on values


@functools.lru_cache(maxsize=1)
def load() -> Model:
    """The bundled tables."""
    return model_of(json.loads(TABLES.read_text(encoding="utf-8")))


def model_of(tables: dict) -> Model:
    """A model of the lists that a tables.json has."""
    networks = [
        [(np.array(layer["weights"], np.float64), np.array(layer["bias"], np.float64)) for layer in network]
        for network in tables["networks"]
    ]
    return Model(networks, np.array(tables["probabilities"], np.int64), _starts(np.array(tables["radii"], np.int64)))


def _starts(shares: np.ndarray) -> np.ndarray:
    """Sums of the shares before each, and of all."""
    return np.concatenate([np.zeros_like(shares[..., :1]), np.cumsum(shares, -1)], -1)


@functools.lru_cache(maxsize=8)
def scan(height: int, width: int) -> Scan:
    """The positions of a picture of this size."""
    vertical, horizontal = grid(height, width)
    ky, kx = (axis.ravel() for axis in np.mgrid[:vertical, :horizontal])
    squared = radius_squared(ky, kx, height, width)
    inside = np.flatnonzero(squared <= 64 * RADIUS * RADIUS)
    inside = inside[np.argsort((ky + kx)[inside], kind="stable")]
    ky, kx, squared = ky[inside], kx[inside], squared[inside]
    radius = _root(squared)
    parts = [radius, _root(radius_squared(ky, 0 * kx, height, width)), _root(radius_squared(0 * ky, kx, height, width))]
    flags = [64 * (ky == 0), 64 * (kx == 0), 64 * (radius == 0), radius]
    return Scan(ky, kx, ky + kx, radius, np.stack([*(LOGARITHM[part] for part in parts), *flags], 1))


def _root(squared: np.ndarray) -> np.ndarray:
    """Square roots, rounded down; float64's is exact enough below 2**50."""
    return np.sqrt(squared).astype(np.int64)


def empty(height: int, width: int) -> np.ndarray:
    """The three planes of zeros with a margin of PAD on all sides, int64."""
    vertical, horizontal = grid(height, width)
    return np.zeros((3, vertical + 2 * PAD, horizontal + 2 * PAD), np.int64)


def features(planes: np.ndarray, plane: int, at: Scan, rows: slice | np.ndarray, step: int, radii: tuple) -> np.ndarray:
    """int64 (positions, FEATURES) of the positions `rows` of the scan; none depends on their own diagonals."""
    ky, kx, diagonal = at.ky[rows] + PAD, at.kx[rows] + PAD, at.diagonal[rows]
    magnitudes = MAGNITUDE[np.abs(planes)]
    signed = np.clip(planes, -3, 3)
    own = [magnitudes[plane, ky - y, kx - x] for y, x in BEFORE]
    own += [32 * signed[plane, ky - y, kx - x] for y, x in SIGNED]
    sums, seen = _diagonals(magnitudes[plane], at)
    own += [_mean(sums, seen, diagonal, 1, 1), _mean(sums, seen, diagonal, 2, 1), _mean(sums, seen, diagonal, 3, 3)]
    radius, luma = (LOGARITHM[RADII[r]] for r in (radii[min(plane, 1)], radii[0]))
    constant = np.full(len(ky), 16 * step - 256)
    own += [constant, 0 * constant + radius, 0 * constant + luma, radius - at.place[rows, 0]]
    for other in (0, 1):
        own += _across(planes, magnitudes, signed, plane, other, at, ky, kx, diagonal)
    return np.concatenate([np.stack(own, 1), at.place[rows]], 1)


def _diagonals(magnitudes: np.ndarray, at: Scan) -> tuple[np.ndarray, np.ndarray]:
    """Sums of all magnitudes, and numbers of positions, in the diagonals before each."""
    inner = magnitudes[at.ky + PAD, at.kx + PAD]
    sums, seen = np.bincount(at.diagonal, inner).astype(np.int64), np.bincount(at.diagonal)
    return np.concatenate([[0], np.cumsum(sums)]), np.concatenate([[0], np.cumsum(seen)])


def _mean(sums: np.ndarray, seen: np.ndarray, diagonal: np.ndarray, back: int, count: int) -> np.ndarray:
    """Mean magnitude, times 2, of `count` diagonals, the last of them `back` before."""
    end = np.maximum(diagonal - back + 1, 0)
    start = np.maximum(end - count, 0)
    return 2 * (sums[end] - sums[start]) // np.maximum(seen[end] - seen[start], 1)


def _across(planes, magnitudes, signed, plane, other, at, ky, kx, diagonal) -> list:
    """Four features of a plane that is decoded already; zeros where there is none."""
    if other >= plane:
        return [0 * ky] * 4
    around = sum(magnitudes[other, ky + y, kx + x] for y, x in AROUND)
    products = np.sign(planes[plane] * planes[other])[at.ky + PAD, at.kx + PAD]
    agreement = np.concatenate([[0], np.cumsum(np.bincount(at.diagonal, products).astype(np.int64))])[diagonal]
    value = signed[other, ky, kx]
    return [magnitudes[other, ky, kx], around, 32 * value, 8 * np.clip(agreement, -8, 8) * np.sign(value)]


def logits(model: Model, plane: int, inputs: np.ndarray) -> np.ndarray:
    """int64 (positions, heads) in 1 / 128."""
    values, last = inputs.astype(np.float64), len(model.networks[plane]) - 1
    for depth, (weights, bias) in enumerate(model.networks[plane]):
        values = np.floor((values @ weights + bias) / 256)
        if depth < last:
            values = np.clip(values, 0, 32767)
    return values.astype(np.int64)


def shares(model: Model, outputs: np.ndarray) -> np.ndarray:
    """Of 2**PROBABILITY_BITS, how much each decision's "yes" gets."""
    return model.probabilities[np.clip(outputs >> 2, -LOGITS, LOGITS) + LOGITS]


def sizes(magnitudes: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Where magnitudes of at least 1 lie, in 1 / 128 of a step; 0 stays 0."""
    shift = np.where(magnitudes == 1, outputs[..., PLACE_ONE], outputs[..., PLACE_MORE])
    return np.where(magnitudes == 0, 0, 128 * magnitudes + np.clip(shift, -48, 48))

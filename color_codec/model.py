"""Probabilities of a coefficient, given those before it: three small networks on integers.

    python -c "from color_codec.model import load; print([w.shape for w, _ in load().networks[0]])"

The planes are coded one after another, each in anti-diagonals ky + kx = 0, 1, 2, ... up to its
radius. There is a network for each plane. It sees magnitudes and signs in the diagonals before and
in the planes before, the frequency and the step. Its outputs ("heads") are logits of decisions:
is the magnitude more than 0, more than 1, more than 2, still more (geometric); is the value
negative. Two more say where in their interval a magnitude of 1, and a larger one, lie on average.

Values are multiples of 1 / 128, products are shifted right by 8. float64 holds them all without
rounding, so BLAS may add in any order and every machine gets the same probabilities.

Sources: the idea, with larger networks, is Mahoney 2005, "Adaptive weighing of context models for
lossless data compression"; the binary decisions are Marpe, Schwarz, Wiegand 2003, "Context-based
adaptive binary arithmetic coding".
"""

import functools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from color_codec.transform import RADIUS, grid, radius_squared

TABLES = Path(__file__).parent / "tables.json"
STEPS = 32
RADII = (0, 12, 18, 24, 32, 40, 50, 62, 76, 92, 110, 132, 160, 192, 234, 8 * RADIUS)  # in 1 / 8
MAX_MAGNITUDE = 255
ESCAPE = 18  # magnitudes from this one on are equally probable
PAD = 3  # zeros around the planes, so that every coefficient has neighbors

# Two radii are sent: that of plane a, and one for planes b and c.
LUMA, CHROMA = 0, 1
KINDS = (LUMA, CHROMA, CHROMA)  # of the planes

# The heads of a network.
NONZERO = 0
ABOVE_ONE = 1
ABOVE_TWO = 2
MORE = 3
NEGATIVE = 4
OFFSET_ONE = 5
OFFSET_MORE = 6
HEADS = 7

PROBABILITY_BITS = 16
RADII_TOTAL = 1024  # sum of the probabilities of the radii
LOGITS = 320  # the table of probabilities has logits of -LOGITS..LOGITS in 1 / 32

# Neighbors (back in ky, back in kx): whose magnitude, and whose sign, the network sees.
NEAREST = [(1, 0), (0, 1), (1, 1), (2, 0), (0, 2)]
FARTHER = [(2, 1), (1, 2), (2, -1), (-1, 2), (3, 0), (0, 3), (2, 2)]
MAGNITUDES_OF = np.array(NEAREST + FARTHER)
SIGNS_OF = np.array([(1, 0), (0, 1), (2, 0), (0, 2), (2, 2)])
AROUND = np.array([(1, 0), (-1, 0), (0, 1), (0, -1)])  # the same, in a plane before
DIAGONALS = ((1, 1), (2, 1), (3, 3))  # (how far back the last one is, how many)

# Features by group, in the order of the networks' inputs.
GROUPS = {
    "neighbors": len(MAGNITUDES_OF) + len(SIGNS_OF),
    "diagonals": len(DIAGONALS),
    "settings": 4,
    "plane a": 4,
    "plane b": 4,
    "frequency": 7,
}
FEATURES = sum(GROUPS.values())

# 64 log2(1 + n) of a radius, n in 1 / 8, and of a magnitude; the mean lightness is below 512.
LOG_RADIUS = np.array([round(64 * math.log2(1 + n / 8)) for n in range(16 * RADIUS)])
LOG_MAGNITUDE = np.array([round(64 * math.log2(1 + min(n, 15))) for n in range(512)])


class Tables(NamedTuple):
    """The content of tables.json."""

    networks: list  # of the planes: lists of (weights, bias), float64 integers
    probabilities: np.ndarray  # of logits -LOGITS..LOGITS in 1 / 32, in 1 / 2**PROBABILITY_BITS
    # int64 (2, STEPS, len(RADII) + 1): cumulative probabilities of the radii of luma and chroma at
    # each step, from 0 to RADII_TOTAL
    radii: np.ndarray


class Scan(NamedTuple):
    """The frequencies (ky, kx) within RADIUS, in the order of coding; int64 (positions,)."""

    ky: np.ndarray
    kx: np.ndarray
    diagonal: np.ndarray  # ky + kx
    radius: np.ndarray  # in 1 / 8
    features: np.ndarray  # (positions, 7): those that do not depend on values
    before: np.ndarray  # (diagonals + 1,): number of positions in the diagonals before


@dataclass(frozen=True)
class Context:
    """What is known when a plane is coded. "positions" are indices of the scan, int64 (n,)."""

    planes: np.ndarray  # int64 as `empty` gives them: quantized values, 0 if not yet known
    plane: int  # the one that is coded: 0, 1 or 2
    scan: Scan
    step: int
    radii: tuple[int, int]  # indices of RADII for luma and chroma

    @property
    def radius(self) -> int:
        """The plane's radius, in 1 / 8."""
        return RADII[self.radii[KINDS[self.plane]]]

    def positions(self) -> np.ndarray:
        """Return the positions within the plane's radius."""
        return np.flatnonzero(self.scan.radius <= self.radius)

    def network_positions(self) -> np.ndarray:
        """Return the positions that the network codes: all but the mean lightness."""
        positions = self.positions()
        if self.plane == 0:
            return positions[1:]
        return positions


@functools.lru_cache(maxsize=1)
def load() -> Tables:
    """Return the bundled tables."""
    return parse_tables(json.loads(TABLES.read_text(encoding="utf-8")))


def parse_tables(content: dict) -> Tables:
    """Return the tables of the lists that a tables.json has."""
    networks = []
    for layers in content["networks"]:
        network = []
        for layer in layers:
            weights = np.array(layer["weights"], np.float64)
            bias = np.array(layer["bias"], np.float64)
            network.append((weights, bias))
        networks.append(network)
    radii = np.cumsum(np.array(content["radii"], np.int64), -1)
    starts = np.concatenate([np.zeros_like(radii[..., :1]), radii], -1)
    return Tables(networks, np.array(content["probabilities"], np.int64), starts)


@functools.lru_cache(maxsize=8)
def scan(height: int, width: int) -> Scan:
    """Return the positions of an image of this size."""
    ky, kx = np.indices(grid(height, width)).reshape(2, -1)
    within = np.flatnonzero(radius_squared(ky, kx, height, width) <= 64 * RADIUS * RADIUS)
    order = within[np.argsort((ky + kx)[within], kind="stable")]
    ky = ky[order]
    kx = kx[order]
    zero = np.zeros_like(ky)
    radius = _root(radius_squared(ky, kx, height, width))
    features = [
        LOG_RADIUS[radius],
        LOG_RADIUS[_root(radius_squared(ky, zero, height, width))],
        LOG_RADIUS[_root(radius_squared(zero, kx, height, width))],
        np.where(ky == 0, 64, 0),
        np.where(kx == 0, 64, 0),
        np.where(radius == 0, 64, 0),
        radius,
    ]
    before = np.concatenate([[0], np.cumsum(np.bincount(ky + kx))])
    return Scan(ky, kx, ky + kx, radius, np.stack(features, 1), before)


def _root(squared: np.ndarray) -> np.ndarray:
    """Return square roots, rounded down; float64's is exact enough below 2**50."""
    return np.sqrt(squared).astype(np.int64)


def empty(height: int, width: int) -> np.ndarray:
    """Return three planes of zeros for an image's values, with PAD zeros on all sides, int64."""
    vertical, horizontal = grid(height, width)
    return np.zeros((3, vertical + 2 * PAD, horizontal + 2 * PAD), np.int64)


def features(context: Context, positions: np.ndarray) -> np.ndarray:
    """Return the networks' inputs, int64 (positions, FEATURES), in 1 / 128.

    They do not depend on the values in the positions' own diagonals and in later ones.
    """
    groups = [
        _neighbor_features(context, positions),
        _diagonal_features(context, positions),
        _setting_features(context, positions),
        _plane_features(context, 0, positions),
        _plane_features(context, 1, positions),
        context.scan.features[positions],
    ]
    return np.concatenate(groups, 1)


def _neighbor_features(context: Context, positions: np.ndarray) -> np.ndarray:
    """Return log magnitudes and clipped values of neighbors in the diagonals before."""
    values = context.planes[context.plane]
    ky = context.scan.ky[positions, None] + PAD
    kx = context.scan.kx[positions, None] + PAD
    magnitudes = np.abs(values[ky - MAGNITUDES_OF[:, 0], kx - MAGNITUDES_OF[:, 1]])
    signs = np.clip(values[ky - SIGNS_OF[:, 0], kx - SIGNS_OF[:, 1]], -3, 3)
    return np.concatenate([LOG_MAGNITUDE[magnitudes], 32 * signs], 1)


def _diagonal_features(context: Context, positions: np.ndarray) -> np.ndarray:
    """Return twice the mean log magnitudes of the diagonals before."""
    scan = context.scan
    diagonal = scan.diagonal[positions]
    values = context.planes[context.plane][scan.ky + PAD, scan.kx + PAD]
    sums = _sums_before(scan, LOG_MAGNITUDE[np.abs(values)])
    means = []
    for back, count in DIAGONALS:
        end = np.maximum(diagonal - back + 1, 0)
        start = np.maximum(end - count, 0)
        positions_between = np.maximum(scan.before[end] - scan.before[start], 1)
        means.append(2 * (sums[end] - sums[start]) // positions_between)
    return np.stack(means, 1)


def _sums_before(scan: Scan, values: np.ndarray) -> np.ndarray:
    """Return the sum of `values` in the diagonals before each diagonal, int64 (diagonals + 1,)."""
    sums = np.bincount(scan.diagonal, values).astype(np.int64)
    return np.concatenate([[0], np.cumsum(sums)])


def _setting_features(context: Context, positions: np.ndarray) -> np.ndarray:
    """Return the step, the plane's radius, luma's radius, and the distance from the radius."""
    radius = LOG_RADIUS[context.radius]
    settings = np.empty((len(positions), 4), np.int64)
    settings[:, 0] = 16 * context.step - 256
    settings[:, 1] = radius
    settings[:, 2] = LOG_RADIUS[RADII[context.radii[LUMA]]]
    settings[:, 3] = radius - LOG_RADIUS[context.scan.radius[positions]]
    return settings


def _plane_features(context: Context, other: int, positions: np.ndarray) -> np.ndarray:
    """Return what another plane says: zeros unless it comes before.

    The log magnitude at the same position, the sum of those around it, the clipped value, and its
    sign times the agreement of the two planes' signs in the diagonals before.
    """
    if other >= context.plane:
        return np.zeros((len(positions), 4), np.int64)
    scan = context.scan
    values = context.planes[other]
    ky = scan.ky[positions] + PAD
    kx = scan.kx[positions] + PAD
    value = np.clip(values[ky, kx], -3, 3)
    around = np.abs(values[ky[:, None] + AROUND[:, 0], kx[:, None] + AROUND[:, 1]])
    products = np.sign(context.planes[context.plane] * values)[scan.ky + PAD, scan.kx + PAD]
    agreement = _sums_before(scan, products)[scan.diagonal[positions]]
    said = [
        LOG_MAGNITUDE[np.abs(values[ky, kx])],
        LOG_MAGNITUDE[around].sum(1),
        32 * value,
        8 * np.clip(agreement, -8, 8) * np.sign(value),
    ]
    return np.stack(said, 1)


def logits(tables: Tables, plane: int, inputs: np.ndarray) -> np.ndarray:
    """Return the network's outputs for `features`, int64 (positions, HEADS) in 1 / 128."""
    values = inputs.astype(np.float64)
    *hidden, last = tables.networks[plane]
    for weights, bias in hidden:
        values = np.clip(np.floor((values @ weights + bias) / 256), 0, 32767)
    weights, bias = last
    return np.floor((values @ weights + bias) / 256).astype(np.int64)


def probabilities(tables: Tables, outputs: np.ndarray) -> np.ndarray:
    """Return the probability of yes of each decision, int64, in 1 / 2**PROBABILITY_BITS."""
    return tables.probabilities[np.clip(outputs >> 2, -LOGITS, LOGITS) + LOGITS]


def reconstruction_points(magnitudes: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Return where magnitudes lie on average, in 1 / 128 of a step; 0 stays 0."""
    offset = np.where(magnitudes == 1, outputs[..., OFFSET_ONE], outputs[..., OFFSET_MORE])
    return np.where(magnitudes == 0, 0, 128 * magnitudes + np.clip(offset, -48, 48))

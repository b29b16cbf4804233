"""The encoder's search: which step, which values, and up to which frequency, for a number of bytes.

    python -c "from colour_codec.search import LAMBDAS; print(LAMBDAS)"

A coefficient becomes 0, its size in steps rounded down, or one less or more than that: whichever has the least error +
lambda * bits. The bits depend on the neighbours, so this is done three times. lambda is in squares of the step.
"""

import math
from typing import NamedTuple

import numpy as np

from text_codec.intervals import Writer

from . import model, symbols
from .model import MOST, PAD, RADII, STEPS
from .symbols import levels, step_size
from .transform import UNIT

MIN_BYTES, MAX_BYTES = 8, 1000
LAMBDAS = (0.04, 0.2)  # the best is about 0.12, and between two steps the bytes differ by less than between these
FINEST_LAMBDA = 0.005  # for large budgets, where there is no finer step
ROUNDS = 3
ROUND_UP = 0.65  # where the first round begins
HALVINGS = 6  # of the range of lambda


class Trial(NamedTuple):
    """A picture quantised."""

    planes: np.ndarray  # int64, as `model.empty` has them
    step: int
    radii: tuple  # indices of RADII for luma and chroma
    bits: float  # estimated
    error: float  # mean squared, of the frequencies within RADIUS


class Picture:
    """A picture's coefficients (3, vertical, horizontal), as `transform.analyse` gives them."""

    def __init__(self, coefficients: np.ndarray, height: int, width: int, tables: model.Model | None = None):
        self.size, self.at, self.tables = (height, width), model.scan(height, width), tables or model.load()
        self.coefficients = coefficients[:, self.at.ky, self.at.kx].astype(np.float64)
        self.index = self.at.ky + PAD, self.at.kx + PAD

    def fit(self, budget: int) -> bytes:
        """The best payload found of at most `budget` bytes, MIN_BYTES or more."""
        first, last = 0, STEPS - 1  # the finest step of which something fits
        while first < last:
            middle = (first + last) // 2
            fits = self.trial(middle, LAMBDAS[1]).bits <= 8 * budget
            first, last = (first, middle) if fits else (middle + 1, last)
        tried = []
        for step in range(first, min(first + 2, STEPS)):
            high, low = math.log(LAMBDAS[1]), math.log(LAMBDAS[0] if first else FINEST_LAMBDA)
            tried += [self._tried(step, high, budget), self._tried(step, low, budget)]
            for _ in range(0 if tried[-1] else HALVINGS):
                middle = (high + low) / 2
                tried.append(self._tried(step, middle, budget))
                high, low = (middle, low) if tried[-1] else (high, middle)
        return min(filter(None, tried), default=(math.inf, self.payload(self.blank())))[1]

    def _tried(self, step: int, weight: float, budget: int) -> tuple[float, bytes] | None:
        """Error and payload with lambda exp(weight), if it fits."""
        trial = self.trial(step, math.exp(weight))
        payload = self.payload(trial) if trial.bits <= 8 * budget else None
        return None if payload is None or len(payload) > budget else (trial.error, payload)

    def blank(self) -> Trial:
        """Nothing but the mean lightness, coarsely: at most 6 bytes, whatever the tables."""
        planes = model.empty(*self.size)
        planes[0, PAD, PAD] = self._lightness(STEPS - 1)
        return Trial(planes, STEPS - 1, (0, 0), 0, math.inf)

    def trial(self, step: int, weight: float) -> Trial:
        """Quantise so that error + weight * step size**2 * bits is small."""
        planes, radii = model.empty(*self.size), [0, 0]
        price = weight * (step_size(step) / UNIT) ** 2
        bits, error = math.log2(STEPS), 0.0
        for plane in range(3):
            kind = min(plane, 1)
            exact = np.abs(self.coefficients[plane]) * UNIT / step_size(step)
            if plane < 2:  # c has the radius of b
                radii[kind] = int(np.searchsorted(RADII, self.at.radius[exact >= ROUND_UP].max(initial=0)))
            rows = np.flatnonzero(self.at.radius <= RADII[radii[kind]])
            candidates = self._candidates(exact[rows], step, plane)
            chosen = np.where(exact[rows] % 1 < ROUND_UP, 2, 3)
            for _ in range(ROUNDS):
                errors, costs = self._judge(planes, step, radii, plane, rows, candidates, chosen, exact[rows])
                chosen = (errors + price * costs).argmin(1)
            if plane < 2:
                radii[kind] = self._radius(rows, errors[:, 0] - (errors + price * costs).min(1))
                bits -= math.log2(np.diff(self.tables.radii[kind, step])[radii[kind]] / model.RADII_TOTAL)
            keep = self.at.radius[rows] <= RADII[radii[kind]]
            rows, candidates, chosen, planes[plane] = rows[keep], candidates[keep], chosen[keep], 0
            errors, costs = self._judge(planes, step, radii, plane, rows, candidates, chosen, exact[rows])
            bits += _picked(costs, chosen).sum()
            error += (self.coefficients[plane] ** 2).sum() - (self.coefficients[plane, rows] ** 2).sum()
            error += _picked(errors, chosen).sum()
        return Trial(planes, step, tuple(radii), float(bits), float(error))

    def payload(self, trial: Trial) -> bytes:
        """The bytes of a trial."""
        writer = Writer()
        writer.put(trial.step, 1, STEPS)
        for starts, radius in zip(self.tables.radii[:, trial.step], trial.radii, strict=True):
            writer.put(int(starts[radius]), int(starts[radius + 1] - starts[radius]), model.RADII_TOTAL)
        for plane in range(3):
            rows = np.flatnonzero(self.at.radius <= RADII[trial.radii[min(plane, 1)]])
            inputs = model.features(trial.planes, plane, self.at, rows, trial.step, trial.radii)
            shares = model.shares(self.tables, model.logits(self.tables, plane, inputs)).tolist()
            values = trial.planes[plane][self.index][rows].tolist()
            if plane == 0:
                writer.put(values[0], 1, levels(trial.step))
            for value, share in list(zip(values, shares, strict=True))[plane == 0 :]:
                symbols.put_value(writer, value, share)
        return writer.bytes()

    def _candidates(self, exact: np.ndarray, step: int, plane: int) -> np.ndarray:
        """int64 (positions, 4) of sizes to choose from, 0 first."""
        below = exact.astype(np.int64)
        candidates = np.stack([0 * below, below - 1, below, below + 1], 1).clip(0, MOST)
        if plane == 0:
            candidates[0] = self._lightness(step)
        return candidates

    def _lightness(self, step: int) -> int:
        return min(max(round(self.coefficients[0, 0] * UNIT / step_size(step)), 0), levels(step) - 1)

    def _judge(self, planes, step, radii, plane, rows, candidates, chosen, exact) -> tuple[np.ndarray, np.ndarray]:
        """Squared errors and bits of all candidates, next to the chosen ones, which are put into `planes`."""
        negative = self.coefficients[plane, rows] < 0
        values = _picked(candidates, chosen)
        planes[plane, self.index[0][rows], self.index[1][rows]] = np.where(negative, -values, values)
        inputs = model.features(planes, plane, self.at, rows, step, radii)
        outputs = model.logits(self.tables, plane, inputs)
        sizes = model.sizes(candidates, outputs[:, None]) / 128
        costs = symbols.bits(model.shares(self.tables, outputs), candidates, negative)
        if plane == 0:
            sizes[0], costs[0] = candidates[0], math.log2(levels(step))
        return ((exact[:, None] - sizes) * (step_size(step) / UNIT)) ** 2, costs

    def _radius(self, rows: np.ndarray, gains: np.ndarray) -> int:
        """The radius that it pays most to send, given what each position gains over sending nothing."""
        return int(np.argmax([gains[self.at.radius[rows] <= radius].sum() for radius in RADII]))


def _picked(table: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The chosen column of each row."""
    return table[np.arange(len(table)), chosen]

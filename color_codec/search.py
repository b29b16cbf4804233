"""The encoder's search: step, radii and values for a number of bytes.

    python -c "from color_codec.search import LAMBDAS; print(LAMBDAS)"

The magnitude of a coefficient becomes 0, its size in steps rounded down, or one less or more than
that: whichever has the least error + lambda * bits. The bits depend on the neighbors, so this is
done in rounds. lambda is in squares of the step.
"""

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from color_codec import model, symbols
from color_codec.model import CHROMA, KINDS, LUMA, MAX_MAGNITUDE, PAD, RADII, STEPS, Context
from color_codec.symbols import levels, step_size
from color_codec.transform import UNIT
from common.arithmetic_coder import Writer

MIN_BYTES, MAX_BYTES = 8, 1000  # of a payload
# From the least to the most that is tried at a step. The best is about 0.12; the bytes of two steps
# differ by less than those of these two lambdas.
LAMBDAS = (0.04, 0.2)
FINEST_LAMBDA = 0.005  # at the finest step, for large budgets
ROUNDS = 3
ROUND_UP = 0.65  # the first round starts from values rounded up from here on
HALVINGS = 6  # of the range of lambda
SENDS_RADIUS = (True, True, False)  # of the planes: the third has the radius of the second


class Trial(NamedTuple):
    """A quantized image."""

    planes: np.ndarray  # int64, as `model.empty` has them
    step: int
    radii: tuple[int, int]  # indices of RADII for luma and chroma
    bits: float  # estimated
    error: float  # mean squared, of the frequencies within RADIUS


class _Options(NamedTuple):
    """What the positions of a plane may become."""

    positions: np.ndarray  # int64 (n,), indices of the scan
    exact: np.ndarray  # float64 (n,), magnitudes in steps
    candidates: np.ndarray  # int64 (n, 4), magnitudes to choose from, 0 first


class _PlaneTrial(NamedTuple):
    """What a quantized plane adds to a trial."""

    radii: tuple[int, int]
    bits: float  # of the values
    lost_error: float  # of the positions outside the radius
    error: float  # of the positions within


class MapEncoder:
    """Finds the color map of one image.

    coefficients: float64 (3, vertical, horizontal) of `transform.analyze`. height, width: of the
    image. tables: None for the bundled ones.
    """

    def __init__(
        self, coefficients: np.ndarray, height: int, width: int, tables: model.Tables | None = None
    ):
        self.size = (height, width)
        self.scan = model.scan(height, width)
        self.tables = tables or model.load()
        self.coefficients = coefficients[:, self.scan.ky, self.scan.kx].astype(np.float64)
        self.index = (self.scan.ky + PAD, self.scan.kx + PAD)  # of all positions in a plane

    def fit(self, budget: int) -> bytes:
        """Return the best payload found of at most `budget` bytes, MIN_BYTES or more."""
        finest = self._finest_step(budget)
        found = []
        for step in range(finest, min(finest + 2, STEPS)):
            least = FINEST_LAMBDA if finest == 0 else LAMBDAS[0]
            found += self._payloads(step, least, budget)
        if not found:
            return self.payload(self.blank())
        return min(found)[1]

    def _finest_step(self, budget: int) -> int:
        """Return the finest step at which something fits."""
        first = 0
        last = STEPS - 1
        while first < last:
            middle = (first + last) // 2
            if self.trial(middle, LAMBDAS[1]).bits <= 8 * budget:
                last = middle
            else:
                first = middle + 1
        return first

    def _payloads(self, step: int, least: float, budget: int) -> list[tuple[float, bytes]]:
        """Return (error, payload) of the lambdas from `least` on that fit, found by bisection."""
        high = math.log(LAMBDAS[1])
        low = math.log(least)
        tried = [self._tried(step, high, budget), self._tried(step, low, budget)]
        if tried[1] is None:
            for _ in range(HALVINGS):
                middle = (high + low) / 2
                tried.append(self._tried(step, middle, budget))
                if tried[-1] is None:
                    low = middle
                else:
                    high = middle
        return [each for each in tried if each is not None]

    def _tried(self, step: int, log_lambda: float, budget: int) -> tuple[float, bytes] | None:
        """Return (error, payload) if it fits into the budget."""
        trial = self.trial(step, math.exp(log_lambda))
        if trial.bits > 8 * budget:
            return None
        payload = self.payload(trial)
        if len(payload) > budget:
            return None
        return trial.error, payload

    def blank(self) -> Trial:
        """Return the mean lightness alone, coarsely: at most 6 bytes, whatever the tables."""
        planes = model.empty(*self.size)
        planes[0, PAD, PAD] = self._lightness(STEPS - 1)
        return Trial(planes, STEPS - 1, (0, 0), 0, math.inf)

    def trial(self, step: int, weight: float) -> Trial:
        """Quantize so that error + weight * step size**2 * bits is small."""
        planes = model.empty(*self.size)
        radii = (0, 0)
        price = weight * (step_size(step) / UNIT) ** 2
        bits = math.log2(STEPS)
        error = 0.0
        for plane in range(3):
            found = self._quantize(Context(planes, plane, self.scan, step, radii), price)
            radii = found.radii
            if SENDS_RADIUS[plane]:
                bits += self._radius_bits(KINDS[plane], step, radii[KINDS[plane]])
            bits += found.bits
            error += found.lost_error
            error += found.error
        return Trial(planes, step, radii, float(bits), float(error))

    def payload(self, trial: Trial) -> bytes:
        """Return the bytes of a trial."""
        writer = Writer()
        writer.put(trial.step, 1, STEPS)
        for kind in (LUMA, CHROMA):
            start, end = self._radius_interval(kind, trial.step, trial.radii[kind])
            writer.put(start, end - start, model.RADII_TOTAL)
        writer.put(int(trial.planes[0, PAD, PAD]), 1, levels(trial.step))
        for plane in range(3):
            context = Context(trial.planes, plane, self.scan, trial.step, trial.radii)
            positions = context.network_positions()
            outputs = self._outputs(context, positions)
            probabilities = model.probabilities(self.tables, outputs).tolist()
            values = trial.planes[plane][self.index][positions].tolist()
            for value, each in zip(values, probabilities, strict=True):
                symbols.put_value(writer, value, each)
        return writer.bytes()

    def _radius_interval(self, kind: int, step: int, radius: int) -> tuple[int, int]:
        """Return start and end of a radius's interval, of RADII_TOTAL."""
        starts = self.tables.radii[kind, step]
        return int(starts[radius]), int(starts[radius + 1])

    def _radius_bits(self, kind: int, step: int, radius: int) -> float:
        start, end = self._radius_interval(kind, step, radius)
        return -math.log2((end - start) / model.RADII_TOTAL)

    def _quantize(self, context: Context, price: float) -> _PlaneTrial:
        """Quantize a plane in place, with the least error + price * bits.

        If the plane sends its radius, that is the one that pays most.
        """
        exact = np.abs(self.coefficients[context.plane]) * UNIT / step_size(context.step)
        if SENDS_RADIUS[context.plane]:
            context = _with_radius(context, self._widest(exact))
        options = self._options(context, exact)
        chosen, gains = self._choose(context, options, price)
        if SENDS_RADIUS[context.plane]:
            radius = self._best_radius(options.positions, gains)
            context = _with_radius(context, radius)
            keep = self.scan.radius[options.positions] <= RADII[radius]
            options = _Options(*(column[keep] for column in options))
            chosen = chosen[keep]
        context.planes[context.plane] = 0  # the positions that are not kept
        errors, costs = self._judge(context, options, chosen)
        squares = self.coefficients[context.plane] ** 2
        lost = squares.sum() - squares[options.positions].sum()
        bits = _picked(costs, chosen).sum()
        return _PlaneTrial(context.radii, bits, lost, _picked(errors, chosen).sum())

    def _widest(self, exact: np.ndarray) -> int:
        """Return the smallest radius that holds all magnitudes that would be rounded up to 1."""
        farthest = self.scan.radius[exact >= ROUND_UP].max(initial=0)
        return int(np.searchsorted(RADII, farthest))

    def _best_radius(self, positions: np.ndarray, gains: np.ndarray) -> int:
        """Return the radius that pays most; gains: of each position, over sending nothing."""
        radii = self.scan.radius[positions]
        return int(np.argmax([gains[radii <= radius].sum() for radius in RADII]))

    def _options(self, context: Context, exact: np.ndarray) -> _Options:
        """Return the magnitudes to choose from, for the positions within the radius."""
        positions = context.positions()
        exact = exact[positions]
        below = exact.astype(np.int64)
        candidates = np.stack([0 * below, below - 1, below, below + 1], 1).clip(0, MAX_MAGNITUDE)
        if context.plane == 0:
            candidates[0] = self._lightness(context.step)
        return _Options(positions, exact, candidates)

    def _lightness(self, step: int) -> int:
        """Return the quantized mean lightness."""
        nearest = round(self.coefficients[0, 0] * UNIT / step_size(step))
        return min(max(nearest, 0), levels(step) - 1)

    def _choose(
        self, context: Context, options: _Options, price: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the best candidate of each position, and what it gains over 0."""
        chosen = np.where(options.exact % 1 < ROUND_UP, 2, 3)
        for _ in range(ROUNDS):
            errors, costs = self._judge(context, options, chosen)
            totals = errors + price * costs
            chosen = totals.argmin(1)
        return chosen, errors[:, 0] - totals.min(1)

    def _judge(
        self, context: Context, options: _Options, chosen: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return squared errors and bits of all candidates, float64 (n, 4) each.

        Their neighbors are the chosen candidates, which are put into `context.planes`.
        """
        plane = context.plane
        positions = options.positions
        negative = self.coefficients[plane, positions] < 0
        magnitudes = _picked(options.candidates, chosen)
        values = np.where(negative, -magnitudes, magnitudes)
        context.planes[plane, self.index[0][positions], self.index[1][positions]] = values
        outputs = self._outputs(context, positions)
        points = model.reconstruction_points(options.candidates, outputs[:, None]) / 128
        probabilities = model.probabilities(self.tables, outputs)
        costs = symbols.bits(probabilities, options.candidates, negative)
        if plane == 0:
            # The mean lightness has no network.
            points[0] = options.candidates[0]
            costs[0] = math.log2(levels(context.step))
        errors = (options.exact[:, None] - points) * (step_size(context.step) / UNIT)
        return errors**2, costs

    def _outputs(self, context: Context, positions: np.ndarray) -> np.ndarray:
        """Return the network's outputs, int64 (positions, HEADS)."""
        return model.logits(self.tables, context.plane, model.features(context, positions))


def _with_radius(context: Context, radius: int) -> Context:
    """Return the context with another radius of the plane's kind."""
    luma, chroma = context.radii
    if KINDS[context.plane] == LUMA:
        return replace(context, radii=(radius, chroma))
    return replace(context, radii=(luma, radius))


def _picked(table: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return the chosen column of each row."""
    return table[np.arange(len(table)), chosen]

"""A small colour map <-> bytes: which colours go where in a photograph, in some 20 to 400 bytes.

    python -c "import colour_codec, numpy; print(colour_codec.encode(numpy.zeros((256, 384, 3), numpy.uint8), 60).hex())"

The lowest cosine coefficients of the whole picture (`transform.py`), quantised with one step and coded with an
arithmetic coder and the shares of a small network (`model.py`). From the bytes to the map all is whole numbers, so
every machine gets the same map. The payload says step and radii; the size of the picture comes from the stream.
"""

import functools
import math

import numpy as np
from PIL import Image

from text_codec.intervals import Reader, Writer

from . import model, transform
from .model import ABOVE_ONE, ABOVE_TWO, MORE, MOST, NEGATIVE, NONZERO, PAD, RADII, STEPS
from .transform import SCALE, UNIT

__all__ = ["MIN_BYTES", "ColourError", "decode", "encode", "enlarge"]

MIN_BYTES = 8
TOTAL = 1 << model.PROBABILITY_BITS
CHROMA_STEP = 5  # quarters of the luma step
MEAN = 110  # what plane a's first coefficient is coded relative to
LAMBDAS = (0.06, 0.3)  # of squared steps, per bit: the range of the encoder's search


class ColourError(ValueError):
    """Bytes that are no colour map."""


def step_size(step: int, plane: int) -> int:
    """The quantiser's step in 1 / UNIT: 2**(1 / 5) from one to the next."""
    size = (48, 55, 63, 73, 84)[step % 5] << step // 5
    return size * CHROMA_STEP // 4 if plane else size


def _check_size(height: int, width: int) -> None:
    if not (64 <= height <= 4096 and 64 <= width <= 4096) or height % 64 or width % 64:
        raise ValueError(f"{width}x{height} pixels: sides must be multiples of 64 from 64 to 4096")


def decode(payload: bytes, height: int, width: int) -> np.ndarray:
    """The inverse of `encode`: the map, uint8 RGB (height / 8, width / 8, 3), the same on every machine.

    Raises ColourError for bytes that `encode` never writes, ValueError for a size that is none.
    """
    _check_size(height, width)
    coder = _Decoder(payload)
    coefficients = _symbols(coder, height, width)
    if coder.writer.bytes() != payload:
        raise ColourError(f"these {len(payload)} bytes hold a colour map in a form that is never written")
    return transform.synthesise(coefficients, height, width)


class _Decoder:
    """Reads decisions, and writes them again: what comes out must be what went in."""

    def __init__(self, payload: bytes):
        self.reader, self.writer = Reader(payload), Writer()

    def choice(self, total: int) -> int:
        value = self.reader.slot(total)
        self.reader.take(value, 1, total)
        self.writer.put(value, 1, total)
        return value

    def decision(self, share: int) -> bool:
        yes = self.reader.slot(TOTAL) < share
        interval = (0, share, TOTAL) if yes else (share, TOTAL - share, TOTAL)
        self.reader.take(*interval)
        self.writer.put(*interval)
        return yes

    def value(self, share: list[int]) -> int:
        if not self.decision(share[NONZERO]):
            return 0
        size = 1 + self.decision(share[ABOVE_ONE])
        if size == 2 and self.decision(share[ABOVE_TWO]):
            size = 3
            while size < MOST and self.decision(share[MORE]):
                size += 1
        return -size if self.decision(share[NEGATIVE]) else size


def _symbols(coder: _Decoder, height: int, width: int) -> np.ndarray:
    """Read all coefficients, in 1 / UNIT."""
    tables, at, planes = model.load(), model.scan(height, width), model.empty(height, width)
    step, radii = coder.choice(STEPS), (coder.choice(len(RADII)), coder.choice(len(RADII)))
    coefficients = np.zeros_like(planes)
    for plane in range(3):
        inside = np.flatnonzero(at.radius <= RADII[radii[min(plane, 1)]])
        for rows in np.split(inside, np.flatnonzero(np.diff(at.diagonal[inside])) + 1):
            outputs = model.logits(tables, plane, model.features(planes, plane, at, rows, step, radii))
            values = np.array([coder.value(share) for share in model.shares(tables, outputs).tolist()])
            planes[plane, at.ky[rows] + PAD, at.kx[rows] + PAD] = values
            found = np.sign(values) * (model.sizes(np.abs(values), outputs) * step_size(step, plane) >> 7)
            coefficients[plane, at.ky[rows] + PAD, at.kx[rows] + PAD] = found
    coefficients[0, PAD, PAD] += MEAN * UNIT
    return coefficients[:, PAD:-PAD, PAD:-PAD]


def enlarge(colour: np.ndarray, height: int, width: int) -> np.ndarray:
    """The map as a smooth picture, uint8 RGB (height, width, 3)."""
    return np.asarray(Image.fromarray(colour).resize((width, height), Image.Resampling.BICUBIC))


def encode(image: np.ndarray, budget_bytes: int) -> bytes:
    """uint8 RGB (H, W, 3), sides multiples of 64 -> the best map found of at most `budget_bytes` bytes.

    Raises ValueError for another size, or a budget below MIN_BYTES.
    """
    height, width = image.shape[:2]
    _check_size(height, width)
    if budget_bytes < MIN_BYTES:
        raise ValueError(f"{budget_bytes} bytes: a colour map takes at least {MIN_BYTES}")
    picture = Picture(transform.analyse(image), height, width)
    coarsest = picture.trial(STEPS - 1, LAMBDAS[1])
    first, last = 0, STEPS - 1  # the finest step whose cheapest form fits
    while first < last:
        middle = (first + last) // 2
        first, last = (
            (first, middle) if picture.trial(middle, LAMBDAS[1]).bits <= 8 * budget_bytes else (middle + 1, last)
        )
    trials = [picture.fit(step, budget_bytes) for step in range(first, min(first + 3, STEPS))]
    trials = [trial for trial in trials if trial is not None] or [coarsest]
    best = min(trials, key=lambda trial: trial.error)
    return best.payload() if len(best.payload()) <= budget_bytes else picture.blank().payload()


class Trial:
    """One quantisation of a picture."""

    def __init__(self, planes: np.ndarray, step: int, radii: tuple, bits: float, error: float, size: tuple):
        self.planes, self.step, self.radii, self.bits, self.error, self.size = planes, step, radii, bits, error, size

    @functools.cache  # noqa: B019 -- trials are short-lived
    def payload(self) -> bytes:
        tables, at, writer = model.load(), model.scan(*self.size), Writer()
        writer.put(self.step, 1, STEPS)
        for radius in self.radii:
            writer.put(radius, 1, len(RADII))
        for plane in range(3):
            rows = np.flatnonzero(at.radius <= RADII[self.radii[min(plane, 1)]])
            outputs = model.logits(tables, plane, model.features(self.planes, plane, at, rows, self.step, self.radii))
            values = self.planes[plane, at.ky[rows] + PAD, at.kx[rows] + PAD]
            for value, share in zip(values.tolist(), model.shares(tables, outputs).tolist(), strict=True):
                _put_value(writer, value, share)
        return writer.bytes()


def _put_value(writer: Writer, value: int, share: list[int]) -> None:
    """The inverse of `_Decoder.value`."""

    def decide(yes: bool, share: int) -> None:
        writer.put(*((0, share, TOTAL) if yes else (share, TOTAL - share, TOTAL)))

    size = abs(value)
    decide(size > 0, share[NONZERO])
    if size > 0:
        decide(size > 1, share[ABOVE_ONE])
    if size > 1:
        decide(size > 2, share[ABOVE_TWO])
    for more in range(3, min(size + 1, MOST) if size > 2 else 3):
        decide(size > more, share[MORE])
    if size > 0:
        decide(value < 0, share[NEGATIVE])


class Picture:
    """A picture's coefficients, and the search for their cheapest form."""

    def __init__(self, coefficients: np.ndarray, height: int, width: int):
        self.size = height, width
        self.at = model.scan(height, width)
        self.coefficients = coefficients[:, self.at.ky, self.at.kx].astype(np.float64)
        self.coefficients[0, 0] -= MEAN

    def blank(self) -> Trial:
        return Trial(model.empty(*self.size), STEPS - 1, (0, 0), 0.0, math.inf, self.size)

    def fit(self, step: int, budget_bytes: int) -> Trial | None:
        """The trial of the smallest lambda that fits the budget."""
        low, high = (math.log(end) for end in LAMBDAS)
        fitting = self.trial(step, math.exp(high))
        if fitting.bits > 8 * budget_bytes:
            return None
        best = fitting
        for _ in range(5):
            middle = (low + high) / 2
            trial = self.trial(step, math.exp(middle))
            if trial.bits <= 8 * budget_bytes and len(trial.payload()) <= budget_bytes:
                high, best = middle, min(best, trial, key=lambda trial: trial.error)
            else:
                low = middle
        return best

    def trial(self, step: int, weight: float, rounds: int = 3) -> Trial:
        """Quantise so that error + weight * step**2 * bits is small."""
        tables, at = model.load(), self.at
        planes, radii = model.empty(*self.size), [len(RADII) - 1] * 2
        index = at.ky + PAD, at.kx + PAD
        bits, error = 13.0, 0.0
        for plane in range(3):
            size = step_size(step, plane) / UNIT
            price = weight * (step_size(step, 0) / UNIT) ** 2
            scaled = np.abs(self.coefficients[plane]) / size
            negative = self.coefficients[plane] < 0
            magnitude = np.minimum((scaled + 0.35).astype(np.int64), MOST)
            for turn in range(rounds + 1):
                planes[plane][index] = np.where(negative, -magnitude, magnitude)
                outputs = model.logits(
                    tables, plane, model.features(planes, plane, at, slice(None), step, tuple(radii))
                )
                candidates = np.clip(scaled.astype(np.int64)[:, None] + np.array([-1, 0, 1]), 0, MOST)
                candidates = np.concatenate([np.zeros_like(candidates[:, :1]), candidates], 1)
                costs = _costs(tables, outputs, candidates, negative)
                errors = (scaled[:, None] - model.sizes(candidates, outputs[:, None]) / 128) ** 2 * size**2
                if turn < rounds:
                    magnitude = np.take_along_axis(candidates, (errors + price * costs).argmin(1)[:, None], 1)[:, 0]
                if turn == rounds - 1 and plane < 2:
                    radii[plane] = self._radius(magnitude, candidates, errors, costs, price)
                if turn >= rounds - 1:
                    magnitude[at.radius > RADII[radii[min(plane, 1)]]] = 0
            chosen = (candidates == magnitude[:, None]).argmax(1)[:, None]
            inside = at.radius <= RADII[radii[min(plane, 1)]]
            bits += float(np.take_along_axis(costs, chosen, 1)[inside].sum())
            error += float(np.take_along_axis(errors, chosen, 1).sum())
        return Trial(planes, step, tuple(radii), bits, error, self.size)

    def _radius(self, magnitude, candidates, errors, costs, price: float) -> int:
        """The radius beyond which it pays to send nothing."""
        chosen = (candidates == magnitude[:, None]).argmax(1)[:, None]
        gains = errors[:, 0] - np.take_along_axis(errors + price * costs, chosen, 1)[:, 0]
        totals = [gains[self.at.radius <= radius].sum() for radius in RADII]
        return int(np.argmax(totals))


def _costs(tables, outputs: np.ndarray, magnitudes: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """Bits of candidate magnitudes (positions, candidates)."""
    share = model.shares(tables, outputs) / TOTAL
    yes, no = -np.log2(share)[:, None], -np.log2(1 - share)[:, None]
    sign = np.where(negative[:, None], yes[..., NEGATIVE], no[..., NEGATIVE])
    more = (magnitudes - 3) * yes[..., MORE] + np.where(magnitudes < MOST, no[..., MORE], 0)
    two = np.where(magnitudes == 2, no[..., ABOVE_TWO], yes[..., ABOVE_TWO] + more)
    one = np.where(magnitudes == 1, no[..., ABOVE_ONE], yes[..., ABOVE_ONE] + two)
    return np.where(magnitudes == 0, no[..., NONZERO], yes[..., NONZERO] + sign + one)

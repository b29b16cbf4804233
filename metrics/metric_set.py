"""The chosen metrics with their models loaded once, for pairs of images and for sets of pairs.

metrics = MetricSet(("psnr", "lpips_alex"), Tools())
metrics.measure(original, recon)    # {"psnr": 23.1, "lpips_alex": None}
metrics.unavailable                 # {"lpips_alex": "https://... cannot be fetched (...); ..."}
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from common.weights import UnavailableError
from metrics import networks
from metrics.sets import hific_patches
from metrics.table import FAST, METRICS, ImageMetric, Metric, SetMetric
from metrics.tools import NO_TOOLS, Image, Pair, Tools

Inception = Callable[[Sequence[Image] | np.ndarray], np.ndarray]  # images -> features (n, 2048)
NO_FEATURES = np.empty((0, networks.INCEPTION_WIDTH), np.float32)


class SetValue(NamedTuple):
    """A metric of a set, and the sizes of the two sets that it compares."""

    value: float | None  # None: see MetricSet.unavailable
    reconstructions: int  # images or patches
    others: int  # of the originals or the reference
    subset_size: int | None = None  # of KID's random subsets


class MetricSet:
    """The chosen metrics.

    `rows` are theirs of METRICS; `unavailable` is {name: reason} of those without values.
    """

    def __init__(self, names: Sequence[str] = FAST, tools: Tools = NO_TOOLS):
        """Load what `names` (keys of METRICS) need; what is not available goes to `unavailable`."""
        self.rows = [row for name, row in METRICS.items() if name in names]
        self.unavailable: dict[str, str] = {}
        self._tools = tools
        self._functions: dict[str, Callable[[Pair], float]] = {}
        self._inception: Inception | None = None
        for row in self.rows:
            try:
                self._load(row)
            except UnavailableError as error:
                self.unavailable[row.name] = " ".join(str(error).split())

    def measure(
        self, original: Image, recon: Image, sketch: np.ndarray | None = None
    ) -> dict[str, float | None]:
        """Return the metrics of one image in the table's order, rounded to their digits.

        original, recon: uint8 (h, w, 3) of one size. sketch: the annotator's, uint8 (h, w), of the
        original, if it is known. A value is None if the metric is not available, or not defined for
        this image (it is too small).
        """
        pair = Pair(original, recon, sketch)
        values = {}
        for row in self.rows:
            if isinstance(row, ImageMetric):
                values[row.name] = self._value(row, pair)
        return values

    def over_set(self, pairs: Iterable[tuple[Image, Image]]) -> dict[str, SetValue]:
        """Return the metrics of the whole set of (original, recon), one pair at a time in memory.

        Sets that are too small to have a value go to `unavailable`. No pair is read if nothing can
        be measured.
        """
        rows = [row for row in self.rows if isinstance(row, SetMetric)]
        protocols = {row.against for row in rows if row.name not in self.unavailable}
        features = {}
        if protocols and self._inception:
            features = self._features(pairs, protocols, self._inception)
        values = {}
        for row in rows:
            recons, others = features.get(row.against, (NO_FEATURES, NO_FEATURES))
            values[row.name] = self._set_value(row, recons, others)
        return values

    def _load(self, row: Metric) -> None:
        """Load what a metric needs. Raises UnavailableError."""
        if isinstance(row, ImageMetric):
            self._functions[row.name] = row.load(self._tools)
            return
        if isinstance(row, SetMetric) and row.against == "reference":
            self._tools.get("reference")
        if self._inception is None:
            self._inception = networks.load_inception(self._tools.device)

    def _value(self, row: ImageMetric, pair: Pair) -> float | None:
        if row.name in self.unavailable or min(pair.original.shape[:2]) < row.smallest_side:
            return None
        value = self._functions[row.name](pair)
        return round(value, row.digits) if math.isfinite(value) else None

    def _features(
        self,
        pairs: Iterable[tuple[Image, Image]],
        protocols: set[str],
        inception: Inception,
    ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return Inception's features (n, 2048) of (reconstructions, others) for each protocol."""
        recon_patches: list[np.ndarray] = []
        patches: list[np.ndarray] = []
        recons: list[np.ndarray] = []
        references: list[np.ndarray] = []
        for original, recon in pairs:
            if "originals" in protocols:
                recon_patches.append(inception(hific_patches(recon)))
                patches.append(inception(hific_patches(original)))
            if "reference" in protocols:
                recons.append(inception([recon]))
        if "reference" in protocols:
            for image in self._tools.get("reference"):
                references.append(inception([image]))
        return {
            "originals": (_joined(recon_patches), _joined(patches)),
            "reference": (_joined(recons), _joined(references)),
        }

    def _set_value(self, row: SetMetric, recons: np.ndarray, others: np.ndarray) -> SetValue:
        sizes = (len(recons), len(others))
        subset = self._subset_size(row, min(sizes))
        least = max(2, subset or 0)
        if row.name not in self.unavailable and min(sizes) < least:
            what = "patches of 256x256" if row.against == "originals" else "images"
            self.unavailable[row.name] = (
                f"{sizes[0]} {what} against {sizes[1]}: {least} of each are the least"
            )
        if row.name in self.unavailable:
            return SetValue(None, *sizes)
        settings = () if subset is None else (subset,)
        value = row.distance(recons, others, *settings)
        return SetValue(round(value, row.digits), *sizes, subset)

    def _subset_size(self, row: SetMetric, rows: int) -> int | None:
        """Return how many of the `rows` of features each subset takes; None if there are none."""
        if row.subset_size is None:
            return None
        if row.against == "reference":
            return self._tools.kid_subset_size
        return min(row.subset_size, rows)


def _joined(features: Sequence[np.ndarray]) -> np.ndarray:
    """Return the rows of all images in one array."""
    parts = [part for part in features if len(part)]
    return np.concatenate(parts) if parts else NO_FEATURES

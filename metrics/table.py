"""The one table of metrics, and the set of them that an evaluation measures.

    from metrics import MetricSet
    metrics = MetricSet(["psnr", "lpips"])
    metrics.measure(original, recon)        # {"psnr": 23.1, "lpips": None}
    metrics.unavailable                     # {"lpips": "https://... cannot be reached (...); lay the file at ..."}

Each row says what is computed, by whose code, and what it needs. What cannot be had is in `unavailable`, with
the reason, and has the value None.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from metrics import networks
from metrics.networks import UnavailableError
from metrics.niqe import SMALLEST_SIDE as NIQE_MIN_SIDE
from metrics.niqe import load_parameters, niqe
from metrics.pictures import (
    MS_SSIM_MIN_SIDE,
    bsds_tolerance_px,
    colour_distance,
    edge_f1,
    ms_ssim,
    psnr,
)
from metrics.sets import frechet_distance, hific_patches, kernel_distance

Picture = np.ndarray  # (h, w, 3) uint8
PSNR_MOST = 100.0  # dB written for equal pictures: infinity is not a number in JSON, and a mean needs one


@dataclass(frozen=True)
class Tools:
    """What a caller lends to the metrics; a string in place of a tool says why it is not there."""

    clip: Callable[[Picture, Picture], float] | str = "no CLIP was given"
    judge: Callable[[Picture, Picture], float] | str = "the preset names no judge"
    annotator: Callable[[Picture], np.ndarray] | str = "no annotator was given"
    reference: Iterable[Picture] | str = "no reference folder was given"
    device: str = "cpu"

    def get(self, name: str):
        """Return the tool of that name. Raises UnavailableError."""
        tool = getattr(self, name)
        if isinstance(tool, str):
            raise UnavailableError(tool)
        return tool


class Pair(NamedTuple):
    """What a metric of one photograph sees."""

    original: Picture
    recon: Picture
    sketch: np.ndarray | None  # of the original, by the annotator, where it is at hand


@dataclass(frozen=True)
class Metric:
    """One row of the table."""

    name: str  # in --metrics and in results.csv
    title: str  # for people
    better: str  # "higher" or "lower"
    recipe: str  # exactly what is computed, and by whose code
    source: str
    needs: str = ""  # weights, or a tool of the caller; nothing where empty
    digits: int = 4  # behind the point, when written
    smallest_side: int = 1  # pixels; below it the metric is not defined

    def as_dict(self) -> dict:
        """Return what a page says of the metric."""
        names = ("name", "title", "better", "recipe", "source", "needs")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class PictureMetric(Metric):
    """A metric of one photograph and its reconstruction."""

    load: Callable[[Tools], Callable[[Pair], float]] = None  # raises UnavailableError


@dataclass(frozen=True)
class SetMetric(Metric):
    """A metric of all reconstructions together, on Inception's features."""

    distance: Callable[[np.ndarray, np.ndarray], float] = None
    against: str = "originals"  # patches of "originals" and reconstructions, or whole pictures and the "reference"


def _both(function: Callable[[Picture, Picture], float]) -> Callable[[Pair], float]:
    return lambda pair: function(pair.original, pair.recon)


def _finite_psnr(original: Picture, recon: Picture) -> float:
    return min(psnr(original, recon), PSNR_MOST)


def _load_edges(tools: Tools) -> Callable[[Pair], float]:
    annotate = tools.get("annotator")

    def agreement(pair: Pair) -> float:
        wanted = annotate(pair.original) if pair.sketch is None else pair.sketch
        return edge_f1(annotate(pair.recon), wanted, tolerance_px=bsds_tolerance_px(*wanted.shape)).f1

    return agreement


def _load_niqe(_: Tools) -> Callable[[Pair], float]:
    parameters = load_parameters(networks.fetch(networks.NIQE_URL))
    return lambda pair: niqe(pair.recon, parameters)


CLIP_RECIPE = "cosine of the two pictures' CLIP image features, each through the checkpoint's own preprocessing"
INCEPTION = "Inception-v3 weights of torch-fidelity (Apache-2.0, 91 MB)"
ON_PATCHES = (
    "originals against reconstructions on 256x256 patches, a grid and the same shifted by 128 pixels "
    "(Mentzer et al. 2020, as NeuralCompression cuts them), Inception-v3 and resizing by torch-fidelity; "
)
ON_FOLDER = (
    "a reference folder against reconstructions, whole pictures, resized to 299x299 by torch-fidelity's Inception-v3, "
    "as `fidelity` does and the paper with the resized training set; "
)
FID_RECIPE = "Frechet distance of the 2048 pooled features, (n - 1) covariances"
FID_SOURCE = "Heusel et al. 2017, arXiv 1706.08500"
KID_RECIPE = "cubic kernel, unbiased, mean over 100 subsets of {} (all, where fewer)"
KID_SOURCE = "Binkowski et al. 2018, arXiv 1801.01401"

METRICS: dict[str, Metric] = {
    row.name: row
    for row in (
        PictureMetric(
            "psnr",
            "PSNR, dB",
            "higher",
            "10 log10(255^2 / MSE) over all pixels and channels, sRGB, 8 bits; 100 where it is more",
            "closed form",
            digits=3,
            load=lambda _: _both(_finite_psnr),
        ),
        PictureMetric(
            "ms_ssim",
            "MS-SSIM",
            "higher",
            "5 scales, 11-pixel Gaussian of sigma 1.5, K 0.01 and 0.03, mean of the RGB channels, by pytorch-msssim",
            "Wang, Simoncelli, Bovik 2003",
            smallest_side=MS_SSIM_MIN_SIDE,
            load=lambda _: _both(ms_ssim),
        ),
        PictureMetric(
            "lpips",
            "LPIPS",
            "lower",
            "version 0.1, AlexNet, inputs in -1..1 at the coded size, by torchmetrics",
            "Zhang et al. 2018, arXiv 1801.03924",
            "torchvision's AlexNet weights (233 MB, ImageNet)",
            smallest_side=64,
            load=lambda tools: _both(networks.load_lpips(tools.device)),
        ),
        PictureMetric(
            "dists",
            "DISTS",
            "lower",
            "VGG-16, inputs in 0..1 at the coded size, not resized, by torchmetrics",
            "Ding et al. 2020, arXiv 2004.07728",
            "torchvision's VGG-16 weights (528 MB, ImageNet)",
            smallest_side=64,
            load=lambda tools: _both(networks.load_dists(tools.device)),
        ),
        PictureMetric(
            "clip",
            "CLIP similarity, encoder's CLIP",
            "higher",
            f"{CLIP_RECIPE}; this CLIP also searched the prompt and chose the candidate, which flatters",
            "Radford et al. 2021, arXiv 2103.00020",
            "the preset's CLIP",
            load=lambda tools: _both(tools.get("clip")),
        ),
        PictureMetric(
            "clip_judge",
            "CLIP similarity, judge's CLIP",
            "higher",
            f"{CLIP_RECIPE}; a CLIP that took no part in encoding",
            "Radford et al. 2021, arXiv 2103.00020",
            "the preset's judge",
            load=lambda tools: _both(tools.get("judge")),
        ),
        PictureMetric(
            "niqe",
            "NIQE",
            "lower",
            "of the reconstruction alone: grey levels, 96-pixel blocks, two scales, the authors' parameters",
            "Mittal, Soundararajan, Bovik 2013",
            "the authors' parameters (niqe_modelparameters.mat, 8 kB, free to use with acknowledgement)",
            smallest_side=NIQE_MIN_SIDE,
            load=_load_niqe,
        ),
        PictureMetric(
            "edges",
            "sketch agreement, F1",
            "higher",
            "F1 of the annotator's edges (128 and up) of the reconstruction against those of the original, "
            "within 0.0075 of the diagonal; edges neither thinned nor matched one to one",
            "after Martin, Fowlkes, Malik 2004; tolerance of BSDS500",
            "the preset's annotator",
            load=_load_edges,
        ),
        PictureMetric(
            "colour",
            "colour distance, delta E",
            "lower",
            "earth mover's distance of the CIELAB colour signatures (cells of side 10, CIE76 between them), by OpenCV",
            "Rubner, Tomasi, Guibas 2000",
            digits=3,
            load=lambda _: _both(colour_distance),
        ),
        SetMetric(
            "fid_patches",
            "FID/256",
            "lower",
            ON_PATCHES + FID_RECIPE,
            FID_SOURCE,
            INCEPTION,
            digits=3,
            distance=frechet_distance,
        ),
        SetMetric(
            "kid_patches",
            "KID/256",
            "lower",
            ON_PATCHES + KID_RECIPE.format(1000),
            KID_SOURCE,
            INCEPTION,
            digits=5,
            distance=lambda a, b: kernel_distance(a, b, subset_size=1000),
        ),
        SetMetric(
            "fid_folder",
            "FID, reference folder",
            "lower",
            ON_FOLDER + FID_RECIPE,
            FID_SOURCE,
            f"{INCEPTION}, a reference folder",
            digits=3,
            distance=frechet_distance,
            against="reference",
        ),
        SetMetric(
            "kid_folder",
            "KID, reference folder",
            "lower",
            ON_FOLDER + KID_RECIPE.format(50),
            KID_SOURCE,
            f"{INCEPTION}, a reference folder",
            digits=5,
            distance=lambda a, b: kernel_distance(a, b, subset_size=50),  # the paper's --kid-subset-size
            against="reference",
        ),
    )
}
FAST = ("psnr", "ms_ssim", "clip", "edges", "colour")


class SetValue(NamedTuple):
    """A metric of a set, with how much it was measured on."""

    value: float | None  # None: see MetricSet.unavailable
    reconstructions: int  # pictures or patches
    others: int  # of the originals or the reference


class MetricSet:
    """The chosen metrics, their models loaded once."""

    def __init__(self, names: Sequence[str] = FAST, tools: Tools = Tools()):
        """Load what `names` (keys of METRICS) need. What cannot be had goes to `unavailable`."""
        self.rows = [row for name, row in METRICS.items() if name in names]
        self.unavailable: dict[str, str] = {}  # name -> why, for those chosen that have no values
        self._tools = tools
        self._functions = {}
        self._inception = None
        for row in self.rows:
            try:
                self._load(row)
            except UnavailableError as error:
                self.unavailable[row.name] = str(error)

    def _load(self, row: Metric) -> None:
        if isinstance(row, PictureMetric):
            self._functions[row.name] = row.load(self._tools)
            return
        if row.against == "reference":
            self._tools.get("reference")
        if self._inception is None:
            self._inception = networks.load_inception(self._tools.device)

    def measure(self, original: Picture, recon: Picture, sketch: np.ndarray | None = None) -> dict[str, float | None]:
        """Return the metrics of one photograph in the table's order, rounded to their digits.

        original, recon: (h, w, 3) uint8 of one size; sketch: the annotator's (h, w) of the original, where it is
        at hand. None: not available, or not defined for this picture (too small; NIQE of a flat one).
        """
        pair, side = Pair(original, recon, sketch), min(original.shape[:2])
        return {row.name: self._value(row, pair, side) for row in self.rows if isinstance(row, PictureMetric)}

    def _value(self, row: PictureMetric, pair: Pair, side: int) -> float | None:
        if row.name in self.unavailable or side < row.smallest_side:
            return None
        value = self._functions[row.name](pair)
        return round(value, row.digits) if math.isfinite(value) else None

    def over_set(self, pairs: Iterable[tuple[Picture, Picture]]) -> dict[str, SetValue]:
        """Return the metrics of the whole set of (original, recon), a picture at a time in memory.

        Sets too small to have a value go to `unavailable`. No picture is read where nothing can be measured.
        """
        rows = [row for row in self.rows if isinstance(row, SetMetric)]
        protocols = {row.against for row in rows if row.name not in self.unavailable}
        features = self._features(pairs, protocols) if protocols else {}
        return {row.name: self._set_value(row, *features.get(row.against, ((), ()))) for row in rows}

    def _features(
        self, pairs: Iterable[tuple[Picture, Picture]], protocols: set[str]
    ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return Inception's features (n, 2048) of (reconstructions, others) for each protocol."""
        found = {protocol: ([], []) for protocol in protocols}
        for original, recon in pairs:
            if "originals" in protocols:
                for pile, picture in zip(found["originals"], (recon, original), strict=True):
                    pile.append(self._inception(hific_patches(picture)))
            if "reference" in protocols:
                found["reference"][0].append(self._inception([recon]))
        if "reference" in protocols:
            found["reference"][1].extend(self._inception([picture]) for picture in self._tools.get("reference"))
        nothing = [np.empty((0, 2048), np.float32)]
        return {protocol: tuple(np.concatenate(pile or nothing) for pile in piles) for protocol, piles in found.items()}

    def _set_value(self, row: SetMetric, recons: np.ndarray, others: np.ndarray) -> SetValue:
        sizes = len(recons), len(others)
        if row.name not in self.unavailable and min(sizes) < 2:
            what = "patches of 256x256" if row.against == "originals" else "pictures"
            self.unavailable[row.name] = f"{sizes[0]} {what} drawn against {sizes[1]}: two of each are the least"
        if row.name in self.unavailable:
            return SetValue(None, *sizes)
        return SetValue(round(row.distance(recons, others), row.digits), *sizes)

    def describe(self) -> list[dict]:
        """Return the chosen rows for a page: name, title, better, recipe, source, needs and `unavailable` (or None)."""
        return [row.as_dict() | {"unavailable": self.unavailable.get(row.name)} for row in self.rows]


def choose_metrics(text: str) -> tuple[str, ...]:
    """Parse `--metrics`: "fast", "all", or names with commas between, which may include "fast".

    Returns names in the table's order. Raises ValueError for one that is not there.
    """
    groups = {"fast": FAST, "all": tuple(METRICS), **{name: (name,) for name in METRICS}}
    words = [word.strip() for word in text.split(",")]
    if unknown := [word for word in words if word not in groups]:
        raise ValueError(
            f"unknown metric {', '.join(map(repr, unknown))}: choose fast, all, or of {', '.join(METRICS)}"
        )
    chosen = {name for word in words for name in groups[word]}
    return tuple(name for name in METRICS if name in chosen)

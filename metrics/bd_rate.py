"""Bjontegaard's delta rate: how many more bytes one curve takes than another for equal quality.

bd_rate([(100, 20.1), (200, 21.4)], [(50, 20.1), (100, 21.4)], "psnr")    # -50.0, percent

Bjontegaard 2001, ITU-T VCEG-M33, by the package bjontegaard: the mean over the common range of
quality of the difference of log rates, curves by PCHIP. Quality is the metric itself; MS-SSIM is in
dB, -10 log10(1 - MS-SSIM), and a metric of which less is better counts downwards.
"""

from collections.abc import Sequence

import numpy as np

from common.weights import UnavailableError
from metrics.table import METRICS

LEAST_POINTS = 4  # of a curve, in Bjontegaard's own proposal
NO_QUALITY = ("pattern",)  # metrics that do not rise with the rate
Points = Sequence[tuple[float, float]]  # (rate, value of a metric)


def bd_rate(anchor: Points, test: Points, metric: str) -> float | None:
    """Return the mean difference of the test's rate from the anchor's, in percent of the anchor's.

    metric: of METRICS. Points that cost more and give no more than another of their curve do not
    count. None if a curve has fewer than two points left, or if the curves have no range of quality
    in common. Raises UnavailableError if the package is not installed.
    """
    try:
        from bjontegaard import bd_rate as bjontegaard
    except ModuleNotFoundError as error:
        raise UnavailableError(
            "BD-rates: the package bjontegaard is not installed: pip install bjontegaard"
        ) from error
    curves = [rising(with_quality(points, metric)) for points in (anchor, test)]
    if min(map(len, curves)) < 2:
        return None
    (anchor_rates, anchor_qualities), (test_rates, test_qualities) = map(np.transpose, curves)
    low = max(anchor_qualities[0], test_qualities[0])
    high = min(anchor_qualities[-1], test_qualities[-1])
    if low >= high:
        return None
    percent = bjontegaard(
        anchor_rates,
        anchor_qualities,
        test_rates,
        test_qualities,
        method="pchip",
        require_matching_points=False,
        min_overlap=0,
    )
    return float(percent)


def with_quality(points: Points, metric: str) -> list[tuple[float, float]]:
    """Return (rate, quality) of points; those of infinite quality are left out."""
    found = []
    for rate, value in points:
        if metric == "ms_ssim":
            quality = -10 * np.log10(1 - value) if value < 1 else np.inf
        else:
            quality = value if METRICS[metric].better == "higher" else -value
        if np.isfinite(quality):
            found.append((rate, float(quality)))
    return found


def rising(points: Points) -> list[tuple[float, float]]:
    """Return the points, by rising rate, that are better than all that cost no more."""
    kept: list[tuple[float, float]] = []
    for rate, quality in sorted(points, key=lambda point: (point[0], -point[1])):
        if not kept or quality > kept[-1][1]:
            kept.append((rate, quality))
    return kept

"""Rate-distortion curves of codecs, and their comparison: hulls, BD-rates, rates at equal quality.

    hull = frontier([(0.01, 0.8), (0.02, 0.9)])
    bd_rate(anchor, hull)

The curve of a family is the concave hull of its settings' means in the plane of bits per pixel and
MS-SSIM: every point of it is reached, on average, by coding some sketches with one setting and some
with its neighbor. BD-rates: metrics/bd_rate.py.
"""

from collections.abc import Sequence
from statistics import fmean

import numpy as np

from benchmarks.rows import column, distinct
from metrics import bd_rate as bjontegaard

OURS = "ours"
PAPER = "paper"
CLASSICAL = "best classical"
Points = Sequence[tuple[float, float]]  # (rate, quality)


def means_of(rows: list[dict]) -> list[dict]:
    """Return the mean row of each setting, in the order in which they first appear."""
    groups: dict[tuple[str, str], list[dict]] = {}
    for row in rows:
        groups.setdefault((row["family"], row["setting"]), []).append(row)
    numbers = [name for name, value in rows[0].items() if not isinstance(value, str)]
    means = []
    for (family, setting), group in groups.items():
        mean = {"family": family, "setting": setting, "sketches": len(group)}
        for name in numbers:
            mean[name] = fmean(column(group, name))
        means.append(mean)
    return means


def frontier(points: Points) -> list[tuple[float, float]]:
    """Return the concave hull of points, by rising rate: those that no mixture of others beats."""
    hull: list[tuple[float, float]] = []
    for rate, quality in sorted(points, key=lambda point: (point[0], -point[1])):
        if hull and quality <= hull[-1][1]:
            continue
        while len(hull) > 1:
            (rate0, quality0), (rate1, quality1) = hull[-2:]
            if (quality - quality0) * (rate1 - rate0) < (quality1 - quality0) * (rate - rate0):
                break
            hull.pop()
        hull.append((rate, quality))
    return hull


def rate_reaching(hull: Points, quality: float) -> float | None:
    """Return the lowest rate of a hull that reaches a quality; None if there is none."""
    rates, qualities = zip(*hull, strict=True)
    if quality > qualities[-1]:
        return None
    return float(np.interp(quality, qualities, rates))


def bd_rate(anchor: Points, test: Points) -> dict | None:
    """Return the mean difference of two hulls' rates: {"percent": of the anchor, "ms_ssim_range"}.

    None if a hull has one point, or if they have no range of MS-SSIM in common.
    """
    percent = bjontegaard.bd_rate(anchor, test, "ms_ssim")
    if percent is None:
        return None
    qualities = [[quality for _, quality in points] for points in (anchor, test)]
    common = [max(map(min, qualities)), min(map(max, qualities))]
    return {"percent": percent, "ms_ssim_range": common}


def points_of(
    means: list[dict], families: Sequence[str], measure: str = "ms_ssim"
) -> list[tuple[float, float]]:
    """Return (bits per pixel, measure) of the settings of some families."""
    return [(row["bpp"], row[measure]) for row in means if row["family"] in families]


def against_classical(means: list[dict], classical: Sequence[str], measure: str) -> list[dict]:
    """Return for each of our settings the lowest classical rate at an equal measure, or None.

    classical: families of image formats. measure: "ms_ssim" or "edge_f1".
    """
    hull = frontier(points_of(means, classical, measure))
    compared = []
    for row in means:
        if row["family"] == OURS:
            rate = rate_reaching(hull, row[measure])
            compared.append(
                {
                    "setting": row["setting"],
                    "bpp": row["bpp"],
                    measure: row[measure],
                    "classical_bpp": rate,
                    "ours_is_lower": rate is None or row["bpp"] < rate,
                }
            )
    return compared


def summary_of_rates(means: list[dict]) -> dict:
    """Return our BD-rates against all families and their best, and rates at equal quality."""
    families = distinct(means, "family")
    classical = [family for family in families if family not in (OURS, PAPER)]
    ours = frontier(points_of(means, [OURS]))
    rates = {}
    for family in families:
        if family != OURS:
            rates[family] = bd_rate(frontier(points_of(means, [family])), ours)
    rates[CLASSICAL] = bd_rate(frontier(points_of(means, classical)), ours)
    at_equal_ms_ssim = against_classical(means, classical, "ms_ssim")
    return {
        "bd_rate": rates,
        "no_point_above_classical": all(column(at_equal_ms_ssim, "ours_is_lower")),
        "at_equal_ms_ssim": at_equal_ms_ssim,
        "at_equal_edge_f1": against_classical(means, classical, "edge_f1"),
        "paper_points": paper_points(means, ours),
    }


def paper_points(means: list[dict], ours: Points) -> list[dict]:
    """Return for each setting of the paper's network our rate at equal MS-SSIM, or None."""
    points = []
    for row in means:
        if row["family"] == PAPER:
            points.append(
                {
                    "setting": row["setting"],
                    "bpp": row["bpp"],
                    "ms_ssim": row["ms_ssim"],
                    "ours_bpp": rate_reaching(ours, row["ms_ssim"]),
                }
            )
    return points

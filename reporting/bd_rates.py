"""BD-rates of the curves of a comparison, from the points of curves.csv.

for row in bd_rates(points):
    print(row["series"], row["anchor"], row["metric"], row["percent"])
"""

from collections.abc import Sequence
from itertools import combinations

from metrics import METRICS, is_per_image
from metrics.bd_rate import LEAST_POINTS, NO_QUALITY, bd_rate
from reporting.columns import column_of


def bd_rates(points: Sequence[dict]) -> list[dict]:
    """Return {"series", "anchor", "metric", "percent"} for pairs of series and metrics.

    points: of `reporting.curves.curve_points`. The anchors of a series are those that come after
    it; both need LEAST_POINTS rates or more. Percent is None without a common range. Raises
    UnavailableError if the package bjontegaard is not installed and there is a pair.
    """
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}  # by metric and series
    for point in points:
        metric = point["metric"]
        if metric in METRICS and is_per_image(metric) and metric not in NO_QUALITY:
            series = curves.setdefault(metric, {})
            series.setdefault(point["series"], []).append((point["bpp"], point["mean"]))
    rows = []
    for metric, series in curves.items():
        enough = [name for name, curve in series.items() if len(dict(curve)) >= LEAST_POINTS]
        for name, anchor in combinations(enough, 2):
            percent = bd_rate(series[anchor], series[name], metric)
            row = {"series": name, "anchor": anchor, "metric": metric, "percent": percent}
            rows.append(row)
    return rows


def bd_lines(rows: Sequence[dict]) -> list[str]:
    """Return the lines that say BD-rates: one for each pair of series, with all metrics."""
    lines: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        percent = "no common range" if row["percent"] is None else f"{row['percent']:+.1f}%"
        said = f"{column_of(row['metric']).label} {percent}"
        lines.setdefault((row["series"], row["anchor"]), []).append(said)
    return [
        f"BD-rate of {pair[0]} against {pair[1]}: {'; '.join(said)}" for pair, said in lines.items()
    ]

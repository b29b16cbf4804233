"""Rate-distortion curves of several runs: curves.csv and a plot for each metric, as PNG (light and
dark) and PDF.
"""

import io
import re
import warnings
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path

from common.files import printable, write
from reporting.columns import column_of, setting
from reporting.comparison import comparison_page
from reporting.rendering import link
from reporting.rows import columns_of, numbers_of
from reporting.runs import RunResult
from reporting.tables import csv_file

MOST_CURVES = 40  # of a comparison; we have some 20 metrics
LONGEST_LABEL = 80  # characters of a text in a plot
PLOTS = {"light": ".png", "dark": "_dark.png", "pdf": ".pdf"}  # kind -> ending of the file
INK, NIGHT = "#e8e4dc", "#161513"
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
}
DARK = {
    **dict.fromkeys(("figure.facecolor", "axes.facecolor"), NIGHT),
    **dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK
    ),
}


def compare(runs: Sequence[RunResult], output: Path) -> None:
    """Write the curves of several runs, curves.csv and the page that compares them to the folder
    `output`.
    """
    labels, points = labels_of(runs), curve_points(runs)
    names = curve_names([point["metric"] for point in points])
    curves = [addresses_of(column, name) for column, name in names.items()]
    page = comparison_page(runs, labels, curves, output)
    output.mkdir(parents=True, exist_ok=True)
    if points:
        write(output / "curves.csv", csv_file(points))
    for column, name in names.items():
        draw_curve(points, column, output / name)
    write(output / "index.html", page.encode())


def labels_of(runs: Sequence[RunResult]) -> list[str]:
    """Return a name for each run: its method and the settings in which runs differ; their folders
    if none do.
    """
    settings = [{"dataset": run.dataset, **run.settings} for run in runs]
    labels = []
    for run, own in zip(runs, settings, strict=True):
        parts = [run.method]
        for name in columns_of(settings):
            values = {str(other[name]) for other in settings if name in other}
            if name in own and name != "method" and len(values) > 1:
                value = setting(own[name])
                parts.append(value if name in ("dataset", "preset") else f"{name} {value}")
        labels.append(", ".join(parts))
    if len(set(labels)) == len(labels):
        return labels
    return [f"{label} ({printable(run.folder)})" for label, run in zip(labels, runs, strict=True)]


def series_of(runs: Sequence[RunResult]) -> list[str]:
    """Return for each run its curve: the method, with preset and data set if these differ."""
    presets = {run.settings.get("preset") for run in runs}
    datasets = {run.dataset for run in runs}
    series = []
    for run in runs:
        parts = [run.method]
        if len(presets) > 1 and "preset" in run.settings:
            parts.append(setting(run.settings["preset"]))
        if len(datasets) > 1:
            parts.append(run.dataset)
        series.append(", ".join(parts))
    return series


def curve_points(runs: Sequence[RunResult]) -> list[dict]:
    """Return the rows of curves.csv: a point of each run and baseline for each metric."""
    points = []
    for run, label, series in zip(runs, labels_of(runs), series_of(runs), strict=True):
        points += points_of(series, label, run.mean, run.intervals)
        for name, results in run.baselines.items():
            points += points_of(name, label, results["mean"], results["intervals"])
    return points


def points_of(series: str, label: str, mean: dict, intervals: dict) -> list[dict]:
    """Return a point for each metric of a run or baseline: mean rate, mean, and the intervals of
    both.
    """
    points = []
    for column in mean:
        if column in ("bpp", "bytes", "prompt_cosine") or column.startswith("bytes_"):
            continue
        rate_low, rate_high = intervals.get("bpp", (None, None))
        low, high = intervals.get(column, (None, None))
        point = {"series": series, "run": label, "metric": column}
        point |= {"bpp": mean["bpp"], "bpp_low": rate_low, "bpp_high": rate_high}
        points.append(point | {"mean": mean[column], "low": low, "high": high})
    return points


def curve_names(metrics: Sequence[str]) -> dict[str, str]:
    """Return {metric: name of its plots' files}, each once, of the first MOST_CURVES metrics."""
    names: dict[str, str] = {}
    for column in list(dict.fromkeys(metrics))[:MOST_CURVES]:
        name = "rate_" + re.sub(r"\W", "_", column, flags=re.ASCII)[:100]
        names[column] = f"curve_{len(names)}" if name in names.values() else name
    return names


def addresses_of(column: str, name: str) -> dict[str, str]:
    """Return the label of a metric and the addresses of its plots, from the page beside them."""
    addresses = {"label": column_of(column).label}
    for kind, ending in PLOTS.items():
        addresses[kind] = link(f"{name}{ending}")
    return addresses


def draw_curve(points: Sequence[dict], column: str, path: Path) -> None:
    """Plot one metric against the rate as PNG, PNG for dark pages and PDF.

    path: of the three files, without their endings.
    """
    from matplotlib import rc_context

    chosen = [point for point in points if point["metric"] == column]
    for kind, ending in PLOTS.items():
        style: dict = {**STYLE, **(DARK if kind == "dark" else {})}
        with rc_context(style):
            write(Path(f"{path}{ending}"), plot(chosen, column, ending.rpartition(".")[2]))


def plot(points: Sequence[dict], column: str, suffix: str) -> bytes:
    """Return a picture file ("png", "pdf") of a metric against the rate, a line a series."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.4, 3.3), layout="constrained")
    draw_axes(figure.subplots(), points, column)
    return picture_of(figure, suffix)


def draw_axes(axes, points: Sequence[dict], column: str) -> None:
    """Draw a metric against the rate into axes of matplotlib, a line a series."""
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    for series, line in lines_of(points).items():
        axes.errorbar(
            numbers_of(line, "bpp"),
            numbers_of(line, "mean"),
            error_bars(line, "mean", "low", "high"),
            error_bars(line, "bpp", "bpp_low", "bpp_high"),
            marker="o",
            markersize=4,
            linewidth=1.2,
            elinewidth=0.8,
            label=series[:LONGEST_LABEL],
        )
    rates = numbers_of(points, "bpp")
    if max(rates) > 5 * min(rates):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.locator_params(axis="x", nbins=5)
    shown = column_of(column)
    title = f"{shown.label}, {shown.better} is better" if shown.better else shown.label
    axes.set_xlabel("bits per pixel")
    axes.set_title(title[:LONGEST_LABEL], loc="left", fontsize=9, parse_math=False)
    for label in axes.legend(frameon=False).get_texts():
        label.set_parse_math(False)


def picture_of(figure, suffix: str) -> bytes:
    """Return a figure of matplotlib as a picture file ("png", "pdf")."""
    file = io.BytesIO()
    stamp = {"CreationDate": None} if suffix == "pdf" else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that the font lacks
        figure.savefig(file, format=suffix, dpi=150, metadata=stamp)
    return file.getvalue()


def lines_of(points: Sequence[dict]) -> dict[str, list[dict]]:
    """Return the points of each series, by rising rate."""
    lines: dict[str, list[dict]] = {}
    for point in points:
        lines.setdefault(point["series"], []).append(point)
    for line in lines.values():
        line.sort(key=itemgetter("bpp"))
    return lines


def error_bars(points: Sequence[dict], center: str, low: str, high: str) -> list[list[float]]:
    """Return the lengths of the error bars, [downwards, upwards]; 0 for a point without an
    interval.
    """
    down, up = [], []
    for point in points:
        known = point[low] is not None and point[high] is not None
        down.append(max(0.0, point[center] - point[low]) if known else 0.0)
        up.append(max(0.0, point[high] - point[center]) if known else 0.0)
    return [down, up]

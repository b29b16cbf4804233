"""The page that compares several runs: their means, their curves, the same images side by side."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from reporting.page import (
    MOST_IMAGES,
    labels_of,
    pictures_of,
    shown_metrics,
    size_of,
    sort_keys,
    sort_values,
    table_columns,
    table_of,
)
from reporting.rendering import link_to, render
from reporting.rows import columns_of, metrics_of, numbers_of
from reporting.runs import RunResult


def comparison_page(
    runs: Sequence[RunResult], labels: Sequence[str], curves: Sequence[dict], output: Path
) -> str:
    """Return the page that compares runs; it stands in `output` and shows pictures of the runs'
    folders.
    """
    datasets = list(dict.fromkeys(run.dataset for run in runs))
    images = side_by_side(runs, labels, output) if len(datasets) == 1 else []
    columns = table_columns(runs)
    lead = f"The {len(images)} images that all runs hold, as each reconstructs them."
    if len(images) == MOST_IMAGES:
        lead = f"{len(images)} images that all runs hold, as each reconstructs them."
    if not images:
        lead = "The runs have no image in common; only their means are compared."
    failed = []
    for label, run in zip(labels, runs, strict=True):
        failed += [f"{label}: {name}" for name in run.failed]
    return render(
        "compare.html",
        over=" / ".join(["Text + Sketch", *datasets]),
        title=" and ".join(labels) if len(runs) == 2 else f"{len(runs)} runs side by side",
        lead=lead,
        kind="comparison",
        failed=failed,
        not_available=[],
        columns=labels_of(columns, runs),
        table=table_of(runs, labels, output),
        curves=curves,
        images=images,
        sort_keys=sort_keys(["bytes", *_common(runs)]),
    )


def _common(runs: Sequence[RunResult]) -> list[str]:
    """Return the metrics that every run has."""
    common = set(metrics_of(runs[0].rows))
    for run in runs[1:]:
        common &= set(metrics_of(run.rows))
    return [column for column in metrics_of(runs[0].rows) if column in common]


def side_by_side(runs: Sequence[RunResult], labels: Sequence[str], output: Path) -> list[dict]:
    """Return the images that all runs hold, each with the reconstruction of every run."""
    found: dict[str, list[dict]] = {}  # rows of each image
    for run in runs:
        for row in run.rows:
            found.setdefault(row["name"], []).append(row)
    shared = [(name, rows) for name, rows in found.items() if len(rows) == len(runs)]
    metrics = [["bytes", *metrics_of(run.rows)] for run in runs]
    columns = columns_of(runs[0].rows)
    images = []
    for name, rows in shared[:MOST_IMAGES]:
        pictures = []
        for run, row in zip(runs, rows, strict=True):
            pictures.append(pictures_of(run.folder, row))
        reconstructions = []
        for i, run in enumerate(runs):
            shown = shown_metrics(rows[i], metrics[i])
            url = _reconstruction(run, pictures[i], output)
            reconstructions.append({"label": labels[i], "url": url, "metrics": shown})
        image = {
            "name": name,
            "size": size_of(runs[0].folder, pictures[0]),
            "original": _original(runs, pictures, output),
            "reconstructions": reconstructions,
            "sort_values": sort_values(mean_row(rows), columns),
        }
        images.append(image)
    return images


def _original(
    runs: Sequence[RunResult], pictures: Sequence[dict[str, str]], output: Path
) -> str | None:
    for run, own in zip(runs, pictures, strict=True):
        if "original" in own:
            return link_to(run.folder / own["original"], output)
    return None


def _reconstruction(run: RunResult, pictures: dict[str, str], output: Path) -> str | None:
    if "reconstruction" not in pictures:
        return None
    return link_to(run.folder / pictures["reconstruction"], output)


def mean_row(rows: Sequence[dict]) -> dict:
    """Return the mean of several rows of one image, by which a comparison is sorted."""
    row = dict(rows[0])
    for column in columns_of(rows):
        values = numbers_of(rows, column)
        if len(values) == len(rows):
            row[column] = fmean(values)
    return row

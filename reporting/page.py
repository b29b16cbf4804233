"""The page of one run, and the page that compares several, as HTML from templates/."""

import json
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from common.files import ImageError, image_size
from metrics import METRICS
from metrics.baselines import CODECS
from reporting.columns import column_of, layer_name, setting, shown
from reporting.reading import NoRunError
from reporting.rendering import link, link_to, render
from reporting.rows import layers_of, metrics_of, numbers_of
from reporting.runs import RunResult

LAYERS = {
    "text": "a prompt",
    "sketch": "a sketch",
    "color": "a color map",
    "base": "a coarse image",
}
MOST_IMAGES = 10_000  # on a page; a browser could not show more
LARGEST = 1e308  # stands for infinity where a page sorts
# kind of picture -> endings of its file in a run's folder; the first that exists is taken
PICTURES = {
    "original": ("_original.jpg", "_original.png"),
    "sketch": ("_sketch.png",),
    "sketch sent": ("_sketch_recon.png",),
    "colors sent": ("_color.png", "_colour.png"),
    "reconstruction": ("_recon.png",),
    **{name: (f"_{name}.png",) for name in CODECS},  # baselines, if they were kept
}


# ---- one run


def run_page(run: RunResult) -> str:
    """Return the page of one run. It shows the files in the run's folder and stands in it."""
    images = images_of(run)
    layers = layers_of(run.rows)
    return render(
        "run.html",
        over=" / ".join(
            filter(None, ["Text + Sketch", run.method, run.settings.get("preset"), run.dataset])
        ),
        title=_title(run),
        lead=_lead(run, images),
        kind="run",
        failed=run.failed,
        not_available=[(column_of(name).label, why) for name, why in run.not_available.items()],
        means=means_of(run),
        layers=[(layer_name(column), round(run.mean.get(column, 0))) for column in layers],
        columns=labels_of(table_columns([run]), [run]),
        table=table_of([run], [run.method], run.folder) if run.baselines else [],
        images=images,
        sort_keys=sort_keys(["bytes", "bpp", *layers, *metrics_of(run.rows)]),
        settings=[(name, setting(value)) for name, value in run.settings.items()],
        recipes=recipes(run.mean),
        made=run.made,
    )


def _title(run: RunResult) -> str:
    count = run.images
    title = "1 image" if count == 1 else f"{count} images"
    return f"{title}, {run.mean['bytes']:.0f} bytes each" if run.mean else title


def _lead(run: RunResult, images: Sequence[dict]) -> str:
    """Say in a sentence or two what the page shows."""
    parts = []
    for column in layers_of(run.rows):
        if run.mean.get(column) and layer_name(column) in LAYERS:
            parts.append(LAYERS[layer_name(column)])
    what = " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))
    lead = f"Each image became one small file, {what}, and was reconstructed from that file alone."
    wipes = dict.fromkeys(image["wipe"] for image in images if image["wipe"])
    if wipes:
        lead += f" Drag across a picture to compare it with the {' or the '.join(wipes)}."
    baselines = dict.fromkeys(name for image in images for name in image["baselines"])
    if wipes and baselines:
        lead += (
            f" The buttons below it compare with {' or '.join(baselines)} of at most as many bytes."
        )
    return f"{lead} {run.note}".strip()


def images_of(run: RunResult) -> list[dict]:
    """Return what the page of a run shows of each of its rows."""
    layers, metrics = layers_of(run.rows), metrics_of(run.rows)
    largest = max(numbers_of(run.rows, "bytes"), default=1)
    images = []
    for row in run.rows:
        pictures = pictures_of(run.folder, row)
        image = {
            "name": row["name"],
            "prompt": row.get("prompt"),
            "size": size_of(run.folder, pictures),
            "pictures": {kind: link(file) for kind, file in pictures.items()},
            "wipe": _wipe(pictures),
            "baselines": [kind for kind in pictures if kind in CODECS],
            "stream": link(f"{stem_of(row)}.pics"),
            "bytes": row["bytes"],
            "bpp": shown("bpp", row["bpp"]),
            "percent": round(100 * row["bytes"] / largest, 2),
            "layers": [(layer_name(column), row[column] or 0) for column in layers],
            "metrics": shown_metrics(row, metrics),
            "sort_values": sort_values(row, ["name", "bytes", "bpp", *layers, *metrics]),
        }
        images.append(image)
    return images


def stem_of(row: dict) -> str:
    """Return how the paths of an image's files begin, from the run's folder on."""
    return f"{row['folder']}/{row['name']}" if row.get("folder") else row["name"]


def _wipe(pictures: dict[str, str]) -> str | None:
    """Return the kind of picture that the reconstruction is compared with, or None."""
    if "reconstruction" not in pictures:
        return None
    for kind in ("original", "sketch sent"):
        if kind in pictures:
            return kind
    return None


def pictures_of(folder: Path, row: dict) -> dict[str, str]:
    """Return the picture files of an image in a run's folder, by kind, in the order of PICTURES."""
    found, stem = {}, stem_of(row)
    for kind, endings in PICTURES.items():
        for ending in endings:
            if kind not in found and os.path.lexists(folder / f"{stem}{ending}"):
                found[kind] = f"{stem}{ending}"
    return found


def size_of(folder: Path, pictures: dict[str, str]) -> tuple[int, int]:
    """Return width and height of an image's pictures, from the header of the last one.

    Raises NoRunError for a file that is no picture.
    """
    if not pictures:
        return 1, 1
    try:
        return image_size(folder / list(pictures.values())[-1])
    except ImageError as error:
        raise NoRunError(str(error)) from None


def means_of(run: RunResult) -> list[dict]:
    """Return the averages that the page of a run opens with: bytes, rate, then the rest."""
    if not run.mean:
        return []
    means = []
    for column in dict.fromkeys(("bytes", "bpp", *run.mean)):
        if not column.startswith("bytes_"):
            means.append(
                {
                    "label": label_of(column, [run]),
                    **cell(column, run.mean, run.intervals),
                    "detail": count_of(column, run),
                }
            )
    return means


def count_of(column: str, run: RunResult) -> str:
    """Return what a mean was taken over, if that is not all images."""
    if column in run.sets:
        return "{reconstructions} against {others}".format(**run.sets[column])
    count = run.counts[column]
    return f"of {count} images" if count < run.images else ""


def cell(column: str, mean: dict, intervals: dict) -> dict[str, str]:
    """Return the mean of a column and its interval as a reader sees them; the interval may be
    empty.
    """
    bounds = intervals.get(column, ())
    return {
        "value": shown(column, mean.get(column)),
        "interval": " to ".join(shown(column, bound) for bound in bounds),
    }


def shown_metrics(row: dict, metrics: Sequence[str]) -> list[tuple[str, str, str]]:
    """Return (column, label, value) of some columns of a row."""
    return [(column, column_of(column).label, shown(column, row.get(column))) for column in metrics]


def recipes(columns: Iterable[str]) -> list[tuple[str, str]]:
    """Return (title, what is computed and its source) of those columns that are metrics."""
    found = []
    for column in columns:
        if column in METRICS:
            row = METRICS[column]
            found.append((row.title, f"{row.recipe} ({row.source})"))
    return found


# ---- sorting


def sort_values(row: dict, columns: Sequence[str]) -> str:
    """Return as JSON what a page sorts an image by; what is no number has no value."""
    values: dict[str, str | float] = {}
    for column in columns:
        value = row.get(column)
        if isinstance(value, str):
            values[column] = value
        elif isinstance(value, float | int) and not math.isnan(value):
            values[column] = min(max(value, -LARGEST), LARGEST)
    return json.dumps(values)


def sort_keys(columns: Sequence[str]) -> list[tuple[str, str, str]]:
    """Return (column, label, first order) of a page's sort keys; the best come first."""
    keys = [("name", "name", "ascending")]
    for column in columns:
        order = "descending" if column_of(column).better == "higher" else "ascending"
        keys.append((column, column_of(column).label, order))
    return keys


# ---- table of means


def table_columns(runs: Sequence[RunResult]) -> list[str]:
    """Return the columns of the table of means: bytes, rate, then every metric of any run."""
    columns = {"bytes": None, "bpp": None}
    for run in runs:
        columns |= dict.fromkeys(run.mean)
    return [column for column in columns if not column.startswith("bytes_")]


def table_of(runs: Sequence[RunResult], labels: Sequence[str], output: Path) -> list[dict]:
    """Return the rows of the table of means: each run, and below it its baselines."""
    columns, table = table_columns(runs), []
    for run, label in zip(runs, labels, strict=True):
        cells = _cells(columns, run.mean, run.intervals)
        page = link_to(run.folder / "index.html", output)
        table.append({"label": label, "url": page, "images": run.images, "cells": cells})
        for name, results in run.baselines.items():
            cells = _cells(columns, results["mean"], results["intervals"])
            count = results.get("images", run.images)  # it may not have met every budget
            row = {"label": f"{name}, beside {label}", "url": None, "images": count, "cells": cells}
            table.append(row)
    return table


def _cells(columns: Sequence[str], mean: dict, intervals: dict) -> list[dict[str, str]]:
    return [cell(column, mean, intervals) for column in columns]


def labels_of(columns: Iterable[str], runs: Sequence[RunResult]) -> list[str]:
    """Return the columns' names for people."""
    return [label_of(column, runs) for column in columns]


def label_of(column: str, runs: Sequence[RunResult]) -> str:
    """Return a column's name for people; KID's with the sizes of its subsets."""
    sizes = {run.sets.get(column, {}).get("subset_size", 0) for run in runs} - {0}
    label = column_of(column).label
    return f"{label}, subsets of {' and '.join(map(str, sorted(sizes)))}" if sizes else label

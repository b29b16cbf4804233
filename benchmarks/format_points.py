"""Image formats at budgets of bytes, each at its own best scale: points, kept in a CSV file.

    rows = measure_formats(samples, ("webp", "avif"), (100, 200), names, Path("formats.csv"), 2)

A row is one image, format and budget: the file with the highest PSNR of all scales and qualities
within the budget (metrics/baselines.py), its bytes and its metrics; no bytes if no file fits. Rows
that the CSV file holds are not measured again. Their key is made of the image, the budget, how the
format codes and how the metrics are computed.
"""

import csv
import hashlib
import sys
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.files import write
from metrics import METRICS, MetricSet, Tools
from metrics.baselines import SCALES, BudgetError, compress, load_codec
from reporting.tables import csv_file, number_in

ANNOTATOR = "hed-tiny"  # of the metric "edges"
TEXTS = ("name", "format", "key")  # the columns without numbers


class Point(NamedTuple):
    """What is to be measured: a format at a budget."""

    format: str
    budget: int  # bytes
    key: str


class Task(NamedTuple):
    """The points of one image that are to be measured."""

    name: str
    image: np.ndarray  # (h, w, 3) uint8
    points: list[Point]


@cache
def load_metrics(names: tuple[str, ...]) -> MetricSet:
    """Return the metrics of images; those that are not available are in its `unavailable`."""
    from annotator import load_annotator

    annotator = load_annotator(ANNOTATOR, "cpu")
    return MetricSet(names, Tools(annotator=annotator))


def measure_formats(
    samples: Sequence,
    formats: Sequence[str],
    budgets: Sequence[int],
    names: tuple[str, ...],
    kept: Path,
    workers: int,
) -> list[dict]:
    """Return the rows of all images (`dataloaders.Sample`), formats and budgets.

    names: of the metrics. kept: the CSV file, which grows with each image, so that a run that was
    stopped is resumed. workers: processes, each with one thread. Raises UnavailableError for a
    format that is not installed.
    """
    known = {row["key"]: row for row in read_rows(kept)}
    keys, tasks = [], []
    for sample in samples:
        points = points_of(sample.image, formats, budgets, names)
        keys += [point.key for point in points]
        missing = [point for point in points if point.key not in known]
        if missing:
            tasks.append(Task(sample.name, sample.image, missing))
    for rows in measured(tasks, names, workers):
        known |= {row["key"]: row for row in rows}
        write(kept, csv_file(list(known.values())))
    return [known[key] for key in keys]


def points_of(
    image: np.ndarray, formats: Sequence[str], budgets: Sequence[int], names: Sequence[str]
) -> list[Point]:
    """Return the points of an image."""
    recipes = [METRICS[name].recipe for name in names]
    points = []
    for name in formats:
        how = repr((load_codec(name).recipe, SCALES, tuple(names), recipes, ANNOTATOR))
        for budget in budgets:
            digest = hashlib.sha256(f"{how} {budget} {image.shape}".encode() + image.tobytes())
            points.append(Point(name, budget, digest.hexdigest()[:16]))
    return points


def measured(tasks: Sequence[Task], names: tuple[str, ...], workers: int):
    """Yield the rows of each image, as worker processes measure them."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    from tqdm import tqdm

    with ProcessPoolExecutor(workers, get_context("spawn"), use_one_thread) as pool:
        results = pool.map(partial(measure, names), tasks)
        yield from tqdm(results, total=len(tasks), desc="image formats", file=sys.stderr)


def use_one_thread() -> None:
    """Make a worker process use one thread."""
    import torch

    torch.set_num_threads(1)


def measure(names: tuple[str, ...], task: Task) -> list[dict]:
    """Return the rows of one image."""
    metrics = load_metrics(names)
    rows = []
    for point in task.points:
        row = {"name": task.name, "format": point.format, "budget": point.budget}
        row |= {"key": point.key, "bytes": None}
        try:
            found = compress(task.image, load_codec(point.format), point.budget)
        except BudgetError:
            rows.append(row)
            continue
        size = len(found.data)
        height, width = task.image.shape[:2]
        row |= {"bytes": size, "bpp": 8 * size / (height * width)}
        row |= {"scale": found.scale, "quality": found.quality}
        rows.append(row | metrics.measure(task.image, found.image))
    return rows


def read_rows(path: Path, texts: Sequence[str] = TEXTS) -> list[dict]:
    """Return the rows of a CSV file; none if there is no such file. texts: no numbers."""
    if not path.exists():
        return []
    rows = []
    with path.open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            row: dict = {}
            for column, cell in line.items():
                row[column] = cell if column in texts else number_in(cell)
            rows.append(row)
    return rows

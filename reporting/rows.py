"""Records and rows: what a run keeps of each image, flattened to results.csv, and averaged.

    rows = [as_row(record) for record in read_records(folder, names)]
    averages(rows)["mean"]["psnr"]

A record is the content of <name>_caption.yaml. Runs of earlier versions spell color "colour"; they
are read as well.
"""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from common.files import read_json
from metrics import mean_interval

RECORD, FAILED = "_caption.yaml", "_failed.txt"  # endings of an image's files
TEXTS = ("name", "prompt")  # the columns of results.csv that hold no numbers
COSTS = (
    "seconds_",
    "memory_",
)  # prefixes of columns that differ from run to run; pages leave them out
BASELINE_TITLES = {"jpeg": "JPEG", "webp": "WebP", "avif": "AVIF", "jpeg2000": "JPEG 2000"}
BASELINE_NOTES = (
    "name",
    "baseline",
    "scale",
    "quality",
    "why",
)  # the columns of baselines.csv that are no results
YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, if PyYAML has it
OLD_SPELLING = {"colour": "color", "bytes_colour": "bytes_color", "photographs": "images"}


class NoRunError(ValueError):
    """A folder is no run; the message says what it lacks and the cure."""


@dataclass(frozen=True)
class RunResult:
    """A run's folder as the report sees it."""

    folder: Path
    method: str  # "PIC" or "PICS"
    dataset: str
    rows: list[dict] = field(
        default_factory=list
    )  # numbers, texts and None by column, a row an image
    mean: dict[str, float] = field(default_factory=dict)  # by column; those of sets too
    intervals: dict[str, list[float]] = field(default_factory=dict)  # [low, high] by column
    sets: dict[str, dict] = field(
        default_factory=dict
    )  # {"value", "reconstructions", "others"} by metric of sets
    not_available: dict[str, str] = field(default_factory=dict)  # reason by column
    baselines: dict[str, dict] = field(
        default_factory=dict
    )  # {"images", "mean", "intervals"} by title
    failed: list[str] = field(default_factory=list)  # names
    settings: dict = field(default_factory=dict)  # settings.json
    made: dict = field(default_factory=dict)  # made.json


# ---- records


def read_records(folder: Path, names: Sequence[str]) -> list[dict]:
    """Read the records of the images that are done, in the order of `names`."""
    records = []
    for name in names:
        path = folder / f"{name}{RECORD}"
        if path.exists():
            records.append(yaml.load(path.read_bytes(), YAML_LOADER))  # noqa: S506 - it is a safe loader
    return records


def as_row(record: dict) -> dict:
    """Flatten a record to a row of results.csv."""
    row = {"name": record["name"], "prompt": record["prompt"]}
    row |= {"bpp": record["bpp"]["total"], "bytes": record["bytes"]["total"]}
    for layer, count in record["bytes"].items():
        if layer != "total":
            row[f"bytes_{layer}"] = count
    row |= record["metrics"]
    for kind in ("seconds", "memory"):
        for what, cost in record.get(kind, {}).items():
            row[f"{kind}_{what}"] = cost
    return new_spelling(row)


def new_spelling(row: dict) -> dict:
    """Rename the columns of earlier versions."""
    return {OLD_SPELLING.get(column, column): value for column, value in row.items()}


def without_costs(row: dict) -> dict:
    """Return a row without the columns that differ from run to run."""
    return {column: value for column, value in row.items() if not column.startswith(COSTS)}


def costs_of(row: dict) -> dict:
    """Return the other part of a row: seconds and bytes of memory."""
    return {column: value for column, value in row.items() if column.startswith(COSTS)}


def baseline_rows(records: Sequence[dict]) -> list[dict]:
    """Return a row of baselines.csv for each image and baseline."""
    rows = []
    for record in records:
        for baseline, results in record.get("baselines", {}).items():
            rows.append(new_spelling({"name": record["name"], "baseline": baseline, **results}))
    return rows


# ---- tables


def append_results(folder: Path, records: Sequence[dict]) -> None:
    """Add images to results.csv and results.jsonl while a run goes on; `write_report` writes both
    anew.
    """
    table = csv_file([as_row(record) for record in records])
    path = folder / "results.csv"
    lines = table if not path.exists() else table.partition(b"\n")[2]
    for file, content in ((path, lines), (folder / "results.jsonl", json_lines(records))):
        with file.open("ab") as stream:
            stream.write(content)


def json_lines(records: Sequence[dict]) -> bytes:
    """Return records as a file of one JSON object a line."""
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()


def csv_file(rows: Sequence[dict]) -> bytes:
    """Return rows as a CSV file; a value that a row lacks is left empty."""
    table = io.StringIO()
    writer = csv.DictWriter(table, columns_of(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return table.getvalue().encode()


def read_csv(path: Path) -> list[dict]:
    """Read results.csv: numbers as numbers, nothing as None, names and prompts as they stand."""
    rows = []
    with path.open(encoding="utf-8", newline="") as file:
        for texts in csv.DictReader(file):
            row = {}
            for column, text in texts.items():
                row[column] = text if column in TEXTS else _value(text)
            rows.append(new_spelling(row))
    return rows


def _value(text: str | None) -> float | int | str | None:
    if text is None:
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text or None


# ---- averages


def columns_of(rows: Sequence[dict]) -> list[str]:
    """Return the names of all columns of some rows, in the order in which they first occur."""
    columns: dict[str, None] = {}
    for row in rows:
        columns |= dict.fromkeys(row)
    return list(columns)


def layers_of(rows: Sequence[dict]) -> list[str]:
    """Return the columns with the bytes of the layers."""
    return [column for column in columns_of(rows) if column.startswith("bytes_")]


def metrics_of(rows: Sequence[dict]) -> list[str]:
    """Return the columns with a metric of at least one image."""
    others = (*TEXTS, "bytes", "bpp", *layers_of(rows))
    metrics = []
    for column in columns_of(rows):
        if column not in others and numbers_of(rows, column):
            metrics.append(column)
    return metrics


def numbers_of(rows: Sequence[dict], column: str) -> list[float]:
    """Return the numbers in a column."""
    return [row[column] for row in rows if isinstance(row.get(column), float | int)]


def averages(rows: Sequence[dict]) -> dict:
    """Return {"mean": {column: mean of its numbers}, "intervals": {column: their 95% bootstrap
    intervals}}.
    """
    mean, intervals = {}, {}
    for column in columns_of(rows):
        found = None if column in TEXTS else mean_interval(numbers_of(rows, column))
        if found is None:
            continue
        mean[column] = round(found.mean, 5)
        if found.values > 1:
            intervals[column] = [round(found.low, 5), round(found.high, 5)]
    return {"mean": mean, "intervals": intervals}


def without_notes(row: dict) -> dict:
    """Return the results in a row of baselines.csv."""
    return {column: value for column, value in row.items() if column not in BASELINE_NOTES}


def baseline_averages(rows: Sequence[dict]) -> dict:
    """Return {title: averages} of each baseline that met its budget for at least one image."""
    groups: dict[str, list[dict]] = {}
    for row in rows:
        met = groups.setdefault(row["baseline"], [])
        if "why" not in row:
            met.append(without_notes(row))
    results = {}
    for name, met in groups.items():
        if met:
            results[BASELINE_TITLES.get(name, name)] = {"images": len(met), **averages(met)}
    return results


# ---- runs


def read_run(folder: Path) -> RunResult:
    """Read a run's folder. Raises NoRunError."""
    try:
        summary = new_spelling(read_json(folder / "summary.json"))
        rows = read_csv(folder / "results.csv") if summary["images"] else []
        settings = read_json(folder / "settings.json", missing={})
        made = read_json(folder / "made.json", missing={})
        _check_complete(summary, rows)
    except OSError as error:
        cure = "eval_PIC.py and eval_PICS.py make runs"
        raise NoRunError(f"{folder} is no run: {error.filename} cannot be read; {cure}") from error
    except (ValueError, KeyError, TypeError) as error:
        reason = error.args[0] if error.args else error
        raise NoRunError(
            f"{folder} is no complete run ({reason}): make it again with its script"
        ) from error
    sets = summary.get("set", {})
    values = {name: value["value"] for name, value in sets.items()}
    return RunResult(
        folder,
        summary["method"],
        summary["dataset"],
        [without_costs(row) for row in rows],
        new_spelling(summary.get("mean", {})) | values,
        new_spelling(summary.get("intervals", {})),
        sets,
        new_spelling(summary.get("not_available", {})),
        {title: _baseline(results) for title, results in summary.get("baselines", {}).items()},
        summary.get("failed", []),
        settings,
        made,
    )


def _check_complete(summary: dict, rows: list[dict]) -> None:
    """Raise KeyError, with what is lacking, if the report could not use a summary or its rows."""
    lacking = []
    for name in ("method", "dataset"):
        if name not in summary:
            lacking.append(name)
    for name in ("name", "bytes", "bpp"):
        if rows and name not in rows[0]:
            lacking.append(name)
    if lacking:
        raise KeyError(f"no {', '.join(lacking)}")


def _baseline(results: dict) -> dict:
    renamed = new_spelling(results)
    return renamed | {name: new_spelling(renamed.get(name, {})) for name in ("mean", "intervals")}

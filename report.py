"""Results of runs: whole files, a row for each photograph, averages, an overview, and the pages that show them.

    python report.py recon_examples/PICS_tiny_kodak                                 # draw its page again
    python report.py recon_examples/PIC_tiny_kodak recon_examples/PICS_tiny_kodak   # compare runs

One run: `index.html` in its folder, which needs nothing from elsewhere. Several: a folder (`--output`) with a page that
shows the same photographs side by side, a rate-distortion curve for each metric (PNG for light and dark, PDF) and
curves.csv; its pictures stay in the runs' folders. The last line on stdout is JSON and names the page.
"""

import argparse
import csv
import io
import json
import math
import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

import numpy as np
import yaml
from PIL import Image, ImageDraw, ImageFont

from dataloaders import Samples

if TYPE_CHECKING:
    from metrics import SetValue

ROOT = Path(__file__).resolve().parent
TILE, TEXT_HEIGHT, MARGIN, MOST = 256, 92, 12, 24  # pixels of the overview, and its most photographs
PAPER, INK, GRAY = (250, 249, 246), (30, 30, 30), (120, 118, 112)
PACKAGES = ("torch", "diffusers", "transformers", "compressai", "numpy", "pillow")  # whose versions a page gives
TEXTS = ("name", "prompt")  # the columns of results.csv that hold no numbers
COSTS = ("seconds_", "memory_")  # how columns begin that differ from run to run; pages leave them out
YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where PyYAML has it
BASELINE_TITLES = {"jpeg": "JPEG", "webp": "WebP", "avif": "AVIF", "jpeg2000": "JPEG 2000"}
BASELINE_NOTES = ("name", "baseline", "scale", "quality", "why")  # the columns of baselines.csv that are no results
PLOT = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25}
DARK = {
    **dict.fromkeys(("figure.facecolor", "axes.facecolor"), "#161513"),
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), "#e8e4dc"),
}
PICTURES = {  # kind of picture -> endings of its file in a run's folder, the first one there is taken
    "original": ("_original.jpg", "_original.png"),
    "sketch": ("_sketch.png",),
    "sketch sent": ("_sketch_recon.png",),
    "colours sent": ("_colour.png",),
    "drawn": ("_recon.png",),
}


LAYERS = {"text": "a prompt", "sketch": "a sketch", "colour": "a colour map"}


class Figure(NamedTuple):
    """How a column of results.csv is shown."""

    label: str
    digits: int | None  # behind the point
    better: str = "lower"  # or "higher", or "" where it is no merit


FIGURES = {  # the columns that are no metric
    "bytes": Figure("bytes", 0),
    "bpp": Figure("bits per pixel", 4),
    "prompt_cosine": Figure("prompt cosine", 4, "higher"),
}


def png(picture: np.ndarray) -> bytes:
    """Return a picture (H, W) or (H, W, 3) uint8 as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def write(path: Path, content: bytes) -> None:
    """Write a whole file or none: under a temporary name first, then renamed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_report(
    folder: Path,
    samples: Samples,
    method: str,
    failures: dict[str, str],
    over_set: dict[str, "SetValue"] | None = None,
    not_available: dict[str, str] | None = None,
) -> dict:
    """Write the results, averages, overview and page of what is done; return the summary.

    failures: why photographs failed; over_set: the metrics of the whole set; not_available: why a metric has no values
    (`metrics.MetricSet` has both).
    """
    captions = read_captions(folder, samples.names)
    rows = [as_row(caption) for caption in captions]
    summary = {
        "method": method,
        "dataset": samples.name,
        "photographs": len(rows),
        "failed": sorted(failures),
        "reasons": failures,
    }
    if rows:
        summary |= averages([without_costs(row) for row in rows])
        summary["cost"] = averages([costs_of(row) for row in rows])
        summary["set"] = {name: value._asdict() for name, value in (over_set or {}).items() if value.value is not None}
        results = [name for name in columns_of(rows) if name not in TEXTS and not name.startswith(COSTS)]
        missing = [name for name in results if name not in summary["mean"]]
        summary["not_available"] = dict.fromkeys(missing, "") | (not_available or {})
        write(folder / "results.csv", csv_file(rows))
        write(folder / "results.jsonl", json_lines(captions))
        if beside := baseline_rows(captions):
            summary["baselines"] = baseline_averages(beside)
            write(folder / "baselines.csv", csv_file(beside))
        write(folder / "overview.jpg", overview(folder, captions[:MOST]))
    write(folder / "summary.json", json.dumps(summary, indent=1).encode())
    write(folder / "made.json", json.dumps(made_by(), indent=1).encode())
    write(folder / "index.html", run_page(read_run(folder)).encode())
    return summary


def read_captions(folder: Path, names: tuple[str, ...]) -> list[dict]:
    """Read the captions of the photographs that are done, in the data set's order."""
    paths = [folder / f"{name}_caption.yaml" for name in names]
    return [yaml.load(path.read_bytes(), YAML_LOADER) for path in paths if path.exists()]  # noqa: S506 - it is safe


def append_results(folder: Path, captions: Sequence[dict]) -> None:
    """Add photographs to results.csv and results.jsonl while a run goes on; `write_report` writes both anew."""
    table = csv_file([as_row(caption) for caption in captions])
    path = folder / "results.csv"
    lines = table if not path.exists() else table.partition(b"\n")[2]
    for file, content in ((path, lines), (folder / "results.jsonl", json_lines(captions))):
        with file.open("ab") as stream:
            stream.write(content)


def json_lines(captions: Sequence[dict]) -> bytes:
    """Return captions as a file of one JSON object a line."""
    return "".join(json.dumps(caption, ensure_ascii=False) + "\n" for caption in captions).encode()


def as_row(caption: dict) -> dict:
    """Flatten a caption to a row of results.csv."""
    row = {"name": caption["name"], "prompt": caption["prompt"]}
    row |= {"bpp": caption["bpp"]["total"], "bytes": caption["bytes"]["total"]}
    row |= {f"bytes_{layer}": count for layer, count in caption["bytes"].items() if layer != "total"}
    costs = [(kind, what, cost) for kind in ("seconds", "memory") for what, cost in caption.get(kind, {}).items()]
    return row | caption["metrics"] | {f"{kind}_{what}": cost for kind, what, cost in costs}


def without_costs(row: dict) -> dict:
    """Return a row without the columns that differ from run to run."""
    return {column: value for column, value in row.items() if not column.startswith(COSTS)}


def costs_of(row: dict) -> dict:
    """Return the other part of a row: seconds and bytes of memory."""
    return {column: value for column, value in row.items() if column.startswith(COSTS)}


def baseline_rows(captions: Sequence[dict]) -> list[dict]:
    """Return a row of baselines.csv for each photograph and baseline."""
    return [
        {"name": caption["name"], "baseline": baseline, **results}
        for caption in captions
        for baseline, results in caption.get("baselines", {}).items()
    ]


def baseline_averages(rows: Sequence[dict]) -> dict:
    """Return {title: averages} of each baseline that met its budget for a photograph at least."""
    results = {}
    for name in dict.fromkeys(row["baseline"] for row in rows):
        met = [row for row in rows if row["baseline"] == name and "why" not in row]
        columns = [{k: value for k, value in row.items() if k not in BASELINE_NOTES} for row in met]
        if met:
            results[BASELINE_TITLES.get(name, name)] = {"photographs": len(met), **averages(columns)}
    return results


def columns_of(rows: Sequence[dict]) -> list[str]:
    """Return the names of all columns of some rows, in the order in which they first occur."""
    return list(dict.fromkeys(name for row in rows for name in row))


def csv_file(rows: Sequence[dict]) -> bytes:
    """Return rows as a CSV file; a value that a row lacks is left empty."""
    table = io.StringIO()
    writer = csv.DictWriter(table, columns_of(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return table.getvalue().encode()


def averages(rows: Sequence[dict]) -> dict:
    """Return {"mean": {column: mean of its numbers}, "intervals": {column: their 95% bootstrap intervals}}."""
    from metrics import mean_interval

    columns = [column for column in columns_of(rows) if column not in TEXTS]
    found = {column: mean_interval(numbers_of(rows, column)) for column in columns}
    found = {column: interval for column, interval in found.items() if interval}
    return {
        "mean": {column: round(interval.mean, 5) for column, interval in found.items()},
        "intervals": {
            column: [round(interval.low, 5), round(interval.high, 5)]
            for column, interval in found.items()
            if interval.count > 1
        },
    }


def numbers_of(rows: Sequence[dict], column: str) -> list[float]:
    """Return the numbers in a column."""
    return [row[column] for row in rows if isinstance(row.get(column), float | int)]


def made_by() -> dict:
    """Return the command line of this process and the versions of this project, Python and the libraries it runs on."""
    versions = {"commit": _commit(), "Python": sys.version.split()[0]}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    command = shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]])
    return {"command": command, "versions": {name: number for name, number in versions.items() if number}}


def _commit() -> str:
    """Return git's name of the checked-out commit, with "-dirty" where files differ from it; empty outside of git."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:  # no git on this machine
        return ""


def overview(folder: Path, captions: list[dict]) -> bytes:
    """Return a JPEG that shows, for each photograph, original, sketch and colours sent, drawing and bytes."""
    tiles = [block(folder, caption) for caption in captions]
    columns = 2 if len(tiles) > 6 else 1
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    heights = [MARGIN + max(tile.height for tile in row) for row in rows]
    width = MARGIN + max(tile.width for tile in tiles)
    sheet = Image.new("RGB", (columns * width + MARGIN, sum(heights) + MARGIN), PAPER)
    for i, row in enumerate(rows):
        for j, tile in enumerate(row):
            sheet.paste(tile, (MARGIN + j * width, MARGIN + sum(heights[:i])))
    file = io.BytesIO()
    sheet.save(file, "JPEG", quality=88)
    return file.getvalue()


def block(folder: Path, caption: dict) -> Image.Image:
    """Draw one photograph's pictures side by side with its bytes and prompt below."""
    endings = ("_original.png", "_sketch_recon.png", "_colour.png", "_recon.png")
    files = [folder / f"{caption['name']}{ending}" for ending in endings]
    pictures = [Image.open(file) for file in files if file.exists()]
    for picture in pictures:
        picture.thumbnail((TILE, TILE), Image.Resampling.LANCZOS)
    height = max(picture.height for picture in pictures)
    tile = Image.new("RGB", (len(pictures) * (TILE + MARGIN), height + TEXT_HEIGHT), PAPER)
    for i, picture in enumerate(pictures):
        tile.paste(picture.convert("RGB"), (i * (TILE + MARGIN), 0))
    draw, sizes = ImageDraw.Draw(tile), caption["bytes"]
    layers = " + ".join(f"{count} {layer}" for layer, count in sizes.items() if count and layer != "total")
    line = f"{caption['name']}: {sizes['total']} bytes ({layers}), {caption['bpp']['total']:.4f} bpp"
    draw.text((0, height + 6), line, INK, ImageFont.load_default(14))
    for i, words in enumerate(textwrap.wrap(caption["prompt"], tile.width // 8)[:3]):
        draw.text((0, height + 28 + 18 * i), words, GRAY, ImageFont.load_default(14))
    return tile


class NoRunError(ValueError):
    """A folder is no run; the message says what it lacks and the cure."""


def read_run(folder: Path) -> dict:
    """Read what a run's folder says, as plain dicts. Raises NoRunError.

    Keys: `folder`, `method`, `dataset`; `rows`, a dict of numbers, texts and None for each photograph; `mean`,
    `intervals` ({column: [low, high]}), `set` ({column: {"value", "reconstructions", "others"}}; its values are in
    `mean` too), `not_available` ({column: why}), `baselines` ({name: {"mean", "intervals"}}) and `failed` (names), as
    far as summary.json holds them; `settings` and `made`, empty where their files are missing.
    """
    try:
        run = {"folder": folder, **read_json(folder / "summary.json")}
        rows = read_csv(folder / "results.csv") if run["photographs"] else []
        run["rows"] = [without_costs(row) for row in rows]
        run |= {name: read_json(folder / f"{name}.json", missing={}) for name in ("settings", "made")}
        lacking = [name for name in ("method", "dataset") if name not in run]
        lacking += [name for name in ("name", "bytes", "bpp") if run["rows"] and name not in run["rows"][0]]
    except OSError as error:
        cure = "eval_PIC.py and eval_PICS.py make runs"
        raise NoRunError(f"{folder} is no run: {error.filename} cannot be read; {cure}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise NoRunError(f"{folder} is no whole run ({error}): make it again with its script") from error
    if lacking:
        raise NoRunError(f"{folder} is no whole run (no {', '.join(lacking)}): make it again with its script")
    run = {"mean": {}, "intervals": {}, "set": {}, "not_available": {}, "baselines": {}, "failed": []} | run
    run["mean"] = run["mean"] | {name: value["value"] for name, value in run["set"].items()}
    return run


def read_json(path: Path, missing: dict | None = None) -> dict:
    """Read a JSON file; `missing`, where given, stands for a file that is not there."""
    if missing is not None and not path.exists():
        return missing
    return json.loads(path.read_text(encoding="utf-8"))


def read_csv(path: Path) -> list[dict]:
    """Read results.csv: numbers as numbers, nothing as None, names and prompts as they stand."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [{name: text if name in TEXTS else _value(text) for name, text in row.items()} for row in rows]


def _value(text: str | None) -> float | int | str | None:
    for kind in (int, float):
        try:
            return kind(text)
        except (TypeError, ValueError):
            continue
    return text or None


def figure(column: str) -> Figure:
    """Return how a column is shown; one that is not known by its own name."""
    from metrics import METRICS

    if column.startswith("bytes_"):
        return Figure(f"bytes of {_layer(column)}", 0)
    if metric := METRICS.get(column):
        return Figure(metric.title, metric.digits, metric.better)
    return FIGURES.get(column, Figure(column.replace("_", " "), None, ""))


def shown(column: str, value: float | str | None) -> str:
    """Return a value as a reader sees it."""
    if not isinstance(value, float | int):
        return "-"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    digits = figure(column).digits
    return f"{value:.4g}" if digits is None else f"{value:.{digits}f}"


def cell(column: str, results: dict) -> dict:
    """Return the mean of a column and its interval as a reader sees them; the interval may be empty."""
    bounds = results.get("intervals", {}).get(column, ())
    return {
        "value": shown(column, results["mean"].get(column)),
        "interval": " to ".join(shown(column, bound) for bound in bounds),
    }


def layers_of(rows: Sequence[dict]) -> list[str]:
    """Return the columns with the bytes of the layers."""
    return [column for column in columns_of(rows) if column.startswith("bytes_")]


def metrics_of(rows: Sequence[dict]) -> list[str]:
    """Return the columns with a figure of merit for at least one photograph."""
    others = (*TEXTS, "bytes", "bpp", *layers_of(rows))
    return [column for column in columns_of(rows) if column not in others and numbers_of(rows, column)]


def means_of(run: dict) -> list[dict]:
    """Return the averages that the page of a run opens with: bytes, rate, then the rest."""
    columns = dict.fromkeys(("bytes", "bpp", *run["mean"]))
    return [
        {"label": figure(column).label, **cell(column, run), "detail": count_of(column, run)}
        for column in columns
        if not column.startswith("bytes_")
    ]


def count_of(column: str, run: dict) -> str:
    """Return what a mean was taken over, where that is not all photographs."""
    if column in run["set"]:
        return "{reconstructions} against {others}".format(**run["set"][column])
    count = len(numbers_of(run["rows"], column))
    return f"of {count} photographs" if count < len(run["rows"]) else ""


def _layer(column: str) -> str:
    return column.removeprefix("bytes_")


def photographs_of(run: dict) -> list[dict]:
    """Return what the page of a run shows of each photograph."""
    rows, there = run["rows"], {path.name for path in run["folder"].iterdir()}
    layers, metrics = layers_of(rows), metrics_of(rows)
    largest = max((row["bytes"] for row in rows), default=1)
    photographs = []
    for row in rows:
        pictures = pictures_of(row["name"], there)
        left = [kind for kind in ("original", "sketch sent") if kind in pictures]
        photographs.append(
            {
                "name": row["name"],
                "prompt": row.get("prompt"),
                "size": size_of(run["folder"], pictures),
                "pictures": {kind: link(file) for kind, file in pictures.items()},
                "wipe": left[0] if left and "drawn" in pictures else None,
                "stream": link(f"{row['name']}.pics"),
                "bytes": row["bytes"],
                "bpp": shown("bpp", row["bpp"]),
                "share": round(100 * row["bytes"] / largest, 2),
                "layers": [(_layer(column), row[column] or 0) for column in layers],
                "metrics": shown_metrics(row, metrics),
                "sort_values": sort_values(row, ["name", "bytes", "bpp", *layers, *metrics]),
            }
        )
    return photographs


def pictures_of(name: str, there: set[str]) -> dict[str, str]:
    """Return the files of a photograph among those that are there, by kind, in the order of PICTURES."""
    files = {kind: [f"{name}{ending}" for ending in endings] for kind, endings in PICTURES.items()}
    found = {kind: [file for file in choices if file in there] for kind, choices in files.items()}
    return {kind: choices[0] for kind, choices in found.items() if choices}


def size_of(folder: Path, pictures: dict[str, str]) -> tuple[int, int]:
    """Return width and height of a photograph's pictures, from the head of the last one."""
    if not pictures:
        return 1, 1
    with Image.open(folder / list(pictures.values())[-1]) as picture:
        return picture.size


def link(file: str) -> str:
    """Return a relative path as an address; whatever stands in a name, it leads to no other place."""
    return "./" + quote(file)


def shown_metrics(row: dict, metrics: Sequence[str]) -> list[tuple[str, str, str]]:
    """Return (column, label, value) of some columns of a row."""
    return [(column, figure(column).label, shown(column, row.get(column))) for column in metrics]


def sort_values(row: dict, columns: Sequence[str]) -> str:
    """Return as JSON what a page sorts a photograph by; what is no number has no value."""
    values = {column: row[column] for column in columns if isinstance(row.get(column), float | int | str)}
    finite = {column: value for column, value in values.items() if isinstance(value, str) or not math.isnan(value)}
    largest = {column: 1e308 if value == math.inf else value for column, value in finite.items()}
    return json.dumps(largest)


def sort_keys(columns: Sequence[str]) -> list[tuple[str, str, str]]:
    """Return (column, label, first order) of what a page can be sorted by: the best photographs first."""
    orders = {column: "descending" if figure(column).better == "higher" else "ascending" for column in columns}
    return [("name", "name", "ascending"), *[(column, figure(column).label, orders[column]) for column in columns]]


def run_page(run: dict) -> str:
    """Return the page of one run as HTML. It shows the files in the run's folder and stands in it."""
    rows, photographs = run["rows"], photographs_of(run)
    present = [_layer(column) for column in layers_of(rows) if run["mean"].get(column)]
    parts = [LAYERS[layer] for layer in present if layer in LAYERS]
    what = " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))
    lead = f"Each photograph became one small file, {what}, and was drawn again from that file alone."
    if wipes := list(dict.fromkeys(photograph["wipe"] for photograph in photographs if photograph["wipe"])):
        lead += f" Drag across a picture to compare it with the {' or the '.join(wipes)}."
    each = f", {run['mean']['bytes']:.0f} bytes each" if run["mean"] else ""
    return render(
        "run.html",
        over=" / ".join(
            ["Text + Sketch", run["method"], *filter(None, [run["settings"].get("preset")]), run["dataset"]]
        ),
        title=f"{len(rows)} photograph{'s' * (len(rows) != 1)}{each}",
        lead=lead,
        kind="run",
        failed=run["failed"],
        not_available=[(figure(column).label, why) for column, why in run["not_available"].items()],
        means=means_of(run) if run["mean"] else [],
        layers=[(_layer(column), round(run["mean"].get(column, 0))) for column in layers_of(rows)],
        columns=[figure(column).label for column in table_columns([run])],
        table=table_of([run], [run["method"]], run["folder"]) if run["baselines"] else [],
        photographs=photographs,
        sort_keys=sort_keys(["bytes", "bpp", *layers_of(rows), *metrics_of(rows)]),
        settings=[(name, setting(value)) for name, value in run["settings"].items()],
        recipes=recipes(run["mean"]),
        made=run["made"],
    )


def recipes(columns: Iterable[str]) -> list[tuple[str, str]]:
    """Return (title, what is computed and who described it) of those columns that are metrics."""
    from metrics import METRICS

    rows = [METRICS[column] for column in columns if column in METRICS]
    return [(row.title, f"{row.recipe} ({row.source})") for row in rows]


def setting(value: object) -> str:
    """Return a setting as a reader sees it."""
    return "default" if value is None else str(value)


def render(template: str, **values: object) -> str:
    """Fill a template of templates/; every text is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    templates = FileSystemLoader(ROOT / "templates")
    jinja = Environment(
        loader=templates, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return jinja.get_template(template).render(**values)


def compare(runs: Sequence[dict], output: Path) -> None:
    """Write the curves of several runs, curves.csv and the page that compares them to the folder `output`."""
    points = curve_points(runs)
    output.mkdir(parents=True, exist_ok=True)
    if points:
        write(output / "curves.csv", csv_file(points))
    curves = [draw_curve(points, column, output) for column in dict.fromkeys(point["metric"] for point in points)]
    write(output / "index.html", comparison_page(runs, curves, output).encode())


def labels_of(runs: Sequence[dict]) -> list[str]:
    """Return a name for each run: its method and the settings in which runs differ; their folders where none do."""
    settings = [{"dataset": run["dataset"], **run["settings"]} for run in runs]
    names = [name for name in columns_of(settings) if len({str(s[name]) for s in settings if name in s}) > 1]
    labels = []
    for run, own in zip(runs, settings, strict=True):
        differing = [(name, setting(own[name])) for name in names if name in own and name != "method"]
        parts = [value if name in ("dataset", "preset") else f"{name} {value}" for name, value in differing]
        labels.append(", ".join([run["method"], *parts]))
    if len(set(labels)) == len(labels):
        return labels
    return [f"{label} ({run['folder']})" for label, run in zip(labels, runs, strict=True)]


def series_of(runs: Sequence[dict]) -> list[str]:
    """Return for each run the curve it lies on: method, and preset and data set where these differ."""
    parts = [[run["method"], run["settings"].get("preset", ""), run["dataset"]] for run in runs]
    differing = [i for i in (1, 2) if len({part[i] for part in parts}) > 1]
    return [", ".join(filter(None, [part[0], *[part[i] for i in differing]])) for part in parts]


def curve_points(runs: Sequence[dict]) -> list[dict]:
    """Return the points of all curves, the rows of curves.csv: one of each run and baseline for each metric."""
    points = []
    for run, label, series in zip(runs, labels_of(runs), series_of(runs), strict=True):
        points += [point | {"series": series, "run": label} for point in points_of(run)]
        for name, results in run["baselines"].items():
            points += [point | {"series": name, "run": label} for point in points_of(results)]
    return [{"series": point.pop("series"), "run": point.pop("run")} | point for point in points]


def points_of(results: dict) -> list[dict]:
    """Return a point for each metric of a run or baseline: mean rate, mean, and the intervals of both."""
    mean, intervals = results["mean"], results.get("intervals", {})
    points = []
    for column in mean:
        if column in ("bpp", "bytes", "prompt_cosine") or column.startswith("bytes_"):
            continue
        (rate_low, rate_high), (low, high) = (intervals.get(name, (None, None)) for name in ("bpp", column))
        rate = {"bpp": mean["bpp"], "bpp_low": rate_low, "bpp_high": rate_high}
        points.append({"metric": column, **rate, "mean": mean[column], "low": low, "high": high})
    return points


def draw_curve(points: Sequence[dict], column: str, output: Path) -> dict:
    """Draw one metric against the rate as PNG, PNG for dark pages and PDF; return their addresses and the label."""
    from matplotlib import rc_context

    name = "rate_" + re.sub(r"\W", "_", column)
    chosen = [point for point in points if point["metric"] == column]
    files = {"light": (f"{name}.png", {}), "dark": (f"{name}_dark.png", DARK), "pdf": (f"{name}.pdf", {})}
    for file, colours in files.values():
        with rc_context({**PLOT, **colours}):
            write(output / file, plot(chosen, column, Path(file).suffix[1:]))
    return {"label": figure(column).label} | {kind: link(file) for kind, (file, _) in files.items()}


def plot(points: Sequence[dict], column: str, suffix: str) -> bytes:
    """Return a picture file ("png", "pdf") of one metric against the rate, a line for each series."""
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(4.4, 3.3), layout="constrained")
    axes = canvas.subplots()
    for series in dict.fromkeys(point["series"] for point in points):
        line = sorted((point for point in points if point["series"] == series), key=lambda point: point["bpp"])
        x, y = [point["bpp"] for point in line], [point["mean"] for point in line]
        xerr, yerr = error_bars(line, "bpp", "bpp_low", "bpp_high"), error_bars(line, "mean", "low", "high")
        axes.errorbar(x, y, yerr, xerr, marker="o", markersize=4, linewidth=1.2, elinewidth=0.8, label=series)
    if max(point["bpp"] for point in points) > 5 * min(point["bpp"] for point in points):
        axes.set_xscale("log")
    else:
        axes.locator_params(axis="x", nbins=5)
    better = figure(column).better
    axes.set_xlabel("bits per pixel")
    axes.set_title(figure(column).label + (f", {better} is better" if better else ""), loc="left", fontsize=9)
    axes.legend(frameon=False)
    file = io.BytesIO()
    stamp = {"CreationDate": None} if suffix == "pdf" else {}
    canvas.savefig(file, format=suffix, dpi=150, metadata=stamp)
    return file.getvalue()


def error_bars(points: Sequence[dict], centre: str, low: str, high: str) -> list[list[float]]:
    """Return the lengths of the error bars, [downwards, upwards]; 0 for a point without an interval."""
    down = [max(0.0, point[centre] - point[low]) if point[low] is not None else 0.0 for point in points]
    up = [max(0.0, point[high] - point[centre]) if point[high] is not None else 0.0 for point in points]
    return [down, up]


def comparison_page(runs: Sequence[dict], curves: Sequence[dict], output: Path) -> str:
    """Return the page that compares runs as HTML; it stands in `output` and shows pictures of the runs' folders."""
    labels, datasets = labels_of(runs), list(dict.fromkeys(run["dataset"] for run in runs))
    photographs = side_by_side(runs, labels, output) if len(datasets) == 1 else []
    lead = f"The {len(photographs)} photographs that all runs hold, drawn by each of them."
    metrics = [column for column in table_columns(runs) if all(column in metrics_of(run["rows"]) for run in runs)]
    return render(
        "compare.html",
        over=" / ".join(["Text + Sketch", *datasets]),
        title=" and ".join(labels) if len(runs) == 2 else f"{len(runs)} runs side by side",
        lead=lead if photographs else "The runs have no photograph in common; only their means stand side by side.",
        kind="comparison",
        failed=[f"{label}: {name}" for label, run in zip(labels, runs, strict=True) for name in run["failed"]],
        not_available=[],
        columns=[figure(column).label for column in table_columns(runs)],
        table=table_of(runs, labels, output),
        curves=curves,
        photographs=photographs,
        sort_keys=sort_keys(["bytes", *metrics]),
    )


def table_columns(runs: Sequence[dict]) -> list[str]:
    """Return the columns of the table of means: bytes, rate, then every metric of any run."""
    columns = dict.fromkeys(("bytes", "bpp", *columns_of([run["mean"] for run in runs])))
    return [column for column in columns if not column.startswith("bytes_")]


def table_of(runs: Sequence[dict], labels: Sequence[str], output: Path) -> list[dict]:
    """Return the rows of the table of means: each run, and below it its baselines."""
    table = []
    for run, label in zip(runs, labels, strict=True):
        address = link_to(run["folder"] / "index.html", output)
        lines = [
            (label, address, run),
            *[(f"{name}, beside {label}", None, mean) for name, mean in run["baselines"].items()],
        ]
        for name, url, results in lines:
            cells = [cell(column, results) for column in table_columns(runs)]
            count = results.get("photographs", len(run["rows"]))  # a baseline may not have met every budget
            table.append({"label": name, "url": url, "photographs": count, "cells": cells})
    return table


def side_by_side(runs: Sequence[dict], labels: Sequence[str], output: Path) -> list[dict]:
    """Return the photographs that all runs hold, each with its drawing of every run."""
    rows = [{row["name"]: row for row in run["rows"]} for run in runs]
    there = [{path.name for path in run["folder"].iterdir()} for run in runs]
    photographs = []
    for name in [name for name in rows[0] if all(name in others for others in rows)]:
        pictures = [pictures_of(name, files) for files in there]
        originals = [
            run["folder"] / own["original"] for run, own in zip(runs, pictures, strict=True) if "original" in own
        ]
        drawings = []
        for run, label, own_rows, own in zip(runs, labels, rows, pictures, strict=True):
            metrics = ["bytes", *metrics_of(run["rows"])]
            drawn = link_to(run["folder"] / own["drawn"], output) if "drawn" in own else None
            drawings.append({"label": label, "url": drawn, "metrics": shown_metrics(own_rows[name], metrics)})
        photographs.append(
            {
                "name": name,
                "size": size_of(runs[0]["folder"], pictures[0]),
                "original": link_to(originals[0], output) if originals else None,
                "drawings": drawings,
                "sort_values": sort_values(
                    mean_row([own_rows[name] for own_rows in rows]), columns_of(runs[0]["rows"])
                ),
            }
        )
    return photographs


def mean_row(rows: Sequence[dict]) -> dict:
    """Return one row with the means of several rows of one photograph, by which a comparison is sorted."""
    numbers = {column: numbers_of(rows, column) for column in columns_of(rows)}
    return rows[0] | {column: fmean(values) for column, values in numbers.items() if len(values) == len(rows)}


def link_to(file: Path, folder: Path) -> str:
    """Return the address of a file on a page that stands in another folder."""
    return link(Path(os.path.relpath(file, folder)).as_posix())


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="folder of a run of eval_PIC.py or eval_PICS.py"
    )
    flags.add_argument("--output", type=Path, help="folder of a comparison (default: comparison/ beside the first run)")
    return flags.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Draw the page of one run or the comparison of several, and return the exit status."""
    args = parse_args(argv)
    try:
        runs = [read_run(folder) for folder in args.runs]
        if len(runs) == 1:
            folder = args.runs[0]
            write(folder / "index.html", run_page(runs[0]).encode())
        else:
            folder = args.output or args.runs[0].resolve().parent / "comparison"
            if (folder / "summary.json").exists():
                raise NoRunError(f"--output {folder} holds a run, whose page would be lost: name another folder")
            compare(runs, folder)
    except NoRunError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps({"page": str(folder / "index.html")}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

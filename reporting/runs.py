"""Runs: what a run's folder holds, read back, each file bounded and checked by a schema.
Of a long run, only the rows that its page shows are kept (`selection.py`).

run = read_run(Path("recon_examples/PICS_tiny_kodak"))
run.mean["psnr"]

The folder may be a stranger's. Runs of earlier versions spell color "colour" and images
"photographs"; they are read as well.
"""

from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from common.files import printable
from reporting.reading import NoRunError, no_run, read_object
from reporting.rows import COSTS, new_spelling
from reporting.schema import (
    MAX_NAME,
    Check,
    SchemaError,
    anything,
    fields,
    integer,
    number,
    sequence,
    shown,
    table,
    text,
)
from reporting.selection import Selection, select
from reporting.tables import read_csv

MAX_IMAGES = 1_000_000  # of a run
MAX_SUMMARY_BYTES = 16 << 20
MAX_SETTINGS_BYTES = 1 << 20  # of settings.json and made.json


@dataclass(frozen=True)
class RunResult:
    """A run's folder as the report sees it; all numbers are finite."""

    folder: Path
    method: str  # "PIC" or "PICS"
    dataset: str
    # numbers, texts and None by column, a row an image that is shown; bytes of layers are integers
    # or None
    rows: list[dict] = field(default_factory=list)
    images: int = 0  # with those that are not shown
    counts: Counter[str] = field(default_factory=Counter)  # of numbers by column, of all images
    note: str = ""  # which images are shown, if these are not all
    mean: dict[str, float] = field(default_factory=dict)  # by column; those of sets too
    intervals: dict[str, list[float]] = field(default_factory=dict)  # [low, high] by column
    # {"value", "reconstructions", "others"} by metric of sets; KID's with "subset_size"
    sets: dict[str, dict] = field(default_factory=dict)
    not_available: dict[str, str] = field(default_factory=dict)  # reason by column
    # {"images", "mean", "intervals"} by title
    baselines: dict[str, dict] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)  # names
    settings: dict = field(default_factory=dict)  # settings.json
    made: dict = field(default_factory=dict)  # made.json


# ---- schemas


def renamed(check: Check) -> Check:
    """Return a check of an object whose fields may have the names of earlier versions."""
    return lambda value: check(new_spelling(value) if isinstance(value, dict) else value)


def setting_check(value: object) -> None:
    """Check the value of a setting: nothing, a number, a text, true or false."""
    if isinstance(value, str):
        text()(value)
    elif value is not None and not isinstance(value, bool):
        number(-1e300, 1e300)(value)


def means_check(value: object) -> None:
    """Check means by column: rates are above 0, and bytes not below."""
    fields({}, {"bpp": _rate}, others=number())(value)
    for name, mean in value.items():  # type: ignore[attr-defined]
        if name.startswith("bytes") and mean < 0:
            raise SchemaError(f"{name}: {shown(mean)} is below 0")


_rate = number(1e-9, 1e6)  # bits per pixel
_means = renamed(means_check)
_intervals = renamed(table(sequence(number(), most=2, least=2)))
_count = integer(0, MAX_IMAGES * 1000)  # of images, or patches of them
_set_value = fields(
    {"value": number(), "reconstructions": _count, "others": _count},
    {"subset_size": _count},
)
_baseline = renamed(
    fields(
        {"mean": renamed(fields({"bpp": _rate}, {}, others=number()))},
        {"images": _count, "intervals": _intervals},
    )
)
SUMMARY = renamed(
    fields(
        {"method": text(MAX_NAME), "dataset": text(MAX_NAME), "images": integer(0, MAX_IMAGES)},
        {
            "failed": sequence(text(MAX_NAME), most=MAX_IMAGES),
            "mean": _means,
            "intervals": _intervals,
            "set": table(_set_value),
            "not_available": table(text()),
            "baselines": table(_baseline, most=20),
        },
        others=anything,
    )
)
SETTINGS = fields({}, {"preset": text(MAX_NAME)}, others=setting_check, most=200)
MADE = fields({"command": text(), "versions": table(text(MAX_NAME))}, {})


# ---- reading


def read_summary(folder: Path) -> dict:
    """Read summary.json, with the names that columns have today.

    Raises NoRunError, OSError if there is none.
    """
    summary = new_spelling(read_object(folder / "summary.json", SUMMARY, MAX_SUMMARY_BYTES))
    for name in ("mean", "intervals", "not_available"):
        summary[name] = new_spelling(summary.get(name, {}))
    return summary


def read_settings(folder: Path) -> dict:
    """Read settings.json; {} if there is none. Raises NoRunError, OSError."""
    return read_object(folder / "settings.json", SETTINGS, MAX_SETTINGS_BYTES, missing={})


def read_run(folder: Path) -> RunResult:
    """Read a run's folder. Raises NoRunError, which names the file."""
    try:
        summary = read_summary(folder)
        selection = _read_rows(folder, summary)
        settings = read_settings(folder)
        made = read_object(folder / "made.json", MADE, MAX_SETTINGS_BYTES, missing={})
    except OSError as error:
        cure = "eval_PIC.py and eval_PICS.py make runs"
        raise NoRunError(
            f"{printable(folder)} is no run: {printable(error.filename or folder)} "
            f"cannot be read; {cure}"
        ) from error
    return _result(folder, summary, selection, settings, made)


def _read_rows(folder: Path, summary: dict) -> Selection:
    """Return the rows of the images that are shown of those that the summary speaks of."""
    path, images = folder / "results.csv", summary["images"]
    lacking = [name for name in ("bytes", "bpp") if name not in summary["mean"]]
    if lacking and (images or summary["mean"]):
        raise no_run(folder / "summary.json", f"mean: no {', '.join(lacking)}")
    if not images:
        return Selection()
    selection = select(partial(read_csv, path, most=images), images)
    if selection.images < images:
        cure = "its run is at work or was killed; start it again"
        reason = f"{selection.images} images, summary.json has {images}: {cure}"
        raise no_run(path, reason)
    _drop_costs(selection.rows)
    return selection


def _drop_costs(rows: list[dict]) -> None:
    """Remove the columns that differ from run to run."""
    columns = rows[0] if rows else {}
    costs = [column for column in columns if column.startswith(COSTS)]
    for row in rows:
        for column in costs:
            del row[column]


def _result(
    folder: Path, summary: dict, selection: Selection, settings: dict, made: dict
) -> RunResult:
    """Return what has been read of a run."""
    sets = summary.get("set", {})
    mean = dict(summary["mean"])
    for name, found in sets.items():
        mean[name] = found["value"]
    baselines = {}
    for title, results in summary.get("baselines", {}).items():
        baselines[title] = _baseline_results(results)
    return RunResult(
        folder=folder,
        method=summary["method"],
        dataset=summary["dataset"],
        rows=selection.rows,
        images=selection.images,
        counts=selection.counts,
        note=selection.note,
        mean=mean,
        intervals=summary["intervals"],
        sets=sets,
        not_available=summary["not_available"],
        baselines=baselines,
        failed=summary.get("failed", []),
        settings=settings,
        made=made,
    )


def _baseline_results(results: dict) -> dict:
    """Return the results of a baseline with the names that columns have today."""
    found = new_spelling(results)
    for name in ("mean", "intervals"):
        found[name] = new_spelling(found.get(name, {}))
    return found

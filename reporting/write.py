"""Write the results of a run: tables, averages, and its page."""

import json
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from common.files import ROOT, write
from dataloaders import Samples
from metrics import SetValue
from reporting.page import run_page
from reporting.records import read_records
from reporting.rows import (
    COSTS,
    TEXTS,
    as_row,
    averages,
    baseline_averages,
    baseline_rows,
    columns_of,
    costs_of,
    without_costs,
)
from reporting.runs import read_run
from reporting.tables import csv_file, json_lines

PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "compressai",
    "numpy",
    "pillow",
)  # whose versions a page shows


def write_report(
    folder: Path,
    samples: Samples,
    method: str,
    failures: dict[str, str],
    over_set: dict[str, SetValue] | None = None,
    not_available: dict[str, str] | None = None,
) -> dict:
    """Write the results, averages and page of what is done; return the summary.

    failures: why images failed. over_set: the metrics of the whole set. not_available: why a metric
    has no values (`metrics.MetricSet` has both).
    """
    records = read_records(folder, samples.names)
    rows = [as_row(record) for record in records]
    summary: dict = {
        "method": method,
        "dataset": samples.name,
        "images": len(rows),
        "failed": sorted(failures),
        "reasons": failures,
    }
    if rows:
        summary |= averages([without_costs(row) for row in rows])
        summary["cost"] = averages([costs_of(row) for row in rows])
        summary["set"] = {}
        for name, value in (over_set or {}).items():
            if value.value is not None:
                found = value._asdict().items()
                summary["set"][name] = {key: number for key, number in found if number is not None}
        summary["not_available"] = _without_values(rows, summary["mean"]) | (not_available or {})
        write(folder / "results.csv", csv_file(rows))
        write(folder / "results.jsonl", json_lines(records))
        beside = baseline_rows(records)
        if beside:
            summary["baselines"] = baseline_averages(beside)
            write(folder / "baselines.csv", csv_file(beside))
    write(folder / "summary.json", json.dumps(summary, indent=1).encode())
    write(folder / "made.json", json.dumps(made_by(), indent=1).encode())
    write(folder / "index.html", run_page(read_run(folder)).encode())
    return summary


def _without_values(rows: list[dict], mean: dict) -> dict[str, str]:
    """Return the columns that have no value for any image; why is not known here."""
    reasons = {}
    for name in columns_of(rows):
        is_result = name not in TEXTS and not name.startswith(COSTS)
        if is_result and name not in mean:
            reasons[name] = ""
    return reasons


def made_by() -> dict:
    """Return the command line of this process, and the versions of the project, Python and the
    libraries.
    """
    versions = {"commit": _commit(), "Python": sys.version.split()[0]}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    command = shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]])
    return {
        "command": command.encode(errors="surrogateescape").decode(errors="replace"),
        "versions": {name: number for name, number in versions.items() if number},
    }


def _commit() -> str:
    """Return git's name of the checked-out commit, with "-dirty" if files differ from it; empty
    outside of git.
    """
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:  # there is no git on this machine
        return ""

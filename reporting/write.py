"""Write the results of a run: tables, averages, and its page."""

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path

from common.files import ROOT, URI, without_secrets, write, write_parts
from metrics import SetValue
from reporting.averages import Averages
from reporting.log import Entries
from reporting.page import run_page
from reporting.rows import (
    BASELINE_TITLES,
    COSTS,
    TEXTS,
    as_row,
    baseline_rows,
    costs_of,
    without_costs,
    without_notes,
)
from reporting.runs import read_run
from reporting.tables import csv_parts

PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "compressai",
    "numpy",
    "pillow",
)  # whose versions a page shows


class Tally:
    """What the records of a run come to, one by one."""

    def __init__(self) -> None:
        self.columns: dict[str, None] = {}  # of results.csv
        self.baseline_columns: dict[str, None] = {}
        self.results, self.costs = Averages(), Averages()
        self.baselines: dict[str, Averages] = {}

    def add(self, row: dict, beside: list[dict]) -> None:
        """Take the row of one more image, and those of its baselines."""
        self.columns |= dict.fromkeys(row)
        self.results.add(without_costs(row))
        self.costs.add(costs_of(row))
        for own in beside:
            self.baseline_columns |= dict.fromkeys(own)
            met = self.baselines.setdefault(own["baseline"], Averages())
            if "why" not in own:
                met.add(without_notes(own))

    def summary(self) -> dict:
        """Return the averages."""
        summary = self.results.result() | {"cost": self.costs.result()}
        beside = {}
        for name, met in self.baselines.items():
            if met.rows:
                beside[BASELINE_TITLES.get(name, name)] = {"images": met.rows, **met.result()}
        return summary | ({"baselines": beside} if self.baselines else {})


def write_report(
    entries: Entries,
    dataset: str,
    method: str,
    over_set: dict[str, SetValue] | None = None,
    not_available: dict[str, str] | None = None,
) -> dict:
    """Write the results, averages and page of what is done; return the summary.

    over_set: the metrics of the whole set. not_available: why a metric has no values
    (`metrics.MetricSet` has both). The records are read twice and not kept.
    """
    folder, tally = entries.folder, Tally()
    for row, beside in _rows(entries):
        tally.add(row, beside)
    failures = entries.failures()
    summary: dict = {
        "method": method,
        "dataset": dataset,
        "images": tally.results.rows,
        "failed": sorted(failures),
        "reasons": failures,
    }
    if tally.columns:
        summary |= tally.summary()
        summary["set"] = {}
        for name, value in (over_set or {}).items():
            if value.value is not None:
                found = value._asdict().items()
                summary["set"][name] = {key: number for key, number in found if number is not None}
        summary["not_available"] = _without_values(tally, summary["mean"]) | (not_available or {})
        _write_tables(entries, tally)
    write(folder / "summary.json", json.dumps(summary, indent=1).encode())
    write(folder / "made.json", json.dumps(made_by(), indent=1).encode())
    write(folder / "index.html", run_page(read_run(folder)).encode())
    return summary


def _rows(entries: Entries) -> Iterator[tuple[dict, list[dict]]]:
    """Yield the row of each image and those of its baselines."""
    for place, record in entries.records():
        yield as_row(record, place), baseline_rows(record)


def _write_tables(entries: Entries, tally: Tally) -> None:
    """Write results.csv and, with baselines, baselines.csv."""
    rows = (row for row, _ in _rows(entries))
    write_parts(entries.folder / "results.csv", csv_parts(list(tally.columns), rows))
    if tally.baselines:
        beside = chain.from_iterable(own for _, own in _rows(entries))
        columns = list(tally.baseline_columns)
        write_parts(entries.folder / "baselines.csv", csv_parts(columns, beside))


def _without_values(tally: Tally, mean: dict) -> dict[str, str]:
    """Return the columns that have no value for any image; why is not known here."""
    reasons = {}
    for name in tally.columns:
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
    command = shlex.join(["python", Path(sys.argv[0]).name, *map(_shown, sys.argv[1:])])
    return {
        "command": command.encode(errors="surrogateescape").decode(errors="replace"),
        "versions": {name: number for name, number in versions.items() if number},
    }


def _shown(argument: str) -> str:
    """Return an argument of the command line; a URI without its secrets."""
    flag, mark, value = "", "", argument
    if argument.startswith("-"):
        flag, mark, value = argument.partition("=")
    return flag + mark + without_secrets(value) if URI.match(value) else argument


def _commit() -> str:
    """Return git's name of the checked-out commit, with "-dirty" if files differ from it; empty
    outside of git.
    """
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:  # there is no git on this machine
        return ""

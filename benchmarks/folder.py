"""Measure `pics.py decode` of a folder: one start, and the drawings divided by the cores?

    python benchmarks/folder.py                    # the recorded example files, 24 in all
    python benchmarks/folder.py FILES --rounds 5

Each round decodes, as a user would, one file ("one"), and all of them on one core ("alone") and on
all cores ("all"). A drawing is (alone - one) / (count - 1), the start is one - drawing, and the
ideal is start + count * drawing / cores. `ratio` is all / ideal, of the medians of the rounds. So
are `ratio_of_rounds`, each within its round. Other work of the machine makes them wrong. It has
less influence on processor time: `cpu_ratio` is what the ratio would be if all cores were free,
(start + (all - start) / cores) / ideal, all in processor time. The last line on stdout is JSON.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

# So that `python benchmarks/folder.py` finds the project.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.files import ROOT

EXAMPLES = ROOT / "recon_examples" / "examples" / "PICS_tiny_samples"


class Cost(NamedTuple):
    """What a run took, in seconds."""

    wall: float
    cpu: float  # of all its processes


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("files", type=Path, nargs="?", default=EXAMPLES, help="folder of .pics files")
    add("--count", type=int, default=24, help="number of files; those of the folder are repeated")
    add("--rounds", type=int, default=5, help="number of rounds, of which the medians are taken")
    return parser.parse_args(argv)


def folder_of(files: Sequence[Path], count: int, home: Path) -> Path:
    """Make a folder of this number of copies of files, each of them as often as the others."""
    home.mkdir()
    for number in range(count):
        shutil.copy(files[number % len(files)], home / f"{number:03}.pics")
    return home


def decode(folder: Path, cores: Sequence[int]) -> Cost:
    """Decode a folder on these cores. Raises CalledProcessError if a file fails."""
    before, began = os.times(), time.perf_counter()
    with tempfile.TemporaryDirectory() as pictures:
        subprocess.run(
            [sys.executable, str(ROOT / "pics.py"), "decode", str(folder), pictures],
            check=True,
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": str(len(cores)), "CUDA_VISIBLE_DEVICES": ""},
            stdout=subprocess.DEVNULL,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
    wall, after = time.perf_counter() - began, os.times()
    children = after.children_user + after.children_system
    return Cost(wall, children - before.children_user - before.children_system)


def measure(files: Sequence[Path], count: int, rounds: int, home: Path) -> list[dict[str, Cost]]:
    """Return {run: its cost} of each round. home: a folder for copies of the files."""
    cores = sorted(os.sched_getaffinity(0))
    one, many = folder_of(files, 1, home / "one"), folder_of(files, count, home / "many")
    decode(one, cores)  # so that all programs and weights are in the system's cache
    found = []
    for number in range(rounds):
        costs = {
            "one": decode(one, cores),
            "alone": decode(many, cores[:1]),
            "all": decode(many, cores),
        }
        found.append(costs)
        shown = [f"{run} {cost.wall:.2f} s, {cost.cpu:.2f} s CPU" for run, cost in costs.items()]
        print(f"round {number}:", "; ".join(shown), flush=True)
    return found


def parts_of(one: float, alone: float, count: int) -> tuple[float, float]:
    """Return start and one drawing, from the times of one file and of all on one core."""
    drawing = (alone - one) / (count - 1)
    return one - drawing, drawing


def medians(rounds: Sequence[dict[str, Cost]], kind: str) -> list[float]:
    """Return the median times of one, alone and all. kind: "wall" or "cpu"."""
    found = []
    for run in ("one", "alone", "all"):
        found.append(median(getattr(costs[run], kind) for costs in rounds))
    return found


def wall_times(one: float, alone: float, all_cores: float, count: int, cores: int) -> dict:
    """Return what follows from wall times: start, drawing, ideal and ratio."""
    start, drawing = parts_of(one, alone, count)
    ideal = start + count * drawing / cores
    return {"start": start, "drawing": drawing, "ideal": ideal, "ratio": all_cores / ideal}


def cpu_ratio(one: float, alone: float, all_cores: float, count: int, cores: int) -> float:
    """Return the ratio to the ideal if all cores were free, from processor times."""
    start, drawing = parts_of(one, alone, count)
    return (start + (all_cores - start) / cores) / (start + count * drawing / cores)


def summary(rounds: Sequence[dict[str, Cost]], count: int, cores: int) -> dict:
    """Return the medians, and what follows from them."""
    walls = medians(rounds, "wall")
    values = dict(zip(("one", "alone", "all"), walls, strict=True))
    values |= wall_times(*walls, count, cores)
    values["cpu_ratio"] = cpu_ratio(*medians(rounds, "cpu"), count, cores)
    ratios = []
    for costs in rounds:
        found = wall_times(*medians([costs], "wall"), count, cores)
        ratios.append(round(found["ratio"], 3))
    rounded = {name: round(value, 3) for name, value in values.items()}
    return {"count": count, "cores": cores, **rounded, "ratio_of_rounds": ratios}


def main(argv: list[str] | None = None) -> int:
    """Print a line for each round, and the summary as JSON."""
    args = parse_args(argv)
    files = sorted(args.files.glob("*.pics"))
    if not files or args.count < 2 or args.rounds < 1:
        print(
            f"error: {args.files} holds {len(files)} .pics files, --count is {args.count}, "
            f"--rounds {args.rounds}: at least 1, 2 and 1 are needed",
            file=sys.stderr,
        )
        return 2
    with tempfile.TemporaryDirectory() as home:
        rounds = measure(files, args.count, args.rounds, Path(home))
    load = round(os.getloadavg()[0], 2)
    cores = len(os.sched_getaffinity(0))
    print(json.dumps({**summary(rounds, args.count, cores), "load": load}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

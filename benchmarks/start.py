"""Measure how long the commands take from start to end on one photograph, and their peak memory.

    python benchmarks/start.py PHOTO                    # some 5 minutes on 2 cores
    python benchmarks/start.py PHOTO --other FOLDER     # and eval_PICS.py of another checkout

Each command runs in a process of its own, all of them in turn in each round; the figures are
medians over the rounds. Seconds of CPU and of the clock are given as multiples of those of
`python -c "import torch"` in the same rounds. Memory is the peak of resident memory, in MB; it
counts what is mapped from files too. With --other, both checkouts evaluate the sample images, each
in turn, and `faster` is how many times as much CPU and time the other one takes. The last line on
stdout is JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

# So that `python benchmarks/start.py` finds the project.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common.files import ROOT

TORCH = "import torch"


class Cost(NamedTuple):
    """What a process took."""

    cpu: float  # seconds
    clock: float  # seconds
    memory: float  # MB


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photo", type=Path, help="an image")
    parser.add_argument("--rounds", type=int, default=5, help="rounds to take the median of")
    parser.add_argument(
        "--other", type=Path, help="folder of another checkout to evaluate the sample images with"
    )
    return parser.parse_args(argv)


def cost(command: Sequence[str], folder: Path = ROOT) -> Cost:
    """Run a Python command in a folder and return what it took. Raises RuntimeError if it fails."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, *command], cwd=folder, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with status {process.returncode}")
    clock = time.perf_counter() - began
    return Cost(usage.ru_utime + usage.ru_stime, clock, usage.ru_maxrss / 1000)


def commands(photo: Path, folder: Path) -> dict[str, list[str]]:
    """Return the measured commands by name; their files are in `folder`."""
    file = str(folder / "photo.pics")
    alone = folder / "photos"
    alone.mkdir()
    (alone / photo.name).symlink_to(photo.resolve())
    evaluate = ["eval_PICS.py", "--data_root", str(alone), "--overwrite"]
    return {
        TORCH: ["-c", TORCH],
        "--help": ["pics.py", "--help"],
        # before those that read it
        "encode": ["pics.py", "encode", str(photo.resolve()), file],
        "encode --N 4": ["pics.py", "encode", str(photo.resolve()), f"{file}.4", "--N", "4"],
        "info": ["pics.py", "info", file],
        "decode": ["pics.py", "decode", file, str(folder / "photo.png")],
        "eval_PICS.py": [*evaluate, "--output", str(folder / "run")],
    }


def medians(costs: Sequence[Cost]) -> Cost:
    """Return the medians of several runs."""
    return Cost(*map(median, zip(*costs, strict=True)))


def row(one: Cost, torch: Cost) -> dict[str, float]:
    """Return a command's figures: its times also as multiples of those of importing torch."""
    return {
        "cpu": round(one.cpu, 3),
        "clock": round(one.clock, 3),
        "memory": round(one.memory),
        "cpu_of_torch": round(one.cpu / torch.cpu, 2),
        "clock_of_torch": round(one.clock / torch.clock, 2),
    }


def compare(other: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Return what both checkouts take for the sample images, in seconds, and the ratios."""
    costs = defaultdict(list)
    for _ in range(rounds):
        for name, root in (("here", ROOT), ("other", other)):
            with tempfile.TemporaryDirectory() as output:
                command = ["eval_PICS.py", "--output", output]
                costs[name].append(cost(command, root.resolve()))
    here = medians(costs["here"])
    there = medians(costs["other"])
    return {
        "here": {"cpu": round(here.cpu, 2), "clock": round(here.clock, 2)},
        "other": {"cpu": round(there.cpu, 2), "clock": round(there.clock, 2)},
        "faster": {
            "cpu": round(there.cpu / here.cpu, 2),
            "clock": round(there.clock / here.clock, 2),
        },
    }


def main(argv: list[str] | None = None) -> None:
    """Measure, print a line for each command, and all as JSON."""
    args = parse_args(argv)
    costs = defaultdict(list)
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory() as folder:
            for name, command in commands(args.photo, Path(folder)).items():
                costs[name].append(cost(command))
    torch = medians(costs[TORCH])
    result: dict[str, dict] = {name: row(medians(all_of), torch) for name, all_of in costs.items()}
    for name, figures in result.items():
        print(
            f"{name:14}{figures['cpu']:7.2f} s of CPU ({figures['cpu_of_torch']:.2f} x torch), "
            f"{figures['clock']:6.2f} s, {figures['memory']:5} MB"
        )
    if args.other:
        result["samples"] = compare(args.other, args.rounds)
    print(json.dumps(result))


if __name__ == "__main__":
    main()

"""Measure what an image costs, in seconds and bytes of memory: batches, processes, many images.

    python benchmarks/scaling.py KODAK                  # 24 images, some 20 minutes on 4 cores
    python benchmarks/scaling.py KODAK --only memory

Runs eval_PICS.py as a user would: batches of 1 and of 8 on all cores; one process on one core, and
two on two cores, which it forks itself or which accelerate launches; all of these once more
("whole") with all available metrics and all image formats; and, for the memory, the images once and
ten times over with the shortest search. Times are divided by the number of images: `seconds` of the
whole run; `alone` without start and report, from when the models are loaded to the last image's
record. The last line on stdout is JSON.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

# So that `python benchmarks/scaling.py` finds the project.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.rows import column
from common.files import ROOT
from reporting.rows import RECORD

PARTS = ("batch", "processes", "memory")
TIMES_OVER = 10
WHOLE = ["--metrics", "all", "--baselines", "jpeg,webp,avif,jpeg2000"]
KINDS = {"": [], ", whole": WHOLE}  # name of a run: its flags
# (slow, fast) runs whose times are compared.
COMPARED = (("batch 1", "batch 8"), ("1 process", "2 processes"), ("1 process", "2 launched"))
SUFFIXES = (".png", ".jpg")


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    help_images = "folder of images, all of one size for a fair comparison"
    add("images", type=Path, help=help_images)
    add("--preset", default="tiny", help="preset of the models")
    add("--count", type=int, default=24, help="number of images, the first of the folder")
    add("--only", choices=PARTS, nargs="+", default=PARTS, help="parts to measure")
    return parser.parse_args(argv)


def evaluate(
    folder: Path, preset: str, cores: Sequence[int], flags: Sequence[str], launched: int = 1
) -> dict:
    """Run eval_PICS.py and return what an image cost.

    cores: those that it may use. launched: number of processes that accelerate launches.
    """
    with tempfile.TemporaryDirectory() as output:
        command = [sys.executable]
        if launched > 1:
            command += ["-m", "accelerate.commands.launch", "--multi_gpu"]
            command += ["--num_processes", str(launched)]
        command += [str(ROOT / "eval_PICS.py"), "--data_root", str(folder), "--preset", preset]
        command += ["--output", output, "--device", "cpu", *flags]
        threads = max(1, len(cores) // launched)
        began = time.perf_counter()
        subprocess.run(
            command,
            check=True,
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
            stdout=subprocess.DEVNULL,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
        seconds = time.perf_counter() - began
        (run,) = Path(output).iterdir()
        return cost_of(run, seconds)


def cost_of(run: Path, seconds: float) -> dict:
    """Return what an image of a finished run cost. run: its folder. seconds: of the whole run."""
    loaded = (run / "settings.json").stat().st_mtime
    done = max(record.stat().st_mtime for record in run.glob(f"*{RECORD}"))
    with (run / "results.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    cost = {
        "images": len(rows),
        "seconds": round(seconds / len(rows), 3),
        "alone": round((done - loaded) / len(rows), 3),
    }
    for name in rows[0]:
        if name.startswith("seconds"):
            cost[name] = round(fmean(map(float, column(rows, name))), 3)
    cost["memory_process"] = max(map(int, column(rows, "memory_process")))
    return cost


def folder_of(images: Sequence[Path], home: Path, times: int = 1) -> Path:
    """Make a folder of links to images, each of them `times` times."""
    home.mkdir()
    for turn in range(times):
        for path in images:
            (home / f"{turn}_{path.name}").symlink_to(path.resolve())
    return home


def measure(images: Sequence[Path], preset: str, parts: Sequence[str], home: Path) -> dict:
    """Return {way of running: cost of an image}. home: a folder for links to the images."""
    cores = sorted(os.sched_getaffinity(0))
    few = folder_of(images, home / "once")
    runs = {}
    for kind, flags in KINDS.items():
        if "batch" in parts:
            for batch in (1, 8):
                size = ["--batch_size", str(batch)]
                runs[f"batch {batch}{kind}"] = evaluate(few, preset, cores, [*size, *flags])
        if "processes" in parts:
            runs[f"1 process{kind}"] = evaluate(few, preset, cores[:1], flags)
            runs[f"2 processes{kind}"] = evaluate(few, preset, cores[:2], flags)
            runs[f"2 launched{kind}"] = evaluate(few, preset, cores[:2], flags, launched=2)
    if "memory" in parts:
        many = folder_of(images, home / "many", TIMES_OVER)
        short = ["--prompt_steps", "1", "--N", "1"]
        runs["memory once"] = evaluate(few, preset, cores, short)
        runs[f"memory {TIMES_OVER} times"] = evaluate(many, preset, cores, short)
    return runs


def ratio(runs: dict, slow: str, fast: str, cost: str) -> float | None:
    """Return how many times more the first run costs; None if it was not measured."""
    if slow not in runs:
        return None
    return round(runs[slow][cost] / runs[fast][cost], 2)


def ratios(runs: dict) -> dict[str, float | None]:
    """Return all ratios of runs that are compared."""
    found = {}
    for kind in KINDS:
        for cost in ("seconds", "alone"):
            for slow, fast in COMPARED:
                title = f"{fast}{kind}: times as fast as {slow}, {cost}"
                found[title] = ratio(runs, f"{slow}{kind}", f"{fast}{kind}", cost)
    title = "memory of ten times the images"
    found[title] = ratio(runs, f"memory {TIMES_OVER} times", "memory once", "memory_process")
    return found


def main(argv: list[str] | None = None) -> int:
    """Print a line for each run, and all of them as JSON."""
    args = parse_args(argv)
    paths = sorted(args.images.rglob("*"))
    images = [path for path in paths if path.suffix.lower() in SUFFIXES]
    if len(images) < args.count:
        found = f"{len(images)} images, {args.count} are wanted"
        print(f"error: {args.images}: {found}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as home:
        runs = measure(images[: args.count], args.preset, args.only, Path(home))
    for name, run in runs.items():
        print(name, *(f"{cost} {value}" for cost, value in run.items()))
    machine = {"cores": len(os.sched_getaffinity(0)), "load": os.getloadavg()[0]}
    print(json.dumps({**machine, "runs": runs, **ratios(runs)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

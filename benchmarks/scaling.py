"""What a photograph costs, in seconds and bytes of memory: batches, processes, many photographs.

    python benchmarks/scaling.py KODAK                  # 24 photographs, some 20 minutes on 4 cores
    python benchmarks/scaling.py KODAK --only memory

Runs eval_PICS.py as a user would: batches of 1 and of 8 on all cores; one process on one core and
two on two, which it forks itself or which accelerate launches; all of these once more with all the
metrics that can be had and every image format beside; and, for the memory, the photographs once and
ten times over with the shortest search. Times are over the number of photographs: `seconds` of the
whole run, `alone` without start and report, from when the models are loaded to the last
photograph's caption. The last line on stdout is JSON.
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

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("batch", "processes", "memory")
TIMES_OVER = 10
WHOLE = ["--metrics", "all", "--baselines", "jpeg,webp,avif,jpeg2000"]


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "photographs", type=Path, help="folder of pictures, all of one size for a fair comparison"
    )
    parser.add_argument("--preset", default="tiny")
    parser.add_argument(
        "--count", type=int, default=24, help="photographs, the first of the folder"
    )
    parser.add_argument("--only", choices=PARTS, nargs="+", default=PARTS, help="parts to measure")
    return parser.parse_args(argv)


def evaluate(
    folder: Path, preset: str, cores: Sequence[int], flags: Sequence[str], launched: int = 1
) -> dict:
    """Run eval_PICS.py on some cores, launched as some processes, and return what a photograph
    cost.
    """
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(launched)]
    threads = {"OMP_NUM_THREADS": str(max(1, len(cores) // launched))}
    with tempfile.TemporaryDirectory() as output:
        command = [sys.executable, *(launcher if launched > 1 else []), str(ROOT / "eval_PICS.py")]
        command += [
            "--data_root",
            str(folder),
            "--preset",
            preset,
            "--output",
            output,
            "--device",
            "cpu",
            *flags,
        ]
        began = time.perf_counter()
        subprocess.run(
            command,
            check=True,
            cwd=ROOT,
            env=os.environ | threads,
            stdout=subprocess.DEVNULL,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
        seconds = time.perf_counter() - began
        (run,) = Path(output).iterdir()
        loaded = (run / "settings.json").stat().st_mtime
        done = max(caption.stat().st_mtime for caption in run.glob("*_caption.yaml"))
        with (run / "results.csv").open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    stages = {
        name: round(fmean(float(row[name]) for row in rows), 3)
        for name in rows[0]
        if name.startswith("seconds")
    }
    peak = max(int(row["memory_process"]) for row in rows)
    times = {
        "seconds": round(seconds / len(rows), 3),
        "alone": round((done - loaded) / len(rows), 3),
    }
    return {"photographs": len(rows), **times, **stages, "memory_process": peak}


def folder_of(photographs: Sequence[Path], home: Path, times: int = 1) -> Path:
    """Make a folder of links to photographs, each some times over."""
    home.mkdir()
    for turn in range(times):
        for path in photographs:
            (home / f"{turn}_{path.name}").symlink_to(path.resolve())
    return home


def measure(photographs: Sequence[Path], preset: str, parts: Sequence[str], home: Path) -> dict:
    """Return the cost of a photograph in each way of running."""
    cores = sorted(os.sched_getaffinity(0))
    few = folder_of(photographs, home / "once")
    runs = {}
    for kind, flags in (("", []), (", whole", WHOLE)):
        if "batch" in parts:
            for batch in (1, 8):
                runs[f"batch {batch}{kind}"] = evaluate(
                    few, preset, cores, ["--batch_size", str(batch), *flags]
                )
        if "processes" in parts:
            runs[f"1 process{kind}"] = evaluate(few, preset, cores[:1], flags)
            runs[f"2 processes{kind}"] = evaluate(few, preset, cores[:2], flags)
            runs[f"2 launched{kind}"] = evaluate(few, preset, cores[:2], flags, launched=2)
    if "memory" in parts:
        many = folder_of(photographs, home / "many", TIMES_OVER)
        for name, folder in (("once", few), (f"{TIMES_OVER} times", many)):
            runs[f"memory {name}"] = evaluate(
                folder, preset, cores, ["--prompt_steps", "1", "--N", "1"]
            )
    return runs


def ratio(runs: dict, slow: str, fast: str, column: str) -> float | None:
    """Return how many times more the first costs."""
    return round(runs[slow][column] / runs[fast][column], 2) if slow in runs else None


def main(argv: list[str] | None = None) -> int:
    """Print a line for each run and all of them as JSON."""
    args = parse_args(argv)
    photographs = sorted(
        path for path in args.photographs.rglob("*") if path.suffix.lower() in (".png", ".jpg")
    )
    if len(photographs) < args.count:
        print(
            f"error: {args.photographs}: {len(photographs)} pictures, {args.count} are wanted",
            file=sys.stderr,
        )
        return 2
    with tempfile.TemporaryDirectory() as home:
        runs = measure(photographs[: args.count], args.preset, args.only, Path(home))
    for name, run in runs.items():
        print(name, *(f"{column} {value}" for column, value in run.items()))
    found = {"cores": len(os.sched_getaffinity(0)), "load": os.getloadavg()[0], "runs": runs}
    for kind in ("", ", whole"):
        for column in ("seconds", "alone"):
            for slow, fast in (
                ("batch 1", "batch 8"),
                ("1 process", "2 processes"),
                ("1 process", "2 launched"),
            ):
                title = f"{fast}{kind}: times as fast as {slow}, {column}"
                found[title] = ratio(runs, f"{slow}{kind}", f"{fast}{kind}", column)
    title = "memory of ten times the photographs"
    found[title] = ratio(runs, f"memory {TIMES_OVER} times", "memory once", "memory_process")
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())

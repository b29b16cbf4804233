"""A million images through the loop of a run: flat in time and memory, and killed on the way.

    python tests/long/million.py --images 1000000       # hours
    python tests/long/million.py --images 2000 --kills 2

eval_PICS.py reads small images from tar shards of a thousand, with stubs in place of the models and
two workers. One run is unbroken, another is killed again and again; both must end with the same
results, nothing lost and nothing twice. Figures: milliseconds an image, by the clock and of CPU, in
the first and in the last hundredth, memory and open files of the run's processes there, the most
memory of a process that makes a report beside them, seconds from a start until the first new record
after each kill, bytes on the disk. Progress goes to stderr; the last line on stdout is JSON; exit
status 1 if results differ, the last hundredth took over 1.1 times the CPU of the first, or memory
grew by over a tenth. Linux only.
"""

import argparse
import csv
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
PER_SHARD = 1000
PRESET = "small"
WATCH_SECONDS = 0.1
MOST_SLOWER, MOST_GROWTH = 1.1, 1.1
TINTS = 200  # different images


class Moment(NamedTuple):
    """What is seen of a run from outside."""

    seconds: float
    done: int  # lines of its logs
    cpu: float  # seconds of all its processes, from their start
    mebibytes: float  # of its processes, without files; pages that they share count once
    files: int  # open
    report: float  # mebibytes of a process that makes a report; 0: there is none


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="for data and runs (default: a temporary one)")
    parser.add_argument("--work", nargs=2, metavar=("SHARDS", "OUTPUT"), help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def work(shards: str, output: str) -> int:
    """Run the experiment with its stubs, in this process."""
    from helpers.stub_run import script_args, stub

    from evaluation import loop

    stub(setattr)
    return loop.evaluate(script_args(arguments(shards, output)), "PICS")


def arguments(shards: str, output: str) -> list[str]:
    """Return the command line of a run."""
    argv = ["--data_root", shards, "--output", output]
    argv += ["--preset", str(Path(output).parent / PRESET)]
    return [*argv, "--metrics", "psnr", "--keep", "streams", "--batch_size", "64"]


def make_preset(folder: Path) -> None:
    """Write a preset for small images beside the runs."""
    (folder / PRESET).mkdir()
    (folder / PRESET / "preset.json").write_text('{"base": "tiny", "short_side": 64}')


def make_shards(folder: Path, images: int) -> None:
    """Write tar shards of small images."""
    from PIL import Image

    pictures = []
    for tint in range(TINTS):
        file = io.BytesIO()
        Image.new("RGB", (64, 64), (tint, 20, 255 - tint)).save(file, "PNG")
        pictures.append(file.getvalue())
    folder.mkdir()
    for first in range(0, images, PER_SHARD):
        with tarfile.open(folder / f"photos-{first // PER_SHARD:06d}.tar", "w") as archive:
            for number in range(first, min(first + PER_SHARD, images)):
                picture = pictures[number * 7919 % TINTS]
                info = tarfile.TarInfo(f"{number:08d}.png")
                info.size = len(picture)
                archive.addfile(info, io.BytesIO(picture))


def begin(shards: Path, output: Path, workers: int) -> subprocess.Popen:
    """Start the run, or go on with it."""
    command = [sys.executable, __file__, "--work", str(shards), str(output)]
    environment = os.environ | {"OMP_NUM_THREADS": str(workers)}
    log = (output.parent / f"{output.name}.txt").open("ab")
    with log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


def watch(run: subprocess.Popen, output: Path, stop_at: int | None) -> list[Moment]:
    """Look at a run until it ends, or has done `stop_at` images in this start: then kill it."""
    from reporting.log import LogFollower

    moments, done, began = [], 0, time.monotonic()
    before, follower = set(output.glob("*/results-*-0.jsonl")), None
    while run.poll() is None:
        if follower is None:
            new = set(output.glob("*/results-*-0.jsonl")) - before
            follower = LogFollower(list(new)) if new else None
        done += follower.count() if follower else 0
        moments.append(Moment(time.monotonic() - began, done, *held(run.pid)))
        if stop_at is not None and done >= stop_at:
            run.kill()
            run.wait()
        time.sleep(WATCH_SECONDS)
    return moments


def held(pid: int) -> tuple[float, float, int, float]:
    """Return the seconds of CPU, the memory, MiB, and the open files of a process and its workers,
    and the memory of a process that makes a report, which comes and goes.
    """
    import psutil

    cpu, memory, files, report = 0.0, 0.0, 0, 0.0
    try:
        process = psutil.Process(pid)
        for each in (process, *process.children()):
            own = anonymous(each.pid)
            if "reporting.so_far" in each.cmdline():
                report = own
                continue
            times = each.cpu_times()
            cpu += times.user + times.system
            memory += own
            files += each.num_fds()
    except (psutil.Error, OSError):  # it has just ended
        pass
    return cpu, memory, files, report


def anonymous(pid: int) -> float:
    """Return the memory of a process that is of no file, MiB; pages that it shares count in part.

    What of a library's file counts depends on which other programs have it open.
    """
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss_Anon:"):
            return int(line.split()[1]) / 1024
    raise OSError(f"no memory of process {pid}")


def part(moments: list[Moment], first: int, last: int) -> dict:
    """Return figures of the images from number `first` to number `last`."""
    inside = []
    for moment in moments:
        if moment.done >= last or (inside and moment.cpu < inside[-1].cpu):
            break  # afterwards there is the report, without the workers
        if moment.done >= first:
            inside.append(moment)
    if len(inside) < 2 or inside[-1].done == inside[0].done:
        return dict.fromkeys(("milliseconds", "cpu_milliseconds", "mebibytes", "files"))
    done = inside[-1].done - inside[0].done
    return {
        "milliseconds": round(1000 * (inside[-1].seconds - inside[0].seconds) / done, 3),
        "cpu_milliseconds": round(1000 * (inside[-1].cpu - inside[0].cpu) / done, 3),
        "mebibytes": round(max(moment.mebibytes for moment in inside)),
        "files": max(moment.files for moment in inside),
    }


def rows_of(output: Path) -> list[dict]:
    """Return the rows of a finished run, without times and memory."""
    (table,) = output.glob("*/results.csv")
    rows = []
    with table.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            costs = [name for name in row if name.startswith(("seconds_", "memory_"))]
            rows.append({name: value for name, value in row.items() if name not in costs})
    return rows


def streams_of(output: Path) -> dict[str, str]:
    """Return {path of a file below the run's folder: its SHA-256 by its record}."""
    from reporting.log import entry_in, folder_name

    (log,) = output.glob("*/results.jsonl")
    found = {}
    with log.open("rb") as file:
        for line in file:
            entry = entry_in(line)
            path = Path(folder_name(entry["index"]), f"{entry['name']}.pics")
            if not (log.parent / path).is_file():
                raise AssertionError(f"{path} is missing")
            found[str(path)] = entry["sha256"]
    return found


def size_of(output: Path) -> dict[str, int]:
    """Return bytes of a run by kind of file."""
    sizes = {"streams": 0, "results": 0, "page": 0}
    for path in output.rglob("*"):
        if path.is_file():
            kind = "streams" if path.suffix == ".pics" else "results"
            kind = "page" if path.suffix == ".html" else kind
            sizes[kind] += path.stat().st_size
    return sizes


def measure(args: argparse.Namespace, folder: Path) -> dict:
    """Do both runs and return the figures."""
    shards, unbroken, killed = folder / "shards", folder / "unbroken", folder / "killed"
    make_shards(shards, args.images)
    make_preset(folder)
    hundredth = max(1, args.images // 100)
    began = time.monotonic()
    run = begin(shards, unbroken, args.workers)
    moments = watch(run, unbroken, None)
    result: dict = {"images": args.images, "status": run.returncode}
    result["seconds"] = round(time.monotonic() - began)
    result["start_seconds"] = first_record(moments)
    whole = args.images
    result["report_mebibytes"] = round(max(moment.report for moment in moments))
    result["first"] = part(moments, 1, hundredth)
    result["last"] = part(moments, whole - hundredth, whole)
    print(json.dumps(result), file=sys.stderr)
    rows = rows_of(unbroken)
    result["rows"] = [len(rows), len({row["name"] for row in rows})]
    result["bytes"] = size_of(unbroken)
    return result | compare(args, shards, unbroken, killed) if args.kills else result


def compare(args: argparse.Namespace, shards: Path, unbroken: Path, killed: Path) -> dict:
    """Do a run that is killed again and again; return its figures."""
    at = (args.images * 9 // 10) // args.kills  # the last kill is at nine tenths
    resumed = []
    for number in range(args.kills):
        again = begin(shards, killed, args.workers)
        moments = watch(again, killed, at)
        resumed.append(first_record(moments))
        print(f"kill {number + 1}: first record after {resumed[-1]} s", file=sys.stderr)
    again = begin(shards, killed, args.workers)
    moments = watch(again, killed, None)
    same = rows_of(unbroken) == rows_of(killed) and streams_of(unbroken) == streams_of(killed)
    seconds = [*resumed[1:], first_record(moments)]
    return {"kills": args.kills, "resume_seconds": seconds, "same": same}


def first_record(moments: list[Moment]) -> float | None:
    """Return the seconds from the start until the first new record."""
    return next((round(moment.seconds, 1) for moment in moments if moment.done), None)


def main(argv: list[str] | None = None) -> int:
    """Run, watch, and return the exit status."""
    args = parse_args(argv)
    if args.work:
        return work(*args.work)
    if args.folder:
        args.folder.mkdir()
        result = measure(args, args.folder)
    else:
        with tempfile.TemporaryDirectory() as folder:
            result = measure(args, Path(folder))
    print(json.dumps(result))
    first, last = result["first"], result["last"]
    whole = result["rows"] == [args.images, args.images] and result.get("same", True)
    if not whole or result["status"]:
        return 1
    if None in (first["files"], last["files"]):
        return 0  # too few images to tell
    # By the CPU: other programs sway the clock.
    slower = last["cpu_milliseconds"] > MOST_SLOWER * first["cpu_milliseconds"]
    grown = last["mebibytes"] > MOST_GROWTH * first["mebibytes"]
    return 1 if slower or grown else 0


if __name__ == "__main__":
    sys.exit(main())

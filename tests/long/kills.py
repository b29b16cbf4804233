"""Kill a run at random moments, resume it, and compare what it wrote with an unbroken run.

    python tests/long/kills.py --data_root KODAK --kills 50        # an hour or two
    python tests/long/kills.py --limit 2 --kills 3 --seconds 5

Both runs are eval_PICS.py at preset `tiny` in their cheapest form, as processes of their own;
SIGKILL gives them no time to tidy up. After each kill, every file under a final name must be whole;
at the end all files are compared, but for times and memory. --seconds is the longest time between
the first sign of work and the kill. Progress goes to stderr; the last line on stdout is JSON; exit
status 1 if a file was torn or differs.
"""

import argparse
import csv
import io
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
CHEAP = ("--N", "1", "--prompt_steps", "2", "--batch_size", "1")
TIMED = ("made.json", "index.html")  # say when and where a run was made


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data_root", type=Path, help="images (default: those inside scikit-image and -learn)"
    )
    parser.add_argument("--limit", type=int, default=24, help="images, at most")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    return parser.parse_args(argv)


def first_images(data_root: Path | None, limit: int, folder: Path) -> Path:
    """Copy the first images to `folder`, which is returned."""
    from dataloaders import load_samples

    folder.mkdir()
    samples = load_samples(data_root, None, 256)
    for path in samples.paths[:limit]:
        shutil.copy(path, folder)
    return folder


def begin(photos: Path, output: Path) -> subprocess.Popen:
    """Start the run, or go on with it."""
    command = [sys.executable, "eval_PICS.py", "--data_root", str(photos)]
    command += ["--output", str(output), *CHEAP]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, cwd=ROOT, **quiet)


def kill(photos: Path, output: Path, moment: float) -> bool:
    """Start, wait for the first change in the output, and kill `moment` seconds later.

    Return whether there was something to kill: False if the run was faster.
    """
    before = state(output)
    run = begin(photos, output)
    while run.poll() is None and state(output) == before:
        time.sleep(0.02)
    try:
        run.wait(moment)
    except subprocess.TimeoutExpired:
        run.kill()
        run.wait()
        return True
    return False


def state(output: Path) -> dict[str, int]:
    """Return name -> time of change of what is in the output."""
    times = {}
    for path in output.rglob("*"):
        if not path.name.startswith("."):
            times[str(path)] = path.stat().st_mtime_ns
    return times


def torn(output: Path) -> list[str]:
    """Return the files under final names that are not whole."""
    files = [path for path in sorted(output.rglob("*")) if path.is_file()]
    return [path.name for path in files if not is_whole(path)]


def is_whole(path: Path) -> bool:
    """Whether a file can be read to its end; hidden files are work in progress."""
    import yaml
    from PIL import Image

    import bitstream

    readers = {".pics": bitstream.unpack, ".json": json.loads, ".yaml": yaml.safe_load}
    if path.name.startswith("."):
        return True
    try:
        if path.suffix in (".png", ".jpg"):
            Image.open(path).load()
        else:
            data = path.read_bytes()
            return len(data) > 0 and readers.get(path.suffix, len)(data) is not None
    except (ValueError, OSError, SyntaxError, yaml.YAMLError):
        return False
    return True


def differing(a: Path, b: Path) -> list[str]:
    """Return the names of the files that two runs do not share, times and memory aside."""
    one, two = files_of(a), files_of(b)
    names = sorted({*one, *two} - {*TIMED})
    return [name for name in names if one.get(name) != two.get(name)]


def files_of(run: Path) -> dict[str, object]:
    """Return what each file of a run holds, without times and memory."""
    return {path.name: comparable(path) for path in sorted(run.rglob("*")) if path.is_file()}


def comparable(path: Path) -> object:
    """Return what a file holds, without times and memory."""
    import yaml

    data = path.read_bytes()
    if path.suffix == ".yaml":
        return untimed(yaml.safe_load(data))
    if path.suffix == ".json":
        return untimed(json.loads(data))
    if path.suffix == ".jsonl":  # in the order in which images were done
        records = [untimed(json.loads(line)) for line in data.splitlines()]
        return sorted(json.dumps(record, sort_keys=True) for record in records)
    if path.suffix == ".csv":
        return untimed(list(csv.DictReader(io.StringIO(data.decode()))))
    return data


def untimed(value: object) -> object:
    """Return a value of JSON's without the fields that no two runs share."""
    if isinstance(value, dict):
        return {
            name: untimed(own)
            for name, own in value.items()
            if not name.startswith(("seconds", "memory"))
        }
    return [untimed(own) for own in value] if isinstance(value, list) else value


def main(argv: list[str] | None = None) -> int:
    """Kill, resume, compare, and return the exit status."""
    args = parse_args(argv)
    sys.path.insert(0, str(ROOT))
    rng, killed, broken = random.Random(args.seed), 0, []
    with tempfile.TemporaryDirectory() as folder:
        photos = first_images(args.data_root, args.limit, Path(folder) / "photos")
        unbroken, output = Path(folder) / "unbroken", Path(folder) / "killed"
        began = time.monotonic()
        status = begin(photos, unbroken).wait()
        print(f"unbroken: status {status}, {time.monotonic() - began:.0f} s", file=sys.stderr)
        output.mkdir()
        for number in range(args.kills):
            if not kill(photos, output, rng.uniform(0, args.seconds)):
                break
            killed += 1
            broken += torn(output)
            done = len(list(output.rglob("*_caption.yaml")))
            print(f"kill {number + 1}: {done} images done, torn {broken}", file=sys.stderr)
        resumed = begin(photos, output).wait()
        different = differing(unbroken, output)
        left = [path.name for path in output.rglob(".*.tmp")]
        done = len(list(output.rglob("*.pics")))
    result = {"images": done, "kills": killed, "status": [status, resumed], "torn": broken}
    result |= {"differing": different, "temporary_files_left": len(left)}
    print(json.dumps(result))
    return 1 if broken or different or status or resumed else 0


if __name__ == "__main__":
    sys.exit(main())

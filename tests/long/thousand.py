"""A long run: are memory, open files and speed the same for the last images as for the first?

    python tests/long/thousand.py --images 1000        # an hour or so
    python tests/long/thousand.py --images 20 --window 5

eval_PICS.py encodes and reconstructs images cut from the sample images of scikit-image and
scikit-learn, with a preset of `tiny`'s models at their cheapest. Linux only: memory and open files
are read in /proc. Progress goes to stderr; the last line on stdout is JSON; exit status 1 where
memory grew by over 5% or a file stayed open.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import fmean

ROOT = Path(__file__).resolve().parent.parent.parent
CHEAPEST = {
    "base": "tiny",
    "short_side": 192,
    "steps": 1,
    "prompt_steps": 1,
    "prompt_len": 1,
    "candidates": 1,
}
MOST_GROWTH = 1.05  # of the memory's mean


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument(
        "--window", type=int, default=100, help="images of the first and of the last figures"
    )
    return parser.parse_args(argv)


def cut(count: int, folder: Path) -> Path:
    """Write random parts, 200 to 300 pixels wide and high, of the sample images to a folder."""
    from PIL import Image

    from dataloaders import load_image, sample_images

    folder.mkdir()
    rng = random.Random(0)
    sources = [Image.fromarray(load_image(path)) for path in sample_images()]
    for number in range(count):
        source, width, height = rng.choice(sources), rng.randint(200, 300), rng.randint(200, 300)
        left, top = rng.randint(0, source.width - width), rng.randint(0, source.height - height)
        part = source.crop((left, top, left + width, top + height))
        part.save(folder / f"{number:04}.jpg", quality=92)
    return folder


def watch(run: subprocess.Popen, output: Path) -> list[dict]:
    """Return a row for each image that was done: seconds, MiB of memory, open files."""
    rows, done, began = [], 0, time.monotonic()
    while run.poll() is None:
        now = len(list(output.rglob("*_caption.yaml")))
        if now > done:
            rows += [{"seconds": time.monotonic() - began, **held(run.pid)}] * (now - done)
            done = now
            print(f"\r{done} done, {rows[-1]['mebibytes']:.0f} MiB", end="", file=sys.stderr)
        time.sleep(0.1)
    print(file=sys.stderr)
    return rows


def held(pid: int) -> dict:
    """Return a process's resident memory, MiB, and how many files it has open."""
    status = Path(f"/proc/{pid}/status").read_text()
    kibibytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
    return {
        "mebibytes": int(kibibytes) / 1024,
        "files": len(list(Path(f"/proc/{pid}/fd").iterdir())),
    }


def figures(rows: list[dict]) -> dict:
    """Return the means of a part of a run."""
    span = rows[-1]["seconds"] - rows[0]["seconds"]
    return {
        "images_per_second": round((len(rows) - 1) / span, 3) if span else None,
        "mebibytes": round(fmean(row["mebibytes"] for row in rows)),
        "files": max(row["files"] for row in rows),
    }


def main(argv: list[str] | None = None) -> int:
    """Run, watch, and return the exit status."""
    args = parse_args(argv)
    if not 1 < args.window <= args.images // 2:
        error = "--images must be at least twice --window, and that at least 2"
        print(f"error: {error}", file=sys.stderr)
        return 2
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory() as folder:
        names = ("photos", "output", "cheapest")
        photos, output, preset = (Path(folder) / name for name in names)
        cut(args.images, photos)
        preset.mkdir()
        (preset / "preset.json").write_text(json.dumps(CHEAPEST))
        command = [sys.executable, "eval_PICS.py", "--data_root", photos, "--output", output]
        command += ["--preset", preset, "--batch_size", "1"]
        with (Path(folder) / "log").open("w") as log:
            run = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
            rows = watch(run, output)
    first, last = figures(rows[: args.window]), figures(rows[-args.window :])
    result = {"images": len(rows), "status": run.returncode, "first": first, "last": last}
    print(json.dumps(result))
    grown = last["mebibytes"] > MOST_GROWTH * first["mebibytes"] or last["files"] > first["files"]
    return 1 if grown or run.returncode or len(rows) < args.images else 0


if __name__ == "__main__":
    sys.exit(main())

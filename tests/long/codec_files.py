"""Read many damaged codec files and checkpoints: how each ends, and what the worst one takes.

    python tests/long/codec_files.py --mutants 100000 --processes 2   # hours
    python tests/long/codec_files.py --mutants 2000                   # minutes

Every fifth mutant (--every) is a checkpoint of a training; the others are codec files of all forms.
Mutant i is a function of --seed and i. Progress goes to stderr; stdout gets a Markdown table and,
as its last line, JSON. The exit status is 1 if a mutant ends in anything but a codec or a
CodecFileError that names the file, takes over 2 s of processor time, or a process grows by over
500 MiB.
"""

import argparse
import contextlib
import json
import random
import sys
import tempfile
import time
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
CHUNK = 200  # mutants that a process does at a time
MOST_SECONDS, MOST_MEBIBYTES = 2.0, 500.0
OUTCOMES = ("CodecFileError", "read")


@dataclass
class Found:
    """What some mutants did."""

    counts: Counter = field(default_factory=Counter)  # (kind, way, outcome) -> mutants
    slowest: float = 0.0  # seconds of processor time
    growth: float = 0.0  # MiB over what the process took before its first mutant
    bad: list[tuple[int, str]] = field(default_factory=list)  # (number, error)

    def add(self, other: "Found") -> None:
        """Take in what others did."""
        self.counts += other.counts
        self.slowest = max(self.slowest, other.slowest)
        self.growth = max(self.growth, other.growth)
        self.bad += other.bad


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mutants", type=int, default=2000, help="number of damaged files")
    parser.add_argument("--processes", type=int, default=1, help="number of processes")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    parser.add_argument(
        "--every", type=int, default=5, help="one mutant in so many is a checkpoint"
    )
    return parser.parse_args(argv)


class Worker:
    """Makes and reads mutants, in an empty folder."""

    def __init__(self, root: Path) -> None:
        """Make the well-formed files, and read each once."""
        import pytest
        from fuzz.codec_files import Reader, corpus
        from helpers.small_training import (
            Memory,
            make_sketches,
            small_training,
            train,
            use_small_networks,
        )

        use_small_networks(pytest.MonkeyPatch())
        sketches = make_sketches(root / "sketches")
        with contextlib.redirect_stdout(sys.stderr):
            if train(sketches, root / "run", "-e", "1"):
                raise SystemExit("the training of the well-formed checkpoint failed")
        self.checkpoint = root / "run" / "checkpoint.pth.tar"
        self.content = self.checkpoint.read_bytes()
        self.training = small_training(sketches)
        self.files = corpus()
        self.reader = Reader(root)
        for suffix, data in self.files:
            self.reader.read(suffix, data)
        self.memory = Memory()

    def read(self, number: int, seed: int, every: int, found: Found) -> None:
        """Make a mutant, read it and note how it ended."""
        import torch
        from fuzz.codec_files import checkpoint_mutant, mutant
        from helpers.outcomes import UNDOCUMENTED

        rng = random.Random(f"{seed}/{number}")
        if number % every == 0:
            good = torch.load(self.checkpoint, weights_only=True)
            way, data = checkpoint_mutant(good, self.content, rng)
            kind = "checkpoint"
        else:
            way, kind, data = mutant(self.files, rng)
        began = time.process_time()
        try:
            if kind == "checkpoint":
                outcome = self.reader.read_checkpoint(self.training, data)
            else:
                outcome = self.reader.read(kind, data)
        except Exception as error:  # any other error is what is looked for
            found.bad.append((number, f"{type(error).__name__}: {error}"))
            outcome = UNDOCUMENTED
        found.slowest = max(found.slowest, time.process_time() - began)
        found.counts[kind, way, outcome] += 1


def start(folder: str) -> None:
    """Prepare this process, which works in a folder of its own in `folder`."""
    import torch

    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    start.worker = Worker(Path(tempfile.mkdtemp(dir=folder)))


def work(numbers: range, seed: int, every: int) -> Found:
    """Read the mutants of these numbers."""
    found = Found()
    for number in numbers:
        start.worker.read(number, seed, every, found)
    found.growth = start.worker.memory.growth()
    return found


def run(args: argparse.Namespace) -> Found:
    """Read all mutants, with args.processes."""
    from tqdm import tqdm

    chunks = []
    for first in range(0, args.mutants, CHUNK):
        chunks.append(range(first, min(first + CHUNK, args.mutants)))
    found = Found()
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(args.processes, initializer=start, initargs=(folder,)) as pool,
    ):
        same = ([args.seed] * len(chunks), [args.every] * len(chunks))
        parts = pool.map(work, chunks, *same)
        for part in tqdm(parts, total=len(chunks), unit=f"x{CHUNK}", mininterval=5):
            found.add(part)
    return found


def main(argv: list[str] | None = None) -> int:
    """Read the mutants; return 1 if one breaks the promise."""
    args = parse_args(argv)
    sys.path[:0] = [str(ROOT / "tests")]
    from helpers.outcomes import table

    found = run(args)
    print(table(found.counts, ("file", "changed"), OUTCOMES))
    figures = {
        "mutants": args.mutants,
        "seed": args.seed,
        "slowest_seconds": round(found.slowest, 3),
        "growth_mebibytes": round(found.growth),
        "undocumented": found.bad[:20],
    }
    print(json.dumps(figures))
    too_much = found.slowest > MOST_SECONDS or found.growth > MOST_MEBIBYTES
    return int(bool(found.bad) or too_much)


if __name__ == "__main__":
    sys.exit(main())

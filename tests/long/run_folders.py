"""Read many damaged run folders: how each ends, and the most time and memory that one takes.

    python tests/long/run_folders.py --mutants 100000   # some 20 minutes
    python tests/long/run_folders.py --mutants 2000     # seconds

Mutant i is a function of --seed and i. Files that report.py reads go through it to the finished
page; records and streams through the check of a run that is resumed. Progress goes to stderr;
stdout gets a Markdown table and, as its last line, JSON. The exit status is 1 if a mutant ends in
anything but a page, a record that holds or a NoRunError, takes over 2 s of processor time, or the
process grows by over 500 MiB.
"""

import argparse
import contextlib
import json
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from fuzz.run_folders import OUTCOMES, corpus, mutant, read  # noqa: E402 - after the path
from helpers.outcomes import table  # noqa: E402 - after the path
from helpers.races import make_photos  # noqa: E402 - after the path
from helpers.stub_run import run, stub  # noqa: E402 - after the path
from tqdm import tqdm  # noqa: E402 - after the path

from evaluation.timing import peak_memory  # noqa: E402 - after the path

MOST_SECONDS, MOST_MEBIBYTES = 2.0, 500
HANG = 30  # seconds after which a mutant is given up


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mutants", type=int, default=2000, help="number of damaged folders")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    return parser.parse_args(argv)


def make_run(folder: Path) -> Path:
    """Make a run of small pictures and return its folder."""
    stub(setattr)
    photos = make_photos(folder / "photos")
    with contextlib.redirect_stdout(sys.stderr):
        run(photos, folder / "out", "--batch_size", "1", "--baselines", "webp")
    return next((folder / "out").iterdir())


def main(argv: list[str] | None = None) -> int:
    """Read the mutants; return 1 if one breaks the promise."""
    args = parse_args(argv)
    counts: Counter = Counter()
    bad, slowest = [], (0.0, -1)
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as folder:
        place = make_run(Path(folder))
        files = corpus(place)
        before = peak_memory("cpu").get("process", 0)
        for number in tqdm(range(args.mutants), desc="run folders", mininterval=5):
            given = mutant(files, random.Random(f"{args.seed} {number}"))
            begun = time.process_time()
            signal.alarm(HANG)
            try:
                counts[given.target, given.way, read(place, given)] += 1
            except (Exception, KeyboardInterrupt) as error:
                bad.append((number, f"{type(error).__name__}: {error}"[:300]))
            signal.alarm(0)
            slowest = max(slowest, (time.process_time() - begun, number))
    growth = (peak_memory("cpu").get("process", 0) - before) / 2**20
    print(table(counts, ("changed", "how"), OUTCOMES))
    row = {"mutants": args.mutants, "slowest": slowest, "mebibytes": growth, "bad": bad[:20]}
    print(json.dumps(row))
    return int(bool(bad) or slowest[0] > MOST_SECONDS or growth > MOST_MEBIBYTES)


if __name__ == "__main__":
    sys.exit(main())

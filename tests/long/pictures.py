"""Read many damaged pictures: how each ends, and the most time and memory that one takes.

    python tests/long/pictures.py --mutants 1000000     # hours
    python tests/long/pictures.py --mutants 5000        # seconds

Mutant i is a function of --seed and i. Progress goes to stderr; stdout gets a Markdown table and,
as its last line, JSON. The exit status is 1 if a mutant ends in anything but an image or an
ImageError, takes over 2 s of processor time, or the process grows by over 1 GiB.
"""

import argparse
import json
import random
import sys
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from fuzz.pictures import WAYS, corpus, mutant, read  # noqa: E402 - after the path
from tqdm import tqdm  # noqa: E402 - after the path

from evaluation.timing import peak_memory  # noqa: E402 - after the path

MOST_SECONDS, MOST_MEBIBYTES = 2.0, 1024


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mutants", type=int, default=5000, help="number of damaged pictures")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Read the mutants; return 1 if one breaks the promise."""
    args = parse_args(argv)
    files, counts, bad = corpus(), Counter(), []
    slowest, before = 0.0, peak_memory("cpu").get("process", 0)
    for number in tqdm(range(args.mutants), desc="pictures", mininterval=5):
        way, data = mutant(files, random.Random(f"{args.seed} {number}"))
        begun = time.process_time()
        try:
            counts[way, read(data)] += 1
        except Exception as error:
            bad.append((number, f"{type(error).__name__}: {error}"))
        slowest = max(slowest, time.process_time() - begun)
    growth = (peak_memory("cpu").get("process", 0) - before) / 2**20
    print("| mutated | read | ImageError |\n|---|---:|---:|")
    for way in WAYS:
        print(f"| {way} | {counts[way, 'read']} | {counts[way, 'ImageError']} |")
    row = {"mutants": args.mutants, "slowest": slowest, "mebibytes": growth, "bad": bad[:20]}
    print(json.dumps(row))
    return int(bool(bad) or slowest > MOST_SECONDS or growth > MOST_MEBIBYTES)


if __name__ == "__main__":
    sys.exit(main())

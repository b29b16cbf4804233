"""Start two runs at once in one folder, many times: one works, one says why not, nothing is mixed.

    python tests/long/races.py --races 100        # some minutes

Both are forked from this process and begin with one event, with an encoder that needs no models
(tests/helpers/stub_run.py) and different seeds, so that their files differ. Every third race begins
in a new folder, in one with the lock of a process that is gone, and in one of a run that was killed
after its first image. Progress goes to stderr; stdout gets a Markdown table and, as its last line,
JSON; exit status 1 if anything was wrong.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--races", type=int, default=100)
    parser.add_argument("--pause", type=float, default=0.02, help="seconds that an image takes")
    return parser.parse_args(argv)


def table(counts: Counter) -> str:
    """Return a Markdown table: how often runs ended so, for each kind of folder."""
    rows = ["| folder | exit statuses | races |", "|---|---|---:|"]
    for (kind, statuses), count in sorted(counts.items()):
        rows.append(f"| {kind} | {' and '.join(map(str, statuses))} | {count} |")
    return "\n".join(rows)


def main(argv: list[str] | None = None) -> int:
    """Run the races and return the exit status: 0 if nothing was wrong."""
    args = parse_args(argv)
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    import torch
    from helpers.races import KINDS, files_by_seed, make_photos, race
    from helpers.stub_run import stub
    from tqdm import trange

    torch.set_num_threads(1)
    stub(setattr, pause_s=args.pause)
    counts: Counter = Counter()
    wrong = []
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        photos = make_photos(Path(folder) / "photos")
        expected = files_by_seed(photos, Path(folder))
        for number in trange(args.races, unit="race"):
            kind = KINDS[number % len(KINDS)]
            outcome = race(kind, photos, Path(folder) / str(number), expected)
            counts[kind, tuple(sorted(outcome.statuses))] += 1
            wrong += [f"race {number}, {kind}: {what}" for what in outcome.wrong]
    print(table(counts))
    seconds = round(time.monotonic() - began)
    print(json.dumps({"races": args.races, "wrong": wrong, "seconds": seconds}))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

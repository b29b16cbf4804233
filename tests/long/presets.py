"""Read many spoiled presets and model folders: how each ends, and the most time and memory of one.

    python tests/long/presets.py --mutants 100000 --kinds row       # minutes
    python tests/long/presets.py --mutants 20000 --processes 2      # an hour

Mutant i is a function of --seed and i. Progress goes to stderr; stdout gets a Markdown table and,
as its last line, JSON. The exit status is 1 if a mutant ends in an undocumented error, changes a
file of others, takes over 2 s of processor time, or a process grows by over 500 MB.
"""

import argparse
import json
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from fuzz.presets import KINDS, Victim  # noqa: E402 - after the path
from helpers.outcomes import UNDOCUMENTED, table  # noqa: E402 - after the path
from tqdm import tqdm  # noqa: E402 - after the path

from evaluation.timing import peak_memory, reset_peak_memory  # noqa: E402 - after the path

CHUNK = 50  # mutants that a process does at a time
HANG = 60  # seconds after which a mutant is given up
MOST_SECONDS, MOST_BYTES = 2.0, 500_000_000  # the promise
OUTCOMES = ("PresetError", "UnavailableError", "refused in use", "used")


class HangError(Exception):
    """A mutant took longer than HANG seconds."""


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mutants", type=int, default=500)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(KINDS), help="what is spoiled")
    return parser.parse_args(argv)


def start(shared: str) -> None:
    """Make good models for this process, in a folder of its own in `shared`."""
    import torch

    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, _hang)
    folder = Path(tempfile.mkdtemp(dir=shared))
    (folder / "others").write_text("a file of somebody else")
    start.victim = Victim(folder / "models")
    for kind in KINDS:  # everything once, so that memory is that of the mutants
        mutant = start.victim.spoiled(random.Random(0), (kind,))
        start.victim.restore(mutant)
        assert start.victim.read(mutant) == "used"


def _hang(*_: object) -> None:
    raise HangError(f"over {HANG} s")


def work(numbers: range, seed: int, kinds: tuple[str, ...]) -> tuple:
    """Return (outcomes, errors, most seconds, most bytes) of the mutants of these numbers."""
    victim = start.victim
    counts, bad, slowest, grown = Counter(), [], (0.0, -1), 0
    for number in numbers:
        mutant = victim.spoiled(random.Random(f"{seed}/{number}"), kinds)
        reset_peak_memory("cpu")
        idle = peak_memory("cpu").get("process", 0)
        begun = time.process_time()
        signal.alarm(HANG)
        try:
            outcome = victim.read(mutant)
        except BaseException as error:
            bad.append((number, f"{mutant[:3]}: {type(error).__name__}: {error}"[:300]))
            outcome = UNDOCUMENTED
        finally:
            signal.alarm(0)
            victim.restore(mutant)
        counts[mutant.kind, mutant.way, outcome] += 1
        slowest = max(slowest, (time.process_time() - begun, number))
        grown = max(grown, peak_memory("cpu").get("process", 0) - idle)
    others = [path.name for path in victim.folder.parent.iterdir()]
    if sorted(others) != ["models", "others"] or (victim.folder / "evil").exists():
        bad.append((numbers[-1], f"files of others: {others}"))
    return counts, bad, slowest, grown


def run(args: argparse.Namespace) -> tuple:
    """Return what `work` does, of all mutants."""
    kinds = tuple(args.kinds.split(","))
    chunks = []
    for first in range(0, args.mutants, CHUNK):
        chunks.append(range(first, min(first + CHUNK, args.mutants)))
    counts, bad, slowest, grown = Counter(), [], (0.0, -1), 0
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(args.processes, initializer=start, initargs=(folder,)) as pool,
    ):
        same = ([args.seed] * len(chunks), [kinds] * len(chunks))
        for part in tqdm(pool.map(work, chunks, *same), total=len(chunks), unit=f"x{CHUNK}"):
            counts += part[0]
            bad += part[1]
            slowest = max(slowest, part[2])
            grown = max(grown, part[3])
    return counts, bad, slowest, grown


def main(argv: list[str] | None = None) -> int:
    """Read the mutants; return 1 if one breaks the promise."""
    args = parse_args(argv)
    counts, bad, slowest, grown = run(args)
    broken = [f"mutant {number}: {error}" for number, error in bad]
    if slowest[0] > MOST_SECONDS:
        broken.append(f"mutant {slowest[1]} took {slowest[0]:.2f} s")
    if grown > MOST_BYTES:
        broken.append(f"a process grew by {grown / 1e6:.0f} MB")
    print(table(counts, ("spoiled", "how"), OUTCOMES))
    found = {"mutants": args.mutants, "seed": args.seed, "kinds": args.kinds}
    found |= {"slowest_seconds": round(slowest[0], 3), "grown_megabytes": round(grown / 1e6)}
    print(json.dumps({**found, "broken": broken}))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())

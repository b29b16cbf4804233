"""Read many spoiled streams: how each ends, and the most time and memory that one takes.

    python tests/long/mutations.py --mutants 1000000 --processes 4        # hours
    python tests/long/mutations.py --mutants 2000                         # a minute

Mutant i is a function of --seed and i. Progress goes to stderr; stdout gets a Markdown table and,
as its last line, JSON; --out writes the JSON to a file too. A mutant that ends in an undocumented
error, or hangs, is written to --findings. The exit status is 1 if there is one, if reading
took over 1 s of processor time or the process grew by over 1 GiB, or if more of the mutants
whose checksum was not repaired were read than is the checksum's share.
"""

import argparse
import json
import math
import random
import resource
import signal
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
CHUNK = 500  # mutants that a process does at a time
HANG = 60  # seconds after which a mutant is given up
MOST_SECONDS, MOST_MEBIBYTES = 1.0, 1024.0  # the promise
CHECKSUM_SHARE = 2**-16
ERRORS = ("BitstreamError", "DecodeError", "TextError", "SketchError", "ColorError", "BaseError")
OUTCOMES = ("same", *ERRORS, "read")


class HangError(Exception):
    """A mutant took longer than HANG seconds."""


@dataclass
class Found:
    """What some mutants did."""

    counts: Counter = field(default_factory=Counter)  # (target, way, outcome) -> mutants
    slowest: float = 0.0  # seconds of processor time
    slowest_number: int = -1
    growth: float = 0.0  # MiB over what the process took before its first mutant
    bad: list[tuple[int, str]] = field(default_factory=list)  # (number, error)

    def add(self, other: "Found") -> None:
        """Take in what others did."""
        self.counts += other.counts
        if other.slowest > self.slowest:
            self.slowest, self.slowest_number = other.slowest, other.slowest_number
        self.growth = max(self.growth, other.growth)
        self.bad += other.bad


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mutants", type=int, default=2000)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--preset", default="tiny", help="whose models decode")
    parser.add_argument("--out", type=Path, metavar="FILE", help="for the JSON")
    parser.add_argument(
        "--findings", type=Path, default=ROOT / "runs" / "mutations", help="for mutants that break"
    )
    return parser.parse_args(argv)


def start(preset: str, findings: Path) -> None:
    """Load the models in this process."""
    import torch

    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    from fuzz import streams

    from codec import Decoder
    from presets import get_preset

    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, _hang)
    decoder = Decoder(get_preset(preset))
    corpus = streams.well_formed(decoder)
    for data in corpus:
        streams.read(decoder, data)
    start.state = decoder, streams, corpus, peak(), findings


def work(numbers: range, seed: int) -> Found:
    """Read the mutants of these numbers."""
    decoder, streams, corpus, before, findings = start.state
    found = Found()
    for number in numbers:
        mutant = streams.spoiled(corpus, random.Random(f"{seed}/{number}"))
        began = time.process_time()
        outcome = "same"
        if mutant.data not in corpus:
            outcome = ending(decoder, streams, mutant.data)
        seconds = time.process_time() - began
        if outcome not in OUTCOMES:
            found.bad.append((number, outcome))
            findings.mkdir(parents=True, exist_ok=True)
            (findings / f"{seed}-{number}.pics").write_bytes(mutant.data)
            outcome = "undocumented"
        if seconds > found.slowest:
            found.slowest, found.slowest_number = seconds, number
        found.counts[mutant.target, mutant.way, outcome] += 1
    found.growth = peak() - before
    return found


def ending(decoder, streams, data: bytes) -> str:
    """Return how reading ends: one of OUTCOMES, or an undocumented error."""
    signal.alarm(HANG)
    try:
        return streams.read(decoder, data)
    except Exception as error:  # any other error is what is looked for
        return f"{type(error).__name__}: {error}"
    finally:
        signal.alarm(0)


def peak() -> float:
    """Return the most memory that this process has had, MiB."""
    scale = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


def _hang(*_: object) -> None:
    raise HangError(f"over {HANG} s")


def run(args: argparse.Namespace) -> Found:
    """Read all mutants, with args.processes."""
    from tqdm import tqdm

    found = Found()
    chunks = []
    for first in range(0, args.mutants, CHUNK):
        chunks.append(range(first, min(first + CHUNK, args.mutants)))
    loaded = {"initializer": start, "initargs": (args.preset, args.findings)}
    with ProcessPoolExecutor(args.processes, **loaded) as pool:
        parts = pool.map(work, chunks, [args.seed] * len(chunks))
        for part in tqdm(parts, total=len(chunks), unit=f"x{CHUNK}"):
            found.add(part)
    return found


def summary(found: Found, args: argparse.Namespace) -> dict:
    """Return the figures, and what of the promise does not hold."""
    files = read = 0
    for (target, _, outcome), count in found.counts.items():
        if target == "file":
            files += count * (outcome != "same")
            read += count * (outcome == "read")
    expected = files * CHECKSUM_SHARE
    broken = [f"mutant {number}: {error}" for number, error in found.bad]
    if found.slowest > MOST_SECONDS:
        broken.append(f"mutant {found.slowest_number} took {found.slowest:.2f} s")
    if found.growth > MOST_MEBIBYTES:
        broken.append(f"a process grew by {found.growth:.0f} MiB")
    # Four standard deviations of a Poisson distribution.
    if read > expected + 4 * math.sqrt(expected) + 1:
        share = f"the checksum's share is {expected:.1f}"
        broken.append(f"{read} of {files} mutants were read, {share}")
    return {
        "mutants": args.mutants,
        "seed": args.seed,
        "preset": args.preset,
        "files": files,
        "files_read": read,
        "checksum_share": round(expected, 2),
        "slowest_seconds": round(found.slowest, 3),
        "growth_mebibytes": round(found.growth),
        "outcomes": {"/".join(key): count for key, count in sorted(found.counts.items())},
        "broken": broken,
    }


def main(argv: list[str] | None = None) -> int:
    """Read the mutants and return the exit status: 0 where all that is promised held."""
    args = parse_args(argv)
    sys.path[:0] = [str(ROOT / "tests")]
    from helpers.outcomes import table

    found = run(args)
    result = summary(found, args)
    print(table(found.counts, ("mutated", "how"), OUTCOMES))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1))
    print(json.dumps(result))
    return 1 if result["broken"] else 0


if __name__ == "__main__":
    sys.exit(main())

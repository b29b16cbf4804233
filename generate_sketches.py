"""Draw the sketches of a folder of photographs, in the layout that train_compressai.py reads.

    python generate_sketches.py --data_root PHOTOGRAPHS --out runs/sketches --sketch_type hed-tiny

Writes OUT/train/NAME.png and OUT/test/NAME.png (gray, 255 = edge, the coded size). A photograph's split
depends on the hash of its name alone; sketches that exist are skipped, so a stopped run goes on where it was.
The last stdout line is a JSON summary.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

SKETCH_TYPES = ("hed-tiny", "hed", "canny")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Flags; wrong ones end the program with status 2."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--data_root", required=True, metavar="DIR", help="photographs, in class folders or not")
    add("--dataset", help="one of the paper's layouts under --data_root: CLIC2020, CLIC2021, DIV2K, Kodak")
    add("--out", required=True, metavar="DIR", help="gets train/ and test/")
    add("--sketch_type", choices=SKETCH_TYPES, default="hed-tiny")
    add("--short_side", type=int, default=256, help="pixels, a multiple of 64")
    add("--valid", type=float, default=0.03, help="share of the photographs that go to test/")
    add("--cuda", action="store_true", help="draw on the first GPU")
    args = parser.parse_args(argv)
    if not 0 < args.valid < 1:
        parser.error(f"--valid {args.valid}: must be between 0 and 1")
    return args


def place(name: str) -> float:
    """0..1, from the hash of a photograph's name: those below --valid are test photographs."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


def splits(names: Sequence[str], valid: float) -> list[str]:
    """ "train" or "test" for each name; at least one is "test", the one with the lowest hash."""
    limit = max(valid, min(map(place, names)))
    return ["test" if place(name) <= limit else "train" for name in names]


def draw_all(samples: Sequence, annotator, out: Path, valid: float) -> tuple[int, list[str]]:
    """Write the sketches that are missing; return how many, and one line for each broken photograph."""
    from tqdm import tqdm

    from dataloaders import ImageError
    from report import png, write

    written, failed = 0, []
    pairs = list(zip(samples.names, splits(samples.names, valid), strict=True))
    for index, (name, split) in enumerate(tqdm(pairs, desc="sketches", file=sys.stderr)):
        path = out / split / f"{name}.png"
        if path.exists():
            continue
        try:
            sketch = annotator(samples[index].image)
        except ImageError as error:
            failed.append(str(error))
            continue
        write(path, png(sketch))
        written += 1
    return written, failed


def main(argv: list[str] | None = None) -> int:
    """Draw; 0 when every photograph has its sketch, 1 when some could not be read, 2 for wrong usage."""
    args = parse_args(argv)
    from dataloaders import load_samples

    try:
        samples = load_samples(args.data_root, args.dataset, args.short_side)
    except ValueError as error:
        print(f"generate_sketches.py: {error}", file=sys.stderr)
        return 2
    from annotator import load_annotator  # after the arguments: torch takes seconds

    for split in ("train", "test"):
        (Path(args.out) / split).mkdir(parents=True, exist_ok=True)
    annotator = load_annotator(args.sketch_type, "cuda" if args.cuda else "cpu")
    written, failed = draw_all(samples, annotator, Path(args.out), args.valid)
    for line in failed:
        print(f"generate_sketches.py: {line}", file=sys.stderr)
    print(json.dumps({"out": args.out, "photographs": len(samples), "written": written, "failed": len(failed)}))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""Files within a budget: is any of many (image, B) pairs over its own, and are the bytes used?

    python tests/long/budgets.py --data_root BSDS500/images/test               # half an hour or so
    python tests/long/budgets.py --data_root BSDS500/images/test --pairs 20

Random JPEG files of a folder are encoded with random budgets from 24 to 1,000 bytes, by the table's
own allocation, with one candidate and the shortest prompt search; every fifth with one more flag.
Progress goes to stderr; the last line on stdout is JSON; exit status 1 if a file is over its budget
or if, from 100 bytes up, less than 95% of the budgets is used in the mean. Files with one more flag
are left out of that mean.
"""

import argparse
import json
import random
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import fmean

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

LEAST_USE, FROM_BYTES = 0.95, 100
VARIANTS = ({}, {"sketch": False}, {"lam_sketch": 0.02}, {"color_bytes": 12}, {"color_bytes": 0})


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_root", type=Path, required=True, help="folder of JPEG files")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--pairs", type=int, default=1000, help="number of (image, budget)")
    return parser.parse_args(argv)


@cache
def load_encoder(preset: str, least: int, variant: int):
    """Return an encoder for all budgets of a table's row, which begins at `least` bytes.

    variant: an index of VARIANTS.
    """
    from allocation.config import BudgetConfig
    from allocation.encoder import BudgetEncoder
    from presets import get_preset
    from prompt_inversion.options import PromptOptions

    options = {"candidates": 1, "allocations": 1, "prompt": PromptOptions(steps=1)}
    config = BudgetConfig(budget=least, **(options | VARIANTS[variant]))
    return BudgetEncoder(get_preset(preset), config)


def encode(preset: str, path: Path, budget: int, variant: int) -> dict:
    """Return what became of a pair: the bytes, or why there is no file."""
    from allocation.layers import AllocationError
    from allocation.table import load_table
    from dataloaders import load_sample

    least = max(row.bytes for row in load_table(preset) if row.bytes <= budget)
    encoder = load_encoder(preset, least, variant)
    encoder.given = replace(encoder.given, budget=budget)
    sample = load_sample(path, encoder.preset.short_side)
    source = sample.source_height, sample.source_width
    try:
        data = encoder.encode([sample.image], [source])[0]
    except AllocationError as error:
        return {"budget": budget, "refused": str(error)}
    return {"budget": budget, "bytes": len(data), "fillable": variant == 0}


def main(argv: list[str] | None = None) -> int:
    """Encode all pairs and return the exit status."""
    import torch
    from tqdm import tqdm

    args = parse_args(argv)
    paths = sorted(args.data_root.glob("*.jpg"))
    if not paths:
        print(f"error: {args.data_root} has no JPEG files", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    rng = random.Random(0)
    rows = []
    for number in tqdm(range(args.pairs)):
        variant = 1 + number // 5 % (len(VARIANTS) - 1) if number % 5 == 4 else 0
        rows.append(encode(args.preset, rng.choice(paths), rng.randint(24, 1000), variant))
    return report(rows)


def report(rows: list[dict]) -> int:
    """Print the figures as JSON and return the exit status."""
    files = [row for row in rows if "bytes" in row]
    over = [row for row in files if row["bytes"] > row["budget"]]
    counted = [row for row in files if row["fillable"] and row["budget"] >= FROM_BYTES]
    use = round(fmean(row["bytes"] / row["budget"] for row in counted), 4) if counted else 0
    refused = [row["refused"] for row in rows if "refused" in row]
    figures = {"pairs": len(rows), "files": len(files), "refused": len(refused)}
    figures |= {"over": len(over), "counted": len(counted), "use": use}
    print(json.dumps(figures))
    return 1 if over or use < LEAST_USE else 0


if __name__ == "__main__":
    sys.exit(main())

"""Random edits of random valid files: does each give a valid file that decodes to what was asked?

    python tests/long/edits.py                       # 1,000 of them, four minutes
    python tests/long/edits.py --count 100 --seed 3

The last line on stdout is JSON; exit status 1 if an edit went wrong.
"""

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]


def main(argv: list[str] | None = None) -> int:
    """Make all edits and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=1000, help="number of edits")
    parser.add_argument("--seed", type=int, default=1, help="random seed of files and edits")
    args = parser.parse_args(argv)

    import torch
    from helpers.random_edits import check_edits

    from codec import Decoder
    from presets import get_preset

    torch.set_num_threads(1)
    wrong = check_edits(Decoder(get_preset("tiny")), args.count, args.seed)
    for number, faults in wrong:
        print(f"edit {number}: {'; '.join(faults)}", file=sys.stderr)
    print(json.dumps({"edits": args.count, "wrong": len(wrong)}))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

"""PICS: every photograph of a folder -> prompt + sketch -> one file -> photograph drawn again.

    python eval_PICS.py                                   # sample photographs, small bundled models
    python eval_PICS.py --data_root PHOTOS --lam_sketch 0.5
    python eval_PICS.py --data_root DATA --dataset CLIC2020 --preset sd21

Writes to recon_examples/PICS_<preset>_<dataset>/ (see evaluation.py). The last line on stdout is the summary as JSON.
"""

import sys

from evaluation import evaluate, parser, rate


def main(argv: list[str] | None = None) -> int:
    """Run the experiment and return the exit status."""
    flags = parser(__doc__)
    flags.add_argument("--lam_sketch", type=rate, help="rate of the sketch: a lambda or a codec file")
    return evaluate(flags.parse_args(argv), "PICS")


if __name__ == "__main__":
    sys.exit(main())

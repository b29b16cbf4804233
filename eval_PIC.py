"""PIC: every photograph of a folder -> prompt -> one file of some 30 bytes -> photograph drawn again.

    python eval_PIC.py                                    # sample photographs, small bundled models
    python eval_PIC.py --data_root DATA --dataset DIV2K --preset sd21

Writes to recon_examples/PIC_<preset>_<dataset>/ (see evaluation.py). The last line on stdout is the summary as JSON.
"""

import sys

from evaluation import evaluate, parser


def main(argv: list[str] | None = None) -> int:
    """Run the experiment and return the exit status."""
    return evaluate(parser(__doc__).parse_args(argv), "PIC")


if __name__ == "__main__":
    sys.exit(main())

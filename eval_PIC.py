"""PIC: every image of a data set -> prompt -> one file of some 30 bytes -> reconstruction.

    python eval_PIC.py                                    # sample images, small bundled models
    python eval_PIC.py --data_root DATA --dataset DIV2K --preset sd21

Writes to recon_examples/PIC_<preset>_<dataset>/ (see evaluation/loop.py). The last line on stdout
is the summary as JSON.
"""

from evaluation.flags import parser
from evaluation.processes import leave


def main(argv: list[str] | None = None) -> int:
    """Run the experiment and return the exit status."""
    args = parser(__doc__).parse_args(argv)
    from evaluation.loop import evaluate

    return evaluate(args, "PIC")


if __name__ == "__main__":
    leave(main())

"""PICS: every image of a data set -> prompt + sketch -> one file -> reconstruction.

    python eval_PICS.py                                   # sample images, small bundled models
    python eval_PICS.py --data_root PHOTOS --lam_sketch 0.5
    python eval_PICS.py --data_root DATA --dataset CLIC2020 --preset sd21

Writes to recon_examples/PICS_<preset>_<dataset>/ (see evaluation/loop.py). The last line on stdout
is the summary as JSON.
"""

from evaluation.flags import LAM_SKETCH_HELP, parser, rate
from evaluation.processes import leave


def main(argv: list[str] | None = None) -> int:
    """Run the experiment and return the exit status."""
    flags = parser(__doc__)
    flags.add_argument("--lam_sketch", type=rate, help=LAM_SKETCH_HELP)
    args = flags.parse_args(argv)
    from evaluation.loop import evaluate

    return evaluate(args, "PICS")


if __name__ == "__main__":
    leave(main())

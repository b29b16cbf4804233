"""Train a sketch codec on lambda * (1 - MS-SSIM) + bits per pixel, with CompressAI's flags.

    python generate_sketches.py --data_root IMAGES --out runs/sketches --sketch_type hed-tiny
    python train_compressai.py -d runs/sketches -e 50 --lambda 1.0 --dist_metric ms-ssim

    # one file for a range of rates
    python train_compressai.py -d runs/sketches -e 50 --lambda_range 0.05 2.0
    # the paper's network, on two GPUs
    python train_compressai.py -d runs/sketches -e 50 -m cheng2020-attn --cuda --devices 2

DIR/train and DIR/test (`-d DIR`) hold gray images, in class folders or not. The results go to
`--out` (default: runs/NAME, where NAME is <model>_lmbda<lambda>):

    checkpoint.pth.tar              the last state, for `--checkpoint`
    checkpoint_best_loss.pth.tar    the state with the best test loss
    NAME.safetensors                the codec of that state, for `eval_PICS.py --lam_sketch FILE`
    pictures/                       test sketches above their reconstructions
    logs/                           CSV and TensorBoard

A training that is resumed with the same flags on the same device has the losses of one that was
never stopped. (Except with --max_seconds, where the learning rate follows the clock.) Ctrl-C,
SIGTERM and --max_seconds end the training after the current step, and all of these files are
written. Progress goes to stderr. On stdout is the codec's rate-distortion row, measured on real
payloads, as a line of JSON; for a range there are three lines, for its lowest, middle and highest
lambda, which `--lam_sketch FILE@LAMBDA` selects.
"""

import argparse
import json
import math
import sys
import warnings
from pathlib import Path

from common.weights import UnavailableError
from models_ntc.limits import LAMBDAS
from pretrained.libraries import ZOO, training_packages

SMALLEST_PATCH = 161  # pixels, for MS-SSIM
LARGEST_SEED = 2**31 - 1


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the parsed flags; wrong ones end the program with status 2."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_compressai_flags(parser)
    add_own_flags(parser)
    args = parser.parse_args(argv)
    if len(args.patch_size) == 1:
        args.patch_size = [*args.patch_size, *args.patch_size]
    if args.accelerator is None:
        args.accelerator = "gpu" if args.cuda else "cpu"
    message = wrong(args)
    if message:
        parser.error(message)
    return args


def add_compressai_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of CompressAI's training script."""
    add = parser.add_argument
    models = ("sketch", *ZOO)
    help_model = "network: ours (sketch), or one of CompressAI's"
    add("-m", "--model", default="sketch", choices=models, help=help_model)
    add("-d", "--dataset", required=True, metavar="DIR", help="folder with train/ and test/")
    add("-e", "--epochs", type=int, default=100, help="number of epochs")
    help_rate = "learning rate at the start; it falls to a hundredth"
    add("-lr", "--learning-rate", type=float, default=1e-3, help=help_rate)
    add("-n", "--num-workers", type=int, default=2, help="number of worker processes that read")
    add("--lambda", dest="lmbda", type=float, default=1.0, help="weight of the distortion")
    add("--batch-size", type=int, default=16, help="sketches in a step, over all devices")
    add("--test-batch-size", type=int, default=16, help="sketches in a batch of the test")
    help_rate = "learning rate of the quantiles of the hyper-latents"
    add("--aux-learning-rate", type=float, default=1e-3, help=help_rate)
    help_size = "height and width of the crops in pixels, multiples of 64"
    add("--patch-size", type=int, nargs="+", default=[256, 256], help=help_size)
    add("--cuda", action="store_true", help="train on GPUs")
    add("--save", action=argparse.BooleanOptionalAction, default=True, help="write checkpoints")
    add("--seed", type=int, default=0, help="random seed")
    help_norm = "gradient clipping norm (0: no clipping)"
    add("--clip_max_norm", type=float, default=1.0, help=help_norm)
    help_file = "checkpoint to resume; with another lambda or metric, only its weights are used"
    add("--checkpoint", metavar="FILE", help=help_file)


def add_own_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that CompressAI's training script does not have."""
    add = parser.add_argument
    metrics = ("mse", "ms-ssim")
    add("--dist_metric", choices=metrics, default="ms-ssim", help="distortion in the loss")
    help_range = "range of lambdas of one codec with many rates; for model sketch"
    add("--lambda_range", type=float, nargs=2, metavar=("LO", "HI"), help=help_range)
    add("--devices", type=int, default=1, help="number of devices")
    help_type = "type of device; gpu with --cuda, otherwise cpu"
    add("--accelerator", choices=("cpu", "gpu", "mps"), help=help_type)
    formats = ("bf16-mixed", "32-true")
    help_precision = "number format of the transforms in training"
    add("--precision", choices=formats, default="bf16-mixed", help=help_precision)
    help_seconds = "maximum time of training in seconds, earlier runs included"
    add("--max_seconds", type=float, help=help_seconds)
    help_every = "number of epochs between two images of test sketches (0: no images)"
    add("--picture_every", type=int, default=5, metavar="EPOCHS", help=help_every)
    add("--out", metavar="DIR", help="folder of the results; runs/NAME if not given")


def wrong(args: argparse.Namespace) -> str:
    """Return what is wrong with the arguments, or ""."""
    for split in ("train", "test"):
        folder = Path(args.dataset) / split
        if not folder.is_dir():
            return f"no folder {folder}: generate_sketches.py --out {args.dataset} makes it"
    sides = args.patch_size
    if len(sides) != 2 or any(side % 64 or side < SMALLEST_PATCH for side in sides):
        return (
            f"--patch-size {' '.join(map(str, sides))}: "
            "MS-SSIM needs more than 160 pixels, the network multiples of 64"
        )
    if args.checkpoint and not Path(args.checkpoint).is_file():
        return f"no checkpoint at {args.checkpoint}"
    return wrong_number(args) or (wrong_range(args) if args.lambda_range else "")


def wrong_number(args: argparse.Namespace) -> str:
    """Return what is wrong with a flag that is a number, or ""."""
    if min(args.epochs, args.batch_size, args.test_batch_size, args.devices) < 1 or args.lmbda <= 0:
        return "--epochs, --batch-size, --test-batch-size, --devices and --lambda must be positive"
    if min(args.seed, args.num_workers, args.picture_every, args.clip_max_norm) < 0:
        return "--seed, --num-workers, --picture_every and --clip_max_norm cannot be negative"
    if args.seed > LARGEST_SEED:
        return f"--seed {args.seed}: at most {LARGEST_SEED}"
    for flag in ("learning-rate", "aux-learning-rate", "clip_max_norm", "max_seconds"):
        value = getattr(args, flag.replace("-", "_"))
        if value is not None and not 0 <= value < math.inf:
            return f"--{flag} {value}: give a finite number that is not negative"
    if args.max_seconds == 0:
        return "--max_seconds 0: give a positive number"
    for lmbda in args.lambda_range or [args.lmbda]:
        if not LAMBDAS[0] <= lmbda <= LAMBDAS[1]:
            return f"lambda {lmbda:g}: give {LAMBDAS[0]:g} to {LAMBDAS[1]:g}"
    if args.batch_size % args.devices:
        return f"--batch-size {args.batch_size} cannot be shared evenly by {args.devices} devices"
    return ""


def wrong_range(args: argparse.Namespace) -> str:
    """Return what is wrong with --lambda_range, or ""."""
    low, high = args.lambda_range
    if not 0 < low < high:
        return f"--lambda_range {low} {high}: give the lower one first, above 0"
    if args.model != "sketch":
        return f"--lambda_range: {args.model} has one rate, only -m sketch has a range"
    return ""


def main(argv: list[str] | None = None) -> int:
    """Train, then print the codec's row for each rate.

    Return 0 when done, 1 when it failed, 130 when interrupted.
    """
    args = parse_args(argv)
    with warnings.catch_warnings():
        # CompressAI uses a deprecated function of torch.
        warnings.simplefilter("ignore", FutureWarning)
        from models_ntc.measurement import rate_distortion_row

        try:
            with training_packages("train_compressai.py"):
                from models_ntc.training_run import train
        except UnavailableError as error:
            print(error, file=sys.stderr)
            return 1
    try:
        result = train(args)
        if not result.is_rank_0:
            return 0
        if result.interrupted:
            cure = f"--checkpoint {result.checkpoint} goes on"
            print(f"train_compressai.py: stopped; {cure}", file=sys.stderr)
            return 130
        rows = [rate_distortion_row(codec, Path(args.dataset) / "test") for codec in result.codecs]
    except (OSError, ValueError) as error:
        print(f"train_compressai.py: {last_line(error)}", file=sys.stderr)
        return 1
    for row in rows:
        print(json.dumps(row))
    return 0


def last_line(error: Exception) -> str:
    """Return an error's message, without the traceback that a worker process puts before it."""
    kind = type(error)
    line = str(error).strip().splitlines()[-1:] or [kind.__name__]
    return line[0].removeprefix(f"{kind.__module__}.{kind.__qualname__}: ")


if __name__ == "__main__":
    sys.exit(main())

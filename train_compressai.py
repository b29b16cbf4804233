"""Train a sketch codec on lambda * (1 - MS-SSIM) + bits per pixel, with CompressAI's flags.

    python generate_sketches.py --data_root PHOTOGRAPHS --out runs/sketches --sketch_type hed-tiny
    python train_compressai.py -d runs/sketches -e 50 --lambda 1.0 --dist_metric ms-ssim
    python train_compressai.py -d runs/sketches -e 50 --lambda_range 0.05 2.0        # one file for all these rates
    python train_compressai.py -d runs/sketches -e 50 -m cheng2020-attn --lambda 1.0 --cuda --devices 2

DIR/train and DIR/test (`-d DIR`) hold gray pictures, in class folders or not. `--out` (default runs/NAME, where
NAME is <model>_lmbda<lambda>) gets

    checkpoint.pth.tar              the last state: `--checkpoint` goes on from it, with the losses of a run that
                                    was never stopped (with the same flags on the same device; not with
                                    --max_seconds, where the learning rate follows the clock)
    checkpoint_best_loss.pth.tar    the best by test loss
    NAME.safetensors                the codec of the best, for `eval_PICS.py --lam_sketch FILE`
    pictures/, logs/                test sketches over what the codec makes of them; CSV and TensorBoard logs

Ctrl-C, SIGTERM and --max_seconds end the training after the step in hand, with all of these. Progress goes to
stderr; stdout gets the codec's rate-distortion row, measured on real payloads, as JSON: one line, or three for
a range, its ends and its middle, which `--lam_sketch FILE@LAMBDA` names.
"""

import argparse
import json
import sys
import warnings
from pathlib import Path

ZOO = ("bmshj2018-factorized", "bmshj2018-hyperprior", "mbt2018-mean", "mbt2018", "cheng2020-anchor", "cheng2020-attn")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """CompressAI's flags, and ours below."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("-m", "--model", default="sketch", choices=("sketch", *ZOO), help="network: ours, or one of CompressAI's")
    add("-d", "--dataset", required=True, metavar="DIR", help="folder with train/ and test/")
    add("-e", "--epochs", type=int, default=100)
    add("-lr", "--learning-rate", type=float, default=1e-3, help="at the start; it falls to a hundredth")
    add("-n", "--num-workers", type=int, default=2, help="processes that read pictures")
    add("--lambda", dest="lmbda", type=float, default=1.0, help="weight of the distortion")
    add("--batch-size", type=int, default=16, help="sketches in a step, all devices together")
    add("--test-batch-size", type=int, default=16)
    add("--aux-learning-rate", type=float, default=1e-3)
    add("--patch-size", type=int, nargs="+", default=[256, 256], help="height and width in pixels, multiples of 64")
    add("--cuda", action="store_true", help="train on GPUs")
    add("--save", action=argparse.BooleanOptionalAction, default=True, help="write checkpoints")
    add("--seed", type=int, default=0)
    add("--clip_max_norm", type=float, default=1.0, help="longest gradient; 0: any")
    add("--checkpoint", metavar="FILE", help="go on from it; with another lambda or metric, from its weights")
    add("--dist_metric", choices=("mse", "ms-ssim"), default="ms-ssim")
    add("--lambda_range", type=float, nargs=2, metavar=("LO", "HI"), help="one codec of many rates; model sketch")
    add("--devices", type=int, default=1, help="how many of them")
    add("--accelerator", choices=("cpu", "gpu", "mps"), help="what they are; gpu with --cuda, else cpu")
    add("--precision", choices=("bf16-mixed", "32-true"), default="bf16-mixed", help="of the transforms in training")
    add("--max_seconds", type=float, help="stop training after so long, earlier runs included")
    add("--picture_every", type=int, default=5, metavar="EPOCHS", help="between pictures; 0: none")
    add("--out", metavar="DIR", help="where the results go")
    args = parser.parse_args(argv)
    args.patch_size = args.patch_size * 2 if len(args.patch_size) == 1 else args.patch_size
    args.accelerator = args.accelerator or ("gpu" if args.cuda else "cpu")
    if message := wrong(args):
        parser.error(message)
    return args


def wrong(args: argparse.Namespace) -> str:
    """What is wrong with the arguments, or ""."""
    for split in ("train", "test"):
        if not (Path(args.dataset) / split).is_dir():
            return f"no folder {Path(args.dataset) / split}: generate_sketches.py --out {args.dataset} makes it"
    if len(args.patch_size) != 2 or any(side % 64 or side <= 160 for side in args.patch_size):
        sides = " ".join(map(str, args.patch_size))
        return f"--patch-size {sides}: MS-SSIM needs more than 160 pixels, the network multiples of 64"
    if args.checkpoint and not Path(args.checkpoint).is_file():
        return f"no checkpoint at {args.checkpoint}"
    if min(args.epochs, args.batch_size, args.test_batch_size, args.devices) < 1 or args.lmbda <= 0:
        return "--epochs, --batch-size, --test-batch-size, --devices and --lambda must be positive"
    if min(args.seed, args.num_workers, args.picture_every, args.clip_max_norm) < 0:
        return "--seed, --num-workers, --picture_every and --clip_max_norm cannot be negative"
    if args.lambda_range and not 0 < args.lambda_range[0] < args.lambda_range[1]:
        return f"--lambda_range {args.lambda_range[0]} {args.lambda_range[1]}: give the lower one first, above 0"
    if args.lambda_range and args.model != "sketch":
        return f"--lambda_range: {args.model} has one rate, only -m sketch has a range"
    if args.batch_size % args.devices:
        return f"--batch-size {args.batch_size} cannot be shared evenly by {args.devices} devices"
    return ""


def main(argv: list[str] | None = None) -> int:
    """Train, then print the codec's row for each rate; 0 when done, 1 when it failed, 130 when interrupted."""
    args = parse_args(argv)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # compressai's way of compiling is going out of fashion
        from models_ntc.training import rate_distortion_row, train  # after the arguments: torch takes seconds

    try:
        result = train(args)
        if not result.main_process:
            return 0
        if result.interrupted:
            print(f"train_compressai.py: stopped; --checkpoint {result.checkpoint} goes on", file=sys.stderr)
            return 130
        rows = [rate_distortion_row(codec, Path(args.dataset) / "test") for codec in result.codecs]
    except (OSError, ValueError) as error:
        print(f"train_compressai.py: {error}", file=sys.stderr)
        return 1
    print(*map(json.dumps, rows), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Train a sketch codec on lambda * (1 - MS-SSIM) + bits per pixel, with CompressAI's flags.

    python generate_sketches.py --data_root PHOTOGRAPHS --out runs/sketches --sketch_type hed-tiny
    python train_compressai.py -d runs/sketches -e 50 --lambda 1.0 --dist_metric ms-ssim

DIR/train and DIR/test (`-d DIR`) hold gray pictures, in class folders or not. `--out` (default
runs/<model>_lmbda<lambda>) gets checkpoint.pth.tar, from which `--checkpoint` goes on, and
<model>_lmbda<lambda>.safetensors, the best by test loss, which `models_ntc.load_sketch_codec` and
`eval_PICS.py --lam_sketch FILE` read. Progress goes to stderr; the last stdout line is the codec's
rate-distortion row as JSON, measured on real payloads.
"""

import argparse
import json
import sys
from pathlib import Path

MODELS = ("sketch", "cheng2020-attn")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """CompressAI's flags, and ours below."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("-m", "--model", default="sketch", choices=MODELS, help="network: ours, or the paper's")
    add("-d", "--dataset", required=True, metavar="DIR", help="folder with train/ and test/")
    add("-e", "--epochs", type=int, default=100)
    add("-lr", "--learning-rate", type=float, default=1e-3, help="at the start; it falls to a hundredth")
    add("-n", "--num-workers", type=int, default=2, help="processes that read pictures")
    add("--lambda", dest="lmbda", type=float, default=1.0, help="weight of the distortion")
    add("--batch-size", type=int, default=16)
    add("--test-batch-size", type=int, default=16)
    add("--aux-learning-rate", type=float, default=1e-3)
    add("--patch-size", type=int, default=256, help="pixels a side, a multiple of 64")
    add("--cuda", action="store_true", help="train on the first GPU")
    add("--save", action=argparse.BooleanOptionalAction, default=True, help="write checkpoints")
    add("--seed", type=int, default=0)
    add("--clip_max_norm", type=float, default=1.0, help="longest gradient")
    add("--checkpoint", metavar="FILE", help="go on from it; with another lambda, start from its weights")
    add("--dist_metric", choices=("mse", "ms-ssim"), default="ms-ssim")
    add("--max_seconds", type=float, help="stop training after so long, earlier runs included")
    add("--out", metavar="DIR", help="where the results go")
    args = parser.parse_args(argv)
    if message := wrong(args):
        parser.error(message)
    return args


def wrong(args: argparse.Namespace) -> str:
    """What is wrong with the arguments, or ""."""
    for split in ("train", "test"):
        if not (Path(args.dataset) / split).is_dir():
            return f"no folder {Path(args.dataset) / split}: generate_sketches.py --out {args.dataset} makes it"
    if args.patch_size % 64 or args.patch_size <= 160:
        return f"--patch-size {args.patch_size}: MS-SSIM needs more than 160 pixels, the network multiples of 64"
    if args.checkpoint and not Path(args.checkpoint).is_file():
        return f"no checkpoint at {args.checkpoint}"
    if min(args.epochs, args.batch_size, args.test_batch_size) < 1 or args.lmbda <= 0:
        return "--epochs, --batch-size, --test-batch-size and --lambda must be positive"
    return ""


def main(argv: list[str] | None = None) -> int:
    """Train, then print the codec's row; 0 when done, 1 when the work failed."""
    args = parse_args(argv)
    from models_ntc.training import rate_distortion_row, train  # after the arguments: torch takes seconds

    try:
        path = train(args)
        row = rate_distortion_row(path, Path(args.dataset) / "test")
    except (OSError, ValueError) as error:
        print(f"train_compressai.py: {error}", file=sys.stderr)
        return 1
    print(json.dumps(row))
    return 0


if __name__ == "__main__":
    sys.exit(main())

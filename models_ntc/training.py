"""Training loop of the sketch codecs: data, epochs, checkpoints, and the rate-distortion row of the result.

python train_compressai.py -d runs/sketches -e 20 --lambda 1.0 --dist_metric ms-ssim
"""

import math
import sys
import time
from argparse import Namespace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from metrics import MS_SSIM_MIN_SIDE, edge_f1, ms_ssim
from models_ntc.codec import SketchCodec, load_sketch_codec, new_network, save_codec
from models_ntc.loss import rate_distortion

DENSITY_PACE = 10.0  # learning rate of the hyperlatents' density over the rest's: short trainings left it too wide
WARM_STEPS = 200  # over which the learning rate rises, so that Adam's first steps do not undo a warm start
MOST_MEASURED = 64  # test sketches that the row of a finished codec is measured on
PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}


def pictures_under(folder: Path) -> list[Path]:
    """Picture files, however deep, sorted; none is a ValueError."""
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in PICTURES)
    if not files:
        raise ValueError(f"no pictures under {folder}: generate_sketches.py writes DIR/train and DIR/test")
    return files


class Sketches(Dataset):
    """Square crops of the gray pictures under a folder, however deep, as (1, size, size) float32 in 0..1.

    Args:
        folder: where the pictures are; one without any is a ValueError.
        size: pixels a side; smaller pictures are padded with black (no edge).
        augment: random place and left-right flip (torch's generator); else the centre as it is.
    """

    def __init__(self, folder: Path, size: int, augment: bool) -> None:
        self.files = pictures_under(folder)
        self.size, self.augment = size, augment

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        picture = torch.from_numpy(np.array(Image.open(self.files[index]).convert("L")))
        height, width = (max(0, self.size - side) for side in picture.shape)
        picture = nn.functional.pad(picture, (0, width, 0, height))
        spare = [side - self.size for side in picture.shape]
        top, left = (int(torch.randint(n + 1, ())) if self.augment else n // 2 for n in spare)
        picture = picture[top : top + self.size, left : left + self.size]
        if self.augment and torch.rand(()) < 0.5:
            picture = picture.flip(1)
        return picture[None].float() / 255


class Trainer:
    """Network, optimisers and their state; `args` are those of train_compressai.py."""

    def __init__(self, args: Namespace) -> None:
        self.args = args
        self.device = torch.device("cuda" if args.cuda else "cpu")
        torch.set_flush_denormal(True)
        torch.manual_seed(args.seed)
        self.net = new_network(args.model).to(self.device, memory_format=torch.channels_last)
        bottleneck = dict(self.net.entropy_bottleneck.named_parameters())
        quantiles = [bottleneck.pop("quantiles")]
        others = [p for name, p in self.net.named_parameters() if not name.startswith("entropy_bottleneck.")]
        groups = [
            {"params": others, "pace": 1.0},
            {"params": list(bottleneck.values()), "pace": DENSITY_PACE},
        ]
        self.optimizer = torch.optim.Adam(groups, lr=args.learning_rate)
        self.aux_optimizer = torch.optim.Adam(quantiles, lr=args.aux_learning_rate)
        self.epoch, self.steps, self.seconds, self.best = 0, 0, 0.0, float("inf")
        self.folder = Path(args.out or f"runs/{args.model}_lmbda{args.lmbda}")
        self.file = self.folder / f"{args.model}_lmbda{args.lmbda}.safetensors"
        if args.checkpoint:
            self.resume(Path(args.checkpoint))

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint; one of another lambda or metric gives its weights only."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        if state.get("model") != self.args.model:
            raise ValueError(f"{path} holds no {self.args.model} network of train_compressai.py: see --model")
        self.net.load_state_dict(state["network"])
        if (state["lambda"], state["metric"]) != (self.args.lmbda, self.args.dist_metric):
            return
        self.optimizer.load_state_dict(state["optimizer"])
        self.aux_optimizer.load_state_dict(state["aux_optimizer"])
        self.epoch, self.steps = state["epoch"], state["steps"]
        self.seconds, self.best = state["seconds"], state["best"]

    def save(self) -> None:
        """Write the checkpoint under a temporary name, then rename it."""
        state = {
            "model": self.args.model,
            "lambda": self.args.lmbda,
            "metric": self.args.dist_metric,
            "network": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "aux_optimizer": self.aux_optimizer.state_dict(),
            "epoch": self.epoch,
            "steps": self.steps,
            "seconds": self.seconds,
            "best": self.best,
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "checkpoint.pth.tar"
        torch.save(state, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)

    def export(self) -> None:
        """Write the codec that `models_ntc.load_sketch_codec` reads."""
        self.folder.mkdir(parents=True, exist_ok=True)
        save_codec(self.net, self.file, self.args.model, self.args.lmbda, self.args.dist_metric)

    def out_of_time(self) -> bool:
        """Whether --max_seconds, counted over all runs of this checkpoint, are spent."""
        return self.args.max_seconds is not None and self.seconds >= self.args.max_seconds

    def learning_rate(self, within: float) -> float:
        """After a short rise, cosine from --learning-rate to a hundredth; epochs or seconds, what ends first."""
        done = (self.epoch + within) / self.args.epochs
        if self.args.max_seconds is not None:
            done = max(done, self.seconds / self.args.max_seconds)
        warm = min((self.steps + 1) / WARM_STEPS, 1.0)
        return warm * self.args.learning_rate * (0.505 + 0.495 * math.cos(math.pi * min(done, 1.0)))

    def step(self, sketches: Tensor) -> dict[str, Tensor]:
        """One update of both optimisers; a batch whose gradient is not finite is passed over."""
        sketches = sketches.to(self.device, memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16):
            output = self.net(sketches)
        losses = rate_distortion(output, sketches, self.args.lmbda, self.args.dist_metric)
        self.optimizer.zero_grad()
        losses["loss"].backward()
        updated = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(updated, self.args.clip_max_norm)
        if torch.isfinite(norm):
            self.optimizer.step()
        self.steps += 1
        self.aux_optimizer.zero_grad()
        self.net.aux_loss().backward()
        self.aux_optimizer.step()
        return losses

    def train_epoch(self, loader: DataLoader) -> None:
        """One pass over the sketches, cut short when the time is spent."""
        self.net.train()
        bar = tqdm(loader, desc=f"epoch {self.epoch}", file=sys.stderr, mininterval=2)
        for number, sketches in enumerate(bar):
            started = time.monotonic()
            for group in self.optimizer.param_groups:
                group["lr"] = group["pace"] * self.learning_rate(number / len(loader))
            losses = self.step(sketches)
            if number % 20 == 0:
                bar.set_postfix({name: f"{value.item():.4f}" for name, value in losses.items()})
            self.seconds += time.monotonic() - started
            if self.out_of_time():
                break
        self.epoch += 1

    @torch.no_grad()
    def validate(self, loader: DataLoader) -> float:
        """Mean loss over the test sketches, with rounding in place of noise."""
        self.net.eval()
        losses = []
        for sketches in loader:
            sketches = sketches.to(self.device, memory_format=torch.channels_last)
            row = rate_distortion(self.net(sketches), sketches, self.args.lmbda, self.args.dist_metric)
            losses.append({name: float(value) for name, value in row.items()})
        means = {name: float(np.mean([row[name] for row in losses])) for name in losses[0]}
        print(f"epoch {self.epoch} {self.seconds:.0f} s: {means}", file=sys.stderr, flush=True)
        return means["loss"]


def loaders(args: Namespace) -> tuple[DataLoader, DataLoader]:
    """Training and test sketches of an ImageFolder in CompressAI's layout, DIR/train and DIR/test."""
    root = Path(args.dataset)
    train = Sketches(root / "train", args.patch_size, augment=True)
    test = Sketches(root / "test", args.patch_size, augment=False)
    keep = {"num_workers": args.num_workers, "persistent_workers": args.num_workers > 0}
    batch = min(args.batch_size, len(train))
    return (
        DataLoader(train, batch_size=batch, shuffle=True, drop_last=True, **keep),
        DataLoader(test, batch_size=args.test_batch_size, **keep),
    )


def train(args: Namespace) -> Path:
    """Train until --epochs or --max_seconds, keep the best by test loss; return the exported codec's path."""
    trainer = Trainer(args)
    training, test = loaders(args)
    while trainer.epoch < args.epochs and not trainer.out_of_time():
        trainer.train_epoch(training)
        loss = trainer.validate(test)
        better = loss < trainer.best
        trainer.best = min(loss, trainer.best)
        if better:
            trainer.export()
        if args.save:
            trainer.save()
    if not trainer.file.exists():
        trainer.export()
    return trainer.file


def rate_distortion_row(path: Path, folder: Path) -> dict:
    """Measure a codec file on the first MOST_MEASURED sketches under `folder`, by its real payloads.

    Returns:
        {"codec", "model", "lambda", "metric", "sketches", "bytes" (mean), "bpp", "ms_ssim", "edge_f1",
        "encode_seconds", "decode_seconds"}; means over the sketches, each cut to multiples of 64 pixels.
        MS-SSIM is None where no sketch has sides of 161 pixels.
    """
    codec = load_sketch_codec(path)
    rows = [measure(codec, file) for file in tqdm(pictures_under(folder)[:MOST_MEASURED], desc="measuring")]
    means = {}
    for name in rows[0]:
        values = [row[name] for row in rows if row[name] is not None]
        means[name] = float(np.mean(values)) if values else None
    named = {name: codec.config[name] for name in ("model", "lambda", "metric")}
    return {"codec": str(path), **named, "sketches": len(rows), **means}


def measure(codec: SketchCodec, file: Path) -> dict:
    """One sketch's row, see `rate_distortion_row`."""
    sketch = np.array(Image.open(file).convert("L"))
    height, width = (max(64, side // 64 * 64) for side in sketch.shape)
    canvas = np.zeros((height, width), np.uint8)
    sketch = sketch[:height, :width]
    canvas[: sketch.shape[0], : sketch.shape[1]] = sketch
    started = time.monotonic()
    payload = codec.compress(canvas)
    encoded = time.monotonic()
    decoded = codec.decompress(payload)
    finished = time.monotonic()
    return {
        "bytes": len(payload),
        "bpp": 8 * len(payload) / canvas.size,
        "ms_ssim": ms_ssim(decoded, canvas) if min(canvas.shape) >= MS_SSIM_MIN_SIDE else None,
        "edge_f1": edge_f1(decoded, canvas).f1,
        "encode_seconds": encoded - started,
        "decode_seconds": finished - encoded,
    }

"""A training of a few seconds, what it costs in memory, and a picture of a folder before and after.

folder = make_sketches(tmp_path / "sketches")
status = train(folder, tmp_path / "out", "-e", "1")
"""

import hashlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import train_compressai
from helpers.codec_files import TRAINABLE
from models_ntc import training

SIDE = 192  # the smallest patch that MS-SSIM takes
BATCHES = 2  # in an epoch


def make_sketches(folder: Path) -> Path:
    """Write sketches of rings, for training and for the test."""
    y, x = np.mgrid[:SIDE, :SIDE]
    for split, count in (("train", 2 * BATCHES), ("test", 1)):
        (folder / split).mkdir(parents=True)
        for number in range(count):
            ring = abs(np.hypot(x - 90, y - 90) - 40 - 6 * number)
            picture = (255 * np.exp(-(ring**2) / 4)).astype(np.uint8)
            Image.fromarray(picture).save(folder / split / f"{number}.png")
    return folder


def use_small_networks(patch: pytest.MonkeyPatch) -> None:
    """Train networks of a few channels in place of the default ones."""
    new_network = training.new_network

    def small(model: str, sizes: dict | None = None) -> torch.nn.Module:
        few = {"N": 8} if model.startswith("cheng") else {"N": 8, "M": 12}
        if model == "sketch":
            few = TRAINABLE
        return new_network(model, {**(sizes or {}), **few})

    patch.setattr(training, "new_network", small)


def train(folder: Path, out: Path, *more: str) -> int:
    """Run train_compressai.py and return its exit status."""
    flags = f"-n 0 --batch-size 2 --patch-size {SIDE} --lambda 0.5 --picture_every 0".split()
    return train_compressai.main(["-d", str(folder), "--out", str(out), *flags, *more])


def small_training(folder: Path) -> training.CodecTraining:
    """A training of small networks that is not begun; `use_small_networks` first."""
    flags = f"-n 0 --batch-size 2 --patch-size {SIDE} --lambda 0.5".split()
    return training.CodecTraining(train_compressai.parse_args(["-d", str(folder), *flags]))


def contents(folder: Path) -> dict[str, str]:
    """Return all paths under a folder, with the digest of each file."""
    found = {}
    for path in sorted(folder.rglob("*")):
        found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
    return found


class Memory:
    """The most memory that this process takes from now on, MiB; 0 where the system cannot tell."""

    def __init__(self) -> None:
        self.before = self._status("VmRSS")
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")

    def growth(self) -> float:
        return self._status("VmHWM") - self.before

    def _status(self, name: str) -> float:
        with suppress(OSError):
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith(f"{name}:"):
                    return int(line.split()[1]) / 2**10
        return 0.0

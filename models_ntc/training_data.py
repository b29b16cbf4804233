"""Training data of the sketch codecs: crops of gray images, and the order in which they come.

    data = Sketches(Path("runs/sketches/train"), (256, 256), seed=0)
    crop = data[epoch, index]

Crops, flips and order are functions of the seed and the position in the training alone, so that a
checkpoint needs no state of a random generator.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.utils.data import Dataset

from common.files import load_gray

if TYPE_CHECKING:
    from models_ntc.training import CodecTraining

EXTENSIONS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}


def images_under(folder: Path) -> list[Path]:
    """Return the image files in a folder and all folders below it, sorted.

    Raises ValueError if there are none.
    """
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in EXTENSIONS)
    if not files:
        raise ValueError(
            f"no pictures under {folder}: generate_sketches.py writes DIR/train and DIR/test"
        )
    return files


class Sketches(Dataset):
    """Crops of the gray images under a folder: `data[epoch, index]` is (1, H, W) float32 in 0..1.

    folder: where the images are, at any depth. Raises ValueError if there are none.
    size: height and width of a crop in pixels. Smaller images are padded with black (no edge).
    seed: of the positions and horizontal flips, which differ from epoch to epoch. None: the center,
        without flips.
    """

    def __init__(self, folder: Path, size: tuple[int, int], seed: int | None = None) -> None:
        self.files = images_under(folder)
        self.size = size
        self.seed = seed

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, key: tuple[int, int]) -> Tensor:
        epoch, index = key
        height, width = self.size
        image = padded(load_gray(self.files[index]), height, width)
        spare_rows = image.shape[0] - height
        spare_columns = image.shape[1] - width
        if self.seed is None:
            top = spare_rows // 2
            left = spare_columns // 2
            flip = False
        else:
            rng = np.random.default_rng((self.seed, epoch, index))
            top = rng.integers(spare_rows + 1)
            left = rng.integers(spare_columns + 1)
            flip = rng.random() < 0.5
        crop = image[top : top + height, left : left + width]
        if flip:
            crop = crop[:, ::-1]
        pixels = torch.from_numpy(np.ascontiguousarray(crop)).float() / 255
        return rearrange(pixels, "h w -> 1 h w")


def padded(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return a gray image (h, w) with zeros below and to the right up to at least this size."""
    below = max(0, height - image.shape[0])
    right = max(0, width - image.shape[1])
    return np.pad(image, ((0, below), (0, right)))


class RestOfEpoch:
    """Batch sampler: the (epoch, index) pairs of this device in the rest of the current epoch.

    It has no length, so that an epoch of Lightning's is what is left of one of ours.
    """

    def __init__(self, training: "CodecTraining") -> None:
        self.training = training

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        training = self.training
        trainer = training.trainer
        epoch, done = divmod(training.steps, training.steps_per_epoch)
        rng = np.random.default_rng((training.args.seed, epoch))
        order = rng.permutation(len(training.train_set))
        for step in range(done, training.steps_per_epoch):
            start = step * training.batch_size
            batch = order[start : start + training.batch_size]
            own = batch[trainer.global_rank :: trainer.world_size]
            yield [(epoch, int(index)) for index in own]

"""The fixed linear encoder of the bundled generator: principal components of 16 x 16 pixel patches.

    from tiny.latents import Latents
    z = Latents.load(path).encode(pixels)

16 channels keep 24.4 dB by themselves, need no training, and a decoder trained on them undoes the blocking.
Channel c is divided by std_c ** 0.65, then all by one number so that the latents' root mean square is 1.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

PATCH, CHANNELS, POWER = 16, 16, 0.65


@dataclass(frozen=True)
class Latents:
    """mean (768,), basis (768, 16) scaled for encoding, inverse (16, 768) for the plain linear decoder."""

    mean: Tensor
    basis: Tensor
    inverse: Tensor

    @classmethod
    def fit(cls, pictures: list[np.ndarray], per_picture: int, rng: np.random.Generator) -> "Latents":
        """Fit to random patches of uint8 (H, W, 3) pictures."""
        patches = []
        for picture in pictures:
            for _ in range(per_picture):
                y, x = (rng.integers(0, side - PATCH + 1) for side in picture.shape[:2])
                patches.append(picture[y : y + PATCH, x : x + PATCH].transpose(2, 0, 1).ravel())
        rows = torch.from_numpy(np.stack(patches)).double() / 127.5 - 1  # (n, 768)
        mean = rows.mean(0)
        values, vectors = torch.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
        vectors, std = vectors[:, -CHANNELS:].flip(1), values[-CHANNELS:].flip(0).sqrt()
        weight = std**-POWER
        weight = weight / ((std * weight) ** 2).mean().sqrt()
        return cls(mean.float(), (vectors * weight).float(), (vectors / weight).T.float().contiguous())

    def encode(self, pixels: Tensor) -> Tensor:
        """Encode (N, 3, H, W) in -1..1, sides multiples of 16 -> (N, 16, H / 16, W / 16), RMS about 1."""
        patches = torch.nn.functional.pixel_unshuffle(pixels, PATCH)  # (N, 768, h, w)
        return torch.einsum("nphw,pc->nchw", patches - self.mean.view(-1, 1, 1), self.basis)

    def decode(self, latents: Tensor) -> Tensor:
        """Decode linearly (N, 16, h, w) -> (N, 3, 16 h, 16 w): blocky, for comparison."""
        patches = torch.einsum("nchw,cp->nphw", latents, self.inverse) + self.mean.view(-1, 1, 1)
        return torch.nn.functional.pixel_shuffle(patches, PATCH)

    def save(self, path: Path) -> None:
        """Write the three tensors."""
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"mean": self.mean, "basis": self.basis.contiguous(), "inverse": self.inverse}, path)

    @classmethod
    def load(cls, path: Path) -> "Latents":
        """Read what `save` wrote."""
        return cls(**load_file(path))


def to_pixels(pictures: list[np.ndarray]) -> Tensor:
    """Turn uint8 (H, W, 3) pictures of one size into (N, 3, H, W) in -1..1."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1

"""The fixed linear encoder of the bundled generator: principal components of 16 x 16 pixel patches.

    from tiny.latents import Latents
    z = Latents.load(path).encode(pixels)

16 channels keep 24.4 dB by themselves and need no training, and a decoder that is trained on them
removes the blocking. Channel c is divided by std_c ** 0.65, then all channels by one number, which
makes the root mean square of the latents 1.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from safetensors.torch import load_file, save_file
from torch import Tensor

PATCH = 16  # pixels
CHANNELS = 16
POWER = 0.65


@dataclass(frozen=True)
class Latents:
    """The encoder, and a linear decoder."""

    mean: Tensor  # (768,), of the patches
    basis: Tensor  # (768, 16), scaled for encoding
    inverse: Tensor  # (16, 768), for linear decoding

    @classmethod
    def fit(cls, images: list[np.ndarray], per_image: int, rng: np.random.Generator) -> "Latents":
        """Return the principal components of random patches of images, uint8 (H, W, 3)."""
        patches = []
        for image in images:
            for _ in range(per_image):
                y = rng.integers(0, image.shape[0] - PATCH + 1)
                x = rng.integers(0, image.shape[1] - PATCH + 1)
                patch = image[y : y + PATCH, x : x + PATCH]
                patches.append(rearrange(patch, "h w c -> (c h w)"))
        rows = torch.from_numpy(np.stack(patches)).double() / 127.5 - 1  # (n, 768)
        mean = rows.mean(0)
        values, vectors = torch.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
        vectors = vectors[:, -CHANNELS:].flip(1)
        std = values[-CHANNELS:].flip(0).sqrt()
        weight = std**-POWER
        weight = weight / ((std * weight) ** 2).mean().sqrt()
        inverse = (vectors / weight).T.float().contiguous()
        return cls(mean.float(), (vectors * weight).float(), inverse)

    def encode(self, pixels: Tensor) -> Tensor:
        """Return the latents (N, 16, H / 16, W / 16), root mean square about 1.

        pixels: (N, 3, H, W) in -1..1, sides multiples of 16.
        """
        patches = rearrange(pixels, "n c (h p) (w q) -> n (c p q) h w", p=PATCH, q=PATCH)
        centered = patches - rearrange(self.mean, "p -> p 1 1")
        return torch.einsum("nphw,pc->nchw", centered, self.basis)

    def decode(self, latents: Tensor) -> Tensor:
        """Return linearly decoded pixels (N, 3, 16 h, 16 w) of latents (N, 16, h, w).

        They have visible blocks; this is for comparison.
        """
        centered = torch.einsum("nchw,cp->nphw", latents, self.inverse)
        patches = centered + rearrange(self.mean, "p -> p 1 1")
        return rearrange(patches, "n (c p q) h w -> n c (h p) (w q)", p=PATCH, q=PATCH)

    def save(self, path: Path) -> None:
        """Write the three tensors as a safetensors file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {"mean": self.mean, "basis": self.basis.contiguous(), "inverse": self.inverse}
        save_file(tensors, path)

    @classmethod
    def load(cls, path: Path) -> "Latents":
        """Return what `save` wrote."""
        return cls(**load_file(path))


def to_pixels(images: list[np.ndarray]) -> Tensor:
    """Return (N, 3, H, W) in -1..1 of images, uint8 (H, W, 3), of one size."""
    return rearrange(torch.from_numpy(np.stack(images)), "n h w c -> n c h w").float() / 127.5 - 1

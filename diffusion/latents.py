"""Noise, colors and control pictures as latents of a text-to-image model.

noise = initial_noise(seed=7, channels=4, height=64, width=96)
clean = encoded(vae, pixels)
sigmas, latents = started(scheduler, clean, noise, steps=8, strength=0.8, patch=2)
"""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace

import numpy as np
import torch
from einops import rearrange
from PIL import Image

from diffusion.library import calculate_shift, retrieve_latents


def initial_noise(seed: int, channels: int, height: int, width: int) -> torch.Tensor:
    """Return the noise that a seed stands for, standard normal float32 (C, H, W) in latent pixels.

    It is sampled on the CPU by a random generator of its own, so that a seed means the same image
    on every device and in every batch, and rounded to multiples of 2**-16, because the last bits
    depend on the processor.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    normal = torch.randn(channels, height, width, generator=generator, dtype=torch.float64)
    return normal.mul(2**16).round().div(2**16).float()


def packed(latents: torch.Tensor) -> torch.Tensor:
    """Return latents (N, C, h, w) as positions of 2 x 2 of them, (N, h/2 * w/2, 4 * C)."""
    return rearrange(latents, "n c (h y) (w x) -> n (h w) (c y x)", y=2, x=2)


@torch.no_grad()
def encoded(vae, pixels: torch.Tensor) -> torch.Tensor:
    """Return the latents (N, C, h, w) of pixels (N, 3, H, W) in -1..1: the mode, as a sampler
    expects them.
    """
    config = vae.config
    frames = "temperal_downsample" in config  # a VAE of videos: (N, C, 1, h, w)
    given = pixels.unsqueeze(2) if frames else pixels
    latents = retrieve_latents(vae.encode(given), sample_mode="argmax")
    if frames:
        latents = latents.squeeze(2)
    if config.get("latents_std"):
        latents = (latents - _channels(config, "mean", latents)) / _channels(config, "std", latents)
    return (latents - (config.get("shift_factor") or 0.0)) * config.get("scaling_factor", 1.0)


def from_pictures(
    pipeline, colors: Sequence[np.ndarray], height: int, width: int, upcast: bool
) -> torch.Tensor:
    """Return the latents (N, C, h, w) of enlarged color maps, or of bases.

    colors: uint8 RGB. upcast: whether a VAE in float16 computes in float32 meanwhile.
    """
    latents = []
    vae = pipeline.vae
    dtype = vae.dtype
    if upcast and dtype == torch.float16:
        vae.to(torch.float32)
    for color in colors:
        large = Image.fromarray(color).resize((width, height), Image.Resampling.BICUBIC)
        pixels = pipeline.image_processor.preprocess(large)
        latents.append(encoded(vae, pixels.to(pipeline._execution_device, vae.dtype)))
    if vae.dtype != dtype:
        vae.to(dtype)
    return torch.cat(latents)


def _channels(config: Mapping, name: str, like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(config[f"latents_{name}"]).view(1, -1, 1, 1).to(like)


def without_chance(vae) -> None:
    """Let a VAE's encoding be its mode wherever a pipeline would sample it.

    The pipelines sample it by the global random generator or by none of the caller's.
    """
    encode = vae.encode

    def certain(*args, **kwargs):
        output = encode(*args, **kwargs)
        if not hasattr(output, "latent_dist"):
            return output
        mode = output.latent_dist.mode
        return SimpleNamespace(
            latent_dist=SimpleNamespace(mode=mode, sample=lambda *_, **__: mode())
        )

    vae.encode = certain


def started(
    scheduler,
    clean: torch.Tensor,
    noise: torch.Tensor,
    steps: int,
    strength: float,
    patch: int,
) -> tuple[list[float], torch.Tensor]:
    """Return the noise levels that are left of a flow's, and `clean` at the first of them.

    clean, noise: (N, C, h, w). steps: of a whole drawing, of which the last `strength`, 0 to 1, are
    left, at least one. patch: latent pixels to a position, each way.
    """
    levels = np.linspace(1.0, 1 / steps, steps)
    skipped = int(max(steps - steps * strength, 0))
    left = levels[min(skipped, steps - 1) :].tolist()
    positions = clean.shape[2] * clean.shape[3] // patch**2
    config = scheduler.config
    bounds = config.base_image_seq_len, config.max_image_seq_len
    mu = calculate_shift(positions, *bounds, config.base_shift, config.max_shift)
    scheduler.set_timesteps(sigmas=left, mu=mu)
    first = float(scheduler.sigmas[0])
    return left, first * noise + (1 - first) * clean

"""What is measured and shown of photographs that are not trained on.

held_out_error(base, controlnet, noising, crops, indices)   # {"decoded": ..., "clean": ...}
"""

import hashlib
from collections.abc import Sequence
from statistics import fmean

import numpy as np
import torch
from einops import rearrange

from control_training.models import Base, Noising, loss_of
from control_training.samples import Crops

FRACTION = 0.05  # of the photographs
MOST = 64  # photographs that are held out
PLACES = (0.3, 0.6, 0.9)  # of the scheduler's timesteps, where the error is measured
SHOWN = 8  # photographs on the sheet


def split(names: Sequence[str]) -> tuple[list[int], list[int]]:
    """Return the indices of the photographs to train on, and of those held out.

    By the hash of their names, so that a photograph stays where it is when others come. Raises
    ValueError for fewer than two.
    """
    if len(names) < 2:
        raise ValueError(f"{len(names)} photographs: two are the least, one of them is held out")
    ranked = sorted(range(len(names)), key=lambda i: hashlib.sha256(names[i].encode()).digest())
    count = min(MOST, max(1, round(FRACTION * len(names))))
    return sorted(ranked[count:]), sorted(ranked[:count])


@torch.no_grad()
def held_out_error(
    base: Base, controlnet, noising: Noising, crops: Crops, indices: Sequence[int]
) -> dict[str, float]:
    """Return the mean squared error of the prediction, by the sketch that is shown.

    "decoded": at the rate of the photograph's conditions; "clean": before coding. Colors are not
    shown. The noise is the same at every call.
    """
    errors: dict[str, list[float]] = {"decoded": [], "clean": []}
    for index in indices:
        for kind, values in errors.items():
            for place in PLACES:
                sample = crops.held_out(index, place, clean=kind == "clean")
                values.append(error_of(base, controlnet, noising, sample))
    return {kind: fmean(values) for kind, values in errors.items()}


def error_of(base: Base, controlnet, noising: Noising, sample: dict[str, torch.Tensor]) -> float:
    """Return the mean squared error of the prediction for one sample."""
    batch = {name: value[None].to(base.device) for name, value in sample.items()}
    return loss_of(base, controlnet, noising, batch).item()


@torch.no_grad()
def sheet(base: Base, controlnet, crops: Crops, indices: Sequence[int]) -> np.ndarray:
    """Return rows of original, decoded sketch and reconstruction: uint8 (H, W, 3)."""
    sampler = base.sampler(controlnet)
    rows = []
    for index in indices[:SHOWN]:
        sample = crops.held_out(index, 0.0)
        with torch.autocast(base.device.type, torch.bfloat16, enabled=base.autocast):
            recon = reconstruction(base, sampler, sample, crops.options.side)
        original = rearrange(sample["pixels"].numpy(), "c h w -> h w c") / 2 + 0.5
        decoded = crops.sketch_of(index)[..., None].repeat(3, 2) / 255
        rows.append(np.concatenate([original, decoded, recon], 1))
    return (255 * np.concatenate(rows).clip(0, 1)).round().astype(np.uint8)


def reconstruction(base: Base, sampler, sample: dict[str, torch.Tensor], side: int) -> np.ndarray:
    """Return what a sampler makes of a sample's conditions and noise: float (side, side, 3)."""
    text = base.embed(sample["ids"][None])
    output = sampler(
        image=sample["control"][None].to(base.device, text.dtype),
        prompt_embeds=text,
        negative_prompt_embeds=base.embed(torch.tensor([base.negative_row])),
        latents=sample["noise"][None].to(base.device, text.dtype),
        num_inference_steps=base.preset.steps,
        guidance_scale=base.preset.guidance,
        controlnet_conditioning_scale=base.preset.control_scale,
        height=side,
        width=side,
        output_type="np",
    )
    return output.images[0]

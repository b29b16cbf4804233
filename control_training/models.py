"""The frozen text-to-image model, the ControlNet that is trained, and what it learns to predict.

    base = load_base(get_preset("sd21"), torch.device("cpu"))
    loss = base.loss(batch)

A model of any family runs as when sampling: a step of its own pipeline (diffusion/one_step.py).
"""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from diffusion import load_generator
from diffusion.generator import Generator
from diffusion.latents import encoded, packed
from diffusion.library import calculate_shift, diffusers
from diffusion.loading import LIBRARIES
from presets import Preset, PresetError
from pretrained.model_folders import quietly

FLOW = "flow_prediction"
PREDICTIONS = ("epsilon", "v_prediction", FLOW)
TIMESTEPS = 1000


class Batch(NamedTuple):
    """Samples of one size, on the CPU."""

    pixels: Tensor  # (N, 3, H, W) in -1..1
    control: Tensor  # (N, C', H', W'), as `diffusion.control.control_tensor`
    prompts: Sequence  # N prompts as the model is given them, or None for no prompt
    noise: Tensor  # (N, C, h, w)
    places: Tensor  # (N,), in 0..1: where on the way from image to noise

    def part(self, start: int, stop: int) -> "Batch":
        """Return some of the samples."""
        return Batch(*(each[start:stop] for each in self))


class Base:
    """A preset's generator, frozen but for the ControlNet.

    encode: pixels (N, 3, H, W) in -1..1 -> latents. autocast: to compute in bfloat16.
    """

    def __init__(self, generator: Generator, encode: Callable[[Tensor], Tensor], autocast: bool):
        self.generator = generator
        self.controlnet = generator.controlnet
        self._encode = encode
        self._autocast = autocast
        side = generator.preset.short_side
        _, height, width = generator.latents_size(side, side)
        positions = height * width // generator.family.patch**2
        self.noised = Noising(generator.pipeline.scheduler, positions)

    @property
    def network(self) -> torch.nn.Module:
        """The frozen network that runs at every step."""
        return getattr(self.generator.pipeline, self.generator.family.network)

    def computing(self) -> AbstractContextManager:
        """Return the context in which the networks run."""
        kind = self.generator.device.type
        return torch.autocast(kind, torch.bfloat16, enabled=self._autocast)

    def loss(self, batch: Batch) -> Tensor:
        """Return the mean squared error of what is predicted."""
        generator = self.generator
        device = generator.device
        latents = self._encode(batch.pixels.to(device))
        noisy, timesteps, target = self.noised(latents, batch.noise.to(device), batch.places)
        given = noisy, timesteps, batch.prompts, batch.control.to(device)
        with self.computing():
            predicted = generator.predict(*given)
        if generator.family.packed:
            target = packed(target)
        return F.mse_loss(predicted.float(), target.float())


@quietly(*LIBRARIES)
def load_base(
    preset: Preset, device: torch.device, bf16: bool, encode: Callable[[Tensor], Tensor] | None
) -> Base:
    """Load a preset's models: frozen, the ControlNet in float32.

    bf16: networks compute in bfloat16, and on a GPU the frozen ones but the VAE are kept in it.
    encode: pixels -> latents, in place of the VAE's encoder. Raises UnavailableError, PresetError.
    """
    for name in ("more_controlnets", "quantize"):
        if getattr(preset, name):
            raise PresetError(f"preset {preset.name} cannot be trained: it has {name}")
    generator = load_generator(preset, device)
    family = generator.family
    controlnet = generator.controlnet
    if family.controls[type(controlnet).__name__].shared:
        raise PresetError(f"a ControlNet of {family.name} cannot be trained: it shares layers")
    generator.dtype = torch.bfloat16 if bf16 and device.type == "cuda" else torch.float32
    for part in (family.network, *family.encoders):
        getattr(generator.pipeline, part).requires_grad_(False).to(generator.dtype)
    vae = generator.pipeline.vae.requires_grad_(False).float()
    controlnet.float().requires_grad_(True)
    return Base(generator, encode or partial(encoded, vae), bf16)


class Noised(NamedTuple):
    """Noisy latents, their timesteps (N,), and what the network is to predict."""

    noisy: Tensor
    timesteps: Tensor
    target: Tensor


class Noising:
    """Latents, noise and places in 0..1 -> noisy latents and target, as a scheduler says.

    The target is the noise ("epsilon"; Ho et al., 2020), the velocity ("v_prediction"; Salimans and
    Ho, 2022), or the flow noise - latents (Lipman et al., 2023), whose noise levels are shifted as
    when sampling (Esser et al., 2024, equation 23). positions: of an image in the network, on which
    some shifts depend. Raises PresetError for another target.
    """

    def __init__(self, scheduler, positions: int):
        config = scheduler.config
        is_flow = type(scheduler).__name__.startswith("FlowMatch")
        self.kind = FLOW if is_flow else config.get("prediction_type", "epsilon")
        if self.kind not in PREDICTIONS:
            raise PresetError(f"its scheduler predicts {self.kind}: that cannot be trained")
        if self.kind == FLOW:
            self.shift = shift_of(config, positions)
        else:
            self.scheduler = diffusers.DDPMScheduler.from_config(config)

    def __call__(self, latents: Tensor, noise: Tensor, places: Tensor) -> Noised:
        """Return noisy latents, (N, C, h, w) as `latents`; places: float (N,)."""
        places = places.to(latents.device)
        if self.kind == FLOW:
            levels = self.shift * places / (1 + (self.shift - 1) * places)
            each = rearrange(levels, "n -> n 1 1 1")
            noisy = (1 - each) * latents + each * noise
            return Noised(noisy, TIMESTEPS * levels, noise - latents)
        steps = (places * self.scheduler.config.num_train_timesteps).long()
        noisy = self.scheduler.add_noise(latents, noise, steps)
        if self.kind == "epsilon":
            return Noised(noisy, steps, noise)
        return Noised(noisy, steps, self.scheduler.get_velocity(latents, noise, steps))


def shift_of(config, positions: int) -> float:
    """Return the shift of a flow's noise levels by the configuration of its sampler."""
    if not config.get("use_dynamic_shifting"):
        return config.get("flow_shift", config.get("shift", 1.0))
    bounds = config.base_image_seq_len, config.max_image_seq_len
    return math.exp(calculate_shift(positions, *bounds, config.base_shift, config.max_shift))

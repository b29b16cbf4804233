"""The frozen text-to-image model, the ControlNet that is trained, and what it learns to predict.

    base = load_base(get_preset("sd21"), "cpu")
    controlnet = load_start(get_preset("sd21"), base, "controlnet")
    noised = Noising(base.pipeline.scheduler)(latents, noise, places)

For models of the family of Stable Diffusion 1 and 2.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from common.weights import from_mirrors
from diffusion.control import control_channels
from diffusion.generator import framed
from diffusion.library import (
    ControlNetModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
    VaeImageProcessor,
    diffusers,
    retrieve_latents,
)
from diffusion.loading import LIBRARIES, load_controlnet, load_pipeline
from presets import Preset, PresetError, cure
from pretrained.libraries import lean
from pretrained.model_folders import quietly

STARTS = ("controlnet", "unet")  # what the ControlNet is before the first step


@dataclass(eq=False)
class Base:
    """The frozen models of a preset.

    encode: pixels (N, 3, H, W) in -1..1 -> latents (N, C, h, w).
    """

    preset: Preset
    pipeline: StableDiffusionPipeline
    encode: Callable[[Tensor], Tensor]
    device: torch.device
    autocast: bool  # whether networks compute in bfloat16

    @property
    def channels(self) -> int:
        """The channels of its latents."""
        return self.pipeline.unet.config.in_channels

    @property
    def scale(self) -> int:
        """Pixels to one of the latents, each way."""
        return self.pipeline.vae_scale_factor

    @property
    def suffix(self) -> list[int]:
        """The ids that the decoder appends to each prompt."""
        return self.pipeline.tokenizer(self.preset.suffix, add_special_tokens=False).input_ids

    @property
    def max_tokens(self) -> int:
        """The most ids of a prompt."""
        return self._length - 2 - len(self.suffix)

    @property
    def _length(self) -> int:
        longest = self.pipeline.text_encoder.config.max_position_embeddings
        return min(self.pipeline.tokenizer.model_max_length, longest)

    def row(self, ids: Sequence[int] | None) -> list[int]:
        """Return the text encoder's input for a prompt, with the preset's suffix; None: nothing."""
        whole = [] if ids is None else [*list(ids)[: self.max_tokens], *self.suffix]
        return framed(whole, self.pipeline.tokenizer, self._length)

    @property
    def negative_row(self) -> list[int]:
        """The text encoder's input for the preset's negative prompt."""
        text = self.preset.negative_prompt
        ids = self.pipeline.tokenizer(text, add_special_tokens=False).input_ids
        return framed(ids, self.pipeline.tokenizer, self._length)

    @torch.no_grad()
    def embed(self, rows: Tensor) -> Tensor:
        """Return the embeddings (N, L, D) of rows of ids (N, L)."""
        return self.pipeline.text_encoder(rows.to(self.device)).last_hidden_state

    def predict(
        self, controlnet, noisy: Tensor, timesteps: Tensor, text: Tensor, control: Tensor
    ) -> Tensor:
        """Return what the UNet predicts with the ControlNet's help, like `noisy`."""
        down, middle = controlnet(noisy, timesteps, text, control, return_dict=False)
        return self.pipeline.unet(
            noisy,
            timesteps,
            text,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
        ).sample

    def sampler(self, controlnet: ControlNetModel) -> StableDiffusionControlNetPipeline:
        """Return the pipeline that the decoder samples with."""
        parts = {**self.pipeline.components, "controlnet": controlnet}
        kind = getattr(diffusers, self.preset.sketch_sampler)
        parts["scheduler"] = kind.from_config(self.pipeline.scheduler.config)
        pipeline = StableDiffusionControlNetPipeline(**parts, requires_safety_checker=False)
        plain = VaeImageProcessor(do_resize=False, do_convert_rgb=False, do_normalize=False)
        pipeline.control_image_processor = plain
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


def load_base(
    preset: Preset,
    device: str,
    autocast: bool = False,
    encode: Callable[[Tensor], Tensor] | None = None,
) -> Base:
    """Load a preset's text-to-image model, frozen.

    autocast: networks compute in bfloat16; on a GPU, UNet and text encoder are kept in it too.
    encode: in place of the VAE's encoder. Raises UnavailableError.
    """

    @quietly(*LIBRARIES)
    def load(source: str, revision: str | None, local_files_only: bool) -> StableDiffusionPipeline:
        return load_pipeline(source, revision, local_files_only, what=preset.name)

    with lean():
        what = f"preset {preset.name}: text-to-image model"
        pipeline = from_mirrors(load, preset.generator, what, cure(preset.name))
    for part in (pipeline.vae, pipeline.text_encoder, pipeline.unet):
        part.requires_grad_(False).eval().to(device)
    if autocast and torch.device(device).type == "cuda":
        pipeline.unet.to(torch.bfloat16)
        pipeline.text_encoder.to(torch.bfloat16)
    encode = encode or vae_encoder(pipeline.vae)
    return Base(preset, pipeline, encode, torch.device(device), autocast)


def vae_encoder(vae) -> Callable[[Tensor], Tensor]:
    """Return pixels -> latents by the mode of a VAE, scaled as the UNet takes them."""

    def encode(pixels: Tensor) -> Tensor:
        latents = retrieve_latents(vae.encode(pixels.to(vae.device)), sample_mode="argmax")
        return latents * vae.config.scaling_factor

    return torch.no_grad()(encode)


def load_start(preset: Preset, base: Base, start: str) -> ControlNetModel:
    """Return the ControlNet before the first step, in float32 on the CPU.

    start: one of STARTS: the preset's own ControlNet, or a copy of the UNet's encoder with zero
    convolutions (Zhang et al., "Adding Conditional Control to Text-to-Image Diffusion Models",
    2023). Raises UnavailableError, or PresetError if it takes no such control image.
    """
    channels = control_channels(preset.control)
    if start == "unet":
        return ControlNetModel.from_unet(base.pipeline.unet, conditioning_channels=channels).float()

    @quietly(*LIBRARIES)
    def load(source: str, revision: str | None, local_files_only: bool) -> ControlNetModel:
        return load_controlnet(source, revision, local_files_only, preset.name)

    with lean():
        what = f"preset {preset.name}: ControlNet"
        controlnet = from_mirrors(load, preset.controlnet, what, cure(preset.name))
    taken = controlnet.config.conditioning_channels
    if taken != channels:
        raise PresetError(
            f"the ControlNet takes {taken} channels, "
            f'but control "{preset.control}" gives {channels}'
        )
    return controlnet.float()


# ---- noise and target


class Noised(NamedTuple):
    """Noisy latents, their timesteps (N,), and what the UNet is to predict."""

    noisy: Tensor
    timesteps: Tensor
    target: Tensor


class Noising:
    """Latents, noise and places in 0..1 -> noisy latents and target, as a scheduler says.

    Its `prediction_type` decides: the noise ("epsilon"), the velocity ("v_prediction"; Salimans and
    Ho, 2022), or the flow noise - latents (Lipman et al., 2023), whose noise levels are shifted as
    when sampling (Esser et al., 2024). Raises PresetError for another one.
    """

    def __init__(self, scheduler):
        config = scheduler.config
        self.kind = config.get("prediction_type", "epsilon")
        if type(scheduler).__name__.startswith("FlowMatch"):
            self.kind = "flow_prediction"
        if self.kind == "flow_prediction":
            shift = config.get("flow_shift", config.get("shift", 1.0))
            self.scheduler = diffusers.FlowMatchEulerDiscreteScheduler(
                config.num_train_timesteps, shift=shift
            )
        elif self.kind in ("epsilon", "v_prediction"):
            self.scheduler = diffusers.DDPMScheduler.from_config(config)
        else:
            raise PresetError(f"its scheduler predicts {self.kind}: that cannot be trained")

    def __call__(self, latents: Tensor, noise: Tensor, places: Tensor) -> Noised:
        """Return noisy latents at `places`, (N,) in 0..1, of the scheduler's timesteps."""
        steps = (places * self.scheduler.config.num_train_timesteps).long()
        if self.kind == "flow_prediction":
            sigma = rearrange(self.scheduler.sigmas[steps], "n -> n 1 1 1").to(latents)
            noisy = (1 - sigma) * latents + sigma * noise
            timesteps = self.scheduler.timesteps[steps]
            return Noised(noisy, timesteps.to(latents.device), noise - latents)
        steps = steps.to(latents.device)
        noisy = self.scheduler.add_noise(latents, noise, steps)
        if self.kind == "epsilon":
            return Noised(noisy, steps, noise)
        return Noised(noisy, steps, self.scheduler.get_velocity(latents, noise, steps))


def loss_of(base: Base, controlnet, noising: Noising, batch: dict[str, Tensor]) -> Tensor:
    """Return the mean squared error of what is predicted for a batch of `samples.Crops`."""
    device = base.device
    latents = base.encode(batch["pixels"]).to(device)
    noised = noising(latents, batch["noise"].to(device), batch["place"])
    kind = base.pipeline.unet.dtype
    with torch.autocast(device.type, torch.bfloat16, enabled=base.autocast):
        text = base.embed(batch["ids"])
        control = batch["control"].to(device)
        noisy = noised.noisy.to(kind)
        predicted = base.predict(controlnet, noisy, noised.timesteps, text, control)
    return F.mse_loss(predicted.float(), noised.target.float())

"""The text-to-image model of a preset: a pipeline of diffusers, controlled by prompts and seeds.

    generator = Generator(get_preset("tiny"), "cpu")
    images = generator.generate(prompt_ids, seeds=[0, 1], height=256, width=384)

An image depends on what is given here and on no global random generator: the prompt, the sketch,
the color map, the seed's noise, and the preset's steps, guidance and samplers. What differs between
families of models is a row of `diffusion.families`.
"""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch

from common.weights import UnavailableError, from_mirrors
from diffusion.content import Names
from diffusion.control import (
    check_sizes,
    color_map,
    control_channels,
    control_settings,
    control_tensors,
    later_settings,
    takes_color,
)
from diffusion.controlnets import load_controlnet
from diffusion.execution import PLAIN, Execution, make_turns
from diffusion.families import Control, Family, family_of_pipeline
from diffusion.image_to_image import from_latents
from diffusion.latents import from_pictures, initial_noise, packed, started, without_chance
from diffusion.library import VaeImageProcessor, diffusers
from diffusion.loading import LIBRARIES, load_pipeline, taken
from diffusion.one_step import one_step
from diffusion.prompts import IdPrompts, TextPrompts
from diffusion.quantization import quantize
from diffusion.samplers import check_samplers, made, with_sampler
from diffusion.tokenizers import load_clip_tokenizer
from presets import Preset, PresetError, cure
from pretrained.libraries import lean
from pretrained.model_folders import one_error, quietly


class Generator:
    """A text-to-image model; its ControlNet is loaded with the first sketch.

    `prompts` says what it is given of a prompt: its "ids" or its "text". `tokenizer` is that of
    searched ids: the model's own, or for texts the preset's CLIP's. `turns` are those of its models
    on the device if they cannot all be there, otherwise None.

    Raises UnavailableError if a model is not available, PresetError if the ControlNet does not
    take the preset's control image.
    """

    def __init__(self, preset: Preset, device: str | torch.device, execution: Execution = PLAIN):
        self.preset = preset
        self.device = torch.device(device)
        self.execution = execution
        # Without what is not needed; the compiler is, if it is asked for.
        self._lean = nullcontext if execution.compile else lean
        self._names, self._text_pipeline = self._load(
            self._load_pipeline, preset.generator, "text-to-image model"
        )
        family = self.family
        if family.prompts == "text":
            with self._lean(), quietly(*LIBRARIES):
                self._prompts = TextPrompts(load_clip_tokenizer(preset), family)
        else:
            self._prompts = IdPrompts(self._text_pipeline, family, self.device)
        self.prompts = family.prompts
        self.tokenizer = self._prompts.tokenizer
        self._pipelines = {}
        if self.turns:
            for part in family.encoders:
                self.turns.add("text encoder", getattr(self._text_pipeline, part))
            self.turns.add("vae", self._text_pipeline.vae)

    @property
    def family(self) -> Family:
        """The row of the model in `diffusion.families`."""
        return family_of_pipeline(self._text_pipeline)

    def generate(
        self,
        prompt: Sequence[int] | str,
        seeds: Sequence[int],
        height: int,
        width: int,
        sketch: np.ndarray | None = None,
        color: np.ndarray | None = None,
    ) -> list[np.ndarray]:
        """Generate an image of one prompt for each seed, as one batch; see `generate_each`."""
        count = len(seeds)
        sketches = None if sketch is None else [sketch] * count
        colors = None if color is None else [color] * count
        return self.generate_each([prompt] * count, seeds, height, width, sketches, colors)

    def generate_each(
        self,
        prompts: Sequence[Sequence[int]] | Sequence[str],
        seeds: Sequence[int],
        height: int,
        width: int,
        sketches: Sequence[np.ndarray] | None = None,
        colors: Sequence[np.ndarray] | None = None,
    ) -> list[np.ndarray]:
        """Generate an image, uint8 (H, W, 3), for each prompt, seed, sketch and color map.

        All are generated as one batch, in the order of `seeds`; by models that are given texts, one
        by one, for in batches their prompts would be padded.
        prompts: token ids without BOS and EOS, or texts, see `prompts` of the class; the preset's
            suffix is appended here.
        seeds: non-negative integers below 2**63; each stands for its own initial noise.
        height, width: pixels, multiples of the model's scale (8; `tiny` 16).
        sketches: uint8 (H, W) of that size, 255 = edge; None: no sketch.
        colors: uint8 RGB, each a color map (H/8, W/8, 3) or a base (H, W, 3); None: no colors. A
            ControlNet that takes colors gets the map, a base's too; every other model starts from
            the colors, by image-to-image of the preset's `color_strength`.

        Raises ValueError for ids, sizes or seeds that the model cannot take, and for whatever the
        model raises.
        """
        scale = self._text_pipeline.vae_scale_factor * self.family.patch
        check_sizes(scale, height, width, sketches, colors)
        if not seeds:
            raise ValueError("no seed: each image needs one")
        with self._lean(), one_error(f"preset {self.preset.name}", PresetError, UnavailableError):
            images = self._images(prompts, seeds, height, width, sketches, colors)
        # Rounded on the device, which has less to do than to send floats.
        pixels = images.permute(0, 2, 3, 1).float().mul(255).round().to(torch.uint8)
        return list(pixels.contiguous().cpu().numpy())

    def _images(self, prompts, seeds, height: int, width: int, sketches, colors) -> torch.Tensor:
        """Return what `generate_each` does as (N, 3, H, W) in 0..1 on the device."""
        if self.prompts == "ids":
            return self._batch(prompts, seeds, height, width, sketches, colors)
        images = []
        for row, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
            sketch, color = (each and each[row : row + 1] for each in (sketches, colors))
            images.append(self._batch([prompt], [seed], height, width, sketch, color))
        return torch.cat(images)

    def _batch(self, prompts, seeds, height: int, width: int, sketches, colors) -> torch.Tensor:
        """Return images that are generated together."""
        row, family = self.preset, self.family
        noise = self._noise(seeds, height, width)
        maps = None if colors is None else [color_map(color, height, width) for color in colors]
        control = control_tensors(sketches, row.control, maps, family.signed)
        settings = self._prompts.settings(prompts, row.suffix, row.negative_prompt, row.guidance)
        settings |= {"num_inference_steps": row.steps, family.guidance: row.guidance}
        settings["output_type"] = "pt"
        from_colors = colors is not None and not takes_color(row.control)
        clean = None
        if from_colors:
            clean = from_pictures(self._text_pipeline, colors, height, width, family.upcast)
            clean = clean.to(self.device, self.dtype)
        if clean is not None and family.from_colors:
            return self._generate_from(clean, noise, control, settings).images
        if clean is not None:
            schedule = self._pipeline(control is not None).scheduler
            given = clean, noise, row.steps, row.color_strength, family.patch
            settings["sigmas"], noise = started(schedule, *given)
        latents = packed(noise) if family.packed else noise
        settings |= {"latents": latents, "height": height, "width": width}
        if control is not None:
            settings |= control_settings(row, control, self._use.image)
        return self._pipeline(control is not None)(**settings).images

    def _noise(self, seeds: Sequence[int], height: int, width: int) -> torch.Tensor:
        """Return the initial noise of all seeds, (N, C, h, w) in latent pixels."""
        noise = [initial_noise(seed, *self.latents_size(height, width)) for seed in seeds]
        # Pipelines that are given texts convert it themselves.
        dtype = self.dtype if self.prompts == "ids" else torch.float32
        return torch.stack(noise).to(self.device, dtype)

    def latents_size(self, height: int, width: int) -> tuple[int, int, int]:
        """Return channels, height and width of the latents of an image."""
        scale = self._text_pipeline.vae_scale_factor
        return self.family.size_of(self._network.config), height // scale, width // scale

    def predict(
        self, noisy: torch.Tensor, timesteps: torch.Tensor, prompts, control: torch.Tensor
    ) -> torch.Tensor:
        """Return what the network with its ControlNet predicts, with gradients: for training.

        noisy: latents (N, C, h, w). timesteps: (N,). prompts: as of `generate_each`, with the
        preset's suffix; None: no prompt. control: (N, C', H', W'), which has all its say. Returns
        (N, C, h, w), or `diffusion.latents.packed` if the family is.
        """
        row = replace(self.preset, control_scale=1.0, control_end=1.0)
        family = self.family
        guidance = family.unguided if family.negative else row.guidance
        whole = [self._prompts.whole(prompt, row.suffix) for prompt in prompts]
        settings = self._prompts.settings(whole, "", "", guidance)
        scale = self._text_pipeline.vae_scale_factor
        settings |= {"height": scale * noisy.shape[2], "width": scale * noisy.shape[3]}
        settings |= {"latents": packed(noisy) if family.packed else noisy}
        settings |= {family.guidance: guidance, **control_settings(row, control, self._use.image)}
        return one_step(self._pipeline(True), timesteps, settings)

    def _generate_from(self, clean: torch.Tensor, noise: torch.Tensor, control, settings: dict):
        """Draw by an image-to-image class."""
        settings = settings | {"strength": self.preset.color_strength}
        if control is not None:
            settings |= control_settings(self.preset, control, "control_image")
        kind = self.family.from_colors if control is None else self._use.from_colors
        pipeline = self._made(from_latents(kind), control is not None)
        return pipeline.generate_from(clean, noise, **settings)

    def identity(self, sketch: bool = False, color: bool = False, naming: str = "written") -> bytes:
        """Return 32 bytes that name all that an image depends on: models and settings.

        They are part of the stream's fingerprint. sketch, color: whether the stream has them; a
        ControlNet that gets one of them is included, with its sampler. naming: which of `Names`.
        """
        row = self.preset
        parts = [
            getattr(self._names, naming),
            row.steps,
            row.guidance,
            row.suffix,
            row.negative_prompt,
            row.color_strength,
        ]
        if sketch or (color and takes_color(row.control)):
            parts += [getattr(self._controlnet[0], naming), row.control, row.control_scale]
            parts += [row.sketch_sampler, *later_settings(row)]
            parts += [getattr(names, naming) for names, _ in self._more_controlnets]
        else:
            parts += [row.sampler]
        if row.quantize:
            parts += [f"quantize {row.quantize}"]
        return hashlib.sha256(repr(parts).encode()).digest()

    def _load(self, load: Callable, sources: Sequence[str], what: str):
        """Return what `load` makes of the first available source. Raises UnavailableError."""
        name = self.preset.name
        with self._lean():
            return from_mirrors(load, sources, f"preset {name}: {what}", cure(name))

    @quietly(*LIBRARIES)
    def _load_pipeline(self, source: str, revision: str | None, local_files_only: bool):
        where = source, revision, local_files_only
        half = self.device.type == "cuda"
        pipeline = load_pipeline(*where, half, self.preset.name)
        family = family_of_pipeline(pipeline)
        self.dtype = getattr(torch, family.dtype) if half else torch.float32
        pipeline.to(self.dtype)
        large = [getattr(pipeline, part) for part in (family.network, *family.encoders)]
        self.turns = make_turns(self.execution.memory, self.device, [*large, pipeline.vae])
        quantize(large, self.preset)
        pipeline.to(self._home)
        without_chance(pipeline.vae)
        self._prepare(getattr(pipeline, family.network))
        check_samplers(self.preset, family)
        with_sampler(pipeline, self.preset.sampler, self.preset.name)
        models = {part: getattr(pipeline, part) for part in family.models}
        return Names(source, revision, self.preset.generator, models), pipeline

    @quietly(*LIBRARIES)
    def _load_controlnet(self, source: str, revision: str | None, local_files_only: bool):
        where = source, revision, local_files_only
        model = load_controlnet(*where, self.preset.name, self._text_pipeline)
        model.to(self.dtype, memory_format=torch.channels_last)
        quantize([model], self.preset)
        self._prepare(model.to(self._home))
        names = Names(source, revision, self.preset.controlnet, {"controlnet": model})
        return names, model

    @property
    def _home(self) -> torch.device:
        """Where models are loaded to."""
        return torch.device("cpu") if self.turns else self.device

    def _prepare(self, model: diffusers.ModelMixin) -> None:
        """Make UNet or ControlNet, which work together at every step, run as asked for."""
        if self.execution.attention == "xformers":
            model.enable_xformers_memory_efficient_attention()
        if self.execution.compile:  # imports torch._dynamo, which takes seconds
            model.compile(backend=self.execution.compile, dynamic=False)
        if self.turns:
            self.turns.add("unet", model)

    @cached_property
    def _controlnet(self) -> tuple[Names, diffusers.ModelMixin]:
        """Return its names and the model. Raises PresetError if it takes other channels."""
        row = self.preset
        names, model = self._load(self._load_controlnet, row.controlnet, "ControlNet")
        given = control_channels(row.control)
        channels = model.config.get("conditioning_channels", given)
        if given != channels:
            raise PresetError(
                f"preset {row.name}: the ControlNet {names.source} takes {channels} channels, "
                f'but control "{row.control}" gives {given}: change one of the two'
            )
        made(row.sketch_sampler, self._text_pipeline.scheduler, row.name)  # before the first image
        return names, model

    @cached_property
    def _more_controlnets(self) -> list[tuple[Names, diffusers.ModelMixin]]:
        """Return those that get the same control image. Raises PresetError if only one may be."""
        more = self.preset.more_controlnets
        if more and not self._use.several:
            name = type(self._controlnet[1]).__name__
            raise PresetError(f"preset {self.preset.name}: there can be only one {name}")
        return [self._load(self._load_controlnet, [one], "ControlNet") for one in more]

    @property
    def _use(self) -> Control:
        """How the ControlNet is used."""
        return self.family.controls[type(self._controlnet[1]).__name__]

    def _pipeline(self, controlled: bool):
        """Return the pipeline that starts from noise, with or without a ControlNet."""
        if not controlled:
            return self._text_pipeline
        return self._made(getattr(diffusers, self._use.pipeline), True)

    def _made(self, kind: type, controlled: bool):
        """Return the pipeline of a class of diffusers, made once of the loaded models."""
        if kind not in self._pipelines:
            models = taken(kind, self._text_pipeline.components)
            sampler = self.preset.sampler
            if controlled:
                several = [model for _, model in (self._controlnet, *self._more_controlnets)]
                models["controlnet"] = several if len(several) > 1 else several[0]
                sampler = self.preset.sketch_sampler
            off = taken(kind, {"requires_safety_checker": False, "add_watermarker": False})
            pipeline = with_sampler(kind(**models, **off), sampler, self.preset.name)
            # control_tensor gives what the ControlNet reads, in its own size: nothing to convert.
            plain = VaeImageProcessor(do_resize=False, do_convert_rgb=False, do_normalize=False)
            pipeline.control_image_processor = plain
            self._pipelines[kind] = pipeline
        return self._pipelines[kind]

    @property
    def pipeline(self):
        """The pipeline without a ControlNet."""
        return self._text_pipeline

    @property
    def controlnet(self) -> diffusers.ModelMixin:
        """The ControlNet. Raises as the class."""
        return self._controlnet[1]

    @property
    def _network(self):
        """The network that runs at every step."""
        return getattr(self._text_pipeline, self.family.network)

    @property
    def parameters(self) -> int:
        """The number of weights of the network that runs at every step."""
        return self._network.num_parameters()

    @property
    def longest_prompt(self) -> int:
        """The most ids that fit beside the preset's suffix and what the model adds."""
        return self._prompts.longest(self.preset.suffix)

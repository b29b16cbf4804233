"""The text-to-image model of a preset: Stable Diffusion pipelines, controlled by ids and seeds.

    generator = Generator(get_preset("tiny"), "cpu")
    images = generator.generate(prompt_ids, seeds=[0, 1], height=256, width=384)

An image depends on what is given here and on no global random generator: the prompt's ids, the
sketch, the color map, the seed's noise, and the preset's steps, guidance and samplers.
"""

import hashlib
import inspect
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cached_property

import numpy as np
import torch
from PIL import Image

from common.weights import UnavailableError, from_mirrors
from diffusion.content import Names
from diffusion.control import (
    COLOR_SCALE,
    color_map,
    control_channels,
    control_tensor,
    takes_color,
)
from diffusion.execution import PLAIN, Execution
from diffusion.image_to_image import ControlFromLatents, TextFromLatents
from diffusion.library import (
    CLIPTokenizer,
    ControlNetModel,
    SchedulerMixin,
    StableDiffusionControlNetPipeline,
    VaeImageProcessor,
    diffusers,
    retrieve_latents,
)
from diffusion.loading import LIBRARIES, load_controlnet, load_pipeline
from presets import Preset, PresetError, cure
from pretrained.libraries import lean
from pretrained.model_folders import one_error, quietly

NAMED_PARTS = ("unet", "vae", "text_encoder", "scheduler")


def initial_noise(seed: int, channels: int, height: int, width: int) -> torch.Tensor:
    """Return the noise that a seed stands for, standard normal float32 (C, H, W) in latent pixels.

    It is sampled on the CPU by a random generator of its own, so that a seed means the same image
    on every device and in every batch, and rounded to multiples of 2**-16, because the last bits
    depend on the processor.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    normal = torch.randn(channels, height, width, generator=generator, dtype=torch.float64)
    return normal.mul(2**16).round().div(2**16).float()


def framed(ids: Sequence[int], tokenizer: CLIPTokenizer, length: int) -> list[int]:
    """Return the input of the text encoder, `length` ids: BOS, the prompt's, EOS, padding."""
    padding = [tokenizer.pad_token_id] * (length - 2 - len(ids))
    return [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id, *padding]


class Generator:
    """A text-to-image model; its ControlNet is loaded with the first sketch.

    `tokenizer` is the model's own, `vocab_size` the number of its tokens: ids are below it. `turns`
    are those of its models on the device if they cannot all be there, otherwise None.

    Raises UnavailableError if a model is not available, PresetError if the ControlNet does not
    take the preset's control image.
    """

    def __init__(self, preset: Preset, device: str | torch.device, execution: Execution = PLAIN):
        self.preset = preset
        self.device = torch.device(device)
        self.execution = execution
        # Without what is not needed; the compiler is, if it is asked for.
        self._lean = nullcontext if execution.compile else lean
        self.turns = self._make_turns()
        self.dtype = torch.float16 if self.device.type == "cuda" else torch.float32
        self._names, self._text_pipeline = self._load(
            self._load_pipeline, preset.generator, "text-to-image model"
        )
        self.tokenizer = self._text_pipeline.tokenizer
        self.vocab_size = len(self.tokenizer)
        self._pipelines = {}
        if self.turns:
            self.turns.add("text encoder", self._text_pipeline.text_encoder)
            self.turns.add("vae", self._text_pipeline.vae)

    def generate(
        self,
        prompt_ids: Sequence[int],
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
        return self.generate_each([prompt_ids] * count, seeds, height, width, sketches, colors)

    def generate_each(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        height: int,
        width: int,
        sketches: Sequence[np.ndarray] | None = None,
        colors: Sequence[np.ndarray] | None = None,
    ) -> list[np.ndarray]:
        """Generate an image, uint8 (H, W, 3), for each prompt, seed, sketch and color map.

        All are generated as one batch, in the order of `seeds`.
        prompts: token ids without BOS and EOS; the preset's suffix is appended here.
        seeds: non-negative integers below 2**63; each stands for its own initial noise.
        height, width: pixels, multiples of the model's scale (8; `tiny` 16).
        sketches: uint8 (H, W) of that size, 255 = edge; None: no sketch.
        colors: uint8 RGB, each a color map (H/8, W/8, 3) or a base (H, W, 3); None: no colors. A
            ControlNet that takes colors gets the map, a base's too; every other model starts from
            the colors, by image-to-image of the preset's `color_strength`.

        Raises ValueError for ids, sizes or seeds that the model cannot take, and for whatever the
        model raises.
        """
        self._check(seeds, height, width, sketches, colors)
        with self._lean(), one_error(f"preset {self.preset.name}", PresetError, UnavailableError):
            images = self._images(prompts, seeds, height, width, sketches, colors)
        # Rounded on the device, which has less to do than to send floats.
        pixels = images.permute(0, 2, 3, 1).float().mul(255).round().to(torch.uint8)
        return list(pixels.contiguous().cpu().numpy())

    def _images(self, prompts, seeds, height: int, width: int, sketches, colors) -> torch.Tensor:
        """Return what `generate_each` does as (N, 3, H, W) in 0..1 on the device."""
        noise = self._noise(seeds, height, width)
        maps = None if colors is None else [color_map(color, height, width) for color in colors]
        control = self._control(sketches, maps)
        settings = self._settings(prompts, control is not None)
        if colors is not None and not takes_color(self.preset.control):
            latents = [self._encode_color(color, height, width) for color in colors]
            output = self._generate_from(torch.cat(latents), noise, control, settings)
        else:
            settings |= {"latents": noise, "height": height, "width": width}
            output = self._generate_from_noise(control, settings)
        return output.images

    def _check(self, seeds, height: int, width: int, sketches, colors) -> None:
        """Raise ValueError for sizes that the model cannot take or that do not agree."""
        scale = self._text_pipeline.vae_scale_factor
        if height % scale or width % scale or min(height, width) < scale:
            raise ValueError(f"cannot generate {height}x{width}: both must be multiples of {scale}")
        size = f"{height}x{width}"
        for sketch in sketches or ():
            if sketch.shape != (height, width):
                raise ValueError(f"sketch of shape {sketch.shape} for an image of {size}")
        small = (height // COLOR_SCALE, width // COLOR_SCALE, 3)
        for color in colors or ():
            if color.shape not in (small, (height, width, 3)):
                raise ValueError(f"color map of shape {color.shape} for an image of {size}")
        if not seeds:
            raise ValueError("no seed: each image needs one")

    def _noise(self, seeds: Sequence[int], height: int, width: int) -> torch.Tensor:
        """Return the initial noise of all seeds, (N, C, h, w) in latent pixels."""
        scale = self._text_pipeline.vae_scale_factor
        channels = self._text_pipeline.unet.config.in_channels
        noise = [initial_noise(seed, channels, height // scale, width // scale) for seed in seeds]
        return torch.stack(noise).to(self.device, self.dtype)

    def _control(self, sketches, colors) -> torch.Tensor | None:
        """Return the control images, (N, C, h, w), or None if there is nothing to show."""
        control = self.preset.control
        if not takes_color(control):
            colors = None
        if sketches is None and colors is None:
            return None
        count = len(colors if sketches is None else sketches)
        pairs = zip(sketches or [None] * count, colors or [None] * count, strict=True)
        return torch.cat([control_tensor(sketch, control, color) for sketch, color in pairs])

    def _settings(self, prompts: Sequence[Sequence[int]], controlled: bool) -> dict:
        """Return the arguments that all pipelines take."""
        settings = self._text_conditions(prompts)
        settings["num_inference_steps"] = self.preset.steps
        settings["guidance_scale"] = self.preset.guidance
        settings["output_type"] = "pt"
        if controlled:
            settings["controlnet_conditioning_scale"] = self.preset.control_scale
        return settings

    def _generate_from_noise(self, control: torch.Tensor | None, settings: dict):
        if control is None:
            return self._text_pipeline(**settings)
        pipeline = self._pipeline(StableDiffusionControlNetPipeline)
        return pipeline(image=control, **settings)

    def _generate_from(
        self,
        latents: torch.Tensor,
        noise: torch.Tensor,
        control: torch.Tensor | None,
        settings: dict,
    ):
        settings = settings | {"strength": self.preset.color_strength}
        if control is None:
            return self._pipeline(TextFromLatents).generate_from(latents, noise, **settings)
        pipeline = self._pipeline(ControlFromLatents)
        return pipeline.generate_from(latents, noise, control_image=control, **settings)

    @torch.no_grad()
    def _encode_color(self, color: np.ndarray, height: int, width: int) -> torch.Tensor:
        """Return the latents (1, C, h, w) of an enlarged color map, or of a base: the mode."""
        large = Image.fromarray(color).resize((width, height), Image.Resampling.BICUBIC)
        vae = self._text_pipeline.vae
        pixels = self._text_pipeline.image_processor.preprocess(large).to(self.device, self.dtype)
        latents = retrieve_latents(vae.encode(pixels), sample_mode="argmax")
        return latents * vae.config.scaling_factor

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
            parts += [getattr(self._controlnet[0], naming), row.control]
            parts += [row.control_scale, row.sketch_sampler]
        else:
            parts += [row.sampler]
        return hashlib.sha256(repr(parts).encode()).digest()

    def _load(self, load: Callable, sources: Sequence[str], what: str):
        """Return what `load` makes of the first available source. Raises UnavailableError."""
        name = self.preset.name
        with self._lean():
            return from_mirrors(load, sources, f"preset {name}: {what}", cure(name))

    @quietly(*LIBRARIES)
    def _load_pipeline(self, source: str, revision: str | None, local_files_only: bool):
        where = source, revision, local_files_only
        pipeline = load_pipeline(*where, self.device.type == "cuda", self.preset.name)
        pipeline.to(self._home, self.dtype)
        if self.device.type == "cuda":  # on a CPU sums would be rounded otherwise than before
            pipeline.vae.to(memory_format=torch.channels_last)
        self._prepare(pipeline.unet)
        pipeline = self._with_sampler(pipeline, self.preset.sampler)
        models = {part: getattr(pipeline, part) for part in NAMED_PARTS}
        return Names(source, revision, self.preset.generator, models), pipeline

    @quietly(*LIBRARIES)
    def _load_controlnet(self, source: str, revision: str | None, local_files_only: bool):
        model = load_controlnet(source, revision, local_files_only, self.preset.name)
        model.to(self._home, self.dtype, memory_format=torch.channels_last)
        self._prepare(model)
        names = Names(source, revision, self.preset.controlnet, {"controlnet": model})
        return names, model

    def _make_turns(self):
        if self.execution.memory != "low":
            return None
        from diffusion.turns import Turns

        return Turns(self.device)

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
    def _controlnet(self) -> tuple[Names, ControlNetModel]:
        """Return its names and the model. Raises PresetError if it takes other channels."""
        row = self.preset
        names, model = self._load(self._load_controlnet, row.controlnet, "ControlNet")
        given = control_channels(row.control)
        taken = model.config.conditioning_channels
        if given != taken:
            raise PresetError(
                f"preset {row.name}: the ControlNet {names.source} takes {taken} channels, "
                f'but control "{row.control}" gives {given}: change one of the two'
            )
        self._sampler(row.sketch_sampler)  # before the first image
        return names, model

    def _pipeline(self, kind: type):
        """Return the pipeline of a class of diffusers, made once of the loaded models."""
        if kind not in self._pipelines:
            models = dict(self._text_pipeline.components)
            sampler = self.preset.sampler
            if "controlnet" in inspect.signature(kind.__init__).parameters:
                models["controlnet"] = self._controlnet[1]
                sampler = self.preset.sketch_sampler
            pipeline = self._with_sampler(kind(**models, requires_safety_checker=False), sampler)
            # control_tensor gives what the ControlNet reads, in its own size: nothing to convert.
            plain = VaeImageProcessor(do_resize=False, do_convert_rgb=False, do_normalize=False)
            pipeline.control_image_processor = plain
            self._pipelines[kind] = pipeline
        return self._pipelines[kind]

    def _with_sampler(self, pipeline, name: str):
        pipeline.scheduler = self._sampler(name, pipeline.scheduler)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def _sampler(self, name: str, like=None) -> SchedulerMixin:
        """Return a sampler with the settings of the model's own.

        Raises PresetError if diffusers, in this version, has none of that name or needs a package
        for it, or if it does not take the settings.
        """
        like = like or self._text_pipeline.scheduler
        try:
            with self._lean():
                return getattr(diffusers, name).from_config(like.config)
        except Exception as error:  # they are a stranger's settings
            reason = " ".join(str(error).split())
            what = f"preset {self.preset.name}: sampler {name}"
            raise PresetError(f"{what}: {type(error).__name__}: {reason}") from error

    def _text_conditions(self, prompts: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
        """Return the text embeddings (N, L, D) of the prompts and of the negative prompt."""
        embedded = {}  # each prompt once and alone: in a batch it would be rounded otherwise
        for ids in map(tuple, prompts):
            if ids not in embedded:
                embedded[ids] = self._embed([*ids, *self._ids(self.preset.suffix)])
        conditions = {"prompt_embeds": torch.cat([embedded[tuple(ids)] for ids in prompts])}
        if self.preset.guidance > 1:
            negative = self._negative_embeds.expand(len(prompts), -1, -1)
            conditions["negative_prompt_embeds"] = negative
        return conditions

    @cached_property
    def _negative_embeds(self) -> torch.Tensor:
        return self._embed(self._ids(self.preset.negative_prompt))

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    @property
    def parameters(self) -> int:
        """The number of weights of the network that runs at every step."""
        return self._text_pipeline.unet.num_parameters()

    @property
    def longest_prompt(self) -> int:
        """The most ids that fit beside BOS, EOS and the preset's suffix."""
        return self._text_length - 2 - len(self._ids(self.preset.suffix))

    @property
    def _text_length(self) -> int:
        config = self._text_pipeline.text_encoder.config
        return min(self.tokenizer.model_max_length, config.max_position_embeddings)

    @torch.no_grad()
    def _embed(self, ids: Sequence[int]) -> torch.Tensor:
        """Return the text encoder's last hidden state, (1, L, D), for ids without BOS and EOS."""
        length = self._text_length
        if len(ids) + 2 > length:
            raise ValueError(
                f"prompt and suffix have {len(ids)} tokens; {length - 2} fit this text encoder"
            )
        if ids and not 0 <= min(ids) <= max(ids) < self.vocab_size:
            raise ValueError(
                f"token ids from {min(ids)} to {max(ids)}; the vocabulary has {self.vocab_size}"
            )
        row = torch.tensor([framed(ids, self.tokenizer, length)], device=self.device)
        return self._text_pipeline.text_encoder(row).last_hidden_state

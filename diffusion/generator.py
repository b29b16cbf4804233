"""The text-to-image model of a preset: diffusers' Stable Diffusion pipelines, fed by ids and seeds.

    generator = Generator(get_preset("tiny"), "cpu")
    pictures = generator.generate(prompt_ids, seeds=[0, 1], height=256, width=384)

What a picture depends on is spelled out here and nowhere drawn from a global generator: the prompt's
ids, the sketch, the colour map, the seed's noise, and the preset's steps, guidance and samplers.
"""

import hashlib
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import diffusers
import numpy as np
import torch
import transformers
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img import retrieve_latents
from diffusers.utils import logging as diffusers_logging
from PIL import Image
from transformers.utils import logging as transformers_logging

from presets import Preset, PresetError, from_mirrors

from .control import COLOUR_SCALE, control_channels, control_tensor, takes_colour

HASHED_BYTES = 200_000_000  # larger folders are named by their files' names and sizes


def initial_noise(seed: int, channels: int, height: int, width: int) -> torch.Tensor:
    """What the drawing of `seed` starts from: float32 CxHxW (latent size), standard normal.

    Always drawn on the CPU from a generator of its own, so that a seed means the same picture on every
    device and in every batch. Rounded to multiples of 2^-16: the last places depend on the processor.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    normal = torch.randn(channels, height, width, generator=generator, dtype=torch.float64)
    return normal.mul(2**16).round().div(2**16).float()


def framed(ids: Sequence[int], tokenizer: transformers.CLIPTokenizer, length: int) -> list[int]:
    """What the text encoder reads: BOS + ids + EOS + padding, `length` in all."""
    padding = [tokenizer.pad_token_id] * (length - 2 - len(ids))
    return [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id, *padding]


@contextmanager
def _quietly() -> Iterator[None]:
    """No progress bars and warnings while a checkpoint is loaded: what matters is checked here."""
    libraries = (diffusers_logging, transformers_logging)
    levels = [logging.get_verbosity() for logging in libraries]
    for logging in libraries:
        logging.disable_progress_bar()
        logging.set_verbosity_error()
    try:
        yield
    finally:
        for logging, level in zip(libraries, levels, strict=True):
            logging.set_verbosity(level)


class _FromLatents:
    """Image-to-image from given latents and given noise, both of which the stock pipelines would draw at random."""

    def draw_from(self, start: torch.Tensor, noise: torch.Tensor, **settings):
        """Call the pipeline with latents (N, C, h, w) to start from and noise of that shape."""
        self._start, self._noise = start, noise
        return self(image=start, **settings)

    def prepare_latents(self, image, timestep, *_, **__) -> torch.Tensor:
        """What diffusers calls for its start: the latents at the noise level of the first timestep."""
        return self.scheduler.add_noise(self._start, self._noise, timestep)


class _TextFromLatents(_FromLatents, diffusers.StableDiffusionImg2ImgPipeline):
    pass


class _SketchFromLatents(_FromLatents, diffusers.StableDiffusionControlNetImg2ImgPipeline):
    pass


class Generator:
    """A text-to-image model, and the ControlNet for sketches once one is drawn.

    `tokenizer` is the model's own; `vocabulary` the number of its words, ids are below it.
    """

    def __init__(self, preset: Preset, device: str | torch.device):
        self.preset = preset
        self.device = torch.device(device)
        self.dtype = torch.float16 if self.device.type == "cuda" else torch.float32
        self._source, self._text_pipeline = from_mirrors(
            self._load_pipeline, preset.generator, "text-to-image model", preset.name
        )
        self.tokenizer = self._text_pipeline.tokenizer
        self.vocabulary = len(self.tokenizer)
        self._pipelines = {}

    def generate(
        self,
        prompt_ids: Sequence[int],
        seeds: Sequence[int],
        height: int,
        width: int,
        sketch: np.ndarray | None = None,
        colour: np.ndarray | None = None,
    ) -> list[np.ndarray]:
        """One picture for each seed, drawn together as one batch; otherwise as `generate_each`."""
        count = len(seeds)
        sketches, colours = (None if plane is None else [plane] * count for plane in (sketch, colour))
        return self.generate_each([prompt_ids] * count, seeds, height, width, sketches, colours)

    def generate_each(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        height: int,
        width: int,
        sketches: Sequence[np.ndarray] | None = None,
        colours: Sequence[np.ndarray] | None = None,
    ) -> list[np.ndarray]:
        """One picture for each prompt with its seed, its sketch and its colour map, drawn together as one batch.

        prompts: token ids without BOS and EOS; the preset's suffix is appended here.
        seeds: non-negative integers below 2**63; each names its own initial noise.
        height, width: pixels, multiples of the model's scale (8; `tiny` 16).
        sketches: uint8 HxW of that size, 255 = edge; None draws without.
        colours: uint8 H/8xW/8x3 RGB; None draws without. A ControlNet that takes colour is shown it; every other model
            starts from it, by image-to-image of the preset's `colour_strength`.
        Returns uint8 HxWx3 pictures in the order of `seeds`.

        Raises ValueError for ids, sizes or seeds that the model cannot take.
        """
        self._check(seeds, height, width, sketches, colours)
        row, size = self.preset, {"height": height, "width": width}
        noise, control = self._noise(seeds, height, width), self._control(sketches, colours)
        settings = self._text_conditions(prompts) | {"num_inference_steps": row.steps, "guidance_scale": row.guidance}
        if control is not None:
            settings["controlnet_conditioning_scale"] = row.control_scale
        if colours is not None and not takes_colour(row.control):
            start = torch.cat([self._encoded(colour, height, width) for colour in colours])
            drawn = self._draw_from(start, noise, control, strength=row.colour_strength, **settings, output_type="np")
        elif control is None:
            drawn = self._text_pipeline(latents=noise, **size, **settings, output_type="np")
        else:
            pipeline = self._pipeline(diffusers.StableDiffusionControlNetPipeline)
            drawn = pipeline(image=control, latents=noise, **size, **settings, output_type="np")
        return list((drawn.images * 255).round().astype(np.uint8))

    def _check(self, seeds, height: int, width: int, sketches, colours) -> None:
        """Raise ValueError for sizes that the model cannot take or that do not agree."""
        scale = self._text_pipeline.vae_scale_factor
        if height % scale or width % scale or min(height, width) < scale:
            raise ValueError(f"cannot draw {height}x{width}: both must be multiples of {scale}")
        for sketch in sketches or ():
            if sketch.shape != (height, width):
                raise ValueError(f"sketch of shape {sketch.shape} for a picture of {height}x{width}")
        for colour in colours or ():
            if colour.shape != (height // COLOUR_SCALE, width // COLOUR_SCALE, 3):
                raise ValueError(f"colour map of shape {colour.shape} for a picture of {height}x{width}")
        if not seeds:
            raise ValueError("no seed: each picture needs one")

    def _noise(self, seeds: Sequence[int], height: int, width: int) -> torch.Tensor:
        scale, channels = self._text_pipeline.vae_scale_factor, self._text_pipeline.unet.config.in_channels
        noise = [initial_noise(seed, channels, height // scale, width // scale) for seed in seeds]
        return torch.stack(noise).to(self.device, self.dtype)

    def _control(self, sketches, colours) -> torch.Tensor | None:
        """The ControlNet's input for each picture, None where it is shown nothing."""
        colours = colours if takes_colour(self.preset.control) else None
        if sketches is None and colours is None:
            return None
        count = len(colours if sketches is None else sketches)
        pairs = zip(sketches or [None] * count, colours or [None] * count, strict=True)
        return torch.cat([control_tensor(sketch, self.preset.control, colour) for sketch, colour in pairs])

    @torch.no_grad()
    def _encoded(self, colour: np.ndarray, height: int, width: int) -> torch.Tensor:
        """The latents 1xCxhxw of an enlarged colour map, without the encoder's own noise."""
        large = Image.fromarray(colour).resize((width, height), Image.Resampling.BICUBIC)
        vae = self._text_pipeline.vae
        pixels = self._text_pipeline.image_processor.preprocess(large).to(self.device, self.dtype)
        return retrieve_latents(vae.encode(pixels), sample_mode="argmax") * vae.config.scaling_factor

    def _draw_from(self, start: torch.Tensor, noise: torch.Tensor, control: torch.Tensor | None, **settings):
        if control is None:
            return self._pipeline(_TextFromLatents).draw_from(start, noise, **settings)
        return self._pipeline(_SketchFromLatents).draw_from(start, noise, control_image=control, **settings)

    def identity(self, sketch: bool = False, colour: bool = False) -> bytes:
        """32 bytes that name what a drawing depends on: models and settings, for the stream's fingerprint.

        A local folder is named by its files, a model of the hub by the first id of its row, since
        mirrors hold the same weights. Where the ControlNet is shown something, it and its sampler are included.
        """
        row = self.preset
        parts = [self._model_name, row.steps, row.guidance, row.suffix, row.negative_prompt, row.colour_strength]
        if sketch or (colour and takes_colour(row.control)):
            parts += [self._controlnet_name, row.control, row.control_scale, row.sketch_sampler]
        else:
            parts += [row.sampler]
        return hashlib.sha256(repr(parts).encode()).digest()

    @cached_property
    def _model_name(self) -> str:
        return _name_source(self._source, self.preset.generator)

    @cached_property
    def _controlnet_name(self) -> str:
        return _name_source(self._controlnet[0], self.preset.controlnet)

    @_quietly()
    def _load_pipeline(self, source: str, revision: str | None):
        # transformers fills what a file lacks with random numbers and only reports it
        encoder, report = transformers.CLIPTextModel.from_pretrained(
            source,
            subfolder="text_encoder",
            revision=revision,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
        _refuse("text encoder", [*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])])
        pipeline = diffusers.StableDiffusionPipeline.from_pretrained(
            source,
            revision=revision,
            text_encoder=encoder,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
            low_cpu_mem_usage=True,
        )
        for name in ("unet", "vae"):
            _refuse(name, _without_data(getattr(pipeline, name)))
        pipeline.vae.enable_slicing()  # a picture at a time: memory, and the same result in any batch
        pipeline.unet.to(memory_format=torch.channels_last)  # the convolutions' own layout: a fifth less time
        return source, self._with_sampler(pipeline.to(self.device, self.dtype), self.preset.sampler)

    @_quietly()
    def _load_controlnet(self, source: str, revision: str | None):
        model = diffusers.ControlNetModel.from_pretrained(source, revision=revision, low_cpu_mem_usage=True)
        _refuse("network", _without_data(model))
        return source, model.to(self.device, self.dtype, memory_format=torch.channels_last)

    @cached_property
    def _controlnet(self):
        row = self.preset
        source, model = from_mirrors(self._load_controlnet, row.controlnet, "ControlNet", row.name)
        given, taken = control_channels(row.control), model.config.conditioning_channels
        if given != taken:
            raise PresetError(
                f"preset {row.name}: the ControlNet {source} takes {taken} channels, "
                f'but control "{row.control}" gives {given}: change one of the two'
            )
        return source, model

    def _pipeline(self, kind: type):
        """The pipeline of a class of diffusers, made of the models at hand, once."""
        if kind not in self._pipelines:
            parts, sampler = dict(self._text_pipeline.components), self.preset.sampler
            if "controlnet" in inspect.signature(kind.__init__).parameters:
                parts["controlnet"], sampler = self._controlnet[1], self.preset.sketch_sampler
            pipeline = self._with_sampler(kind(**parts, requires_safety_checker=False), sampler)
            # control_tensor gives what the ControlNet reads, in its own size; nothing is left to convert.
            plain = VaeImageProcessor(do_resize=False, do_convert_rgb=False, do_normalize=False)
            pipeline.control_image_processor = plain
            self._pipelines[kind] = pipeline
        return self._pipelines[kind]

    @staticmethod
    def _with_sampler(pipeline, sampler: str):
        pipeline.scheduler = getattr(diffusers, sampler).from_config(pipeline.scheduler.config)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def _text_conditions(self, prompts: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
        embedded = {}  # each prompt once and by itself: others beside it would change its rounding
        for ids in map(tuple, prompts):
            if ids not in embedded:
                embedded[ids] = self._embed([*ids, *self._ids(self.preset.suffix)])
        conditions = {"prompt_embeds": torch.cat([embedded[tuple(ids)] for ids in prompts])}
        if self.preset.guidance > 1:
            conditions["negative_prompt_embeds"] = self._negative_embeds.expand(len(prompts), -1, -1)
        return conditions

    @cached_property
    def _negative_embeds(self) -> torch.Tensor:
        return self._embed(self._ids(self.preset.negative_prompt))

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    @property
    def parameters(self) -> int:
        """The number of weights of the network that is run at every step."""
        return self._text_pipeline.unet.num_parameters()

    @property
    def longest_prompt(self) -> int:
        """The most ids that fit beside BOS, EOS and the preset's suffix."""
        return self._text_length - 2 - len(self._ids(self.preset.suffix))

    @property
    def _text_length(self) -> int:
        return min(self.tokenizer.model_max_length, self._text_pipeline.text_encoder.config.max_position_embeddings)

    @torch.no_grad()
    def _embed(self, ids: Sequence[int]) -> torch.Tensor:
        """1xLxD: the text encoder's last hidden state for BOS + ids + EOS + padding to its length L."""
        encoder, tokenizer, length = self._text_pipeline.text_encoder, self.tokenizer, self._text_length
        if len(ids) + 2 > length:
            raise ValueError(f"prompt and suffix have {len(ids)} tokens; {length - 2} fit this text encoder")
        if any(not 0 <= word < self.vocabulary for word in ids):
            raise ValueError(f"token ids from {min(ids)} to {max(ids)}; the vocabulary is {self.vocabulary}")
        row = framed(ids, tokenizer, length)
        return encoder(torch.tensor([row], device=self.device)).last_hidden_state


def _without_data(model: torch.nn.Module) -> list[str]:
    """diffusers leaves a weight that its file does not hold on the "meta" device."""
    return [name for name, weight in model.named_parameters() if weight.is_meta]


def _refuse(part: str, missing: Sequence[str]) -> None:
    if missing:
        names = ", ".join(sorted(missing)[:3])
        raise ValueError(f"its {part} lacks {len(missing)} weights or has them in other shapes: {names}")


def _name_source(source: str, sources: Sequence[str]) -> str:
    folder = Path(source)
    if not folder.exists():
        return next(other for other in sources if not Path(other).exists())
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [path.relative_to(folder).as_posix() for path in files]
    whole = sum(path.stat().st_size for path in files) < HASHED_BYTES
    digest = hashlib.sha256()
    for name, path in zip(names, files, strict=True):
        if any(part.startswith(".") for part in name.split("/")):
            continue  # download caches and the desktop's own files
        content = path.read_bytes() if whole else b""
        digest.update(f"{name}\0{path.stat().st_size}\0".encode() + content)
    return digest.hexdigest()

"""Encoder and Decoder: images <-> bytes, by the codecs of all layers.

    encoder = Encoder(get_preset("tiny"), EncoderConfig(), "cpu")
    data = encoder.encode([image])[0]
    reconstruction = encoder.decoder.decode(data).image

A stream is all that a decoder is given: the prompt, the compressed sketch, the color map or base
layer, and the seed of the noise. Sketch and colors may be absent. The encoder owns a decoder and
asks it for candidates, so that both generate by the same code (docs/design.md).
"""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

import bitstream
import color_codec
from bitstream import Stream
from dataloaders import check_coded, check_sources
from diffusion.candidates import LOSSES, Choice, Chooser, load_score
from diffusion.execution import PLAIN, Execution
from models_ntc.bundled import BASE_FROM, Layers, layers_of
from presets import Preset, objection, refusal
from prompt_inversion.options import PromptOptions
from text_codec.prompt import NO_PROMPT, Prompt, PromptCodec

if TYPE_CHECKING:
    from prompt_inversion.prompter import FoundPrompt

PRESET_BITS = 4  # of the fingerprint
# How the models of a file may be named, the one that is written first (docs/bitstream.md).
NAMINGS = (("written", True), ("content", True), ("earlier", True), ("earlier", False))


class DecodeError(ValueError):
    """An intact stream that these models must not decode; the message says who wrote it."""


@dataclass(frozen=True)
class EncoderConfig:
    """What a user may choose about encoding; None stands for the preset's own value."""

    sketch: bool = True  # PICS; False is PIC, text alone
    lam_sketch: float | str | None = None  # a lambda of the bundled codec, or a codec file
    color_bytes: int | None = None  # maximum size of the color or base layer; 0: neither
    candidates: int | None = None  # number of reconstructions to choose from, the paper's N
    loss: str = "clip"  # one of LOSSES
    together: int = 8  # candidates generated in one batch; bounds memory
    prompt: PromptOptions = field(default_factory=PromptOptions)
    execution: Execution = PLAIN  # of the text-to-image model

    def __post_init__(self):
        if self.loss not in LOSSES:
            raise ValueError(f"unknown loss {self.loss!r}: choose one of {', '.join(LOSSES)}")
        wrong = objection("color_bytes", self.color_bytes or 0)
        if wrong:
            raise ValueError(f"color_bytes is {self.color_bytes}: it must be {wrong}")


class Conditions(NamedTuple):
    """What a stream tells the generator."""

    prompt: Prompt
    sketch: np.ndarray | None  # uint8 (height, width), 255 = edge
    # uint8: a color map (height / 8, width / 8, 3), or the picture of a base (height, width, 3)
    color: np.ndarray | None


@dataclass(frozen=True, eq=False)
class Decoded:
    """A decoded stream and its reconstruction."""

    image: np.ndarray  # uint8 (height, width, 3) at the coded size
    conditions: Conditions
    stream: Stream


@dataclass(frozen=True, eq=False)
class Encoded:
    """One image's stream and what its encoder found on the way."""

    data: bytes  # the file
    prompt: tuple[int, ...]  # token ids
    cosine: float  # CLIP cosine of prompt and image
    sketch: np.ndarray | None  # uint8 (H, W), before coding
    scores: tuple[float, ...]  # of the candidates, higher is better; empty if there was only one


class Decoder:
    """Bytes -> reconstruction, with the models of one preset.

    lam_sketch: a codec file that is not bundled, for streams that were written with one. (A lambda
        is the rate at which `sketch_codec` writes; every rate is read.)

    Raises UnavailableError if a model cannot be had, PresetError if models do not fit together.
    """

    def __init__(
        self,
        preset: Preset,
        device: str = "cpu",
        lam_sketch: float | str | None = None,
        execution: Execution = PLAIN,
    ):
        from diffusion import load_generator

        self.preset, self.device = preset, device
        self.lam_sketch = preset.lam_sketch if lam_sketch is None else lam_sketch
        self.generator = load_generator(preset, device, execution)
        prompts = self.generator.tokenizer, self.generator.longest_prompt
        self._prompt_codecs = {words: PromptCodec(*prompts, words) for words in (True, False)}
        self.prompt_codec = self._prompt_codecs[True]

    @cached_property
    def sketch_codec(self):
        """The sketch codec, loaded when it is first needed."""
        from models_ntc import load_sketch_codec

        return load_sketch_codec(self.lam_sketch, self.device, self.preset.sketch_codec)

    @cached_property
    def base_codec(self):
        """The codec of base layers, loaded when it is first needed."""
        from models_ntc import load_base_codec

        return load_base_codec()

    def decode(self, data: bytes, force: bool = False) -> Decoded:
        """Decode a stream and generate its reconstruction.

        force: decode whichever models wrote the stream. Raises BitstreamError, TextError,
        SketchError, ColorError or BaseError for a broken stream, DecodeError for other models'.
        """
        stream = bitstream.unpack(data)
        conditions = self.conditions(stream, force)
        image = self.generate([conditions], [stream.seed], stream.height, stream.width)[0]
        return Decoded(image, conditions, stream)

    def conditions(self, stream: Stream, force: bool = False) -> Conditions:
        """Decode all layers of a stream. Raises as `decode`."""
        prompt_codec = self._prompt_codec_of(stream, force)
        self._check_sizes(stream, force)
        prompt, sketch, color = NO_PROMPT, None, None
        if stream.text is not None:
            prompt = prompt_codec.decode(stream.text)
            self._check_prompt(prompt)
        if stream.sketch is not None:
            sketch = self.sketch_codec.decode(stream.sketch)
        if stream.color is not None:
            color = color_codec.decode(stream.color, stream.height, stream.width)
        if stream.base is not None:
            color = self.base_codec.decode(stream.base, stream.height, stream.width)
        return Conditions(prompt, sketch, color)

    def generate(
        self, each: Sequence[Conditions], seeds: Sequence[int], height: int, width: int
    ) -> list[np.ndarray]:
        """Generate an image, uint8 (height, width, 3), for each conditions and seed, as one batch.

        All of the conditions have a sketch or none has, and likewise colors.
        """
        prompts = [conditions.prompt.ids for conditions in each]
        sketches = [one.sketch for one in each if one.sketch is not None]
        colors = [one.color for one in each if one.color is not None]
        return self.generator.generate_each(
            prompts, seeds, height, width, sketches or None, colors or None
        )

    def fingerprint(self, layers: Layers, naming: str = "written", words: bool = True) -> int:
        """Return 16 bits that name the preset and the models of a stream with these layers.

        4 bits are the preset's number, 12 are of a hash. naming, words: of files that are decoded
        too, NAMINGS.
        """
        name = hashlib.sha256(self._prompt_codecs[words].digest)
        name.update(self.generator.identity(layers.sketch > 0, layers.color or layers.base, naming))
        name.update(color_codec.identity())
        if layers.sketch:
            name.update(self.sketch_codec.digest_of(layers.sketch))
        if layers.base:
            name.update(self.base_codec.digest)
        return self.preset.number << 12 | int.from_bytes(name.digest()[:2], "big") >> PRESET_BITS

    def _prompt_codec_of(self, stream: Stream, force: bool) -> PromptCodec:
        """Return the codec of a stream's prompt; DecodeError for other models, unless `force`."""
        layers = layers_of(stream)
        before = [layers]
        if layers.sketch:
            before.append(layers._replace(base=True))  # it may have been dropped
        if stream.fingerprint >> 12 == self.preset.number:
            for each, (naming, words) in product(before, NAMINGS):
                if stream.fingerprint == self.fingerprint(each, naming, words):
                    return self._prompt_codecs[words]
        if force:
            return self.prompt_codec
        raise DecodeError(refusal(self.preset, self.fingerprint(layers), stream.fingerprint))

    def _check_sizes(self, stream: Stream, force: bool) -> None:
        """Raise DecodeError for more pixels than any file of this preset has."""
        most = self.preset.short_side * bitstream.MAX_CODED_SIDE
        if stream.width * stream.height > most and not force:
            raise DecodeError(
                f"the file asks for {stream.width}x{stream.height} pixels, preset "
                f"{self.preset.name} writes {self.preset.short_side}x{bitstream.MAX_CODED_SIDE} "
                "at most: use --force to decode it anyway"
            )
        if stream.sketch is None:
            return
        height, width = self.sketch_codec.shape(stream.sketch)
        if (height, width) != (stream.height, stream.width):
            raise DecodeError(
                f"the sketch is {width}x{height} pixels, "
                f"the coded size is {stream.width}x{stream.height}: the file is damaged"
            )

    def _check_prompt(self, prompt: Prompt) -> None:
        longest = self.generator.longest_prompt
        if len(prompt.ids) > longest:
            raise DecodeError(
                f"the prompt has {len(prompt.ids)} tokens, preset {self.preset.name} takes "
                f"{longest} at most: the file is damaged"
            )


class Encoder:
    """Images -> streams.

    timer: called with "prompt", "sketch", "coding" or "candidates", gives a context manager around
    that stage's work.
    Attributes: `decoder`, whose reconstructions are the candidates; `clip`, which searches prompts;
    `map`, which codes sketches and colors: that of a thread pool does it beside the prompt search.

    Raises UnavailableError if a model cannot be had, PresetError if models do not fit together,
    ValueError for a bad configuration.
    """

    def __init__(
        self,
        preset: Preset,
        config: EncoderConfig,
        device: str = "cpu",
        timer: Callable[[str], AbstractContextManager] = nullcontext,
    ):
        from prompt_inversion.prompter import Prompter, check_vocabulary
        from prompt_inversion.waiting import load_clip

        self.preset, self.config, self.timer, self.map = preset, config, timer, map
        self.color_bytes = config.color_bytes
        if self.color_bytes is None:
            self.color_bytes = preset.color_bytes if config.sketch else 0  # PIC is the prompt alone
        self.decoder = Decoder(preset, device, config.lam_sketch, config.execution)
        self.clip = load_clip(preset.clip, device, self.decoder.generator.turns)
        check_vocabulary(preset.name, self.clip.tokenizer, self.decoder.generator.tokenizer)
        self.prompter = Prompter(config.prompt, preset, self.clip, self.decoder.prompt_codec)
        score = load_score(config.loss, self.clip, device)
        count = config.candidates or preset.candidates
        self.chooser = Chooser(self.decoder.generate, score, count, config.together)
        self.annotator = None
        if config.sketch:
            from annotator import load_annotator

            self.annotator = load_annotator(preset.annotator, device)
        network = self.decoder.sketch_codec.network if config.sketch else 0
        colors = 0 < self.color_bytes < BASE_FROM, self.color_bytes >= BASE_FROM
        self.fingerprint = self.decoder.fingerprint(Layers(network, *colors))  # if the base fits

    def encode(
        self, images: Sequence[np.ndarray], source_sizes: Sequence[tuple[int, int]] | None = None
    ) -> list[bytes]:
        """Return a file for each image, uint8 RGB (H, W, 3), sides multiples of 64.

        source_sizes: (height, width) of the originals, for the header; None: the images' own.
        Raises TypeError or ValueError for other images.
        """
        return [encoded.data for encoded in self.encode_all(images, source_sizes)]

    def encode_all(
        self, images: Sequence[np.ndarray], source_sizes: Sequence[tuple[int, int]] | None = None
    ) -> list[Encoded]:
        """As `encode`, with what the encoder found on the way.

        Prompts are searched as one batch; candidates share batches if the images' sizes agree.
        """
        check_coded(images, self.preset.short_side)
        if source_sizes is None:
            source_sizes = [(image.shape[0], image.shape[1]) for image in images]
        check_sources(source_sizes, len(images))
        coded = self.map(lambda image: (self._sketch(image), *self._colors(image)), images)
        with self.timer("prompt"):
            prompts = self.prompter.find(images)
        layers = [_Layers(found, *rest) for found, rest in zip(prompts, coded, strict=True)]
        with self.timer("candidates"):
            choices = self.chooser.choose(images, [layer.conditions() for layer in layers])
        with self.timer("coding"):
            parts = zip(images, source_sizes, layers, choices, strict=True)
            return [self._pack(*part) for part in parts]

    def _sketch(self, image: np.ndarray) -> "_Coded":
        if self.annotator is None:
            return _Coded()
        with self.timer("sketch"):
            sketch = self.annotator(image)
        with self.timer("coding"):
            return _Coded(sketch, *self.decoder.sketch_codec.encode_and_decode(sketch))

    def _colors(self, image: np.ndarray) -> "tuple[_Coded, _Coded]":
        """Return color map and base: one of them, the map where there are too few bytes."""
        if not self.color_bytes:
            return _Coded(), _Coded()
        with self.timer("coding"):
            if self.color_bytes >= BASE_FROM:
                base = self.decoder.base_codec.fit(image, self.color_bytes)
                if base:
                    return _Coded(), _Coded(None, *base)
            payload = color_codec.encode(image, self.color_bytes)
            color = color_codec.decode(payload, *image.shape[:2])
            return _Coded(None, payload, color), _Coded()

    def _pack(
        self, image: np.ndarray, source: tuple[int, int], layers: "_Layers", choice: Choice
    ) -> Encoded:
        prompt, sketch = layers.prompt, layers.sketch
        sizes = *source[::-1], image.shape[1], image.shape[0]
        stream = Stream(0, *sizes, choice.seed, *(layer.payload for layer in layers))
        stream = replace(stream, fingerprint=self.decoder.fingerprint(layers_of(stream)))
        data = bitstream.pack(stream)
        return Encoded(data, prompt.ids, prompt.cosine, sketch.sketch, choice.scores)


class _Coded(NamedTuple):
    sketch: np.ndarray | None = None  # uint8 (H, W), before coding
    payload: bytes | None = None
    decoded: np.ndarray | None = None  # what a decoder makes of the payload


class _Layers(NamedTuple):
    prompt: "FoundPrompt"
    sketch: _Coded
    color: _Coded
    base: _Coded

    def conditions(self) -> Conditions:
        color = self.base if self.base.payload else self.color
        return Conditions(Prompt(self.prompt.ids, "", None), self.sketch.decoded, color.decoded)

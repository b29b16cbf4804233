"""Encoder and Decoder: images <-> bytes, by the codecs of all layers.

    encoder = Encoder(get_preset("tiny"), EncoderConfig(), "cpu")
    data = encoder.encode([image])[0]
    reconstruction = encoder.decoder.decode(data).image

A stream is all that a decoder is given: the prompt, the compressed sketch, the color map and the
seed of the noise. Sketch and colors may be absent. The encoder owns a decoder and asks it for
candidates, so that both generate by the same code (docs/design.md).
"""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

import bitstream
import color_codec
from bitstream import Stream
from dataloaders import check_coded, check_sources
from diffusion.candidates import LOSSES, Choice, Chooser, load_score
from diffusion.execution import PLAIN, Execution
from presets import Preset, PresetError, refusal
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
    color_bytes: int | None = None  # maximum size of the color layer; 0: no color layer
    candidates: int | None = None  # number of reconstructions to choose from, the paper's N
    loss: str = "clip"  # one of LOSSES
    together: int = 8  # candidates generated in one batch; bounds memory
    prompt: PromptOptions = field(default_factory=PromptOptions)
    execution: Execution = PLAIN  # of the text-to-image model

    def __post_init__(self):
        if self.loss not in LOSSES:
            raise ValueError(f"unknown loss {self.loss!r}: choose one of {', '.join(LOSSES)}")
        if self.color_bytes and self.color_bytes < color_codec.MIN_BYTES:
            least = color_codec.MIN_BYTES
            raise ValueError(
                f"a color layer of {self.color_bytes} bytes: it takes {least}, and 0 leaves it out"
            )


class Conditions(NamedTuple):
    """What a stream tells the generator."""

    prompt: Prompt
    sketch: np.ndarray | None  # uint8 (height, width), 255 = edge
    color: np.ndarray | None  # uint8 (height / 8, width / 8, 3)


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
    allocation: dict | None = None  # of a budget, as its record shows it (allocation/encoder.py)


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

    def decode(self, data: bytes, force: bool = False) -> Decoded:
        """Decode a stream and generate its reconstruction.

        force: decode whichever models wrote the stream. Raises BitstreamError, TextError,
        SketchError or ColorError for a broken stream, and DecodeError for a stream of other models.
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

    def fingerprint(
        self, sketch: bool, color: bool = False, naming: str = "written", words: bool = True
    ) -> int:
        """Return 16 bits that name the preset and the models of a stream.

        4 bits are the preset's number, 12 are of a hash. sketch, color: whether the stream has
        these layers. Beside a sketch, colors may be dropped from a stream. naming, words: of files
        that are decoded too, NAMINGS.
        """
        digest = hashlib.sha256(self._prompt_codecs[words].digest)
        digest.update(self.generator.identity(sketch, color, naming))
        digest.update(color_codec.identity())
        if sketch:
            digest.update(self.sketch_codec.digest)
        return self.preset.number << 12 | int.from_bytes(digest.digest()[:2], "big") >> PRESET_BITS

    def _prompt_codec_of(self, stream: Stream, force: bool) -> PromptCodec:
        """Return the codec of a stream's prompt; DecodeError for other models, unless `force`."""
        layers = stream.sketch is not None, stream.color is not None
        if stream.fingerprint >> 12 == self.preset.number:
            for naming, words in NAMINGS:
                if stream.fingerprint == self.fingerprint(*layers, naming, words):
                    return self._prompt_codecs[words]
        if force:
            return self.prompt_codec
        raise DecodeError(refusal(self.preset, self.fingerprint(*layers), stream.fingerprint))

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
        count, longest = len(prompt.ids), self.generator.longest_prompt
        if count > longest:
            takes = f"preset {self.preset.name} takes {longest} at most"
            raise DecodeError(f"the prompt has {count} tokens, {takes}: the file is damaged")


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
        from prompt_inversion.prompter import Prompter
        from prompt_inversion.waiting import load_clip

        self.preset, self.config, self.timer, self.map = preset, config, timer, map
        self.color_bytes = config.color_bytes
        if self.color_bytes is None:
            self.color_bytes = preset.color_bytes if config.sketch else 0  # PIC is the prompt alone
        self.decoder = Decoder(preset, device, config.lam_sketch, config.execution)
        self.clip = load_clip(preset.clip, device, self.decoder.generator.turns)
        self._check_vocabulary()
        given = config.prompt, preset, self.clip, self.decoder.prompt_codec
        self.prompter = Prompter(*given, graphs=bool(config.execution.compile))
        score = load_score(config.loss, self.clip, device)
        count = config.candidates or preset.candidates
        self.chooser = Chooser(self.decoder.generate, score, count, config.together)
        self.annotator = self._load_annotator(device)
        self.fingerprint = self.decoder.fingerprint(config.sketch, self.color_bytes > 0)

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
        found = self.find(images, source_sizes)
        with self.timer("coding"):
            return list(map(self._pack, images, source_sizes, *found))

    def find(self, images, source_sizes) -> tuple[list["Layers"], list[Choice]]:
        """Return the layers of each image, and the candidate that was chosen with them."""
        coded = self.map(lambda image: (self._sketch(image), self._color(image)), images)
        with self.timer("prompt"):
            prompts = self.prompter.find(images)
        layers = [Layers(found, *both) for found, both in zip(prompts, coded, strict=True)]
        with self.timer("candidates"):
            return layers, self.chooser.choose(images, [one.conditions() for one in layers])

    def _check_vocabulary(self) -> None:
        searched = self.clip.tokenizer.get_vocab()
        generated = self.decoder.generator.tokenizer.get_vocab()
        if searched != generated:
            raise PresetError(
                f"preset {self.preset.name}: the vocabularies of the CLIP ({len(searched)} tokens) "
                f"and of the text-to-image model ({len(generated)}) differ: "
                "name two models with the same tokenizer"
            )

    def _load_annotator(self, device: str):
        if not self.config.sketch:
            return None
        from annotator import load_annotator

        return load_annotator(self.preset.annotator, device)

    def _sketch(self, image: np.ndarray) -> "Coded":
        if self.annotator is None:
            return Coded()
        with self.timer("sketch"):
            sketch = self.annotator(image)
        with self.timer("coding"):
            return Coded(sketch, *self.decoder.sketch_codec.encode_and_decode(sketch))

    def _color(self, image: np.ndarray) -> "Coded":
        if not self.color_bytes:
            return Coded()
        with self.timer("coding"):
            payload = color_codec.encode(image, self.color_bytes)
            return Coded(None, payload, color_codec.decode(payload, *image.shape[:2]))

    def _pack(self, image: np.ndarray, source: tuple, layers: "Layers", choice: Choice) -> Encoded:
        height, width = image.shape[:2]
        prompt, sketch, color = layers.prompt, layers.sketch, layers.color.payload
        fingerprint = self.decoder.fingerprint(sketch.payload is not None, color is not None)
        sizes = source[1], source[0], width, height, choice.seed
        stream = Stream(fingerprint, *sizes, prompt.payload, sketch.payload, color)
        found = *prompt[1:], sketch.sketch, choice.scores, layers.allocation
        return Encoded(bitstream.pack(stream), *found)


class Coded(NamedTuple):
    """A layer's payload."""

    sketch: np.ndarray | None = None  # uint8 (H, W), before coding
    payload: bytes | None = None
    decoded: np.ndarray | None = None  # what a decoder makes of the payload


class Layers(NamedTuple):
    """The layers of an image."""

    prompt: "FoundPrompt"
    sketch: Coded
    color: Coded
    allocation: dict | None = None  # as in `Encoded`

    def conditions(self) -> Conditions:
        """Return what a decoder makes of them."""
        prompt = Prompt(self.prompt.ids, "", None)
        return Conditions(prompt, self.sketch.decoded, self.color.decoded)

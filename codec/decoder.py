"""Bytes -> reconstruction, by the codecs of all layers.

reconstruction = Decoder(get_preset("tiny")).decode(data).image
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

import bitstream
import color_codec
from bitstream import Stream
from diffusion.execution import PLAIN, Execution
from models_ntc.bundled import StreamLayers, layers_of
from presets import Preset, refusal
from text_codec.prompt import NO_PROMPT, Prompt, PromptCodec

if TYPE_CHECKING:
    pass

PRESET_BITS = 4  # of the fingerprint
# How the models of a file may be named, the one that is written first (docs/bitstream.md).
NAMINGS = (
    ("written", True),
    ("content", True),
    ("by_size", True),
    ("earlier", True),
    ("earlier", False),
)


class DecodeError(ValueError):
    """An intact stream that these models must not decode; the message says who wrote it."""


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

    @cached_property
    def _refine(self) -> Callable[..., np.ndarray]:
        """What adds detail to reconstructions with colors, loaded when it is first needed."""
        from diffusion.refiner import load_refiner

        return load_refiner(self.preset, self.device)

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
        from diffusion.consistency import consistent

        # what the text-to-image model is given: ids or text
        prompts = [getattr(conditions.prompt, self.generator.prompts) for conditions in each]
        sketches = [one.sketch for one in each if one.sketch is not None]
        colors = [one.color for one in each if one.color is not None]
        images = self.generator.generate_each(
            prompts, seeds, height, width, sketches or None, colors or None
        )
        if not colors or not self.preset.consistency:
            return images
        images = list(map(consistent, images, colors))
        if not self.preset.refiner:
            return images
        return list(map(self._refine, images, colors, [one.sketch for one in each]))

    def fingerprint(self, layers: StreamLayers, naming: str = "written", words: bool = True) -> int:
        """Return 16 bits that name the preset and the models of a stream with these layers.

        4 bits are the preset's number, 12 are of a hash. naming, words: of files that are decoded
        too, NAMINGS.
        """
        color = layers.color or layers.base
        if color and self.preset.consistency and self.preset.refiner:
            self._refine  # noqa: B018 - loaded with the other models, before workers are forked
        named = hashlib.sha256(self._prompt_codecs[words].digest)
        named.update(self.generator.identity(layers.sketch > 0, color, naming))
        named.update(color_codec.identity())
        if layers.sketch:
            named.update(self.sketch_codec.digest_of(layers.sketch))
        if layers.base:
            named.update(self.base_codec.digest)
        return self.preset.number << 12 | int.from_bytes(named.digest()[:2], "big") >> PRESET_BITS

    def _prompt_codec_of(self, stream: Stream, force: bool) -> PromptCodec:
        """Return the codec of a stream's prompt; DecodeError for other models, unless `force`.

        A stream with a sketch may have lost its base.
        """
        layers = layers_of(stream)
        before = [layers, layers._replace(base=True)] if layers.sketch else [layers]
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
        count, longest = len(prompt.ids), self.generator.longest_prompt
        if count > longest:
            takes = f"preset {self.preset.name} takes {longest} at most"
            raise DecodeError(f"the prompt has {count} tokens, {takes}: the file is damaged")

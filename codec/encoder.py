"""Images -> bytes, by the codecs of all layers.

data = Encoder(get_preset("tiny"), EncoderConfig(), "cpu").encode([image])[0]
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

import bitstream
import color_codec
from bitstream import Stream
from codec.decoder import Conditions, Decoder
from dataloaders import check_coded, check_sources
from diffusion.candidates import LOSSES, Choice, Chooser, load_score
from diffusion.execution import PLAIN, Execution
from models_ntc.bundled import BASE_FROM, StreamLayers, layers_of
from presets import Preset, objection
from prompt_inversion.options import PromptOptions
from text_codec.prompt import NO_PROMPT

if TYPE_CHECKING:
    from prompt_inversion.prompter import FoundPrompt


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


@dataclass(frozen=True, eq=False)
class Encoded:
    """One image's stream and what its encoder found on the way."""

    data: bytes  # the file
    prompt: tuple[int, ...]  # token ids
    cosine: float  # CLIP cosine of prompt and image
    sketch: np.ndarray | None  # uint8 (H, W), before coding
    scores: tuple[float, ...]  # of the candidates, higher is better; empty if there was only one
    allocation: dict | None = None  # of a budget, as its record shows it (allocation/encoder.py)


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
        network = self.decoder.sketch_codec.network if config.sketch else 0
        colors = 0 < self.color_bytes < BASE_FROM, self.color_bytes >= BASE_FROM
        # That of most files; it loads the ControlNet, which may not fit, before other models.
        self.fingerprint = self.decoder.fingerprint(StreamLayers(network, *colors))
        self.clip = load_clip(preset.clip, device, self.decoder.generator.turns)
        check_vocabulary(preset.name, self.clip.tokenizer, self.decoder.generator.tokenizer)
        given = config.prompt, preset, self.clip, self.decoder.prompt_codec
        self.prompter = Prompter(*given, graphs=bool(config.execution.compile))
        score = load_score(config.loss, self.clip, device)
        self.candidates = config.candidates or preset.candidates
        self.chooser = Chooser(self.decoder.generate, score, config.together)
        self.annotator: Callable[[np.ndarray], np.ndarray] | None = None
        if config.sketch:
            from annotator import load_annotator

            self.annotator = load_annotator(preset.annotator, device)

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
        coded = self.map(lambda image: (self._sketch(image), *self._colors(image)), images)
        with self.timer("prompt"):
            prompts = self.prompter.find(images)
        layers = [Layers(found, *rest) for found, rest in zip(prompts, coded, strict=True)]
        return layers, self.choose(images, layers)

    def choose(self, images: Sequence[np.ndarray], layers: Sequence["Layers"]) -> list[Choice]:
        """Return the candidate that is chosen for each image with its layers."""
        conditions = [self.conditions(one) for one in layers]
        counts = [self._count(one) for one in layers]
        with self.timer("candidates"):
            return self.chooser.choose(images, conditions, counts)

    def _count(self, layers: "Layers") -> int:
        """Return the number of candidates of an image with these layers."""
        chosen_by_user = self.config.candidates or self.config.loss != "clip"
        if layers.base.payload and not chosen_by_user:
            return min(self.candidates, self.preset.candidates_with_base)
        return self.candidates

    def conditions(self, layers: "Layers") -> Conditions:
        """Return what a decoder makes of an image's layers."""
        payload = layers.prompt.payload
        prompt = self.decoder.prompt_codec.decode(payload) if payload else NO_PROMPT
        color = layers.base if layers.base.payload else layers.color
        return Conditions(prompt, layers.sketch.decoded, color.decoded)

    def _sketch(self, image: np.ndarray) -> "Coded":
        if self.annotator is None:
            return Coded()
        with self.timer("sketch"):
            sketch = self.annotator(image)
        with self.timer("coding"):
            return Coded(sketch, *self.decoder.sketch_codec.encode_and_decode(sketch))

    def _colors(self, image: np.ndarray) -> "tuple[Coded, Coded]":
        """Return color map and base: one of them, or neither."""
        if not self.color_bytes:
            return Coded(), Coded()
        with self.timer("coding"):
            return code_colors(self.decoder, image, self.color_bytes)

    def _pack(self, image: np.ndarray, source: tuple, layers: "Layers", choice: Choice) -> Encoded:
        sizes = source[1], source[0], image.shape[1], image.shape[0], choice.seed
        stream = Stream(0, *sizes, *layers.payloads())
        stream = replace(stream, fingerprint=self.decoder.fingerprint(layers_of(stream)))
        found = *layers.prompt[1:], layers.sketch.sketch, choice.scores, layers.allocation
        return Encoded(bitstream.pack(stream), *found)


def code_colors(decoder: Decoder, image: np.ndarray, budget: int) -> "tuple[Coded, Coded]":
    """Return color map and base within a budget: one of them, the map if there is no room."""
    base = decoder.base_codec.fit(image, budget) if budget >= BASE_FROM else None
    if base:
        return Coded(), Coded(None, *base)
    payload = color_codec.encode(image, budget)
    return Coded(None, payload, color_codec.decode(payload, *image.shape[:2])), Coded()


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
    base: Coded = Coded()  # in place of the color map
    allocation: dict | None = None  # as in `Encoded`

    def payloads(self) -> tuple[bytes | None, ...]:
        """Return the payloads in the order of the stream's layers, None for what is not sent."""
        sent = self.prompt, self.sketch, self.color, self.base
        return tuple(layer.payload for layer in sent)

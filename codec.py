"""Photographs <-> bytes: the only place where the rooms meet.

    encoder = Encoder(get_preset("tiny"), EncoderConfig(), "cpu")
    data = encoder.encode([image])[0]
    picture = encoder.decoder.decode(data).image

A stream is all that a decoder is given: token ids, the compressed sketch and the seed of the noise. The encoder owns
a decoder and asks it for candidates, so that both draw by the same code (docs/design.md).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

import bitstream
import text_codec
from bitstream import Stream
from presets import PRESETS, Preset, PresetError

LOSSES = ("clip", "ms-ssim")  # how the encoder chooses among the candidates


class DecodeError(ValueError):
    """A whole stream that these models must not decode; the message says which ones wrote it."""


@dataclass(frozen=True)
class EncoderConfig:
    """What a user may choose about encoding; None stands for the preset's own value."""

    sketch: bool = True  # PICS; False is PIC, text alone
    lam_sketch: float | str | None = None  # rate of the sketch: a lambda of the bundled codecs, or a codec file
    candidates: int | None = None  # pictures drawn, N of the paper
    loss: str = "clip"  # one of LOSSES
    prompt_len: int | None = None  # tokens
    prompt_steps: int | None = None  # of the prompt search
    seed: int = 0  # of the prompt search's start


@dataclass(frozen=True, eq=False)
class Encoded:
    """One photograph's stream and what its encoder saw on the way."""

    data: bytes  # the file
    prompt: tuple[int, ...]  # token ids
    cosine: float  # CLIP cosine of prompt and photograph, as the search left it
    sketch: np.ndarray | None  # uint8 (H, W), before coding
    scores: tuple[float, ...]  # of the candidates, higher is better; empty where there was no choice


@dataclass(frozen=True, eq=False)
class Decoded:
    """What a stream says, and the picture drawn from it."""

    image: np.ndarray  # uint8 (height, width, 3) at the coded size
    sketch: np.ndarray | None  # uint8 (height, width), 255 = edge
    prompt: tuple[int, ...]  # token ids
    stream: Stream


class Decoder:
    """Bytes -> picture, with the models of one preset.

    lam_sketch: a codec file that is not bundled, where streams were written with one.

    Raises PresetError where the models cannot be had.
    """

    def __init__(self, preset: Preset, device: str = "cpu", lam_sketch: float | str | None = None):
        from diffusion import load_generator

        self.preset, self.device, self.lam_sketch = preset, device, lam_sketch
        self.generator = load_generator(preset, device)
        self._codecs = {}

    def decode(self, data: bytes, force: bool = False) -> Decoded:
        """Decode a stream and draw its one picture.

        Raises BitstreamError, TextError or SketchError for a broken stream, and DecodeError for a stream of other
        models unless `force`.
        """
        stream = bitstream.unpack(data)
        prompt, sketch = self.conditions(stream, force)
        image = self.draw(prompt, [stream.seed], stream.height, stream.width, sketch)[0]
        return Decoded(image, sketch, prompt, stream)

    def conditions(self, stream: Stream, force: bool = False) -> tuple[tuple[int, ...], np.ndarray | None]:
        """Return the token ids and the sketch (H, W) uint8 or None that a stream holds; errors as `decode`."""
        lam = self._matching_codec(stream, force)
        prompt = text_codec.decode(stream.text, self.generator.vocabulary) if stream.text else []
        if stream.sketch is None:
            return tuple(prompt), None
        sketch = self.sketch_codec(lam).decompress(stream.sketch)
        if sketch.shape != (stream.height, stream.width):
            raise DecodeError(
                f"the sketch is {sketch.shape[1]}x{sketch.shape[0]} pixels, "
                f"the coded size is {stream.width}x{stream.height}: the file is damaged"
            )
        return tuple(prompt), sketch

    def draw(
        self, prompt: Sequence[int], seeds: Sequence[int], height: int, width: int, sketch: np.ndarray | None
    ) -> list[np.ndarray]:
        """Draw one picture (height, width, 3) uint8 for each seed."""
        return self.generator.generate(list(prompt), list(seeds), height, width, sketch)

    def sketch_codec(self, lam: float | str):
        """Return the sketch codec of a rate (or file), loaded once."""
        if lam not in self._codecs:
            from models_ntc import load_sketch_codec

            self._codecs[lam] = load_sketch_codec(lam, self.device, self.preset.sketch_codec)
        return self._codecs[lam]

    def fingerprint(self, lam: float | str | None) -> int:
        """Name this preset and its models in 16 bits: the preset's number, then 12 bits of a hash.

        lam: of the sketch codec, None for a stream without a sketch.
        """
        digest = hashlib.sha256(self._vocabulary_digest)
        if lam is None:
            digest.update(self.generator.identity())
        else:
            digest.update(self.generator.identity(sketch=True) + self.sketch_codec(lam).digest)
        return self.preset.number << 12 | int.from_bytes(digest.digest()[:2], "big") >> 4

    @cached_property
    def _vocabulary_digest(self) -> bytes:
        words = sorted(self.generator.tokenizer.get_vocab().items())
        return hashlib.sha256(repr(words).encode()).digest()

    def _matching_codec(self, stream: Stream, force: bool) -> float | str | None:
        """Return the rate (or file) of the sketch codec that wrote the stream, None where it has no sketch."""
        from models_ntc import bundled_lambdas

        known = [None]
        if stream.sketch is not None:
            first = self.preset.lam_sketch if self.lam_sketch is None else self.lam_sketch
            known = [first, *(lam for lam in bundled_lambdas(self.preset.sketch_codec) if lam != first)]
        number = stream.fingerprint >> 12
        if number == self.preset.number:
            for lam in known:
                if self.fingerprint(lam) == stream.fingerprint:
                    return lam
        if force:
            return known[0]
        writer = preset_of(stream)
        if number != self.preset.number:
            raise DecodeError(
                f"the file was written with preset {writer}, not {self.preset.name}: decode it with "
                f"`--preset {writer}` (or `--force` to draw it with {self.preset.name} all the same)"
            )
        here = ", ".join(f"{self.fingerprint(lam):04x}" for lam in known)
        raise DecodeError(
            f"the file was written with other weights of preset {writer} (fingerprint {stream.fingerprint:04x}, here "
            f"{here}): use the version of the models that wrote it, name its sketch codec with "
            "`--lam_sketch FILE`, or `--force` to draw it all the same"
        )


def preset_of(stream: Stream) -> str:
    """Return the name of the preset that wrote a stream, "FOLDER" for one that is not in the table."""
    number = stream.fingerprint >> 12
    names = [row.name for row in PRESETS.values() if row.number == number]
    return names[0] if names else "FOLDER" if number == 0 else f"number {number} of a newer version"


class Encoder:
    """Photographs -> streams. `decoder` is the one whose candidates it chooses from.

    Raises PresetError where models cannot be had or do not fit each other, ValueError for a bad configuration.
    """

    def __init__(self, preset: Preset, config: EncoderConfig, device: str = "cpu"):
        from annotator import load_annotator
        from prompt_inversion import PromptConfig, load_clip

        if config.loss not in LOSSES:
            raise ValueError(f"unknown loss {config.loss!r}: choose one of {', '.join(LOSSES)}")
        self.preset, self.config = preset, config
        self.candidates = config.candidates or preset.candidates
        self.lam_sketch = (config.lam_sketch or preset.lam_sketch) if config.sketch else None
        self.decoder = Decoder(preset, device, self.lam_sketch)
        self.clip = load_clip(preset.clip, device)
        self.annotator = load_annotator(preset.annotator, device) if config.sketch else None
        self.search = PromptConfig(
            length=config.prompt_len or preset.prompt_len,
            steps=config.prompt_steps or preset.prompt_steps,
            lr=preset.prompt_lr,
            weight_decay=preset.prompt_weight_decay,
            seed=config.seed,
        )
        words, drawn = self.clip.tokenizer.get_vocab(), self.decoder.generator.tokenizer.get_vocab()
        if words != drawn:
            raise PresetError(
                f"preset {preset.name}: the vocabularies of the CLIP ({len(words)} words) and of the text-to-image "
                f"model ({len(drawn)}) differ: name two models with the same tokenizer"
            )
        self.fingerprint = self.decoder.fingerprint(self.lam_sketch)

    def encode(
        self, images: Sequence[np.ndarray], source_sizes: Sequence[tuple[int, int]] | None = None
    ) -> list[bytes]:
        """Encode photographs (H, W, 3) uint8 RGB at their coded size, sides multiples of 64 -> one file each.

        source_sizes: (height, width) of the originals, for the header; the coded sizes if not given.
        """
        return [encoded.data for encoded in self.encode_all(images, source_sizes)]

    def encode_all(
        self, images: Sequence[np.ndarray], source_sizes: Sequence[tuple[int, int]] | None = None
    ) -> list[Encoded]:
        """As `encode`, with what the encoder saw on the way; the prompts are searched as one batch."""
        from prompt_inversion import invert_prompts

        sizes = source_sizes or [image.shape[:2] for image in images]
        prompts = invert_prompts(images, self.clip, self.search)
        return [self._encode(*each) for each in zip(images, sizes, prompts, strict=True)]

    def _encode(self, image: np.ndarray, source_size: tuple[int, int], prompt) -> Encoded:
        sketch = payload = decoded = None
        if self.config.sketch:
            codec = self.decoder.sketch_codec(self.lam_sketch)
            sketch = self.annotator(image)
            payload, decoded = codec.compress_and_draw(sketch)
        seed, scores = self._choose(image, prompt.ids, decoded)
        stream = Stream(
            fingerprint=self.fingerprint,
            source_width=source_size[1],
            source_height=source_size[0],
            width=image.shape[1],
            height=image.shape[0],
            seed=seed,
            text=text_codec.encode(prompt.ids, self.clip.vocabulary),
            sketch=payload,
        )
        return Encoded(bitstream.pack(stream), prompt.ids, prompt.cosine, sketch, scores)

    def _choose(
        self, image: np.ndarray, prompt: Sequence[int], sketch: np.ndarray | None
    ) -> tuple[int, tuple[float, ...]]:
        """Draw the candidates and return the seed of the one most like the photograph, and all scores."""
        if self.candidates == 1:
            return 0, ()
        pictures = self.decoder.draw(prompt, range(self.candidates), *image.shape[:2], sketch)
        if self.config.loss == "clip":
            scores = self.clip.similarity(image, pictures)
        else:
            from metrics import ms_ssim

            scores = [ms_ssim(image, picture) for picture in pictures]
        return int(np.argmax(scores)), tuple(scores)

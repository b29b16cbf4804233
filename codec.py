"""Photographs <-> bytes: the only place where the rooms meet.

    encoder = Encoder(get_preset("tiny"), EncoderConfig(), "cpu")
    data = encoder.encode([image])[0]
    picture = encoder.decoder.decode(data).image

A stream is all that a decoder is given: the prompt, the compressed sketch, the colour map and the seed of the noise.
Sketch and colours may be left out. The encoder owns a decoder and asks it for candidates, so that both draw by the same
code (docs/design.md).

A prompt is token ids that a search found, or a text that a human or a captioner wrote; ids travel in whichever coding
of `text_codec` is shortest. What is drawn is ids either way: those that the generator's tokenizer makes of a text.
"""

import gc
import hashlib
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import groupby
from typing import NamedTuple

import numpy as np

import bitstream
import colour_codec
import text_codec
from bitstream import Stream
from presets import PRESETS, Preset, PresetError

LOSSES = ("clip", "ms-ssim", "lpips")  # how the encoder chooses among the candidates
PROMPTS_FROM = ("search", "caption")  # where a prompt comes from that the user does not give

log = logging.getLogger(__name__)


class DecodeError(ValueError):
    """A whole stream that these models must not decode; the message says which ones wrote it."""


@dataclass(frozen=True)
class EncoderConfig:
    """What a user may choose about encoding; None stands for the preset's own value."""

    sketch: bool = True  # PICS; False is PIC, text alone
    lam_sketch: float | str | None = None  # rate of the sketch: a lambda of the bundled codec, or a codec file
    color_bytes: int | None = None  # of the colour layer, at most; 0: none
    candidates: int | None = None  # pictures drawn, N of the paper
    loss: str = "clip"  # one of LOSSES
    together: int = 8  # candidates drawn in one batch; bounds memory
    prompt: str | None = None  # of every photograph, in words; None: as prompt_from says
    prompt_from: str = "search"  # one of PROMPTS_FROM
    prompt_len: int | None = None  # tokens
    prompt_bytes: int | None = None  # the longest prompt that is sure to fit in them, in place of prompt_len
    prompt_bits: int | None = None  # search the sub-vocabulary of 2**prompt_bits useful words only; 0: all words
    prompt_ascending: bool = False  # search ids in ascending order, whose order costs nothing
    prompt_steps: int | None = None  # of the prompt search
    prompt_seconds: float | None = None  # of the prompt search, at most
    prompt_patience: int | None = None  # steps of the prompt search without a better cosine that end it
    prompt_restarts: int = 1  # searches from different words, side by side
    seed: int = 0  # of the prompt search's start


class Conditions(NamedTuple):
    """What a stream tells the generator."""

    prompt: tuple[int, ...]  # token ids
    sketch: np.ndarray | None  # uint8 (height, width), 255 = edge
    colour: np.ndarray | None  # uint8 (height / 8, width / 8, 3)


@dataclass(frozen=True, eq=False)
class Encoded:
    """One photograph's stream and what its encoder saw on the way."""

    data: bytes  # the file
    prompt: tuple[int, ...]  # token ids
    cosine: float  # CLIP cosine of prompt and photograph
    sketch: np.ndarray | None  # uint8 (H, W), before coding
    scores: tuple[float, ...]  # of the candidates, higher is better; empty where there was no choice


@dataclass(frozen=True, eq=False)
class Decoded:
    """What a stream says, and the picture drawn from it."""

    image: np.ndarray  # uint8 (height, width, 3) at the coded size
    prompt: tuple[int, ...]  # token ids
    sketch: np.ndarray | None  # uint8 (height, width), 255 = edge
    colour: np.ndarray | None  # uint8 (height / 8, width / 8, 3)
    text: str  # the prompt in words: as it was sent, or as the ids read
    stream: Stream


@contextmanager
def _uncollected() -> Iterator[None]:
    """Collect no garbage: libraries and models make a million objects, which all stay."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Decoder:
    """Bytes -> picture, with the models of one preset.

    lam_sketch: a codec file that is not bundled, where streams were written with one. A lambda says at which rate
        `sketch_codec` writes; every rate is read.

    Raises PresetError where the models cannot be had.
    """

    @_uncollected()
    def __init__(self, preset: Preset, device: str = "cpu", lam_sketch: float | str | None = None):
        from diffusion import load_generator

        self.preset, self.device = preset, device
        self.lam_sketch = preset.lam_sketch if lam_sketch is None else lam_sketch
        self.generator = load_generator(preset, device)

    def decode(self, data: bytes, force: bool = False) -> Decoded:
        """Decode a stream and draw its one picture.

        Raises BitstreamError, TextError, SketchError or ColourError for a broken stream, and DecodeError for a stream
        of other models unless `force`.
        """
        stream = bitstream.unpack(data)
        conditions = self.conditions(stream, force)
        image = self.draw([conditions], [stream.seed], stream.height, stream.width)[0]
        text = prompt_text(stream, self.generator.tokenizer) if stream.text else ""
        return Decoded(image, *conditions, text, stream)

    def conditions(self, stream: Stream, force: bool = False) -> Conditions:
        """Return what a stream tells the generator; errors as `decode`."""
        self._check_writer(stream, force)
        self._check_sizes(stream, force)
        prompt = self._ids(stream.text) if stream.text else ()
        if len(prompt) > (longest := self.generator.longest_prompt):
            raise DecodeError(
                f"the prompt has {len(prompt)} tokens, preset {self.preset.name} draws {longest} at most: "
                "the file is damaged"
            )
        sketch = None if stream.sketch is None else self.sketch_codec.decompress(stream.sketch)
        colour = None if stream.colour is None else colour_codec.decode(stream.colour, stream.height, stream.width)
        return Conditions(prompt, sketch, colour)

    def _check_sizes(self, stream: Stream, force: bool) -> None:
        """Raise DecodeError for what would cost more than any file of this preset; nothing is decoded yet."""
        most = self.preset.short_side * bitstream.MAX_CODED_SIDE
        if stream.width * stream.height > most and not force:
            raise DecodeError(
                f"the file asks for {stream.width}x{stream.height} pixels, preset {self.preset.name} writes "
                f"{self.preset.short_side}x{bitstream.MAX_CODED_SIDE} at most: `--force` draws them all the same"
            )
        height, width = self.sketch_codec.shape(stream.sketch) if stream.sketch else (stream.height, stream.width)
        if (height, width) != (stream.height, stream.width):
            raise DecodeError(
                f"the sketch is {width}x{height} pixels, "
                f"the coded size is {stream.width}x{stream.height}: the file is damaged"
            )

    def tokenize(self, text: str) -> tuple[int, ...]:
        """Return all the token ids of a text; those after the first `generator.longest_prompt` are not drawn."""
        return tuple(self.generator.tokenizer(text, add_special_tokens=False, verbose=False).input_ids)

    def draw(self, each: Sequence[Conditions], seeds: Sequence[int], height: int, width: int) -> list[np.ndarray]:
        """Draw a picture (height, width, 3) uint8 of each conditions and seed, as one batch.

        All of them have a sketch or none has, and the same of colours.
        """
        prompts, sketches, colours = zip(*each, strict=True)
        sketches, colours = (None if planes[0] is None else planes for planes in (sketches, colours))
        return self.generator.generate_each(prompts, seeds, height, width, sketches, colours)

    @cached_property
    def sketch_codec(self):
        """The sketch codec, loaded when the first sketch comes."""
        from models_ntc import load_sketch_codec

        return load_sketch_codec(self.lam_sketch, self.device, self.preset.sketch_codec)

    def fingerprint(self, sketch: bool, colour: bool = False) -> int:
        """Name this preset and the models of its streams, with a sketch and colours or without, in 16 bits.

        4 bits are the preset's number, 12 are of a hash. Beside a sketch, colours may be dropped from a stream.
        """
        identity = self.generator.identity(sketch=sketch, colour=colour)
        digest = hashlib.sha256(self._vocabulary_digest + identity + colour_codec.model.TABLES.read_bytes())
        if sketch:
            digest.update(self.sketch_codec.digest)
        return self.preset.number << 12 | int.from_bytes(digest.digest()[:2], "big") >> 4

    @cached_property
    def _vocabulary_digest(self) -> bytes:
        tokenizer = self.generator.tokenizer
        words = sorted(tokenizer.get_vocab().items())
        subsets = [_sub_vocabulary(tokenizer, bits) for bits in text_codec.SUBSET_BITS]
        return hashlib.sha256(repr((words, subsets)).encode()).digest()

    def _ids(self, payload: bytes) -> tuple[int, ...]:
        if text_codec.coding(payload).text:
            return self.tokenize(text_codec.decode_text(payload))[: self.generator.longest_prompt]
        return _ids_of(payload, self.generator.tokenizer)

    def _check_writer(self, stream: Stream, force: bool) -> None:
        """Raise DecodeError where other models wrote the stream, unless `force`."""
        number, here = stream.fingerprint >> 12, self.fingerprint(stream.sketch is not None, stream.colour is not None)
        if force or here == stream.fingerprint:
            return
        writer = preset_of(stream)
        if number != self.preset.number:
            raise DecodeError(
                f"the file was written with preset {writer}, not {self.preset.name}: decode it with "
                f"`--preset {writer}` (or `--force` to draw it with {self.preset.name} all the same)"
            )
        raise DecodeError(
            f"the file was written with other weights of preset {writer} (fingerprint {stream.fingerprint:04x}, here "
            f"{here:04x}): use the version of the models that wrote it, name its sketch codec with "
            "`--lam_sketch FILE`, or `--force` to draw it all the same"
        )


def prompt_text(stream: Stream, tokenizer) -> str:
    """Return the prompt of a stream that has one in words: as it was sent, or as its ids read. Raises TextError."""
    if text_codec.coding(stream.text).text:
        return text_codec.decode_text(stream.text)
    return tokenizer.decode(list(_ids_of(stream.text, tokenizer)), clean_up_tokenization_spaces=False).strip()


def _ids_of(payload: bytes, tokenizer) -> tuple[int, ...]:
    bits = text_codec.coding(payload).bits
    subset = _sub_vocabulary(tokenizer, bits) if bits else None
    return tuple(text_codec.decode(payload, len(tokenizer), subset))


@lru_cache(maxsize=64)
def _sub_vocabulary(tokenizer, bits: int) -> tuple[int, ...] | None:
    """Return the ids of the sub-vocabulary of 2**bits words, None where the tokenizer has too few words for one."""
    from prompt_inversion import sub_vocabulary

    try:
        return tuple(sub_vocabulary(tokenizer, bits))
    except ValueError:
        return None


def preset_of(stream: Stream) -> str:
    """Return the name of the preset that wrote a stream, "FOLDER" for one that is not in the table."""
    number = stream.fingerprint >> 12
    names = [row.name for row in PRESETS.values() if row.number == number]
    return names[0] if names else "FOLDER" if number == 0 else f"number {number} of a newer version"


class Encoder:
    """Photographs -> streams. `decoder` is the one whose candidates it chooses from.

    Raises PresetError where models cannot be had or do not fit each other, ValueError for a bad configuration.
    """

    @_uncollected()
    def __init__(self, preset: Preset, config: EncoderConfig, device: str = "cpu"):
        from annotator import load_annotator
        from prompt_inversion import load_clip

        for value, known, name in (
            (config.loss, LOSSES, "loss"),
            (config.prompt_from, PROMPTS_FROM, "source of prompts"),
        ):
            if value not in known:
                raise ValueError(f"unknown {name} {value!r}: choose one of {', '.join(known)}")
        self._lpips = _load_lpips(device) if config.loss == "lpips" else None
        self.preset, self.config = preset, config
        self.candidates = config.candidates or preset.candidates
        usual = preset.color_bytes if config.sketch else 0  # PIC is the prompt alone
        self.color_bytes = usual if config.color_bytes is None else config.color_bytes
        if self.color_bytes and self.color_bytes < colour_codec.MIN_BYTES:
            raise ValueError(
                f"a colour layer of {self.color_bytes} bytes: it takes {colour_codec.MIN_BYTES}, and 0 leaves it out"
            )
        self.decoder = Decoder(preset, device, config.lam_sketch)
        self.clip = load_clip(preset.clip, device)
        self.captioner = None
        if config.prompt is None and config.prompt_from == "caption":
            from prompt_inversion.caption import load_captioner

            self.captioner = load_captioner(preset.captioner, device)
        self.annotator = load_annotator(preset.annotator, device) if config.sketch else None
        words, drawn = self.clip.tokenizer.get_vocab(), self.decoder.generator.tokenizer.get_vocab()
        if words != drawn:
            raise PresetError(
                f"preset {preset.name}: the vocabularies of the CLIP ({len(words)} words) and of the text-to-image "
                f"model ({len(drawn)}) differ: name two models with the same tokenizer"
            )
        self.search = self._search()
        self.fingerprint = self.decoder.fingerprint(config.sketch, self.color_bytes > 0)

    def _search(self):
        """Return the settings of the prompt search."""
        from prompt_inversion import PromptConfig, within_bytes

        config, preset = self.config, self.preset
        length, allowed = self._length_and_words()
        search = PromptConfig(
            length=length,
            steps=config.prompt_steps or preset.prompt_steps,
            seconds=config.prompt_seconds or math.inf,
            patience=config.prompt_patience or math.inf,
            restarts=config.prompt_restarts,
            lr=preset.prompt_lr,
            weight_decay=preset.prompt_weight_decay,
            allowed=allowed,
            ascending=config.prompt_ascending,
            seed=config.seed,
        )
        if config.prompt_bytes and not (self._prompt_bits or config.prompt_ascending):
            return within_bytes(config.prompt_bytes, self.clip, search, self.decoder.generator.longest_prompt)
        return search

    @property
    def _prompt_bits(self) -> int:
        bits = self.config.prompt_bits
        if bits is None:
            return 0 if self.config.prompt_bytes else self.preset.prompt_bits
        return bits

    def _length_and_words(self) -> tuple[int, tuple[int, ...] | None]:
        """Return how many tokens are searched for, and among which ids; None is all."""
        config, tokenizer = self.config, self.decoder.generator.tokenizer
        length, allowed, words = config.prompt_len or self.preset.prompt_len, None, len(tokenizer)
        if bits := self._prompt_bits:
            words = 1 << bits
            allowed = _sub_vocabulary(tokenizer, bits) if bits in text_codec.SUBSET_BITS else None
            if allowed is None:
                raise ValueError(f"no sub-vocabulary of {bits} bits in {len(tokenizer)} words")
        if config.prompt_bytes:
            fitting = text_codec.most_ids(config.prompt_bytes, words, config.prompt_ascending)
            length = min(fitting, self.clip.longest_prompt, self.decoder.generator.longest_prompt)
            if not fitting:
                raise ValueError(f"a prompt of {config.prompt_bytes} bytes holds no id of {words} words: give it more")
        return length, allowed

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
        """As `encode`, with what the encoder saw on the way.

        The prompts are searched as one batch; candidates share batches where the photographs' sizes agree.
        """
        sizes = source_sizes or [image.shape[:2] for image in images]
        wordings = self._word(images)
        sketches = [self._sketch(image) for image in images]
        colours = [self._colour(image) for image in images]
        parts = zip(wordings, sketches, colours, strict=True)
        conditions = [Conditions(wording.ids, sketch.decoded, colour.decoded) for wording, sketch, colour in parts]
        chosen = self._choose(images, conditions)
        return [self._pack(*each) for each in zip(images, sizes, wordings, sketches, colours, chosen, strict=True)]

    def _word(self, images: Sequence[np.ndarray]) -> list["_Wording"]:
        """Find a prompt for each photograph, as the configuration says."""
        if self.config.prompt is not None:
            return self._word_texts(images, [self.config.prompt] * len(images))
        if self.captioner:
            return self._word_texts(images, self.captioner.describe(images))
        from prompt_inversion import invert_prompts

        prompts = invert_prompts(images, self.clip, self.search)
        return [_Wording(prompt.ids, prompt.cosine, self._shortest(prompt.ids)) for prompt in prompts]

    def _word_texts(self, images: Sequence[np.ndarray], texts: Sequence[str]) -> list["_Wording"]:
        wordings, longest = [], self.decoder.generator.longest_prompt
        for text in sorted(set(texts)):
            if (count := len(self.decoder.tokenize(text))) > longest:
                log.warning(
                    "warning: a prompt of %d tokens: the first %d are drawn, the rest is only sent", count, longest
                )
        for image, text in zip(images, texts, strict=True):
            ids = self.decoder.tokenize(text)[:longest]
            features = self.clip.text_features([ids[: self.clip.longest_prompt]])
            cosine = float(features[0] @ self.clip.image_features([image])[0])
            wordings.append(_Wording(ids, cosine, text_codec.encode_text(text)))
        return wordings

    def _shortest(self, ids: tuple[int, ...]) -> bytes:
        """Return the shortest payload that leads back to these ids: as ids, or in words where the tokenizer allows."""
        tokenizer, subset = self.decoder.generator.tokenizer, None
        for bits in reversed(text_codec.SUBSET_BITS):  # each is part of the next larger one
            words = _sub_vocabulary(tokenizer, bits)
            if words and not set(ids) <= set(words):
                break
            subset = words or subset
        payload = text_codec.encode(ids, len(tokenizer), subset)
        text = tokenizer.decode(list(ids), clean_up_tokenization_spaces=False).strip()
        if self.decoder.tokenize(text) != tuple(ids):
            return payload
        return min(payload, text_codec.encode_text(text), key=len)

    def _sketch(self, image: np.ndarray) -> "_Sketch":
        if not self.config.sketch:
            return _Sketch(None, None, None)
        sketch = self.annotator(image)
        return _Sketch(sketch, *self.decoder.sketch_codec.compress_and_draw(sketch))

    def _colour(self, image: np.ndarray) -> "_Colour":
        if not self.color_bytes:
            return _Colour(None, None)
        payload = colour_codec.encode(image, self.color_bytes)
        return _Colour(payload, colour_codec.decode(payload, *image.shape[:2]))

    def _pack(
        self, image, source_size: tuple[int, int], wording: "_Wording", sketch: "_Sketch", colour: "_Colour", chosen
    ) -> Encoded:
        seed, scores = chosen
        stream = Stream(
            fingerprint=self.fingerprint,
            source_width=source_size[1],
            source_height=source_size[0],
            width=image.shape[1],
            height=image.shape[0],
            seed=seed,
            text=wording.payload,
            sketch=sketch.payload,
            colour=colour.payload,
        )
        return Encoded(bitstream.pack(stream), wording.ids, wording.cosine, sketch.drawn, scores)

    def _choose(
        self, images: Sequence[np.ndarray], conditions: Sequence[Conditions]
    ) -> list[tuple[int, tuple[float, ...]]]:
        """Draw the candidates; for each photograph the seed of the one most like it, and the scores of all."""
        if self.candidates == 1:
            return [(0, ())] * len(images)
        chosen = {}
        by_size = sorted(range(len(images)), key=lambda i: images[i].shape)
        for (height, width, _), group in groupby(by_size, key=lambda i: images[i].shape):
            group = list(group)
            jobs = [(i, seed) for i in group for seed in range(self.candidates)]
            pictures = []
            for part in (jobs[k : k + self.config.together] for k in range(0, len(jobs), self.config.together)):
                each, seeds = [conditions[i] for i, _ in part], [seed for _, seed in part]
                pictures += self.decoder.draw(each, seeds, height, width)
            for place, i in enumerate(group):
                own = pictures[place * self.candidates : (place + 1) * self.candidates]
                scores = self._scores(images[i], own)
                chosen[i] = int(np.argmax(scores)), tuple(scores)
        return [chosen[i] for i in range(len(images))]

    def _scores(self, image: np.ndarray, pictures: Sequence[np.ndarray]) -> list[float]:
        """Return how like the photograph each picture is, by the loss of the configuration; higher is better."""
        if self.config.loss == "clip":
            return self.clip.similarity(image, pictures)
        if self.config.loss == "lpips":
            return [-self._lpips(image, picture) for picture in pictures]
        from metrics import ms_ssim

        return [ms_ssim(image, picture) for picture in pictures]


class _Wording(NamedTuple):
    ids: tuple[int, ...]
    cosine: float  # CLIP's, of ids and photograph
    payload: bytes


class _Colour(NamedTuple):
    payload: bytes | None
    decoded: np.ndarray | None  # uint8 (H / 8, W / 8, 3)


class _Sketch(NamedTuple):
    drawn: np.ndarray | None  # uint8 (H, W), before coding
    payload: bytes | None
    decoded: np.ndarray | None


def _load_lpips(device: str) -> Callable[[np.ndarray, np.ndarray], float]:
    from metrics.networks import UnavailableError, load_lpips

    try:
        return load_lpips(device)
    except UnavailableError as error:
        raise PresetError(f"the loss lpips cannot be had: {error}") from error

"""What the fuzzers share: well-formed streams, ways to spoil them, and how reading one may end.

    from fuzz.streams import read, spoiled, well_formed      # in tests
    decoder = Decoder(get_preset("tiny"))
    outcome = read(decoder, spoiled(well_formed(decoder), random.Random(0))[-1])

Only public functions are used, so that a change of a layer's bytes changes nothing here.
"""

import dataclasses
import random
from binascii import crc_hqx
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

import bitstream
import color_codec
import text_codec
from bitstream import BitstreamError, Stream
from codec import DecodeError, Decoder
from color_codec import ColorError
from models_ntc.base_codec import BaseError
from models_ntc.bundled import FOLDER, layers_of
from models_ntc.codec import load_sketch_codec
from models_ntc.entropy import SketchError
from text_codec.vocabulary import token_subset

# The documented ones, and no other.
ERRORS = (
    BitstreamError,
    text_codec.TextError,
    SketchError,
    ColorError,
    BaseError,
    DecodeError,
)
SIZES = ((64, 64), (128, 192), (256, 256))  # coded height and width
PROMPTS = ("", "a red barn under a stormy sky", "Zwölf Boxkämpfer, 12 of them!", "x" * 300)
WAYS = ("flipped", "cut", "spliced", "random")  # what a mutation does
# What it changes: the file; the file, with the right checksum afterwards; one layer.
TARGETS = ("file", "repaired", "payload")


class Spoiled(NamedTuple):
    """A mutant."""

    way: str  # one of WAYS
    target: str  # one of TARGETS
    data: bytes


def well_formed(decoder: Decoder) -> list[bytes]:
    """Return streams that `decoder` reads, of every coding, layer and kind of size and seed."""
    tokenizer = decoder.generator.tokenizer
    words, rng = len(tokenizer), random.Random(0)
    subset = token_subset(tokenizer, 7)
    ids = [rng.randrange(words) for _ in range(16)]
    texts = [text_codec.encode(some, words) for some in (ids, sorted(ids), ids[:1], [])]
    texts += [text_codec.encode(some, words, subset) for some in (subset[:16], sorted(subset[:16]))]
    texts += map(text_codec.encode_text, PROMPTS)
    sketches = []
    for codec in (decoder.sketch_codec, load_sketch_codec(FOLDER / "sketch2.safetensors")):
        sketches += [(size, codec.encode(rings(*size, n))) for size in SIZES for n in (0, 3)]
    bases = []
    for size in SIZES:
        pictures = (hues(*size), np.repeat(rings(*size, 3)[..., None], 3, -1))
        fits = [decoder.base_codec.fit(picture, 900) for picture in pictures]
        bases += [(size, base.payload) for base in fits]
    colors = []
    for size in SIZES:
        colors += [(size, color_codec.encode(hues(*size), count)) for count in (20, 90)]
    streams = [stream(decoder, (64, 64), text, None, seed) for seed, text in enumerate(texts)]
    streams += [stream(decoder, size, None, sketch, 14) for size, sketch in sketches]
    streams += [stream(decoder, size, texts[0], sketch, 2**31 - 1) for size, sketch in sketches]
    streams += [stream(decoder, size, texts[0], None, 1, color) for size, color in colors]
    streams += [stream(decoder, size, None, None, 1, None, base) for size, base in bases]
    streams.append(stream(decoder, SIZES[0], None, sketches[0][1], 1, None, bases[0][1]))
    for size, color in colors[:2]:
        streams.append(stream(decoder, size, texts[0], sketches[0][1], 1, color))
    return list(dict.fromkeys(bitstream.pack(each) for each in streams))


def stream(
    decoder: Decoder,
    size: tuple[int, int],
    text: bytes | None,
    sketch: bytes | None,
    seed: int,
    color: bytes | None = None,
    base: bytes | None = None,
) -> Stream:
    """Return a stream of the decoder's own models."""
    given = Stream(0, 1000, 700, size[1], size[0], seed, text, sketch, color, base)
    return dataclasses.replace(given, fingerprint=decoder.fingerprint(layers_of(given)))


def hues(height: int, width: int) -> np.ndarray:
    """Return an image (height, width, 3) uint8 of smooth colors."""
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / 29), np.cos(y / 23), np.sin((x + y) / 41)], -1)
    return np.uint8(127 + 120 * waves)


def rings(height: int, width: int, count: int) -> np.ndarray:
    """Return a sketch (height, width) uint8 of `count` soft rings."""
    y, x = np.mgrid[:height, :width]
    distance = np.hypot(x - width / 2, y - height / 2)
    lines = [np.exp(-((distance - 12 * ring) ** 2) / 4) for ring in range(1, count + 1)]
    return np.uint8(255 * np.max([np.zeros((height, width)), *lines], axis=0))


def spoiled(corpus: Sequence[bytes], rng: random.Random) -> Spoiled:
    """Return a mutant of one of the corpus; the same for the same state of `rng`."""
    way, target, data = rng.choice(WAYS), rng.choice(TARGETS), rng.choice(corpus)
    if target == "payload":
        return Spoiled(way, target, _payload_spoiled(data, corpus, way, rng))
    mutant = WAY[way](data, rng.choice(corpus), rng)
    return Spoiled(way, target, repaired(mutant) if target == "repaired" else mutant)


def repaired(data: bytes) -> bytes:
    """Return the same bytes with the checksum that belongs to them."""
    body = data[: -bitstream.CHECKSUM_BYTES]
    return body + crc_hqx(body, 0xFFFF).to_bytes(bitstream.CHECKSUM_BYTES, "big")


def read(decoder: Decoder, data: bytes) -> str:
    """Do what decoding does before the generator runs.

    Return "read", or the name of the documented error. Any other error passes through.
    """
    try:
        decoder.conditions(bitstream.unpack(data))
    except ERRORS as error:
        assert len(str(error).splitlines()) == 1, f"not one line: {error}"
        return type(error).__name__
    return "read"


def _payload_spoiled(data: bytes, corpus: Sequence[bytes], way: str, rng: random.Random) -> bytes:
    old, other = bitstream.unpack(data), bitstream.unpack(rng.choice(corpus))
    layer = rng.choice([name for name in bitstream.LAYERS if getattr(old, name)])
    payload = WAY[way](getattr(old, layer), getattr(other, layer) or b"", rng)
    payload = payload[: bitstream.MAX_LAYER_BYTES] or b"\0"
    return bitstream.pack(dataclasses.replace(old, **{layer: payload}))


def _flipped(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """Change 1 to 8 bits."""
    mutant = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        mutant[rng.randrange(len(mutant))] ^= 1 << rng.randrange(8)
    return bytes(mutant)


def _cut(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """Leave out a piece at the front, in the middle or at the end."""
    first, end = sorted((rng.randint(0, len(data)), rng.randint(0, len(data))))
    return data[:first] + data[end:]


def _spliced(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """Join the front of one and the back of another."""
    return data[: rng.randint(0, len(data))] + other[rng.randint(0, len(other)) :]


def _random(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """Keep the front and add noise, now and then as much as there may be."""
    longest = bitstream.MAX_LAYER_BYTES if rng.random() < 0.001 else 2 * len(data)
    return data[: rng.randint(0, min(16, len(data)))] + rng.randbytes(rng.randint(0, longest))


WAY = dict(zip(WAYS, (_flipped, _cut, _spliced, _random), strict=True))

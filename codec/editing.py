"""A new stream from an old one: other words, another sketch, other colors, another seed.

    data = edit(decoder, data, Edit(prompt="a red barn", seed=3))

What is not asked for stays as it is, byte for byte (but for the prompts of the first files, whose
tokens today's files number differently). What is asked for takes the kind and the rate that the
old layer had.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

import bitstream
import color_codec
from bitstream import BitstreamError, Stream
from codec.decoder import Conditions, Decoder
from codec.encoder import code_colors
from models_ntc.bundled import BASE_FROM, layers_of
from text_codec import TextError

GROWTH = 1.25  # of the bytes of a base that is too detailed for those of the old one


@dataclass(frozen=True, eq=False)
class Edit:
    """What a new stream has in place of the old one's; None: the same."""

    prompt: str | None = None  # a text of at most 4,096 characters
    sketch: np.ndarray | None = None  # uint8 (H, W) of any size, 255 = edge
    color: np.ndarray | None = None  # uint8 RGB (H, W, 3) of any size
    seed: int | None = None  # 0 to 2**31 - 1
    drop: tuple[str, ...] = ()  # layers that the new stream lacks, of bitstream.LAYERS

    def __post_init__(self):
        given = {"text": self.prompt, "sketch": self.sketch, "color": self.color}
        given["base"] = self.color
        for layer in self.drop:
            if given.get(layer) is not None:
                raise ValueError(f"the {layer} layer is to be replaced and to be dropped: choose")


def edit(decoder: Decoder, data: bytes, asked: Edit, force: bool = False) -> bytes:
    """Return a stream that decodes to what the old one does, but for what is asked.

    New pictures are resized to the coded size. A new sketch is written at the rate of the old one,
    new colors as a color map or base layer, whichever the old one was, within its bytes where that
    can be; without an old one, as the preset's defaults say. force: as in `Decoder.decode`.

    Raises as `Decoder.decode`, BitstreamError for a layer to drop that is not there, a seed out of
    range or a stream without any layer left, TextError for a prompt that cannot be written.
    """
    stream = bitstream.unpack(data)
    before = decoder.conditions(stream, force)
    layers = {
        "text": _text(decoder, stream, before, asked.prompt),
        "sketch": _sketch(decoder, stream, asked.sketch),
        **_colors(decoder, stream, asked.color),
    }
    _drop(layers, asked.drop)
    seed = stream.seed if asked.seed is None else asked.seed
    sizes = stream.source_width, stream.source_height, stream.width, stream.height
    new = Stream(0, *sizes, seed, **layers)
    bitstream.pack(new)  # refuses what no stream has before any model is asked
    fingerprint = decoder.fingerprint(layers_of(new))
    return bitstream.pack(Stream(fingerprint, *sizes, seed, **layers))


def _text(decoder: Decoder, stream: Stream, before: Conditions, prompt: str | None) -> bytes | None:
    """Return the payload of the new prompt, or of the old one as today's files have it."""
    codec = decoder.prompt_codec
    if prompt is not None:
        return codec.encode_text(prompt)
    if stream.text is None:
        return None
    with suppress(TextError):
        if codec.decode(stream.text).ids == before.prompt.ids:
            return stream.text
    return codec.encode_ids(before.prompt.ids)


def _sketch(decoder: Decoder, stream: Stream, sketch: np.ndarray | None) -> bytes | None:
    """Return the payload of the new sketch at the rate of the old one, or the old payload."""
    if sketch is None:
        return stream.sketch
    codec = decoder.sketch_codec
    if stream.sketch is not None:
        codec = codec.like(stream.sketch)
    return codec.encode(resized(sketch, stream.height, stream.width))


def _colors(decoder: Decoder, stream: Stream, image: np.ndarray | None) -> dict:
    """Return the payloads of color map and base, at most one of which is not None."""
    if image is None:
        return {"color": stream.color, "base": stream.base}
    image = resized(image, stream.height, stream.width)
    if stream.base is not None:
        return {"color": None, "base": fitted_base(decoder, image, len(stream.base))}
    if stream.color is not None:
        budget = max(len(stream.color), color_codec.MIN_BYTES)
        return {"color": color_codec.encode(image, budget), "base": None}
    color, base = code_colors(decoder, image, decoder.preset.color_bytes or BASE_FROM)
    return {"color": color.payload, "base": base.payload}


def fitted_base(decoder: Decoder, image: np.ndarray, budget: int) -> bytes:
    """Return a base layer within a budget, or in as few bytes more as the image needs.

    Raises BitstreamError if it needs more than a base layer may have.
    """
    while budget <= bitstream.MAX_LAYER_BYTES:
        base = decoder.base_codec.fit(image, budget)
        if base is not None:
            return base.payload
        budget = int(budget * GROWTH) + 1
    raise BitstreamError(f"the new colors need more than {bitstream.MAX_LAYER_BYTES} bytes")


def _drop(layers: dict[str, bytes | None], names: Sequence[str]) -> None:
    """Remove layers. Raises BitstreamError for one that is not there."""
    for name in names:
        if layers[name] is None:
            there = [layer for layer in bitstream.LAYERS if layers[layer] is not None]
            raise BitstreamError(f"the file has no {name} layer, only {', '.join(there)}")
        layers[name] = None


def resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return an image, uint8 (H, W) or (H, W, 3), at another size, by Lanczos's filter."""
    from PIL import Image  # here, so that `pics.py info` does not wait for it

    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))

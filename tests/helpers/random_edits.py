"""Random files and random edits of them, and whether a new file decodes to what was asked.

wrong = wrong_with(decoder, data, asked, edit(decoder, data, asked))
"""

import random
from dataclasses import replace

import numpy as np
from PIL import Image

import bitstream
import color_codec
from bitstream import Stream
from codec import Decoder, Edit, edit
from codec.editing import resized
from models_ntc.bundled import layers_of

TEXT = "a red barn under stormy sky two dogs on the beach, Tür 東京 🦊 don't 42"
WORDS = TEXT.split(" ")
LAYERS_OF = {"prompt": ("text",), "sketch": ("sketch",), "color": ("color", "base")}


def random_image(rng: random.Random, height: int, width: int) -> np.ndarray:
    """A few colors that run into one another, uint8 (height, width, 3)."""
    few = np.array([rng.randrange(256) for _ in range(27)], np.uint8).reshape(3, 3, 3)
    return np.asarray(Image.fromarray(few).resize((width, height), Image.Resampling.BICUBIC))


def random_sketch(rng: random.Random, height: int, width: int) -> np.ndarray:
    """Thick lines across, uint8 (height, width)."""
    sketch = np.zeros((height, width), np.uint8)
    for _ in range(2):
        row, column = rng.randrange(height - 5), rng.randrange(width - 5)
        sketch[row : row + 5] = 255
        sketch[:, column : column + 5] = 255
    return sketch


def random_prompt(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(0, 8)))


def random_file(decoder: Decoder, rng: random.Random) -> bytes:
    """A valid file of one to three layers, at one of several sizes and rates."""
    height, width = 64 * rng.randint(1, 3), 64 * rng.randint(1, 3)
    text, sketch, colors = 0, 0, 0
    while not text + sketch + colors:
        text, sketch, colors = rng.randrange(3), rng.randrange(2), rng.randrange(3)
    layers: dict[str, bytes] = {}
    if text == 1:
        layers["text"] = decoder.prompt_codec.encode_text(random_prompt(rng))
    elif text:
        ids = rng.sample(range(len(decoder.prompt_codec.tokenizer) - 2), 5)
        layers["text"] = decoder.prompt_codec.encode_ids(ids)
    if sketch:
        codec = decoder.sketch_codec if rng.random() < 0.5 else decoder.sketch_codec.other
        codec = codec.at(rng.choice(codec.lambdas))
        layers["sketch"] = codec.encode(random_sketch(rng, height, width))
    if colors == 1:
        layers["color"] = color_codec.encode(random_image(rng, height, width), rng.randint(8, 90))
    elif colors:
        base = decoder.base_codec.fit(random_image(rng, height, width), rng.randint(100, 400))
        layers["base"] = base.payload
    sizes = rng.randint(1, 5000), rng.randint(1, 5000), width, height
    stream = Stream(0, *sizes, rng.choice([0, 14, 15, 2**31 - 1]), **layers)
    fingerprint = decoder.fingerprint(layers_of(stream))
    return bitstream.pack(replace(stream, fingerprint=fingerprint))


def random_edit(rng: random.Random, stream: Stream) -> Edit:
    """Something of a file is changed, at times all; pictures have the coded size or another."""
    asked = {}
    height, width = stream.height, stream.width
    if rng.random() < 0.2:
        height, width = rng.randint(20, 300), rng.randint(20, 300)
    if rng.random() < 0.5:
        asked["prompt"] = random_prompt(rng)
    if rng.random() < 0.4:
        asked["sketch"] = random_sketch(rng, height, width)
    if rng.random() < 0.4:
        asked["color"] = random_image(rng, height, width)
    if rng.random() < 0.4 or not asked:
        asked["seed"] = rng.randrange(2**31)
    there = [name for name in bitstream.LAYERS if getattr(stream, name) is not None]
    kept = [name for key, names in LAYERS_OF.items() if key in asked for name in names]
    free = [name for name in there if name not in kept]
    if free and (len(free) < len(there) or len(there) > 1) and rng.random() < 0.3:
        asked["drop"] = (rng.choice(free),)
    return Edit(**asked)


def wrong_with(decoder: Decoder, data: bytes, asked: Edit, new: bytes) -> list[str]:
    """What the new file has that was not asked for, or lacks; conditions raises if it is none."""
    old, stream = bitstream.unpack(data), bitstream.unpack(new)
    before, after = decoder.conditions(old, force=True), decoder.conditions(stream)
    wrong = []
    for name in ("width", "height", "source_width", "source_height"):
        if getattr(stream, name) != getattr(old, name):
            wrong.append(name)
    if stream.seed != (old.seed if asked.seed is None else asked.seed):
        wrong.append("seed")
    if any(getattr(stream, name) is not None for name in asked.drop):
        wrong.append("drop")
    wrong += _kept(old, stream, before, after, asked)
    if asked.prompt is not None and after.prompt.text != asked.prompt:
        wrong.append("prompt")
    if asked.sketch is not None:
        wanted = resized(asked.sketch, stream.height, stream.width)
        wrong += _nearer("sketch", after.sketch, wanted, before.sketch)
    if asked.color is not None:
        wanted = resized(asked.color, stream.height, stream.width)
        wrong += _nearer("color", after.color, wanted, before.color)
        if old.base is not None and stream.base is None:
            wrong.append("base became color")
        if old.color is not None and len(stream.color or b"") > len(old.color):
            wrong.append("color grew")
    return wrong


def _kept(old, stream, before, after, asked) -> list[str]:
    """Layers that were to stay as they were and did not."""
    wrong = []
    for key, names in LAYERS_OF.items():
        for name in names:
            if getattr(asked, key) is None and name not in asked.drop:
                same = getattr(old, name) == getattr(stream, name)
                if name == "text" and before.prompt.ids == after.prompt.ids:
                    same = True
                if not same:
                    wrong.append(f"{name} not kept")
    return wrong


def _nearer(name, found, wanted, before) -> list[str]:
    """Whether a layer is like what was asked: nearer to it than what it took the place of, or than
    a black picture.
    """
    if found is None:
        return [f"no {name}"]
    error = _distance(found, wanted)
    limit = _distance(np.zeros_like(found) if before is None else before, wanted)
    return [] if error < limit else [f"{name}: {error:.1f} of {limit:.1f}"]


def _distance(found: np.ndarray, wanted: np.ndarray) -> float:
    small = found.shape[0] // 8, found.shape[1] // 8
    if found.shape[0] != wanted.shape[0]:
        small = found.shape[:2]
    pair = [resized(image, *small).astype(float) for image in (found, wanted)]
    return float(np.sqrt(np.mean((pair[0] - pair[1]) ** 2)))


def check_edits(decoder: Decoder, count: int, seed: int = 0) -> list[tuple[int, list[str]]]:
    """(number, what is wrong) of those of `count` random edits that went wrong."""
    wrong = []
    rng = random.Random(seed)
    for number in range(count):
        data = random_file(decoder, rng)
        asked = random_edit(rng, bitstream.unpack(data))
        new = edit(decoder, data, asked)
        faults = wrong_with(decoder, data, asked, new)
        if faults:
            wrong.append((number, faults))
    return wrong

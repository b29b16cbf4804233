"""What the refiner is trained on: reconstructions of the bundled models beside their images.

    python -m tiny.refiner_data --photos runs/tiny/photos --count 6000

Each example is a square of an image with what the decoder has of it: the reconstruction before the
refiner, the colors at one of the rates of color maps and base layers, and the sketch at one of the
rates of its codec, or none. Started again, the script goes on where it stopped.
"""

import argparse
import dataclasses
import math
import random
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

import color_codec
from annotator import load_annotator
from codec import Decoder
from codec.decoder import Conditions
from models_ntc import load_base_codec, load_sketch_codec
from presets import get_preset
from text_codec.prompt import NO_PROMPT, Prompt
from tiny.conditions import Conditions as Prepared
from tiny.data import Photos

SIDE = 256  # pixels
MAPS = 0.18  # probability of a color map in place of a base layer
MAP_BYTES = (20, 110)
BASE_BYTES = (150, 700)
SKETCHES = 0.45  # probability of a sketch
LAMBDAS = (0.01, 0.5)
PROMPTS = 0.7  # probability of the image's prompt, if one was found
SHAPES = {
    "image": (SIDE, SIDE, 3),
    "recon": (SIDE, SIDE, 3),
    "color": (SIDE, SIDE, 3),
    "sketch": (SIDE, SIDE, 1),
    "flags": (2,),
}


class Example(NamedTuple):
    """One example, uint8; shapes as in SHAPES."""

    image: np.ndarray
    recon: np.ndarray  # before the refiner
    color: np.ndarray  # the base layer, or the color map at its size
    sketch: np.ndarray  # zeros if there is none
    flags: np.ndarray  # whether the colors are a map's, and whether there is a sketch


class Examples:
    """The examples of a folder: `examples[i]` is an Example."""

    def __init__(self, folder: Path):
        self.count = count_of(folder)
        self.planes = {}
        for name, shape in SHAPES.items():
            whole = (self.count, *shape)
            self.planes[name] = np.memmap(folder / f"{name}.bin", np.uint8, "r", shape=whole)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> Example:
        return Example(*(plane[i] for plane in self.planes.values()))


def count_of(folder: Path) -> int:
    """Return the number of whole examples in a folder."""
    counts = []
    for name, shape in SHAPES.items():
        path = folder / f"{name}.bin"
        counts.append(path.stat().st_size // math.prod(shape) if path.exists() else 0)
    return min(counts)


class Maker:
    """Random examples of images, with the bundled models."""

    def __init__(self, photos: Photos, conditions: Path | None, rng: random.Random):
        self.photos, self.rng = photos, rng
        self.prepared = Prepared(conditions, photos) if conditions else None
        self.decoder = Decoder(dataclasses.replace(get_preset("tiny"), refiner=()))
        self.annotator = load_annotator("hed-tiny", "cpu")
        self.base = load_base_codec()

    def make(self, i: int) -> Example:
        """Return an example of image i."""
        image = self._square(self.photos[i])
        is_map = self.rng.random() < MAPS
        color = self._map(image) if is_map else self._base(image)
        sketch = self._sketch(image) if self.rng.random() < SKETCHES else None
        given = Conditions(self._prompt(i), sketch, color)
        recon = self.decoder.generate([given], [self.rng.randrange(256)], SIDE, SIDE)[0]
        shown = _enlarged(color) if is_map else color
        lines = np.zeros(SHAPES["sketch"], np.uint8) if sketch is None else sketch[..., None]
        flags = np.array([is_map, sketch is not None], np.uint8)
        return Example(image, recon, shown, lines, flags)

    def _square(self, image: np.ndarray) -> np.ndarray:
        y = self.rng.randint(0, image.shape[0] - SIDE)
        x = self.rng.randint(0, image.shape[1] - SIDE)
        square = image[y : y + SIDE, x : x + SIDE]
        return np.ascontiguousarray(square[:, ::-1] if self.rng.random() < 0.5 else square)

    def _map(self, image: np.ndarray) -> np.ndarray:
        payload = color_codec.encode(image, self.rng.randint(*MAP_BYTES))
        return color_codec.decode(payload, SIDE, SIDE)

    def _base(self, image: np.ndarray) -> np.ndarray:
        """Return a base layer, or the color map of an image that no base layer fits."""
        found = self.base.fit(image, round(self._log_uniform(*BASE_BYTES)))
        return found[1] if found else _enlarged(self._map(image))

    def _sketch(self, image: np.ndarray) -> np.ndarray:
        codec = load_sketch_codec(self._log_uniform(*LAMBDAS))
        return codec.encode_and_decode(self.annotator(image))[1]

    def _prompt(self, i: int) -> Prompt:
        ids = self.prepared.prompt(i) if self.prepared else []
        if not ids or self.rng.random() > PROMPTS:
            return NO_PROMPT
        return Prompt(tuple(ids), "", None)

    def _log_uniform(self, low: float, high: float) -> float:
        return math.exp(self.rng.uniform(math.log(low), math.log(high)))


def _enlarged(color: np.ndarray) -> np.ndarray:
    """Return a color map, uint8 (h, w, 3), at the size of the image, as the refiner sees it."""
    from diffusion.consistency import enlarged

    planes = torch.from_numpy(color.astype(np.float32)).permute(2, 0, 1)[None]
    large = enlarged(planes)[0].clamp(0, 255).round()
    return large.permute(1, 2, 0).to(torch.uint8).numpy()


def append(folder: Path, maker: Maker, pool: list[int], count: int) -> None:
    """Add examples of the images `pool` to a folder until there are `count`."""
    folder.mkdir(parents=True, exist_ok=True)
    done = count_of(folder)
    for name, shape in SHAPES.items():  # what a killed run left of an example
        with (folder / f"{name}.bin").open("ab") as file:
            file.truncate(done * math.prod(shape))
    for k in tqdm(range(done, count), desc="examples"):
        example = maker.make(pool[k % len(pool)])
        for name, values in example._asdict().items():
            with (folder / f"{name}.bin").open("ab") as file:
                file.write(values.tobytes())


def main(argv: list[str] | None = None) -> None:
    """Write the examples of training images, and an eighth as many of held-out images."""
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = flags.add_argument
    add("--photos", type=Path, default=Path("runs/tiny/photos"), help="folder of tiny.data")
    add("--conditions", type=Path, help="folder of tiny.conditions, for prompts")
    add("--out", type=Path, default=Path("runs/tiny/refiner_data"), help="folder to write")
    add("--count", type=int, default=6000, help="number of training examples")
    add("--seed", type=int, default=0, help="random seed")
    args = flags.parse_args(argv)
    photos, rng = Photos(args.photos), random.Random(args.seed)
    maker = Maker(photos, args.conditions, rng)
    training = rng.sample(photos.training, len(photos.training))
    append(args.out / "training", maker, training, args.count)
    append(args.out / "held_out", maker, photos.validation, min(64, args.count // 8))


if __name__ == "__main__":
    main()

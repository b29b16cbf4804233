"""What the generator is trained on besides images: sketches, color maps, inverted prompts.

python -m tiny.conditions sketches --photos runs/tiny/photos --out runs/tiny/conditions
python -m tiny.conditions export --sketches runs/tiny/sketches
python -m tiny.conditions decoded
python -m tiny.conditions colors
python -m tiny.conditions prompts --clip tiny/bundle/clip

sketches    writes sketch.bin: the sketches of all images, in their order
export      writes these sketches as the PNG files that train_compressai.py reads
decoded     writes decoded.bin: each sketch after coding, at one of the sketch codec's rates
colors      writes color.bin: each image's color map, at one of the color codec's rates
prompts     writes prompts.json: the token ids that prompt inversion finds
"""

import argparse
import json
import random
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from common.files import write
from control_training.conditions import COLOR_BYTES, load_single_threaded_annotator
from tiny.data import Photos
from tiny.facts import color_grid, describe

CLEAN_FRACTION = 0.2  # of the sketches in training
CHUNK = 64  # images between two writes of prompts.json
DECODED_RATES = 6  # number of lambdas of the decoded sketches, over the bundled codec's range


class Conditions:
    """The prepared conditions of `Photos`: index i is the same image.

    clean_fraction: of the sketches in training, 0..1, as the annotator drew them; the others are
        decoded ones.
    """

    def __init__(self, folder: Path, photos: Photos, clean_fraction: float = CLEAN_FRACTION):
        self.photos = photos
        self.clean_fraction = clean_fraction
        self.shapes = [tuple(row["shape"][:2]) for row in photos.rows]
        self.starts = np.cumsum([0] + [h * w for h, w in self.shapes])
        self.color_starts = np.cumsum([0] + [3 * (h // 8) * (w // 8) for h, w in self.shapes])
        self.clean = np.memmap(folder / "sketch.bin", np.uint8, "r")
        self.coded = self.clean
        if (folder / "decoded.bin").exists():
            self.coded = np.memmap(folder / "decoded.bin", np.uint8, "r")
        self.colors = None
        if (folder / "color.bin").exists():
            self.colors = np.memmap(folder / "color.bin", np.uint8, "r")
        self.prompts = []
        if (folder / "prompts.json").exists():
            self.prompts = json.loads((folder / "prompts.json").read_text())

    def plane(self, planes: np.ndarray, i: int) -> np.ndarray:
        """Return sketch i of `clean` or `coded`: uint8 (H, W)."""
        return planes[self.starts[i] : self.starts[i + 1]].reshape(self.shapes[i])

    def sketch(self, i: int, rng: random.Random) -> np.ndarray:
        """Return sketch i as decoded, or sometimes the clean one: uint8 (H, W)."""
        if rng.random() < self.clean_fraction:
            return self.plane(self.clean, i)
        return self.decoded(i)

    def decoded(self, i: int) -> np.ndarray:
        """Return sketch i as decoded at its rate (the clean one if there are no decoded ones)."""
        return self.plane(self.coded, i)

    def color(self, i: int) -> np.ndarray:
        """Return the color map of image i as decoded at its rate: uint8 (H // 8, W // 8, 3)."""
        height, width = self.shapes[i]
        values = self.colors[self.color_starts[i] : self.color_starts[i + 1]]
        return values.reshape(height // 8, width // 8, 3)

    def prompt(self, i: int) -> list[int]:
        """Return the inverted prompt of image i as token ids ([] if there is none)."""
        return self.prompts[i] if i < len(self.prompts) else []

    def facts(self, i: int, rng: random.Random) -> str:
        """Return a random text of what tiny/facts.py can say of image i."""
        row = self.photos.rows[i]
        return describe(color_grid(self.photos[i]), row["label"], row["captions"], rng)


def pad_to_multiple(image: np.ndarray, multiple: int = 64) -> np.ndarray:
    """Mirror an image (H, W) or (H, W, 3) below and to the right until both sides are multiples."""
    margins = [(0, -side % multiple) for side in image.shape[:2]]
    if image.ndim == 3:
        margins.append((0, 0))
    return np.pad(image, margins, mode="symmetric")


# ---- planes, computed in worker processes. What they need is loaded once in each process.


@cache
def open_photos(folder: Path) -> Photos:
    """Return the prepared images of a folder."""
    return Photos(folder)


@cache
def open_conditions(folder: Path, photos: Path) -> Conditions:
    """Return the prepared conditions of a folder."""
    return Conditions(folder, open_photos(photos))


@cache
def load_sketch_codecs() -> list:
    """Return the sketch codec at DECODED_RATES lambdas; torch uses one thread from now on."""
    import torch

    from models_ntc import lambda_range, load_sketch_codec

    torch.set_num_threads(1)
    lambdas = np.geomspace(*lambda_range(), DECODED_RATES)
    return [load_sketch_codec(float(lmbda)) for lmbda in lambdas]


def sketch_plane(photos: Path, i: int) -> np.ndarray:
    """Return the sketch of image i: uint8 (H, W)."""
    return load_single_threaded_annotator("hed-tiny")(open_photos(photos)[i])


def decoded_plane(photos: Path, folder: Path, i: int) -> np.ndarray:
    """Return sketch i as decoded at one of the codec's rates: uint8 (H, W)."""
    codecs = load_sketch_codecs()
    conditions = open_conditions(folder, photos)
    sketch = conditions.plane(conditions.clean, i)
    _, decoded = codecs[i % len(codecs)].encode_and_decode(pad_to_multiple(sketch))
    return decoded[: sketch.shape[0], : sketch.shape[1]]


def color_plane(photos: Path, i: int) -> np.ndarray:
    """Return the decoded color map of image i, at one of COLOR_BYTES: uint8 (H // 8, W // 8, 3)."""
    import color_codec

    image = open_photos(photos)[i]
    padded = pad_to_multiple(image)
    payload = color_codec.encode(padded, COLOR_BYTES[i % len(COLOR_BYTES)])
    color = color_codec.decode(payload, *padded.shape[:2])
    return color[: image.shape[0] // 8, : image.shape[1] // 8]


def as_bytes(plane_of: Callable[[int], np.ndarray], i: int) -> bytes:
    """Return the content of a plane."""
    return plane_of(i).tobytes()


def write_planes(
    path: Path, plane_of: Callable[[int], np.ndarray], count: int, workers: int
) -> None:
    """Write the planes of images 0 to count - 1, one after the other, from worker processes.

    plane_of: a function that can be pickled, index of an image -> its plane.
    """
    temporary = path.with_suffix(".tmp")  # all planes are too large for the memory
    with ProcessPoolExecutor(workers) as pool, temporary.open("wb") as file:
        contents = pool.map(partial(as_bytes, plane_of), range(count), chunksize=8)
        for content in tqdm(contents, total=count, desc=path.stem):
            file.write(content)
    temporary.replace(path)


# ---- other conditions


def export_sketches(photos: Photos, conditions: Conditions, out: Path) -> None:
    """Write all sketches as PNG files: to `out`/test if the image is held out, else `out`/train."""
    for i, row in enumerate(tqdm(photos.rows, desc="export")):
        split = "test" if row["validation"] else "train"
        path = out / split / f"{Path(row['name']).stem}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), conditions.plane(conditions.clean, i))


def write_prompts(photos: Photos, clip: Path, path: Path, steps: int) -> None:
    """Invert all images to prompts of the tokens that the encoder uses; resume if some exist."""
    from presets import PRESETS
    from prompt_inversion.clip import load_clip
    from prompt_inversion.search import PromptConfig, invert_prompts
    from text_codec.vocabulary import token_subset

    preset = PRESETS["tiny"]
    model = load_clip(str(clip), "cpu")
    allowed = tuple(token_subset(model.tokenizer, preset.prompt_bits))
    config = PromptConfig(length=preset.prompt_len, steps=steps, allowed=allowed)
    prompts = json.loads(path.read_text()) if path.exists() else []
    for start in tqdm(range(len(prompts), len(photos), CHUNK), desc="prompts"):
        images = [photos[i] for i in range(start, min(start + CHUNK, len(photos)))]
        for prompt in invert_prompts(images, model, config):
            prompts.append(list(map(int, prompt.ids)))
        write(path, json.dumps(prompts).encode())


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = ("sketches", "export", "decoded", "colors", "prompts")
    runs = Path("runs/tiny")
    parser.add_argument("kind", choices=kinds, help="what to write")
    add = parser.add_argument
    add("--photos", type=Path, default=runs / "photos", help="folder written by tiny.data")
    add("--out", type=Path, default=runs / "conditions", help="folder of the results")
    help_sketches = "folder of the PNG files, for `export`"
    add("--sketches", type=Path, default=runs / "sketches", help=help_sketches)
    clip = Path(__file__).parent / "bundle" / "clip"
    add("--clip", type=Path, default=clip, help="folder of the CLIP, for `prompts`")
    add("--steps", type=int, default=100, help="number of search steps, for `prompts`")
    help_workers = "number of worker processes, for `sketches`, `decoded` and `colors`"
    add("--workers", type=int, default=2, help=help_workers)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Prepare one kind of condition."""
    args = parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    photos = Photos(args.photos)
    if args.kind == "prompts":
        write_prompts(photos, args.clip, args.out / "prompts.json", args.steps)
        return
    if args.kind == "export":
        export_sketches(photos, Conditions(args.out, photos), args.sketches)
        return
    file, plane_of = {
        "sketches": ("sketch.bin", partial(sketch_plane, args.photos)),
        "decoded": ("decoded.bin", partial(decoded_plane, args.photos, args.out)),
        "colors": ("color.bin", partial(color_plane, args.photos)),
    }[args.kind]
    write_planes(args.out / file, plane_of, len(photos), args.workers)


if __name__ == "__main__":
    main()

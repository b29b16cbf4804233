"""What the generator is trained on besides photographs: sketches, decoded sketches, colour maps, inverted prompts.

    python -m tiny.conditions sketches --photos runs/tiny/photos --out runs/tiny/conditions
    python -m tiny.conditions export --photos runs/tiny/photos --out runs/tiny/conditions --sketches runs/tiny/sketches
    python -m tiny.conditions decoded --photos runs/tiny/photos --out runs/tiny/conditions
    python -m tiny.conditions colours --photos runs/tiny/photos --out runs/tiny/conditions
    python -m tiny.conditions prompts --photos runs/tiny/photos --out runs/tiny/conditions

`sketches` writes sketch.bin (every sketch, laid out like the photographs); `export` writes these as the pictures
that train_compressai.py reads; `decoded` writes decoded.bin, what the sketch codec makes of each at one of its rates;
`colours` writes colour.bin, what the colour codec makes of each photograph at one of its rates; `prompts` writes
prompts.json, the ids that prompt inversion finds.
"""

import argparse
import json
import random
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from tiny.data import Photos
from tiny.facts import colour_grid, describe

CLEAN_SHARE = 0.2  # of the sketches in training
CHUNK = 64  # photographs between two writes
COLOUR_BYTES = (40, 60, 80, 110, 150)  # of the colour maps
DECODED_RATES = 6  # lambdas of the decoded sketches, over the whole range of the bundled codec


class Conditions:
    """The prepared conditions of `Photos`: index i is the same photograph.

    clean_share: of the sketches in training, in 0..1, as drawn; the others are decoded ones.
    """

    def __init__(self, folder: Path, photos: Photos, clean_share: float = CLEAN_SHARE):
        self.photos, self.clean_share = photos, clean_share
        self.shapes = [tuple(row["shape"][:2]) for row in photos.rows]
        self.starts = np.cumsum([0] + [h * w for h, w in self.shapes])
        self.clean = np.memmap(folder / "sketch.bin", np.uint8, "r")
        coded, colours = folder / "decoded.bin", folder / "colour.bin"
        self.coded = np.memmap(coded, np.uint8, "r") if coded.exists() else self.clean
        self.colours = np.memmap(colours, np.uint8, "r") if colours.exists() else None
        self.corners = np.cumsum([0] + [3 * (h // 8) * (w // 8) for h, w in self.shapes])
        prompts = folder / "prompts.json"
        self.prompts = json.loads(prompts.read_text()) if prompts.exists() else []

    def plane(self, planes: np.ndarray, i: int) -> np.ndarray:
        """Return sketch i of `clean` or `coded`: uint8 (H, W)."""
        return planes[self.starts[i] : self.starts[i + 1]].reshape(self.shapes[i])

    def sketch(self, i: int, rng: random.Random) -> np.ndarray:
        """Return sketch i as decoded, or sometimes the clean one: uint8 (H, W)."""
        return self.plane(self.clean, i) if rng.random() < self.clean_share else self.decoded(i)

    def decoded(self, i: int) -> np.ndarray:
        """Return sketch i as decoded at its rate (the clean one where none was prepared)."""
        return self.plane(self.coded, i)

    def colour(self, i: int) -> np.ndarray:
        """Return the colour map of photograph i as decoded at its rate: uint8 (H // 8, W // 8, 3)."""
        h, w = self.shapes[i]
        return self.colours[self.corners[i] : self.corners[i + 1]].reshape(h // 8, w // 8, 3)

    def prompt(self, i: int) -> list[int]:
        """Return the inverted prompt of photograph i as ids (empty where none was prepared)."""
        return self.prompts[i] if i < len(self.prompts) else []

    def facts(self, i: int, rng: random.Random) -> str:
        """Draw a text of what tiny/facts.py can say of photograph i."""
        row = self.photos.rows[i]
        return describe(colour_grid(self.photos[i]), row["label"], row["captions"], rng)


def pad_to_multiple(picture: np.ndarray, multiple: int = 64) -> np.ndarray:
    """Mirror a picture (H, W) or (H, W, 3) outwards until both sides are multiples."""
    margins = [(0, -side % multiple) for side in picture.shape[:2]]
    return np.pad(picture, margins + [(0, 0)] * (picture.ndim - 2), mode="symmetric")


_work: Callable[[int], np.ndarray]  # one process's photograph number -> its plane


def _start_sketches(photos: Path) -> None:
    import torch

    from annotator import load_annotator

    torch.set_num_threads(1)
    global _work
    pictures, annotator = Photos(photos), load_annotator("hed-tiny", "cpu")

    def _work(i: int) -> np.ndarray:
        return annotator(pictures[i])


def _start_decoded(photos: Path, folder: Path) -> None:
    import torch

    from models_ntc import lambda_range, load_sketch_codec

    torch.set_num_threads(1)
    global _work
    conditions = Conditions(folder, Photos(photos))
    codecs = [load_sketch_codec(float(lmbda)) for lmbda in np.geomspace(*lambda_range(), DECODED_RATES)]

    def _work(i: int) -> np.ndarray:
        sketch = conditions.plane(conditions.clean, i)
        _, decoded = codecs[i % len(codecs)].compress_and_draw(pad_to_multiple(sketch))
        return decoded[: sketch.shape[0], : sketch.shape[1]]


def _start_colours(photos: Path) -> None:
    import colour_codec

    global _work
    pictures = Photos(photos)

    def _work(i: int) -> np.ndarray:
        padded = pad_to_multiple(pictures[i])
        payload = colour_codec.encode(padded, COLOUR_BYTES[i % len(COLOUR_BYTES)])
        height, width = pictures[i].shape[:2]
        return colour_codec.decode(payload, *padded.shape[:2])[: height // 8, : width // 8]


def _call(i: int) -> bytes:
    return _work(i).tobytes()


def write_planes(path: Path, count: int, start: Callable[[], None], workers: int) -> None:
    """Write the planes of all photographs, one behind the other, from several processes."""
    with ProcessPoolExecutor(workers, initializer=start) as pool, path.with_suffix(".tmp").open("wb") as file:
        for plane in tqdm(pool.map(_call, range(count), chunksize=8), total=count, desc=path.stem):
            file.write(plane)
    path.with_suffix(".tmp").replace(path)


def export_sketches(photos: Photos, conditions: Conditions, out: Path) -> None:
    """Write every sketch as a PNG below `out`/train, or `out`/test for those held out."""
    for i, row in enumerate(tqdm(photos.rows, desc="export")):
        path = out / ("test" if row["validation"] else "train") / f"{Path(row['name']).stem}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), conditions.plane(conditions.clean, i))


def write_prompts(photos: Photos, clip: Path, path: Path, steps: int) -> None:
    """Invert every photograph to a prompt of the words that the encoder uses, `CHUNK` at a time."""
    from presets import PRESETS
    from prompt_inversion import PromptConfig, invert_prompts, load_clip, sub_vocabulary

    model, row = load_clip(str(clip), "cpu"), PRESETS["tiny"]
    allowed = tuple(sub_vocabulary(model.tokenizer, row.prompt_bits))
    config = PromptConfig(length=row.prompt_len, steps=steps, allowed=allowed)
    prompts = json.loads(path.read_text()) if path.exists() else []
    for start in tqdm(range(len(prompts), len(photos), CHUNK), desc="prompts"):
        images = [photos[i] for i in range(start, min(start + CHUNK, len(photos)))]
        found = invert_prompts(images, model, config)
        prompts += [[int(word) for word in prompt.ids] for prompt in found]
        path.with_suffix(".tmp").write_text(json.dumps(prompts))
        path.with_suffix(".tmp").replace(path)


def main(argv: list[str] | None = None) -> None:
    """Prepare one kind of condition."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("sketches", "export", "decoded", "colours", "prompts"))
    parser.add_argument("--photos", type=Path, default=Path("runs/tiny/photos"))
    parser.add_argument("--out", type=Path, default=Path("runs/tiny/conditions"))
    parser.add_argument("--sketches", type=Path, default=Path("runs/tiny/sketches"), help="for `export`")
    parser.add_argument("--clip", type=Path, default=Path(__file__).parent / "bundle" / "clip")
    parser.add_argument("--steps", type=int, default=100, help="of the prompt search, for `prompts`")
    parser.add_argument("--workers", type=int, default=2, help="processes, for `sketches` and `decoded`")
    args = parser.parse_args(argv)

    args.out.mkdir(parents=True, exist_ok=True)
    photos = Photos(args.photos)
    if args.kind == "prompts":
        write_prompts(photos, args.clip, args.out / "prompts.json", args.steps)
    elif args.kind == "export":
        export_sketches(photos, Conditions(args.out, photos), args.sketches)
    elif args.kind == "colours":
        write_planes(args.out / "colour.bin", len(photos), partial(_start_colours, args.photos), args.workers)
    elif args.kind == "sketches":
        write_planes(args.out / "sketch.bin", len(photos), partial(_start_sketches, args.photos), args.workers)
    else:
        start = partial(_start_decoded, args.photos, args.out)
        write_planes(args.out / "decoded.bin", len(photos), start, args.workers)


if __name__ == "__main__":
    main()

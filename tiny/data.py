"""Images for training the bundled models: read once, kept as one memory-mapped array on disk.

    python -m tiny.data --source PHOTOS --out runs/tiny/photos

PHOTOS is a folder of images (at any depth) or of tar shards of images, with an optional
`photos.jsonl` of {"file", "label", "captions"} lines. If there is one, only the files that it lists
are used. Every image is brought to a short side of 256 pixels.
"""

import argparse
import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from common.files import load_image, write

SHORT_SIDE = 256
LONG_SIDE = 384  # at most
VALIDATION_FRACTION = 0.03
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}


def is_validation(name: str) -> bool:
    """Return whether an image is held out: by the hash of its name, the same in every script."""
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    return number < VALIDATION_FRACTION * 2**32


def read_images(source: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (file name, image) from tar shards and single files below `source`."""
    for path in sorted(source.rglob("*")):
        if path.suffix == ".tar":
            yield from read_shard(path)
        elif path.suffix.lower() in SUFFIXES:
            yield path.name, load_image(path)


def read_shard(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (file name, image) from a tar file."""
    with tarfile.open(path) as shard:
        for member in shard:
            if Path(member.name).suffix.lower() in SUFFIXES:
                content = shard.extractfile(member).read()
                yield member.name, load_image(io.BytesIO(content))


def fit(pixels: np.ndarray) -> np.ndarray:
    """Return uint8 RGB (H, W, 3), short side 256, long side cropped to at most 384."""
    image = Image.fromarray(pixels)
    scale = SHORT_SIDE / min(image.size)
    width, height = (max(SHORT_SIDE, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(ImageOps.fit(image, (min(width, LONG_SIDE), min(height, LONG_SIDE))))


def read_notes(source: Path) -> dict[str, dict]:
    """Return the lines of photos.jsonl by file name; {} if there is no such file."""
    file = source / "photos.jsonl"
    if not file.exists():
        return {}
    rows = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    return {row["file"]: row for row in rows}


def prepare(source: Path, out: Path) -> None:
    """Write `pixels.bin` (all images, one after the other) and `index.json` (a row for each)."""
    out.mkdir(parents=True, exist_ok=True)
    notes = read_notes(source)
    rows = []
    offset = 0
    temporary = out / "pixels.bin.tmp"  # all images are too large for the memory
    with temporary.open("wb") as pixels:
        for name, image in tqdm(read_images(source), desc="images"):
            if notes and name not in notes:
                continue
            fitted = fit(image)
            rows.append(index_row(name, offset, fitted.shape, notes.get(name, {})))
            pixels.write(fitted.tobytes())
            offset += fitted.size
    temporary.replace(out / "pixels.bin")
    write(out / "index.json", json.dumps(rows).encode())


def index_row(name: str, offset: int, shape: tuple[int, ...], note: dict) -> dict:
    """Return the row of an image in index.json. note: its line of photos.jsonl, or {}."""
    return {
        "name": name,
        "offset": offset,
        "shape": shape,
        "label": note.get("label", ""),
        "captions": note.get("captions", []),
        "validation": is_validation(name),
    }


class Photos:
    """The prepared images: `photos[i]` is uint8 (H, W, 3), short side 256.

    rows: of index.json. training, validation: the indices i of both parts.
    """

    def __init__(self, folder: Path):
        self.rows = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        self.pixels = np.memmap(folder / "pixels.bin", np.uint8, "r")
        self.training = [i for i, row in enumerate(self.rows) if not row["validation"]]
        self.validation = [i for i, row in enumerate(self.rows) if row["validation"]]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> np.ndarray:
        start = self.rows[i]["offset"]
        shape = self.rows[i]["shape"]
        return self.pixels[start : start + int(np.prod(shape))].reshape(shape)


def main(argv: list[str] | None = None) -> None:
    """Prepare the images of a folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--source", type=Path, required=True, help="folder of images or tar shards")
    out = Path("runs/tiny/photos")
    add("--out", type=Path, default=out, help="folder of the results (default: %(default)s)")
    args = parser.parse_args(argv)
    prepare(args.source, args.out)


if __name__ == "__main__":
    main()

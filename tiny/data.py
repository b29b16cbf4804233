"""Photographs for training the bundled models: read once, kept as one memory-mapped array on disk.

    python -m tiny.data --source PHOTOS --out runs/tiny/photos

PHOTOS is a folder of pictures (any depth) or of tar shards of pictures, with an optional `photos.jsonl` of
{"file", "label", "captions"} lines; with it, only the files that it lists are taken. Every picture is brought
to a short side of 256 pixels.
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

SHORT_SIDE, LONG_SIDE = 256, 384
VALIDATION_SHARE = 0.03
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}


def is_validation(name: str) -> bool:
    """Hold out a fixed share of the photographs, by hash of the name, so that every script agrees."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") < VALIDATION_SHARE * 2**32


def read_pictures(source: Path) -> Iterator[tuple[str, Image.Image]]:
    """Yield (file name, picture) from tar shards and loose files below `source`."""
    for path in sorted(source.rglob("*")):
        if path.suffix == ".tar":
            with tarfile.open(path) as shard:
                for member in shard:
                    if Path(member.name).suffix.lower() in SUFFIXES:
                        yield member.name, Image.open(io.BytesIO(shard.extractfile(member).read()))
        elif path.suffix.lower() in SUFFIXES:
            yield path.name, Image.open(path)


def fit(picture: Image.Image) -> np.ndarray:
    """Bring a picture to uint8 RGB, short side 256, long side cropped to at most 384."""
    picture = ImageOps.exif_transpose(picture).convert("RGB")
    scale = SHORT_SIDE / min(picture.size)
    width, height = (max(SHORT_SIDE, round(side * scale)) for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(ImageOps.fit(picture, (min(width, LONG_SIDE), min(height, LONG_SIDE))))


def prepare(source: Path, out: Path) -> None:
    """Write `pixels.bin` (all pictures, one behind the other) and `index.json` (a row for each)."""
    out.mkdir(parents=True, exist_ok=True)
    notes = {}
    if (source / "photos.jsonl").exists():
        lines = (source / "photos.jsonl").read_text(encoding="utf-8").splitlines()
        notes = {row["file"]: row for row in map(json.loads, lines)}
    rows, offset = [], 0
    with (out / "pixels.bin.tmp").open("wb") as pixels:
        for name, picture in tqdm(read_pictures(source), desc="photographs"):
            if notes and name not in notes:
                continue
            image = fit(picture)
            note = notes.get(name, {})
            rows.append(
                {
                    "name": name,
                    "offset": offset,
                    "shape": image.shape,
                    "label": note.get("label", ""),
                    "captions": note.get("captions", []),
                    "validation": is_validation(name),
                }
            )
            pixels.write(image.tobytes())
            offset += image.size
    (out / "pixels.bin.tmp").replace(out / "pixels.bin")
    (out / "index.json").write_text(json.dumps(rows), encoding="utf-8")


class Photos:
    """The prepared photographs: `photos[i]` is uint8 (H, W, 3), short side 256; `rows[i]` says what is known."""

    def __init__(self, folder: Path):
        self.rows = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        self.pixels = np.memmap(folder / "pixels.bin", np.uint8, "r")
        self.training = [i for i, row in enumerate(self.rows) if not row["validation"]]
        self.validation = [i for i, row in enumerate(self.rows) if row["validation"]]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> np.ndarray:
        start, shape = self.rows[i]["offset"], self.rows[i]["shape"]
        return self.pixels[start : start + int(np.prod(shape))].reshape(shape)


def main(argv: list[str] | None = None) -> None:
    """Prepare the photographs of a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="folder of pictures or tar shards")
    parser.add_argument("--out", type=Path, default=Path("runs/tiny/photos"))
    args = parser.parse_args(argv)
    prepare(args.source, args.out)


if __name__ == "__main__":
    main()

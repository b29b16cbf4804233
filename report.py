"""Results of a run: whole files, a row for each photograph, their averages, and one picture that shows them all."""

import csv
import io
import json
import os
import textwrap
from pathlib import Path
from statistics import fmean

import numpy as np
import yaml
from PIL import Image, ImageDraw, ImageFont

from dataloaders import Samples

TILE, TEXT_HEIGHT, MARGIN, MOST = 256, 92, 12, 24  # pixels of the overview, and its most photographs
PAPER, INK, GRAY = (250, 249, 246), (30, 30, 30), (120, 118, 112)


def png(picture: np.ndarray) -> bytes:
    """Return a picture (H, W) or (H, W, 3) uint8 as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def write(path: Path, content: bytes) -> None:
    """Write a whole file or none: under a temporary name first, then renamed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_report(folder: Path, samples: Samples, method: str, failures: dict[str, str]) -> dict:
    """Write results.csv, summary.json and overview.jpg of what is done so far, and return the summary."""
    captions = read_captions(folder, samples.names)
    rows = [as_row(caption) for caption in captions]
    summary = {
        "method": method,
        "dataset": samples.name,
        "photographs": len(rows),
        "failed": sorted(failures),
    }
    if rows:
        numbers = [name for name, value in rows[0].items() if isinstance(value, float | int)]
        summary["mean"] = {name: round(fmean(row[name] for row in rows), 5) for name in numbers}
        table = io.StringIO()
        writer = csv.DictWriter(table, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write(folder / "results.csv", table.getvalue().encode())
        write(folder / "overview.jpg", overview(folder, captions[:MOST], samples))
    write(folder / "summary.json", json.dumps(summary, indent=1).encode())
    return summary


def read_captions(folder: Path, names: tuple[str, ...]) -> list[dict]:
    """Read the captions of the photographs that are done, in the data set's order."""
    paths = [folder / f"{name}_caption.yaml" for name in names]
    return [yaml.safe_load(path.read_text(encoding="utf-8")) for path in paths if path.exists()]


def as_row(caption: dict) -> dict:
    """Flatten a caption to a row of results.csv."""
    row = {"name": caption["name"], "prompt": caption["prompt"]}
    row |= {"bpp": caption["bpp"]["total"], "bytes": caption["bytes"]["total"]}
    row |= {f"bytes_{layer}": count for layer, count in caption["bytes"].items() if layer != "total"}
    return row | caption["metrics"]


def overview(folder: Path, captions: list[dict], samples: Samples | None) -> bytes:
    """Return a JPEG that shows, for each photograph, the original, the sketch sent, what was drawn and the bytes.

    Without `samples` the originals are left out.
    """
    tiles = [block(folder, caption, samples) for caption in captions]
    columns = 2 if len(tiles) > 6 else 1
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    heights = [MARGIN + max(tile.height for tile in row) for row in rows]
    width = MARGIN + max(tile.width for tile in tiles)
    sheet = Image.new("RGB", (columns * width + MARGIN, sum(heights) + MARGIN), PAPER)
    for i, row in enumerate(rows):
        for j, tile in enumerate(row):
            sheet.paste(tile, (MARGIN + j * width, MARGIN + sum(heights[:i])))
    file = io.BytesIO()
    sheet.save(file, "JPEG", quality=88)
    return file.getvalue()


def block(folder: Path, caption: dict, samples: Samples | None) -> Image.Image:
    """Draw one photograph's pictures side by side with its bytes and prompt below."""
    name = caption["name"]
    pictures = [Image.fromarray(samples[samples.names.index(name)].image)] if samples else []
    files = [folder / f"{name}{ending}" for ending in ("_sketch_recon.png", "_recon.png")]
    pictures += [Image.open(file) for file in files if file.exists()]
    for picture in pictures:
        picture.thumbnail((TILE, TILE), Image.Resampling.LANCZOS)
    height = max(picture.height for picture in pictures)
    tile = Image.new("RGB", (len(pictures) * (TILE + MARGIN), height + TEXT_HEIGHT), PAPER)
    for i, picture in enumerate(pictures):
        tile.paste(picture.convert("RGB"), (i * (TILE + MARGIN), 0))
    draw, sizes = ImageDraw.Draw(tile), caption["bytes"]
    layers = " + ".join(f"{count} {layer}" for layer, count in sizes.items() if count and layer != "total")
    line = f"{name}: {sizes['total']} bytes ({layers}), {caption['bpp']['total']:.4f} bpp"
    draw.text((0, height + 6), line, INK, ImageFont.load_default(14))
    for i, words in enumerate(textwrap.wrap(caption["prompt"], tile.width // 8)[:3]):
        draw.text((0, height + 28 + 18 * i), words, GRAY, ImageFont.load_default(14))
    return tile

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
        write(folder / "overview.jpg", overview(folder, samples, captions[:MOST]))
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


def overview(folder: Path, samples: Samples, captions: list[dict]) -> bytes:
    """Return a JPEG that shows, for each photograph, the original, the sketch sent, what was drawn and the bytes."""
    blocks = [block(folder, samples, caption) for caption in captions]
    columns = 2 if len(blocks) > 6 else 1
    width, height = blocks[0].width + MARGIN, blocks[0].height + MARGIN
    rows = -(-len(blocks) // columns)
    sheet = Image.new("RGB", (columns * width + MARGIN, rows * height + MARGIN), PAPER)
    for i, tile in enumerate(blocks):
        sheet.paste(tile, (MARGIN + i % columns * width, MARGIN + i // columns * height))
    file = io.BytesIO()
    sheet.save(file, "JPEG", quality=88)
    return file.getvalue()


def block(folder: Path, samples: Samples, caption: dict) -> Image.Image:
    """Draw one photograph's pictures side by side with its bytes and prompt below."""
    name = caption["name"]
    pictures = [Image.fromarray(samples[samples.names.index(name)].image)]
    sent = folder / f"{name}_sketch_recon.png"
    if sent.exists():
        pictures.append(Image.open(sent))
    pictures.append(Image.open(folder / f"{name}_recon.png"))
    tile = Image.new("RGB", (3 * TILE + 2 * MARGIN, TILE + TEXT_HEIGHT), PAPER)
    for i, picture in enumerate(pictures):
        picture.thumbnail((TILE, TILE), Image.Resampling.LANCZOS)
        tile.paste(picture.convert("RGB"), (i * (TILE + MARGIN), (TILE - picture.height) // 2))
    draw, sizes = ImageDraw.Draw(tile), caption["bytes"]
    layers = " + ".join(f"{count} {layer}" for layer, count in sizes.items() if layer != "total")
    line = f"{name}: {sizes['total']} bytes ({layers}), {caption['bpp']['total']:.4f} bpp"
    draw.text((0, TILE + 6), line, INK, ImageFont.load_default(16))
    for i, words in enumerate(textwrap.wrap(caption["prompt"], 100)[:3]):
        draw.text((0, TILE + 30 + 18 * i), words, GRAY, ImageFont.load_default(14))
    return tile

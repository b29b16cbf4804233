"""A contact sheet to look at: photographs, ours at four sizes, and WebP of the same sizes below.

    data = contact_sheet(samples, {60: run, 120: run, 240: run, 430: run})

WebP is given as many bytes as our file of that photograph has, at its own best scale.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.files import load_image
from metrics.baselines import BudgetError, compress, load_codec

SHEET_BUDGETS = (60, 120, 240, 430)  # bytes
GAP = 4  # pixels between pictures
TITLE = 18  # pixels above each picture, for its name
PAPER, INK = (255, 255, 255), (0, 0, 0)
EMPTY = 230  # gray level of what does not fit
QUALITY = 90  # of the sheet's JPEG
Cell = tuple[str, np.ndarray]  # title, image uint8 (h, w, 3)


def contact_sheet(samples: Sequence, runs: dict[int, Path]) -> bytes:
    """Return the sheet as a JPEG file.

    samples: `dataloaders.Sample`. runs: by budget, the folders of runs of eval_PICS.py that hold
    all of the samples.
    """
    lines = []
    for sample in samples:
        lines += lines_of(sample, runs)
    return jpeg(drawn(lines))


def lines_of(sample, runs: dict[int, Path]) -> list[list[Cell]]:
    """Return two lines of a photograph: original and ours; a blank and WebP."""
    webp = load_codec("webp")
    blank = np.full_like(sample.image, 255)
    ours: list[Cell] = [(sample.name, sample.image)]
    theirs: list[Cell] = [("", blank)]
    for folder in runs.values():
        size = (folder / f"{sample.name}.pics").stat().st_size
        ours.append((f"ours, {size} bytes", load_image(folder / f"{sample.name}_recon.png")))
        try:
            found = compress(sample.image, webp, size)
            theirs.append((f"WebP, {len(found.data)} bytes", found.image))
        except BudgetError:
            theirs.append((f"WebP: none of {size} bytes", np.full_like(blank, EMPTY)))
    return [ours, theirs]


def drawn(lines: Sequence[Sequence[Cell]]) -> np.ndarray:
    """Return lines of titled pictures as one picture; columns are as wide as the widest."""
    from PIL import Image, ImageDraw, ImageFont

    heights = [max(image.shape[0] for _, image in line) + TITLE + GAP for line in lines]
    width = max(image.shape[1] for line in lines for _, image in line) + GAP
    sheet = Image.new("RGB", (width * len(lines[0]), sum(heights)), PAPER)
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(TITLE - 4)
    top = 0
    for line, height in zip(lines, heights, strict=True):
        for column, (title, image) in enumerate(line):
            pen.text((column * width, top), title, INK, font)
            sheet.paste(Image.fromarray(image), (column * width, top + TITLE))
        top += height
    return np.asarray(sheet)


def jpeg(image: np.ndarray) -> bytes:
    """Return an image, uint8 (h, w, 3), as a JPEG file."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=QUALITY, subsampling="4:4:4")
    return file.getvalue()

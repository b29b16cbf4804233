"""What a short text can say of a photograph: its kind, its colours by region, its brightness.

The colours are computed from the photograph: its mean colour in each cell of a 3 x 3 grid, named by the nearest
of `COLOURS` in CIELAB. `describe` draws a random text from these facts, so that a text tower trained on such
texts understands the words in any order and number.
"""

import random

import cv2
import numpy as np

COLOURS = {
    "black": (20, 20, 20),
    "dark": (55, 52, 50),
    "gray": (128, 128, 128),
    "silver": (180, 182, 185),
    "white": (240, 240, 240),
    "red": (190, 35, 35),
    "maroon": (95, 30, 30),
    "pink": (225, 150, 170),
    "orange": (225, 125, 40),
    "brown": (105, 75, 50),
    "tan": (180, 150, 115),
    "beige": (215, 200, 175),
    "yellow": (225, 205, 60),
    "olive": (110, 110, 55),
    "green": (75, 135, 60),
    "forest": (40, 65, 40),
    "teal": (50, 120, 120),
    "blue": (60, 100, 175),
    "navy": (30, 40, 80),
    "sky": (150, 190, 225),
    "purple": (120, 70, 140),
}
NAMES = tuple(COLOURS)
ROWS, COLUMNS = ("above", "middle", "below"), ("left", "centre", "right")


def _lab(rgb: np.ndarray) -> np.ndarray:
    """Convert (..., 3) RGB in 0..255 to CIELAB, float32."""
    flat = (np.asarray(rgb, np.float32) / 255).reshape(1, -1, 3)
    return cv2.cvtColor(flat, cv2.COLOR_RGB2LAB).reshape(np.shape(rgb))


def colour_grid(photo: np.ndarray) -> np.ndarray:
    """Name the mean colour of each cell: uint8 (H, W, 3) -> int (3, 3) indices into `NAMES`."""
    cells = _lab(cv2.resize(photo, (3, 3), interpolation=cv2.INTER_AREA))  # (3, 3, 3)
    distance = np.linalg.norm(cells[:, :, None] - _lab(np.array(list(COLOURS.values()))), axis=-1)
    return distance.argmin(-1)


def _commonest(names: np.ndarray) -> str:
    return NAMES[np.bincount(names.ravel(), minlength=len(NAMES)).argmax()]


def describe(grid: np.ndarray, label: str, captions: list[str], rng: random.Random) -> str:
    """Draw one text of the facts: kind or human caption, then up to five colours by region, in random order."""
    kind = [f"{rng.choice(('', 'a photo of ', 'a '))}{label}"] if label else []
    if captions and rng.random() < 0.7:
        kind = [rng.choice(captions).rstrip(" .")]
    regions = [f"{_commonest(grid[i])} {ROWS[i]}" for i in range(3)]
    regions += [f"{_commonest(grid[:, i])} {COLUMNS[i]}" for i in range(3)]
    regions += [f"{NAMES[grid[i, j]]} {ROWS[i]} {COLUMNS[j]}" for i in (0, 2) for j in (0, 2)]
    regions += [_commonest(grid)]
    facts = rng.sample(regions, rng.randint(2, 5)) + (kind if rng.random() < 0.8 else [])
    rng.shuffle(facts)
    return rng.choice((" ", ", ")).join(facts)

"""What a short text can say of an image: its kind, its colors by region, its brightness.

    text = describe(color_grid(image), "dog", [], random.Random(0))

The colors are computed from the image: its mean color in each cell of a 3 x 3 grid, named by the
nearest of `COLORS` in CIELAB. `describe` makes a random text of these facts, so that a text tower
that is trained on such texts understands the words in any order and number.
"""

import random

import cv2
import numpy as np

COLORS = {
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
NAMES = tuple(COLORS)
ROWS = ("above", "middle", "below")
COLUMNS = ("left", "centre", "right")  # spelled as the bundled tokenizer was trained
CAPTION_PROBABILITY = 0.7  # that a human caption takes the place of the label
KIND_PROBABILITY = 0.8  # that a text has label or caption
PHRASES = ("", "a photo of ", "a ")  # before a label


def _lab(rgb: np.ndarray) -> np.ndarray:
    """Return CIELAB, float32 (..., 3), of RGB (..., 3) in 0..255."""
    flat = (np.asarray(rgb, np.float32) / 255).reshape(1, -1, 3)
    return cv2.cvtColor(flat, cv2.COLOR_RGB2LAB).reshape(np.shape(rgb))


def color_grid(image: np.ndarray) -> np.ndarray:
    """Return the nearest color of each cell's mean: int (3, 3), indices of NAMES.

    image: uint8 (H, W, 3).
    """
    cells = _lab(cv2.resize(image, (3, 3), interpolation=cv2.INTER_AREA))  # (3, 3, 3)
    colors = _lab(np.array(list(COLORS.values())))
    distance = np.linalg.norm(cells[:, :, None] - colors, axis=-1)
    return distance.argmin(-1)


def _commonest(names: np.ndarray) -> str:
    return NAMES[np.bincount(names.ravel(), minlength=len(NAMES)).argmax()]


def _region_facts(grid: np.ndarray) -> list[str]:
    """Return what can be said of the colors of rows, columns, corners and the whole image."""
    facts = [f"{_commonest(grid[i])} {ROWS[i]}" for i in range(3)]
    facts += [f"{_commonest(grid[:, i])} {COLUMNS[i]}" for i in range(3)]
    for i, j in ((0, 0), (0, 2), (2, 0), (2, 2)):
        facts.append(f"{NAMES[grid[i, j]]} {ROWS[i]} {COLUMNS[j]}")
    facts.append(_commonest(grid))
    return facts


def describe(grid: np.ndarray, label: str, captions: list[str], rng: random.Random) -> str:
    """Return a random text of the facts: label or human caption, and two to five color facts.

    grid: of `color_grid`. label, captions: "" and [] if there are none.
    """
    kind = []
    if label:
        kind = [f"{rng.choice(PHRASES)}{label}"]
    if captions and rng.random() < CAPTION_PROBABILITY:
        kind = [rng.choice(captions).rstrip(" .")]
    facts = rng.sample(_region_facts(grid), rng.randint(2, 5))
    if rng.random() < KIND_PROBABILITY:
        facts += kind
    rng.shuffle(facts)
    return rng.choice((" ", ", ")).join(facts)

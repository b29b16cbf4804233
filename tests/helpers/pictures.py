"""Sketches of lines, a photograph, and how far two images differ."""

from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image


def sketch_of(size: tuple[int, int], *rows: int) -> np.ndarray:
    """Return a sketch, uint8 (H, W), whose edges are these rows."""
    sketch = np.zeros(size, np.uint8)
    sketch[list(rows)] = 255
    return sketch


def difference(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return how far the pixels of two images are apart, in levels."""
    return np.abs(one.astype(int) - other.astype(int))


def photo_file(folder: Path, height: int, width: int) -> Path:
    """Write a part of a photograph; return its path."""
    path = folder / "a.png"
    Image.fromarray(skimage.data.astronaut()[:height, :width]).save(path)
    return path

"""Sketches of lines, and how far two images differ."""

import numpy as np


def sketch_of(size: tuple[int, int], *rows: int) -> np.ndarray:
    """Return a sketch, uint8 (H, W), whose edges are these rows."""
    sketch = np.zeros(size, np.uint8)
    sketch[list(rows)] = 255
    return sketch


def difference(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return how far the pixels of two images are apart, in levels."""
    return np.abs(one.astype(int) - other.astype(int))

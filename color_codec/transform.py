"""Image <-> its lowest cosine coefficients, for whole images of any shape.

    python -c "from color_codec.transform import grid; print(grid(256, 384))"

There are three planes, which are nearly uncorrelated in photographs:

    a = (R + G + B) / 3    b = (R - B) / 2    c = (2 G - R - B) / 3
    R = a + b - c / 2      G = a + c          B = a - b - c / 2

A coefficient is that of the orthonormal DCT-II of the plane, divided by sqrt(height * width) and,
for b and c, multiplied by sqrt(2 / 3) and sqrt(1 / 2). So the squared errors of all coefficients
sum up to the mean squared error of the RGB values, whatever the size of the image.

`analyze` is the encoder's, in floating point; `synthesize` is the decoder's, in integers.

Source of the planes: Ohta, Kanade, Sakai 1980, "Color information for region segmentation".
"""

import functools
import math

import numpy as np

UNIT = 64  # the decoder's coefficients are integer multiples of 1 / UNIT
SCALE = 8  # the map has one value for SCALE x SCALE pixels
RADIUS = 36  # no frequency above this is coded, in half cycles per sqrt(height * width) pixels
PLANE_GAINS = (1.0, math.sqrt(2 / 3), math.sqrt(1 / 2))
BASIS_BITS = 14
GAIN_BITS = 12
INVERSE_GAINS = (4096, 5017, 5793)  # 2**GAIN_BITS / PLANE_GAINS


def radius_squared(ky: np.ndarray, kx: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return 64 times the squared frequency of the coefficients (ky, kx), rounded down, int64."""
    return 64 * (ky * ky * width * width + kx * kx * height * height) // (height * width)


def grid(height: int, width: int) -> tuple[int, int]:
    """Return the numbers of vertical and horizontal frequencies in RADIUS that the map can show."""
    vertical = math.isqrt(RADIUS * RADIUS * height // width) + 1
    horizontal = math.isqrt(RADIUS * RADIUS * width // height) + 1
    return min(height // SCALE, vertical), min(width // SCALE, horizontal)


def analyze(image: np.ndarray) -> np.ndarray:
    """Return the coefficients of an image.

    image: uint8 RGB (height, width, 3). Returns float64 (3, vertical, horizontal) of its `grid`.
    """
    height, width = image.shape[:2]
    vertical, horizontal = grid(height, width)
    rows = _cosines(height, vertical) / height
    columns = _cosines(width, horizontal) / width
    red, green, blue = np.moveaxis(np.tensordot(rows, image.astype(np.float32), 1), 2, 0)
    planes = ((red + green + blue) / 3, (red - blue) / 2, (2 * green - red - blue) / 3)
    return np.stack(
        [gain * (plane @ columns.T) for gain, plane in zip(PLANE_GAINS, planes, strict=True)]
    )


def _cosines(length: int, count: int) -> np.ndarray:
    """Return DCT-II functions with the squared norm `length`, float32 (count, length)."""
    angles = np.arange(count)[:, None] * (2 * np.arange(length) + 1) * (math.pi / (2 * length))
    basis = math.sqrt(2) * np.cos(angles)
    basis[0] = 1
    return basis.astype(np.float32)


@functools.lru_cache(maxsize=8)
def integer_cosines(length: int) -> np.ndarray:
    """Return the basis of the inverse transform, int64 (length, length).

    It is round(2**14 sqrt(2) cos(pi k (2 n + 1) / (2 length))); row 0 is 2**14. No value is so near
    to a half that a mathematical library could round it otherwise (tests/test_color_codec.py).
    """
    table = np.zeros(4 * length, np.int64)
    for i in range(4 * length):
        cosine = math.sqrt(2) * math.cos(math.pi * i / (2 * length))
        table[i] = math.floor(cosine * (1 << BASIS_BITS) + 0.5)
    basis = table[np.arange(length)[:, None] * (2 * np.arange(length) + 1) % (4 * length)]
    basis[0] = 1 << BASIS_BITS
    return basis


def synthesize(coefficients: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the color map of coefficients, the same on every machine.

    coefficients: int64 (3, vertical, horizontal) in 1 / UNIT, below 2**20. height, width: of the
    image. Returns uint8 RGB (height / 8, width / 8, 3).
    """
    vertical, horizontal = coefficients.shape[1:]
    rows = integer_cosines(height // SCALE)[:vertical]
    columns = integer_cosines(width // SCALE)[:horizontal]
    half = (rows.T @ coefficients) >> (BASIS_BITS - 6)  # (3, height / 8, horizontal)
    planes = (half @ columns) >> (BASIS_BITS + 6)  # (3, height / 8, width / 8) in 1 / UNIT
    a, b, c = (plane * gain >> GAIN_BITS for plane, gain in zip(planes, INVERSE_GAINS, strict=True))
    rgb = np.stack([a + b - (c >> 1), a + c, a - b - (c >> 1)], 2)
    return np.clip((rgb + UNIT // 2) // UNIT, 0, 255).astype(np.uint8)

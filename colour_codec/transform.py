"""Between a picture and its lowest cosine coefficients, for whole pictures of any shape.

    python -c "from colour_codec.transform import grid; print(grid(256, 384))"

Three planes: a = (R + G + B) / 3, b = (R - B) / 2, c = (2 G - R - B) / 3, which are nearly uncorrelated in
photographs; R = a + b - c / 2, G = a + c, B = a - b - c / 2. A coefficient is that of the orthonormal DCT-II of the
plane, divided by sqrt(height * width) and, for b and c, multiplied by sqrt(2 / 3) and sqrt(1 / 2): so the squared
errors of all coefficients sum up to the mean squared error of the RGB values, whatever the size of the picture.

`analyse` is the encoder's, in floating point; `synthesise` is the decoder's, whole numbers only.

Source of the planes: Ohta, Kanade, Sakai 1980, "Color information for region segmentation".
"""

import functools
import math

import numpy as np

UNIT = 64  # the decoder's coefficients are whole multiples of 1 / UNIT
SCALE = 8  # the map has one value for SCALE x SCALE pixels
RADIUS = 36  # no frequency above this is coded, in half cycles per sqrt(height * width) pixels
PLANE_GAINS = (1.0, math.sqrt(2 / 3), math.sqrt(1 / 2))
BASIS_BITS = 14
GAIN_BITS = 12
INVERSE_GAINS = (4096, 5017, 5793)  # 2**GAIN_BITS / PLANE_GAINS


def radius_squared(ky: np.ndarray, kx: np.ndarray, height: int, width: int) -> np.ndarray:
    """64 times the squared frequency of the coefficient (ky, kx), rounded down."""
    return 64 * (ky * ky * width * width + kx * kx * height * height) // (height * width)


def grid(height: int, width: int) -> tuple[int, int]:
    """How many vertical and horizontal frequencies there are within RADIUS that the map can show."""
    vertical = min(height // SCALE, math.isqrt(RADIUS * RADIUS * height // width) + 1)
    return vertical, min(width // SCALE, math.isqrt(RADIUS * RADIUS * width // height) + 1)


def analyse(image: np.ndarray) -> np.ndarray:
    """uint8 RGB (H, W, 3) -> float64 coefficients (3, vertical, horizontal) of its `grid`."""
    height, width = image.shape[:2]
    vertical, horizontal = grid(height, width)
    rows, columns = _cosines(height, vertical) / height, _cosines(width, horizontal) / width
    red, green, blue = np.moveaxis(np.tensordot(rows, image.astype(np.float32), 1), 2, 0)
    planes = (red + green + blue) / 3, (red - blue) / 2, (2 * green - red - blue) / 3
    return np.stack([gain * (plane @ columns.T) for gain, plane in zip(PLANE_GAINS, planes, strict=True)])


def _cosines(length: int, count: int) -> np.ndarray:
    """float32 (count, length): the DCT-II basis with squared norm `length`."""
    angles = np.arange(count)[:, None] * (2 * np.arange(length) + 1) * (math.pi / (2 * length))
    basis = math.sqrt(2) * np.cos(angles)
    basis[0] = 1
    return basis.astype(np.float32)


@functools.lru_cache(maxsize=8)
def whole_cosines(length: int) -> np.ndarray:
    """int64 (length, length): round(2**14 sqrt(2) cos(pi k (2 n + 1) / (2 length))), row 0 is 2**14.

    No value is near enough to a half that a mathematical library could round it otherwise (tests).
    """
    quarter = [math.sqrt(2) * math.cos(math.pi * j / (2 * length)) for j in range(4 * length)]
    table = np.array([math.floor(value * (1 << BASIS_BITS) + 0.5) for value in quarter], np.int64)
    basis = table[np.arange(length)[:, None] * (2 * np.arange(length) + 1) % (4 * length)]
    basis[0] = 1 << BASIS_BITS
    return basis


def synthesise(coefficients: np.ndarray, height: int, width: int) -> np.ndarray:
    """int64 (3, vertical, horizontal), below 2**20 / UNIT -> uint8 RGB (height / 8, width / 8, 3)."""
    vertical, horizontal = coefficients.shape[1:]
    rows, columns = whole_cosines(height // SCALE)[:vertical], whole_cosines(width // SCALE)[:horizontal]
    half = (rows.T @ coefficients) >> (BASIS_BITS - 6)  # (3, map height, horizontal)
    planes = (half @ columns) >> (BASIS_BITS + 6)  # in 1 / UNIT
    a, b, c = (plane * gain >> GAIN_BITS for plane, gain in zip(planes, INVERSE_GAINS, strict=True))
    rgb = np.stack([a + b - (c >> 1), a + c, a - b - (c >> 1)], 2)
    return np.clip((rgb + UNIT // 2) // UNIT, 0, 255).astype(np.uint8)

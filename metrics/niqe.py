"""NIQE: how far a picture's local statistics are from those of undistorted photographs; no original is needed.

    python -c "from metrics.niqe import *; print(niqe(picture, load_parameters('niqe_modelparameters.mat')))"

Mittal, Soundararajan, Bovik 2013, "Making a completely blind image quality analyzer", IEEE Signal Processing
Letters 20(3), with the authors' settings: grey levels, blocks of 96 pixels without overlap, two scales.
"""

from functools import cache
from os import PathLike
from typing import NamedTuple

import numpy as np

BLOCK = 96  # pixels, at the first of two scales
SMALLEST_SIDE = 2 * BLOCK  # four blocks: a covariance needs some
GREY = (0.2989, 0.5870, 0.1140)  # MATLAB's rgb2gray
NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))  # right, below, and the diagonals


class Parameters(NamedTuple):
    """Statistics of undistorted photographs."""

    mean: np.ndarray  # (36,)
    covariance: np.ndarray  # (36, 36)


def load_parameters(path: str | PathLike) -> Parameters:
    """Read the authors' parameters, a MATLAB file with `mu_prisparam` and `cov_prisparam`.

    Raises OSError, or ValueError where the file is not one.
    """
    from scipy.io import loadmat

    content = loadmat(path)
    if not {"mu_prisparam", "cov_prisparam"} <= set(content):
        raise ValueError(f"{path} holds no mu_prisparam and cov_prisparam: it is not NIQE's parameter file")
    return Parameters(content["mu_prisparam"].ravel(), content["cov_prisparam"])


def niqe(image: np.ndarray, parameters: Parameters) -> float:
    """Distance of a picture (h, w, 3) uint8 from undistorted photographs, 0 upwards, lower is better.

    nan for a picture without two blocks of texture. Raises ValueError for a side below 192 pixels.
    """
    height, width = (side // BLOCK * BLOCK for side in image.shape[:2])
    if min(height, width) < SMALLEST_SIDE:
        raise ValueError(f"{image.shape[1]}x{image.shape[0]} pixels: NIQE needs sides of {SMALLEST_SIDE} or more")
    grey = np.round(image[:height, :width].astype(np.float64) @ GREY)
    features = np.hstack([_block_features(grey, BLOCK), _block_features(_half_size(grey), BLOCK // 2)])
    whole = features[np.isfinite(features).all(1)]  # a flat block has no statistics
    if len(whole) < 2:
        return float("nan")
    apart = np.nanmean(features, axis=0) - parameters.mean
    spread = (np.cov(whole, rowvar=False) + parameters.covariance) / 2
    return float(np.sqrt(apart @ np.linalg.pinv(spread) @ apart))


def _block_features(grey: np.ndarray, block: int) -> np.ndarray:
    """Return the 18 features of each block, (n, 18)."""
    contrast = _normalised_contrast(grey)
    tops, lefts = (range(0, side, block) for side in grey.shape)
    return np.array([_features(contrast[y : y + block, x : x + block]) for y in tops for x in lefts])


def _normalised_contrast(grey: np.ndarray) -> np.ndarray:
    """(I - local mean) / (local deviation + 1), under a Gaussian of 7x7 pixels and sigma 7/6."""
    from scipy.ndimage import gaussian_filter

    def blur(x: np.ndarray) -> np.ndarray:
        return gaussian_filter(x, 7 / 6, radius=3, mode="nearest")

    mean = blur(grey)
    return (grey - mean) / (np.sqrt(np.abs(blur(grey**2) - mean**2)) + 1)


def _features(contrast: np.ndarray) -> list[float]:
    """Fitted shapes and widths of a block's contrasts, and of their products with four neighbours."""
    shape, left, right, _ = _fit(contrast)
    features = [shape, (left + right) / 2]
    for shift in NEIGHBOURS:
        shape, left, right, mean = _fit(contrast * np.roll(contrast, shift, axis=(0, 1)))
        features += [shape, mean, left, right]
    return features


def _fit(x: np.ndarray) -> tuple[float, float, float, float]:
    """Shape, left and right width, and mean of an asymmetric generalised Gaussian, by moments; nan without spread.

    Source: Lasmar, Stitou, Berthoumieu 2009, "Multiscale skewed heavy tailed model for texture analysis".
    """
    from scipy.special import gamma

    if not (x.min() < 0 < x.max()):
        return (np.nan,) * 4
    left, right = (np.sqrt(np.mean(side**2)) for side in (x[x < 0], x[x > 0]))
    ratio = left / right
    moment = np.mean(np.abs(x)) ** 2 / np.mean(x**2) * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    shapes, moments = _moments()
    shape = shapes[np.argmin((moments - moment) ** 2)]
    scale = np.sqrt(gamma(1 / shape) / gamma(3 / shape))
    left, right = left * scale, right * scale
    return shape, left, right, (right - left) * gamma(2 / shape) / gamma(1 / shape)


@cache
def _moments() -> tuple[np.ndarray, np.ndarray]:
    """Shapes 0.2 to 10 and the squared mean magnitude over the variance that each has."""
    from scipy.special import gamma

    shapes = np.arange(0.2, 10.001, 0.001)
    return shapes, gamma(2 / shapes) ** 2 / (gamma(1 / shapes) * gamma(3 / shapes))


def _half_size(grey: np.ndarray) -> np.ndarray:
    """Bicubic, with the kernel widened and edges mirrored as MATLAB's imresize does."""
    from PIL import Image

    height, width = grey.shape
    margin = 4  # the kernel's reach; cut off again below
    padded = Image.fromarray(np.pad(grey, margin, mode="symmetric").astype(np.float32))
    half = padded.resize((width // 2 + margin, height // 2 + margin), Image.Resampling.BICUBIC)
    return np.asarray(half, np.float64)[margin // 2 : -margin // 2, margin // 2 : -margin // 2]

"""How alike two sets of images are, and how certain a mean is: pure functions of arrays.

from metrics import frechet_distance, mean_interval
mean_interval([23.1, 24.5, 22.0])
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from einops import rearrange

PATCH = 256  # pixels
RESAMPLES = 10_000  # of the bootstrap
RESAMPLED_TOGETHER = 1 << 20  # values of the bootstrap that are held at a time; bounds memory


class Interval(NamedTuple):
    """A mean and its 95% bootstrap interval."""

    mean: float
    low: float
    high: float
    values: int  # how many there were


def mean_interval(values: Sequence[float | None], seed: int = 0) -> Interval | None:
    """Return the mean of the values that are not None, with its 95% bootstrap interval.

    None if there are no such values. The interval is the percentile bootstrap's, as that of
    scipy.stats, which takes 50 MB and half a second to import.
    Source: Efron, Tibshirani 1993, "An introduction to the bootstrap", chapter 13.
    """
    numbers = np.array([value for value in values if value is not None], np.float64)
    if not numbers.size:
        return None
    mean = float(numbers.mean())
    if numbers.size == 1:
        return Interval(mean, mean, mean, 1)
    rng, means = np.random.default_rng(seed), []
    together = max(1, RESAMPLED_TOGETHER // numbers.size)
    for first in range(0, RESAMPLES, together):
        count = min(together, RESAMPLES - first)
        drawn = rng.integers(0, numbers.size, (count, numbers.size))
        means.append(numbers[drawn].mean(axis=1))
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return Interval(mean, float(low), float(high), numbers.size)


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return the squared Frechet distance of two Gaussians fitted to features; FID on Inception's.

    a (n, d), b (m, d): at least two rows each. The Gaussians have the means and the (n - 1)
    covariances of the rows. Finite, and at least 0 except for rounding. Raises ValueError for other
    arrays.

    Source: Heusel et al. 2017, arXiv 1706.08500, equation 6.
    """
    _check_features(a, b)
    means = []
    centered = []
    for given in (a, b):
        features = np.asarray(given, np.float64)
        means.append(features.mean(0))
        centered.append((features - means[-1]) / np.sqrt(len(features) - 1))
    spread = sum(np.sum(x**2) for x in centered)  # the traces of the covariances
    # With covariance x'x, the trace of sqrt(cov_a cov_b) is the sum of the singular values of
    # x_a x_b'. It needs no square root of a d x d matrix, which is singular if there are fewer
    # images than features.
    triangles = [np.asarray(np.linalg.qr(x, mode="r")) for x in centered]
    overlap = np.linalg.svd(triangles[0] @ triangles[1].T, compute_uv=False).sum()
    return float(np.sum((means[0] - means[1]) ** 2) + spread - 2 * overlap)


def kernel_distance(a: np.ndarray, b: np.ndarray, subset_size: int) -> float:
    """Return the squared maximum mean discrepancy of two sets of features; KID on Inception's.

    a (n, d), b (m, d): at least two rows each. Kernel (x.y / d + 1)**3, unbiased, the mean over 100
    random subsets of subset_size rows, or of n or m rows if that is less; by torch-fidelity in
    float64. May be negative. Raises ValueError for other arrays.

    Source: Binkowski et al. 2018, arXiv 1801.01401, section 4.
    """
    import torch
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

    _check_features(a, b)
    size = min(subset_size, len(a), len(b))
    features = [torch.from_numpy(np.asarray(x, np.float64)) for x in (a, b)]
    found = kid_features_to_metric(*features, kid_subset_size=size, verbose=False)
    return found[KEY_METRIC_KID_MEAN]


def hific_patches(image: np.ndarray) -> np.ndarray:
    """Cut an image (h, w, c) into patches (n, 256, 256, c) of two grids.

    The second grid is shifted by 128 pixels down and right; it counts if both sides have 384 pixels
    or more. An image with a side below 256 has no patches.

    Source: Mentzer et al. 2020, arXiv 2006.09965, in the reading of NeuralCompression's
    `update_patch_fid`, which the papers after it use.
    """
    half = PATCH // 2
    patches = [_grid(image)]
    if min(image.shape[:2]) >= PATCH + half:
        patches.append(_grid(image[half:, half:]))
    return np.concatenate(patches)


def _grid(image: np.ndarray) -> np.ndarray:
    """Return the complete patches (n, 256, 256, c) of a grid from the upper left corner on."""
    height, width = (side - side % PATCH for side in image.shape[:2])
    cropped = image[:height, :width]
    return rearrange(cropped, "(y h) (x w) c -> (y x) h w c", h=PATCH, w=PATCH)


def _check_features(a: np.ndarray, b: np.ndarray) -> None:
    """Raise ValueError unless both are (n, d) with at least two rows and the same d."""
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(
            "features are (n, d) with two rows or more and one d, "
            f"these have {a.shape} and {b.shape}"
        )

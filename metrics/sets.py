"""How alike two sets of pictures are, and how sure a mean is: pure functions of arrays.

python -c "import numpy as np; from metrics import mean_interval; print(mean_interval(np.arange(24.0)))"
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

PATCH = 256  # pixels
DRAWS_TOGETHER = 1 << 20  # of the bootstrap; bounds memory
KID_SEED = 2020  # torch-fidelity's, so that the same subsets are drawn


class Interval(NamedTuple):
    """A mean and its 95% bootstrap interval."""

    mean: float
    low: float
    high: float
    count: int  # values behind it


def mean_interval(values: Sequence[float | None], resamples: int = 10_000, seed: int = 0) -> Interval | None:
    """Return the mean of the values that are not None, with its 95% percentile bootstrap interval; None without any.

    The bounds are the 2.5% and 97.5% quantiles of the means of `resamples` draws with replacement.
    Source: Efron, Tibshirani 1993, "An introduction to the bootstrap", chapter 13.
    """
    numbers = np.array([value for value in values if value is not None], np.float64)
    if not numbers.size:
        return None
    rng = np.random.default_rng(seed)
    together = max(1, DRAWS_TOGETHER // numbers.size)
    means = [
        numbers[rng.integers(0, numbers.size, (min(together, resamples - done), numbers.size))].mean(axis=1)
        for done in range(0, resamples, together)
    ]
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return Interval(float(numbers.mean()), float(low), float(high), numbers.size)


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Squared Frechet distance of two Gaussians with the means and (n - 1) covariances of the features.

    a (n, d), b (m, d): at least two rows each; finite, at least 0 but for rounding. On Inception features
    this is FID. Raises ValueError. Source: Heusel et al. 2017, arXiv 1706.08500, equation 6.
    """
    _check_features(a, b)
    a, b = (np.asarray(x, np.float64) for x in (a, b))
    centred = [(x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (a, b)]
    spread = sum(np.sum(x**2) for x in centred)  # the traces of the covariances
    # With covariance x'x, the trace of sqrt(cov_a cov_b) is the sum of the singular values of x_a x_b'. It needs no
    # square root of a d x d matrix, which is singular wherever there are fewer pictures than features.
    triangles = [np.linalg.qr(x, mode="r") for x in centred]
    overlap = np.linalg.svd(triangles[0] @ triangles[1].T, compute_uv=False).sum()
    return float(np.sum((a.mean(0) - b.mean(0)) ** 2) + spread - 2 * overlap)


def kernel_distance(a: np.ndarray, b: np.ndarray, subset_size: int, subsets: int = 100) -> float:
    """Squared maximum mean discrepancy, kernel (x.y / d + 1)**3, unbiased, the mean over random subsets.

    a (n, d), b (m, d): at least two rows each. Subsets have subset_size rows, or n or m where that is less. May
    be negative. On Inception features this is KID, and the same subsets are drawn as by torch-fidelity.
    Raises ValueError. Source: Binkowski et al. 2018, arXiv 1801.01401, section 4.
    """
    _check_features(a, b)
    size = min(subset_size, len(a), len(b))
    rng = np.random.RandomState(KID_SEED)
    draws = [(_rows(rng, a, size), _rows(rng, b, size)) for _ in range(subsets)]
    return float(np.mean([_squared_mmd(a[i], b[j]) for i, j in draws]))


def _rows(rng: np.random.RandomState, features: np.ndarray, size: int) -> np.ndarray:
    return rng.choice(len(features), size, replace=False)


def _squared_mmd(a: np.ndarray, b: np.ndarray) -> float:
    size, width = a.shape
    a, b = (x.astype(np.float64) for x in (a, b))
    aa, bb, ab = ((x @ y.T / width + 1) ** 3 for x, y in ((a, a), (b, b), (a, b)))
    within = aa.sum() - np.trace(aa) + bb.sum() - np.trace(bb)
    return within / (size * (size - 1)) - 2 * ab.mean()


def hific_patches(image: np.ndarray) -> np.ndarray:
    """Cut a picture (h, w, c) into patches (n, 256, 256, c): a grid, and one shifted by 128 pixels down and right.

    The second grid counts where both sides have 384 pixels or more; without a side of 256 there are no patches.
    Source: Mentzer et al. 2020, arXiv 2006.09965, in the reading of NeuralCompression's `update_patch_fid`,
    which the papers after it use.
    """
    half = PATCH // 2
    shifted = image[half:, half:] if min(image.shape[:2]) >= PATCH + half else image[:0]
    patches = [
        grid[top : top + PATCH, left : left + PATCH]
        for grid in (image, shifted)
        for top in range(0, grid.shape[0] - PATCH + 1, PATCH)
        for left in range(0, grid.shape[1] - PATCH + 1, PATCH)
    ]
    return np.stack(patches) if patches else np.empty((0, PATCH, PATCH, image.shape[2]), image.dtype)


def _check_features(a: np.ndarray, b: np.ndarray) -> None:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(f"features are (n, d) with two rows or more and one d, these have {a.shape} and {b.shape}")

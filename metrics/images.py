"""How alike two images are: pure functions of uint8 arrays that need no weights.

from metrics import ms_ssim, psnr
psnr(original, reconstruction)
"""

from typing import NamedTuple

import numpy as np
from einops import rearrange, reduce

MS_SSIM_MIN_SIDE = 161  # an 11-pixel window after halving four times: more than 10 * 2**4
COLOR_CELL = 10  # side of a cell of the color signature, in L*, a* and b*
# Frequencies (down, across) at which upsampling by 2 or 4 repeats itself, in quarters of a cycle
# per pixel: periods of 4 and of 2 pixels.
PATTERN_BINS = ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (2, 2))
PATTERN_REACH = 4  # bins to each side that a bin is compared with
PATTERN_MIN_SIDE = 64  # pixels, so that the surroundings of the bins are apart
POWER_FLOOR = 1e-9  # so that a flat image has a logarithm


class EdgeAgreement(NamedTuple):
    """Precision, recall and F1 of edge pixels, 0 to 1."""

    # fraction of the sketch's edge pixels that are near an edge of the reference
    precision: float
    recall: float  # fraction of the reference's edge pixels that are near an edge of the sketch
    f1: float  # harmonic mean of the two


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio in dB, 10 log10(255**2 / MSE), by OpenCV.

    a, b: uint8 of the same shape; MSE is the mean over all pixels and channels. Infinite for
    equal images. Raises ValueError for other arrays.
    """
    import cv2

    _check_pair(a, b)
    if np.array_equal(a, b):
        return float("inf")
    return cv2.PSNR(a, b)


def ms_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Return the multi-scale structural similarity, 0 to 1, the mean over the channels.

    a, b: uint8 (H, W, 3) or (H, W) of the same shape, each side at least 161 pixels. Five
    scales, 11-pixel Gaussian window, by pytorch-msssim (data range 255, its standard weights)
    in float64, so that the number of threads has no visible effect. Raises ValueError for other
    arrays.

    Source: Wang, Simoncelli, Bovik 2003, "Multiscale structural similarity for image quality
    assessment".
    """
    import torch
    from pytorch_msssim import ms_ssim as reference

    _check_pair(a, b)
    if min(a.shape[:2]) < MS_SSIM_MIN_SIDE:
        size = f"{a.shape[1]}x{a.shape[0]}"
        raise ValueError(f"{size} pixels: MS-SSIM needs sides of {MS_SSIM_MIN_SIDE} or more")
    tensors = []
    for image in (a, b):
        planes = rearrange(np.atleast_3d(image), "h w c -> 1 c h w")
        tensors.append(torch.from_numpy(planes.astype(np.float64)))
    return float(reference(*tensors, data_range=255))


def edge_f1(
    sketch: np.ndarray, reference: np.ndarray, threshold: int = 128, tolerance_px: float = 2.0
) -> EdgeAgreement:
    """Return precision, recall and F1 of a sketch's edge pixels, with a tolerance in position.

    sketch, reference: uint8 (H, W) of the same shape, 255 = edge. threshold: 1 to 255; a pixel
    of this value or more is an edge. tolerance_px: an edge pixel agrees if the other map has
    one within this Euclidean distance, in pixels. If both maps are empty, all three are 1; if
    one is, all are 0. Raises ValueError for other arguments.

    Source: Martin, Fowlkes, Malik 2004, without the thinning and the one-to-one matching, so
    that thick lines count by their area.
    """
    _check_pair(sketch, reference)
    if sketch.ndim != 2:
        raise ValueError(f"edge maps are HxW, these have the shape {sketch.shape}")
    if not 1 <= threshold <= 255:
        raise ValueError(f"threshold {threshold}: must be 1 to 255")
    found = sketch >= threshold
    wanted = reference >= threshold
    if not (found.any() and wanted.any()):
        same = float(found.any() == wanted.any())
        return EdgeAgreement(same, same, same)
    precision = _fraction_near(found, wanted, tolerance_px)
    recall = _fraction_near(wanted, found, tolerance_px)
    total = precision + recall
    return EdgeAgreement(precision, recall, 2 * precision * recall / total if total else 0.0)


def bsds_tolerance_px(height: int, width: int) -> float:
    """Return the tolerance of `edge_f1` in pixels, 0.0075 of the diagonal.

    Source: the boundary benchmark of BSDS500 (Arbelaez, Maire, Fowlkes, Malik 2011), its
    `maxDist`.
    """
    return 0.0075 * float(np.hypot(height, width))


def color_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return the earth mover's distance of two images' colors, in units of CIE76 delta E.

    a, b: uint8 (h, w, 3) sRGB, any sizes. It is the mean distance by which color has to move in
    CIELAB: 0 for the same colors at any positions, 100 between black and white. An image's
    signature has one entry for each cube of side 10 in (L*, a*, b*) that holds colors of it, at
    their mean. Raises ValueError for other arrays.

    Source: Rubner, Tomasi, Guibas 2000, "The earth mover's distance as a metric for image
    retrieval"; CIELAB by scikit-image, the transport problem by OpenCV's EMD.
    """
    import cv2

    _check_uint8(a, b)
    if a.ndim != 3 or b.ndim != 3 or a.shape[2] != 3 or b.shape[2] != 3:
        raise ValueError(f"color images are HxWx3, these have {a.shape} and {b.shape}")
    return cv2.EMD(_color_signature(a), _color_signature(b), cv2.DIST_L2)[0]


def halved(image: np.ndarray) -> np.ndarray:
    """Return an image, uint8 (h, w, 3), averaged 2x2: float32 (h // 2, w // 2, 3), 0 to 255.

    An odd last row or column is left out.
    """
    height, width = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
    even = image[:height, :width].astype(np.float32)
    return reduce(even, "(h rows) (w columns) c -> h w c", "mean", rows=2, columns=2)


def pattern(original: np.ndarray, recon: np.ndarray) -> float:
    """Return how much more a reconstruction repeats itself every 2 or 4 pixels than its original.

    original, recon: uint8 (h, w, 3) of one size, sides of 64 or more. It is the difference of the
    mean of log10(power / median of the 9x9 bins around) over the spectrum's bins at these periods:
    0 for equal images, 1 if such lines stand out ten times more. Raises ValueError for other
    arrays.
    """
    _check_pair(original, recon)
    return _line_strength(recon) - _line_strength(original)


def _line_strength(image: np.ndarray) -> float:
    """Return the mean of log10(power / surroundings) over PATTERN_BINS.

    Of the gray squares, sides a multiple of 4, at both ends of the long side.
    """
    gray = image.mean(axis=2)
    side = min(gray.shape) // 4 * 4
    ends = (gray[:side, :side], gray[-side:, -side:])
    return float(np.mean([_standing_out(end) for end in ends]))


def _standing_out(square: np.ndarray) -> list[float]:
    """Return log10(power / median of the bins around) of PATTERN_BINS in a square's spectrum."""
    side = len(square)
    window = np.hanning(side)
    spectrum = np.fft.fft2((square - square.mean()) * np.outer(window, window))
    power = np.abs(spectrum) ** 2 + POWER_FLOOR
    reach = np.arange(-PATTERN_REACH, PATTERN_REACH + 1)
    found = []
    for down, across in PATTERN_BINS:
        row, column = down * side // 4, across * side // 4
        around = power.take(row + reach, axis=0, mode="wrap")
        around = around.take(column + reach, axis=1, mode="wrap")
        found.append(float(np.log10(power[row, column] / np.median(around))))
    return found


def _color_signature(image: np.ndarray) -> np.ndarray:
    """Return rows (fraction of the pixels, L*, a*, b*), float32, one for each occupied cell."""
    from skimage.color import rgb2lab

    lab = rgb2lab(image).reshape(-1, 3)  # D65; OpenCV's is 0.1 off
    cells = np.floor(lab / COLOR_CELL).astype(np.int64)  # L* 0..10, a* and b* -13..12
    _, cell, counts = np.unique(cells @ [26 * 26, 26, 1], return_inverse=True, return_counts=True)
    means = [np.bincount(cell, channel) / counts for channel in lab.T]
    return np.stack([counts / counts.sum(), *means], axis=1).astype(np.float32)


def _fraction_near(edges: np.ndarray, others: np.ndarray, tolerance_px: float) -> float:
    """Return the fraction of the True pixels of edges that have one of others within tolerance."""
    from scipy.ndimage import distance_transform_edt

    return float(np.mean(distance_transform_edt(~others)[edges] <= tolerance_px))


def _check_uint8(a: np.ndarray, b: np.ndarray) -> None:
    """Raise ValueError unless both are uint8."""
    if a.dtype != np.uint8 or b.dtype != np.uint8:
        raise ValueError(f"images must be uint8, these are {a.dtype} and {b.dtype}")


def _check_pair(a: np.ndarray, b: np.ndarray) -> None:
    """Raise ValueError unless both are uint8 of one shape and not empty."""
    _check_uint8(a, b)
    if a.shape != b.shape or not a.size:
        raise ValueError(f"images must have one shape, these have {a.shape} and {b.shape}")

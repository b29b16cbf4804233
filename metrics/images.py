"""How alike two images are: pure functions of uint8 arrays that need no weights.

from metrics import ms_ssim, psnr
psnr(original, reconstruction)
"""

from typing import NamedTuple

import numpy as np
from einops import rearrange

MS_SSIM_MIN_SIDE = 161  # an 11-pixel window after halving four times: more than 10 * 2**4
COLOR_CELL = 10  # side of a cell of the color signature, in L*, a* and b*


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

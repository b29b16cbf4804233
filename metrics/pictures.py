"""How alike two pictures are: pure functions of uint8 pictures that need no weights.

python -c "import numpy as np; from metrics import psnr; print(psnr(np.zeros(9, 'u1'), np.ones(9, 'u1')))"
"""

from typing import NamedTuple

import numpy as np

MS_SSIM_MIN_SIDE = 161  # an 11-pixel window after halving four times: more than 10 * 2**4
COLOUR_CELL = 10  # side of a cell of the colour signature, in L*, a* and b*


class EdgeAgreement(NamedTuple):
    """Shares, 0 to 1."""

    precision: float  # of the sketch's edge pixels, those near an edge of the reference
    recall: float  # of the reference's edge pixels, those near an edge of the sketch
    f1: float  # harmonic mean of the two


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB, 10 log10(255**2 / MSE), the mean over all pixels and channels.

    a, b: uint8 of the same shape. Infinite for equal pictures. Raises ValueError.
    """
    _check_pair(a, b)
    error = np.mean((a.astype(np.float64) - b) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def ms_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Multi-scale structural similarity, 0 to 1: five scales, 11-pixel Gaussian window, mean of the channels.

    a, b: uint8 HxWx3 or HxW of the same shape, each side at least 161 pixels. By pytorch-msssim (data range
    255, its standard weights) in float64, so that the number of threads does not show. Raises ValueError.
    Source: Wang, Simoncelli, Bovik 2003, "Multiscale structural similarity for image quality assessment".
    """
    import torch
    from pytorch_msssim import ms_ssim as reference

    _check_pair(a, b)
    if min(a.shape[:2]) < MS_SSIM_MIN_SIDE:
        size = f"{a.shape[1]}x{a.shape[0]}"
        raise ValueError(f"{size} pixels: MS-SSIM needs sides of {MS_SSIM_MIN_SIDE} or more")
    # HxW or HxWxC -> 1xCxHxW
    tensors = [torch.from_numpy(np.atleast_3d(x).transpose(2, 0, 1)[None].astype(np.float64)) for x in (a, b)]
    return float(reference(*tensors, data_range=255))


def edge_f1(
    sketch: np.ndarray, reference: np.ndarray, threshold: int = 128, tolerance_px: float = 2.0
) -> EdgeAgreement:
    """Agreement of two edge maps: precision, recall and F1 of their edge pixels, with a tolerance in place.

    sketch, reference: uint8 HxW of the same shape, 255 = edge; a pixel is an edge from threshold (1..255) up.
    An edge pixel agrees when the other map has one within tolerance_px pixels (Euclidean). Where both maps
    are empty all three are 1; where one is, 0. Raises ValueError. This is the boundary measure of Martin,
    Fowlkes, Malik 2004 without its thinning and one-to-one matching, so thick lines count by their area.
    """
    _check_pair(sketch, reference)
    if sketch.ndim != 2:
        raise ValueError(f"edge maps are HxW, these have the shape {sketch.shape}")
    if not 1 <= threshold <= 255:
        raise ValueError(f"threshold {threshold}: must be 1 to 255")
    found, wanted = sketch >= threshold, reference >= threshold
    if not (found.any() and wanted.any()):
        same = float(found.any() == wanted.any())
        return EdgeAgreement(same, same, same)
    precision = _share_near(found, wanted, tolerance_px)
    recall = _share_near(wanted, found, tolerance_px)
    total = precision + recall
    return EdgeAgreement(precision, recall, 2 * precision * recall / total if total else 0.0)


def bsds_tolerance_px(height: int, width: int) -> float:
    """Tolerance of `edge_f1` in pixels, 0.0075 of the diagonal.

    Source: the boundary benchmark of BSDS500 (Arbelaez, Maire, Fowlkes, Malik 2011), its `maxDist`.
    """
    return 0.0075 * float(np.hypot(height, width))


def colour_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Earth mover's distance of two pictures' colours in CIELAB: the mean difference by which colour has to move.

    a, b: uint8 (h, w, 3) sRGB, any sizes. In units of CIE76 delta E; 0 for the same colours wherever they
    lie in the picture, 100 between black and white. The signature of a picture is one entry for each
    cube of side 10 in (L*, a*, b*) that it has colours in, at their mean. Raises ValueError.
    Source: Rubner, Tomasi, Guibas 2000, "The earth mover's distance as a metric for image retrieval";
    CIELAB by scikit-image, the transport problem by OpenCV's EMD.
    """
    import cv2

    _check_uint8(a, b)
    if a.ndim != 3 or b.ndim != 3 or a.shape[2] != 3 or b.shape[2] != 3:
        raise ValueError(f"colour pictures are HxWx3, these have {a.shape} and {b.shape}")
    return cv2.EMD(_colour_signature(a), _colour_signature(b), cv2.DIST_L2)[0]


def _colour_signature(image: np.ndarray) -> np.ndarray:
    """Rows (share of the pixels, L*, a*, b*), float32, one for each occupied cell."""
    from skimage.color import rgb2lab

    lab = rgb2lab(image).reshape(-1, 3)  # D65; OpenCV's is 0.1 off
    cells = np.floor(lab / COLOUR_CELL).astype(np.int64)  # L* 0..10, a* and b* -13..12
    _, cell, counts = np.unique(cells @ [26 * 26, 26, 1], return_inverse=True, return_counts=True)
    means = [np.bincount(cell, channel) / counts for channel in lab.T]
    return np.stack([counts / counts.sum(), *means], axis=1).astype(np.float32)


def _share_near(edges: np.ndarray, others: np.ndarray, tolerance_px: float) -> float:
    """Share of the True pixels of edges with a True pixel of others within tolerance_px."""
    from scipy.ndimage import distance_transform_edt

    return float(np.mean(distance_transform_edt(~others)[edges] <= tolerance_px))


def _check_uint8(a: np.ndarray, b: np.ndarray) -> None:
    if a.dtype != np.uint8 or b.dtype != np.uint8:
        raise ValueError(f"pictures must be uint8, these are {a.dtype} and {b.dtype}")


def _check_pair(a: np.ndarray, b: np.ndarray) -> None:
    """Raise ValueError unless both are uint8 of one shape and not empty."""
    _check_uint8(a, b)
    if a.shape != b.shape or not a.size:
        raise ValueError(f"pictures must have one shape, these have {a.shape} and {b.shape}")

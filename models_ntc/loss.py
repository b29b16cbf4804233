"""Rate-distortion loss of the sketch codecs: lambda * (1 - MS-SSIM) + bits per pixel, or with MSE.

The MS-SSIM is that of Wang et al. 2003 with the usual 11-tap Gaussian (sigma 1.5) and five scales, the same
numbers as pytorch_msssim; the blurs are written as matrix products because one-channel convolutions were
half of the training time on a CPU.
"""

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the five scales
TAPS, SIGMA = 11, 1.5
SMALLEST_SIDE = (TAPS - 1) * 2 ** (len(WEIGHTS) - 1) + 1  # pixels; a shorter side has no fifth scale


@functools.cache
def blur_matrix(size: int) -> Tensor:
    """(size, size - TAPS + 1): right-multiplying by it blurs rows of `size` pixels, valid part only."""
    taps = torch.exp(-((torch.arange(TAPS) - TAPS // 2) ** 2) / (2 * SIGMA**2))
    taps = taps / taps.sum()
    matrix = torch.zeros(size, size - TAPS + 1)
    for column in range(size - TAPS + 1):
        matrix[column : column + TAPS, column] = taps
    return matrix


def blur(x: Tensor) -> Tensor:
    """Gaussian blur of (..., H, W), valid part only."""
    rows = blur_matrix(x.shape[-2]).to(x)
    columns = blur_matrix(x.shape[-1]).to(x)
    return rows.T @ (x @ columns)


def ms_ssim(x: Tensor, target: Tensor) -> Tensor:
    """Mean MS-SSIM of pictures (N, C, H, W) in 0..1; a side below SMALLEST_SIDE is a ValueError.

    The terms of the scales are bounded below by 1e-4, so the gradient is finite for an untrained network.
    """
    if min(x.shape[-2:]) < SMALLEST_SIDE:
        raise ValueError(f"MS-SSIM needs sides of at least {SMALLEST_SIDE} pixels, got {tuple(x.shape[-2:])}")
    c1, c2 = 0.01**2, 0.03**2
    product = torch.ones(x.shape[:2], dtype=x.dtype, device=x.device)
    for scale, weight in enumerate(WEIGHTS):
        if scale:
            padding = [side % 2 for side in x.shape[-2:]]
            x, target = (F.avg_pool2d(picture, 2, padding=padding) for picture in (x, target))
        mean_x, mean_t, square_x, square_t, cross = (
            blur(picture) for picture in (x, target, x * x, target * target, x * target)
        )
        variances = square_x - mean_x**2 + square_t - mean_t**2
        term = (2 * (cross - mean_x * mean_t) + c2) / (variances + c2)
        if scale == len(WEIGHTS) - 1:
            term = term * (2 * mean_x * mean_t + c1) / (mean_x**2 + mean_t**2 + c1)
        product = product * term.mean((-2, -1)).clamp(min=1e-4) ** weight
    return product.mean()


def rate_distortion(output: dict, target: Tensor, lmbda: float, metric: str) -> dict[str, Tensor]:
    """Loss of a training pass.

    Args:
        output: {"x_hat": (N,1,H,W), "likelihoods": {name: tensor}}, CompressAI's form.
        target: (N, 1, H, W) in 0..1.
        lmbda: weight of the distortion.
        metric: "ms-ssim" -> lmbda * (1 - MS-SSIM) + bpp; "mse" -> lmbda * 255^2 * MSE + bpp.

    Returns:
        {"loss", "bpp" (bits per pixel), "distortion" (1 - MS-SSIM, or MSE on 0..1)}.
    """
    pixels = target.numel() / target.shape[1]
    bpp = sum(p.log().sum() for p in output["likelihoods"].values()) / (-math.log(2) * pixels)
    if metric == "ms-ssim":
        distortion = 1 - ms_ssim(output["x_hat"], target)
        return {"loss": lmbda * distortion + bpp, "bpp": bpp, "distortion": distortion}
    distortion = F.mse_loss(output["x_hat"], target)
    return {"loss": lmbda * 255**2 * distortion + bpp, "bpp": bpp, "distortion": distortion}

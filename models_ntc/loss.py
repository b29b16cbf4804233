"""Rate-distortion loss of the sketch codecs: lambda * (1 - MS-SSIM) + bits per pixel, or with MSE.

    from models_ntc.loss import rate_distortion
    losses = rate_distortion(net(sketches), sketches, torch.full((len(sketches),), 1.0), "ms-ssim")

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


def ms_ssim(x: Tensor, target: Tensor, size_average: bool = True) -> Tensor:
    """MS-SSIM of pictures (N, C, H, W) in 0..1: the mean, or (N,) without `size_average`.

    A side below SMALLEST_SIDE is a ValueError.

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
    return product.mean() if size_average else product.mean(1)


def rate_distortion(output: dict, target: Tensor, lmbda: Tensor, metric: str) -> dict[str, Tensor]:
    """Loss of a training pass, each sample at its own lambda.

    A sample counts with lambda^-1/2, normalised to a mean of 1: both terms of a sample grow with lambda, and
    the high rates would else drown the low ones.

    Args:
        output: {"x_hat": (N,1,H,W), "likelihoods": {name: (N, ...)}}, CompressAI's form.
        target: (N, 1, H, W) in 0..1.
        lmbda: weights of the distortion, (N,), positive.
        metric: "ms-ssim" -> lambda * (1 - MS-SSIM) + bpp; "mse" -> lambda * 255^2 * MSE + bpp.

    Returns:
        {"loss", "bpp" (bits per pixel), "distortion" (1 - MS-SSIM, or MSE on 0..1)}, means over the samples.
    """
    pixels = target.shape[-2] * target.shape[-1]
    bits = sum(p.log().flatten(1).sum(1) for p in output["likelihoods"].values()) / -math.log(2)
    bpp = bits / pixels
    if metric == "ms-ssim":
        distortion, scale = 1 - ms_ssim(output["x_hat"], target, size_average=False), 1.0
    else:
        distortion, scale = F.mse_loss(output["x_hat"], target, reduction="none").flatten(1).mean(1), 255.0**2
    weight = lmbda.rsqrt() / lmbda.rsqrt().mean()
    loss = weight * (lmbda * scale * distortion + bpp)
    return {"loss": loss.mean(), "bpp": bpp.mean(), "distortion": distortion.mean()}

"""Rate-distortion loss of the sketch codecs: lambda * (1 - MS-SSIM) + bits per pixel, or with MSE.

    from models_ntc.loss import rate_distortion
    losses = rate_distortion(net(sketches), sketches, torch.full((len(sketches),), 1.0), "ms-ssim")

MS-SSIM is that of Wang et al. 2003 with the usual Gaussian of 11 taps (sigma 1.5) and five scales.
The values are those of pytorch_msssim. The blurs are matrix products, because convolutions with one
channel took half of the training time on a CPU.
"""

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the five scales
TAPS = 11
SIGMA = 1.5
C1 = 0.01**2
C2 = 0.03**2
# pixels; for a shorter side there is no fifth scale
SMALLEST_SIDE = (TAPS - 1) * 2 ** (len(WEIGHTS) - 1) + 1


@functools.cache
def blur_matrix(size: int) -> Tensor:
    """Return (size, size - TAPS + 1): a matrix from the right blurs rows of `size` pixels."""
    taps = torch.exp(-((torch.arange(TAPS) - TAPS // 2) ** 2) / (2 * SIGMA**2))
    taps = taps / taps.sum()
    matrix = torch.zeros(size, size - TAPS + 1)
    for column in range(size - TAPS + 1):
        matrix[column : column + TAPS, column] = taps
    return matrix


def blur(x: Tensor) -> Tensor:
    """Return the Gaussian blur of (..., H, W) without borders: each side loses TAPS - 1."""
    rows = blur_matrix(x.shape[-2]).to(x)
    columns = blur_matrix(x.shape[-1]).to(x)
    return rows.T @ (x @ columns)


def ms_ssim(x: Tensor, target: Tensor, size_average: bool = True) -> Tensor:
    """Return the MS-SSIM of images (N, C, H, W) in 0..1: the mean, or without size_average (N,).

    The terms of the scales are clamped from below to 1e-4, so that the gradient of an untrained
    network is finite. Raises ValueError for a side below SMALLEST_SIDE.
    """
    if min(x.shape[-2:]) < SMALLEST_SIDE:
        raise ValueError(
            f"MS-SSIM needs sides of at least {SMALLEST_SIDE} pixels, got {tuple(x.shape[-2:])}"
        )
    product = torch.ones(x.shape[:2], dtype=x.dtype, device=x.device)
    for scale, weight in enumerate(WEIGHTS):
        if scale:
            padding = [side % 2 for side in x.shape[-2:]]
            x = F.avg_pool2d(x, 2, padding=padding)
            target = F.avg_pool2d(target, 2, padding=padding)
        term = _similarity(x, target, luminance=scale == len(WEIGHTS) - 1)
        product = product * term.mean((-2, -1)).clamp(min=1e-4) ** weight
    return product.mean() if size_average else product.mean(1)


def _similarity(x: Tensor, target: Tensor, luminance: bool) -> Tensor:
    """Return the map of SSIM of one scale: contrast and structure, with or without luminance."""
    moments = (x, target, x * x, target * target, x * target)
    mean_x, mean_t, square_x, square_t, product = map(blur, moments)
    variances = square_x - mean_x**2 + square_t - mean_t**2
    term = (2 * (product - mean_x * mean_t) + C2) / (variances + C2)
    if luminance:
        term = term * (2 * mean_x * mean_t + C1) / (mean_x**2 + mean_t**2 + C1)
    return term


def bits_per_pixel(output: dict, target: Tensor) -> Tensor:
    """Return the rate of each picture of a training pass, (N,). Arguments as `rate_distortion`."""
    pixels = target.shape[-2] * target.shape[-1]
    logarithms = [p.log().flatten(1).sum(1) for p in output["likelihoods"].values()]
    return sum(logarithms) / -math.log(2) / pixels


def sample_weights(lmbda: Tensor) -> Tensor:
    """Return how much each sample counts, (N,): lambda^-1/2, normalized to a mean of 1.

    Both terms of a sample's loss grow with lambda, and those of high rates would otherwise
    dominate.
    """
    return lmbda.rsqrt() / lmbda.rsqrt().mean()


def rate_distortion(output: dict, target: Tensor, lmbda: Tensor, metric: str) -> dict[str, Tensor]:
    """Return {"loss", "bpp", "distortion"} of a training pass, means over the samples.

    bpp: bits per pixel. distortion: 1 - MS-SSIM, or the MSE of values in 0..1.

    output: {"x_hat": (N, 1, H, W), "likelihoods": {name: (N, ...)}}, as CompressAI's networks give.
    target: (N, 1, H, W) in 0..1.
    lmbda: (N,), positive: a weight of the distortion for each sample; see `sample_weights`.
    metric: "ms-ssim" for lambda * (1 - MS-SSIM) + bpp, "mse" for lambda * 255^2 * MSE + bpp.
    """
    bpp = bits_per_pixel(output, target)
    if metric == "ms-ssim":
        distortion = 1 - ms_ssim(output["x_hat"], target, size_average=False)
        scale = 1.0
    else:
        squares = F.mse_loss(output["x_hat"], target, reduction="none")
        distortion = squares.flatten(1).mean(1)
        scale = 255.0**2
    loss = sample_weights(lmbda) * (lmbda * scale * distortion + bpp)
    return {"loss": loss.mean(), "bpp": bpp.mean(), "distortion": distortion.mean()}

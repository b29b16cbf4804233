"""x @ weight.T + bias by oneDNN, for weights that take no gradient.

On a CPU torch hands float32 products to MKL, which keeps to AVX2 on AMD's processors; oneDNN, which torch has on board
too, uses AVX-512 there and was 2.1 to 2.3 times faster with 17 to 544 rows of ViT-H/14's products (Zen 5, one thread).
The weights are used where they are. In both, the last bits of a row depend on how many rows there are only
below STEADY_ROWS of them.
"""

import math

import torch
import torch.nn.functional as F

# Matrix products of fewer rows than this add up in another order, so that a photograph alone would come out a
# rounding error apart from the same one in a batch, and in time with other ids.
STEADY_ROWS = 16


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """(..., k) and weight (n, k), bias (n,) -> (..., n), as `F.linear`; differentiable by `x` alone."""
    if x.device.type == "cpu" and x.dtype == torch.float32 and _has_onednn():
        return _Product.apply(x, weight, bias)
    return F.linear(x, weight, bias)


def steady(x: torch.Tensor, rows: int) -> torch.Tensor:
    """`x`, of whose leading dimensions products make `rows` rows, repeated until they make STEADY_ROWS."""
    return x if rows >= STEADY_ROWS else x.repeat(math.ceil(STEADY_ROWS / rows), *[1] * (x.ndim - 1))


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.weight = weight
        return _onednn(x, weight, bias)

    @staticmethod
    def backward(ctx, gradient):
        return _onednn(gradient, ctx.weight.t()), None, None


def _onednn(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    # The operator that torch.compile puts in the place of a linear layer.
    return torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")


def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")

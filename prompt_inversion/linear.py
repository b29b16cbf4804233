"""x @ weight.T + bias by oneDNN, for weights that take no gradient.

    from prompt_inversion.linear import linear
    linear(x, layer.weight, layer.bias)

On a CPU torch computes float32 products by MKL, which does not use AVX-512 on AMD's processors.
oneDNN, which comes with torch too, does: it was 2.1 to 2.3 times faster with 17 to 544 rows of
ViT-H/14's products (Zen 5, one thread). The weights are used in place, without a copy.
"""

import math

import torch
import torch.nn.functional as F

# From this number of rows on, the result of a row does not depend on how many other rows there
# are. With fewer rows both libraries use another kernel, which adds up in another order, so that
# the last bits differ: an image searched alone would soon get other ids than in a batch.
# Therefore a product that would have fewer rows gets them repeated (`repeat_to_steady`), and the
# caller drops the repeats from the result.
STEADY_ROWS = 16


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Return `F.linear` of x (..., k), weight (n, k) and bias (n,): (..., n).

    Differentiable by x alone.
    """
    if x.device.type == "cpu" and x.dtype == torch.float32 and _has_onednn():
        return _Product.apply(x, weight, bias)
    return F.linear(x, weight, bias)


def repeat_to_steady(x: torch.Tensor, rows: int) -> torch.Tensor:
    """Repeat `x`, which makes `rows` rows of a product, along its first axis up to STEADY_ROWS."""
    if rows >= STEADY_ROWS:
        return x
    times = math.ceil(STEADY_ROWS / rows)
    return x.repeat(times, *[1] * (x.ndim - 1))


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.weight = weight
        return _onednn(x, weight, bias)

    @staticmethod
    def backward(ctx, gradient):
        return _onednn(gradient, ctx.weight.t()), None, None


def _onednn(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    # The operator that torch.compile uses for a linear layer.
    return torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")


def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")

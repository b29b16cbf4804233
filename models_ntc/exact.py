"""Exact layers: the same numbers on every machine, and the grid on which they lie.

    y = Conv(3, 8)(x)  # exact if x is float64 on the grid, and the weights are (`put_on_grid`)

The parts of the encoder are ordinary float32. All that the decoder runs is used in two number
formats: float32 in training, and float64 on *dyadic rationals* in coding. In float64 every weight
is a multiple of 2^-WEIGHT_BITS, every activation is rounded to a multiple of 2^-ACTIVATION_BITS and
clamped to +-ACTIVATION_LIMIT after each layer, and the only operations are sums, products, ReLU,
clamps and moves of pixels. A convolution then adds integers times
2^-(WEIGHT_BITS + ACTIVATION_BITS). While the sum of their magnitudes is below 2^53, no product and
no partial sum is ever rounded. Therefore the result does not depend on the order of summation,
fused multiply-add, threads, batch, library, or on the strips of a picture in which it is computed.
`put_on_grid` rounds the weights and checks that bound. For each output channel

    (sum |w| * ACTIVATION_LIMIT + |b|) * 2^(WEIGHT_BITS + ACTIVATION_BITS) < 2^53.

Source: integer networks for agreement of encoder and decoder, Balle et al. 2019.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

WEIGHT_BITS = 14
ACTIVATION_BITS = 12
ACTIVATION_LIMIT = 64.0


# ---- layers


def quantize_activation(x: Tensor) -> Tensor:
    """Return float64 activations rounded to the dyadic grid and clamped; others as they are."""
    if x.dtype != torch.float64:
        return x
    one = 2.0**ACTIVATION_BITS
    return x.mul(one).round_().mul_(1 / one).clamp_(-ACTIVATION_LIMIT, ACTIVATION_LIMIT)


def convolve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the convolution of x (N, inputs, H, W) with 3x3 kernels, same size.

    In float64, PyTorch would write out every neighborhood before it multiplies. The sum of nine
    products of shifted pictures is the same number, takes a ninth of the memory, and a fourth of
    the time where channels are few.
    """
    if x.dtype != torch.float64:
        return F.conv2d(x, weight, bias, padding=1)
    count, _, height, width = x.shape
    row = width + 2
    flat = F.pad(x, (1, 1, 1, 1)).flatten(2)
    used = height * row - 2
    sums = bias[:, None].repeat(count, 1, height * row)
    kernel = rearrange(weight, "o i y x -> (y x) o i").contiguous()
    for picture, total in zip(flat, sums, strict=True):
        for position, products in enumerate(kernel):
            start = position // 3 * row + position % 3
            total[:, :used].addmm_(products, picture[:, start : start + used])
    return sums.unflatten(2, (height, row))[..., :width]


class Conv(nn.Conv2d):
    """Convolution with quantized output; it keeps the size, or divides it by `stride`."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride=stride, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return the quantized convolution of x (N, inputs, H, W)."""
        if self.kernel_size == (3, 3) and self.stride == (1, 1):
            return quantize_activation(convolve(x, self.weight, self.bias))
        return quantize_activation(super().forward(x))


class Residual(nn.Module):
    """x + conv(relu(conv(relu(x))))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = Conv(width, width)
        self.second = Conv(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return x refined, same shape."""
        return quantize_activation(x + self.second(F.relu(self.first(F.relu(x)))))


class RateTable(nn.Module):
    """A number for each channel and rate: a parabola in t, the position of lambda in its range."""

    def __init__(self, channels: int, start: float = 0.0) -> None:
        super().__init__()
        self.curve = nn.Linear(3, channels, bias=False)
        nn.init.zeros_(self.curve.weight)
        nn.init.constant_(self.curve.weight[:, 0], start)

    def forward(self, t: Tensor) -> Tensor:
        """Return (N, channels, 1, 1) for t (N,) in -1..1."""
        powers = torch.stack([torch.ones_like(t), t, t * t], 1)
        return rearrange(quantize_activation(self.curve(powers)), "n c -> n c 1 1")


def up(inputs: int, outputs: int, factor: int = 2, kernel: int = 1) -> nn.Sequential:
    """Return layers that enlarge by `factor`: a convolution, then depth to space."""
    return nn.Sequential(Conv(inputs, outputs * factor**2, kernel), nn.PixelShuffle(factor))


# ---- grid


def grid(x: Tensor, bits: int) -> Tensor:
    """Return the nearest multiples of 2^-bits."""
    return x.mul(2.0**bits).round().div(2.0**bits)


def put_on_grid(layer: nn.Conv2d | nn.Linear | nn.Embedding, where: str) -> None:
    """Round a float64 layer's parameters to multiples of 2^-WEIGHT_BITS; check the bound."""
    for parameter in layer.parameters():
        parameter.copy_(grid(parameter, WEIGHT_BITS))
    sums = layer.weight.abs().flatten(1).sum(1) * ACTIVATION_LIMIT
    if getattr(layer, "bias", None) is not None:
        sums = sums + layer.bias.abs()
    worst = float(sums.max()) * 2.0 ** (WEIGHT_BITS + ACTIVATION_BITS)
    if not worst < 2.0**53:
        raise ValueError(
            f"a sum in {where} may reach {worst:.3g}, more than 2^53: its weights are too large"
        )

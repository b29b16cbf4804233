"""What the exact networks share: layers, the grid of their numbers, and the order of coding.

    exact = exact_copy(net)  # for coding

The parts of the encoder are ordinary float32. All that the decoder runs (`decoder_parts`) is used
in two number formats: float32 in training, and float64 on *dyadic rationals* in coding. In float64
every weight is a multiple of 2^-WEIGHT_BITS, every activation is rounded to a multiple of
2^-ACTIVATION_BITS and clamped to +-ACTIVATION_LIMIT after each layer, and the only operations are
sums, products, ReLU, clamps and moves of pixels. A convolution then adds integers times
2^-(WEIGHT_BITS + ACTIVATION_BITS). While the sum of their magnitudes is below 2^53, no product and
no partial sum is ever rounded. Therefore the result does not depend on the order of summation,
fused multiply-add, threads, batch, library, or on the strips of a picture in which it is computed.
`exact_copy` rounds the weights and checks that bound. For each output channel

    (sum |w| * ACTIVATION_LIMIT + |b|) * 2^(WEIGHT_BITS + ACTIVATION_BITS) < 2^53.

Sources: integer networks for agreement of encoder and decoder, Balle et al. 2019; checkerboard
context, He et al. 2021 (arXiv 2103.15306), by groups of channels, He et al. 2022 (arXiv
2203.10886).
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from models_ntc.entropy_state import EntropyState, bottleneck_state, gaussian_state

WEIGHT_BITS = 14
ACTIVATION_BITS = 12
ACTIVATION_LIMIT = 64.0
SCALE = 16  # pixels of a picture to one position of its latents, each way
# A picture is synthesized in tiles of at most TILE x TILE positions, which bounds memory. HALO
# positions around a tile are computed and thrown away: more than a pixel's receptive field.
TILE = 64
HALO = 8


@dataclass(frozen=True)
class HyperpriorConfig:
    """Sizes of a network in channels, and the range of its table of Gaussians."""

    quarter: int = 32  # width of the layers at 1/4 of the picture's resolution
    eighth: int = 64  # ... at 1/8
    sixteenth: int = 96  # ... at 1/16
    latent: int = 64
    # groups of latent channels, coded one after the other in each half of the checkerboard
    groups: int = 4
    hyper_latent: int = 32
    hyper: int = 64  # width of the hyperprior's layers
    # standard deviation of the first table; its symbols are 0 and are never sent
    scale_min: float = 0.11
    scale_max: float = 32.0
    scale_levels: int = 48
    lambda_range: tuple[float, float] = (0.02, 1.0)  # of the first and the last of RATES steps

    def log_ratio(self) -> float:
        """Return the logarithm of the ratio of two neighboring tables' standard deviations."""
        return math.log(self.scale_max / self.scale_min) / (self.scale_levels - 1)

    def scales(self) -> list[float]:
        """Return the standard deviation of each table, geometric from scale_min to scale_max."""
        ratio = self.log_ratio()
        return [self.scale_min * math.exp(ratio * level) for level in range(self.scale_levels)]


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


def anchors(like: Tensor) -> Tensor:
    """Return the half of the checkerboard that is coded first: bool (1, 1, H, W)."""
    rows = torch.arange(like.shape[-2], device=like.device)
    columns = torch.arange(like.shape[-1], device=like.device)
    first = (rows[:, None] + columns[None, :]) % 2 == 0
    return rearrange(first, "h w -> 1 1 h w")


def both_halves(parts: list[Tensor]) -> Tensor:
    """Return (N, latent, H, W) of the parts of all coding steps, which are 0 outside their half."""
    half = len(parts) // 2
    return torch.cat(parts[:half], 1) + torch.cat(parts[half:], 1)


# ---- network


class ExactHyperprior(nn.Module):
    """Entropy model and order of coding of a picture's latents, (N, latent, H/16, W/16).

    `rate` stands for the rates of N pictures, as a subclass represents them (`rate_of`); all its
    methods hand it on to the subclass's tables.

    A subclass adds the rest of DECODER_PARTS, the encoder's ENCODER_PARTS, and
    `analysis`, `rate_of`, `latents`, `unfold` and `synthesis`. RATES: steps of lambda, geometric
    over the network's range.
    """

    RATES: int
    DECODER_PARTS: tuple[str, ...]
    ENCODER_PARTS: tuple[str, ...]

    def __init__(self, config: HyperpriorConfig) -> None:
        super().__init__()
        self.config = config

    def _add_entropy_model(self, context_rate: nn.Module) -> None:
        """Add what gives means and scales; context_rate: (N,) -> (N, hyper, 1, 1)."""
        c = self.config
        self.hyper_analysis = _hyper_analysis(c)
        self.hyper_synthesis = _hyper_synthesis(c)
        self.context = nn.Conv2d(c.latent, c.hyper, 5, padding=2, bias=False)
        self.step = nn.Embedding(2 * c.groups, c.hyper)
        self.context_rate = context_rate
        self.parameters_net = nn.Sequential(
            nn.ReLU(),
            Conv(2 * c.hyper, 2 * c.latent, 1),
            nn.ReLU(),
            Conv(2 * c.latent, 2 * c.latent, 1),
        )

    def _add_tables(self) -> None:
        """Add the places of the coding tables."""
        c = self.config
        self.entropy_bottleneck = bottleneck_state(c.hyper_latent)
        self.gaussian_conditional = gaussian_state(c.scale_levels)
        self.level_bound = EntropyState({"bound": (1,)})

    def decoder_parts(self) -> dict[str, nn.Module]:
        """Return what the decoder runs, by name: the parts that `exact_copy` makes exact."""
        return {name: getattr(self, name) for name in self.DECODER_PARTS}

    def stored_state(self) -> dict[str, Tensor]:
        """Return the state dict of the network that codes."""
        return self.state_dict()

    def medians(self) -> Tensor:
        """Return the median of each hyper-latent channel, (1, hyper_latent, 1, 1)."""
        return rearrange(self.entropy_bottleneck.quantiles[:, 0, 1].detach(), "c -> 1 c 1 1")

    def position(self, lmbda: Tensor) -> Tensor:
        """Return t (N,) of lambdas (N,): -1 for the lowest, 1 - 2 / RATES for the highest."""
        low, high = map(math.log, self.config.lambda_range)
        if high > low:
            fraction = ((lmbda.log() - low) / (high - low)).clamp(0, 1)
        else:
            fraction = torch.full_like(lmbda, 0.5)
        half = self.RATES // 2
        return (fraction * (self.RATES - 1) - half) / half

    def rate_step(self, lmbda: float) -> int:
        """Return the step of the rate scale nearest to a lambda, 0..RATES - 1."""
        half = self.RATES // 2
        t = self.position(torch.tensor([lmbda], dtype=torch.float64))
        return int((t * half).round()) + half

    def walk(
        self,
        hyper: Tensor,
        rate: Tensor,
        decide: Callable[[Tensor, Tensor, Tensor, slice], Tensor],
    ) -> Tensor:
        """Return all latents (N, latent, H, W), by going through them in coding order.

        The order: both halves of the checkerboard, each by groups of channels.

        hyper: output of `hyper_synthesis`, (N, hyper, H, W).
        rate: of N pictures.
        decide: called with mean and level (N, latent / groups, H, W), the half of the checkerboard
            (bool) and the slice of channels. It returns the latents there; only those in the half
            are used. The level is a real number; rounded, it is the index of a table.
        """
        groups = self.config.groups
        size = self.config.latent // groups
        first = anchors(hyper)
        known = self._known(hyper)
        rate_features = self.context_rate(rate)
        seen = torch.zeros_like(hyper)
        parts = []
        for step in range(2 * groups):
            half = first if step < groups else ~first
            start = step % groups * size
            group = slice(start, start + size)
            step_features = rearrange(self.step.weight[step], "c -> 1 c 1 1")
            context = quantize_activation(seen + step_features + rate_features)
            mean, level = self._estimate(known, context, group)
            part = decide(mean, level, half, group) * half
            seen = seen + F.conv2d(part, self.context.weight[:, group], padding=2)
            parts.append(part)
        return both_halves(parts)

    def _known(self, hyper: Tensor) -> Tensor:
        """Return what the hyper-latents add to the first layer of `parameters_net` at all steps."""
        first = self.parameters_net[1]
        return F.conv2d(F.relu(hyper), first.weight[:, : hyper.shape[1]], first.bias)

    def _estimate(self, known: Tensor, context: Tensor, group: slice) -> tuple[Tensor, Tensor]:
        """Return mean and level of a group of latents: `parameters_net`, but for what is not used.

        known: of `_known`. context: (N, hyper, H, W).
        """
        first, last = self.parameters_net[1], self.parameters_net[3]
        added = F.conv2d(F.relu(context), first.weight[:, context.shape[1] :])
        inner = F.relu(quantize_activation(known + added))
        rows = torch.arange(self.config.latent, device=inner.device)[group]
        rows = torch.cat([rows, rows + self.config.latent])
        outputs = quantize_activation(F.conv2d(inner, last.weight[rows], last.bias[rows]))
        mean, level = outputs.chunk(2, 1)
        return mean, level + self.config.scale_levels / 4

    def synthesize(self, features: Tensor) -> Tensor:
        """Return the picture of `synthesis`, float32 (N, C, H, W), computed in tiles.

        features: of `unfold`, (N, sixteenth, H/16, W/16). Exact activations have 19 bits, which
        float32 holds.
        """
        rows, columns = features.shape[-2:]
        strips = []
        for top, bottom in tile_edges(rows):
            tiles = []
            for left, right in tile_edges(columns):
                tiles.append(self._tile(features, slice(top, bottom), slice(left, right)))
            strips.append(torch.cat(tiles, 3))
        return torch.cat(strips, 2)

    def _tile(self, features: Tensor, rows: slice, columns: slice) -> Tensor:
        """Return the pixels of a tile."""
        top = max(rows.start - HALO, 0)
        left = max(columns.start - HALO, 0)
        around = features[..., top : rows.stop + HALO, left : columns.stop + HALO]
        pixels = self.synthesis(around)[
            ...,
            SCALE * (rows.start - top) : SCALE * (rows.stop - top),
            SCALE * (columns.start - left) : SCALE * (columns.stop - left),
        ]
        return pixels.float()


def tile_edges(length: int) -> list[tuple[int, int]]:
    """Return start and end of the tiles of a side of `length` positions."""
    if length <= TILE:
        return [(0, length)]
    step = TILE - 2 * HALO
    return [(start, min(start + step, length)) for start in range(0, length, step)]


def _hyper_analysis(c: HyperpriorConfig) -> nn.Sequential:
    """Return latents (N, latent, H/16, W/16) -> hyper-latents (N, hyper_latent, H/64, W/64)."""
    return nn.Sequential(
        Conv(c.latent, c.hyper),
        nn.ReLU(),
        Conv(c.hyper, c.hyper, stride=2),
        nn.ReLU(),
        Conv(c.hyper, c.hyper_latent, stride=2),
    )


def _hyper_synthesis(c: HyperpriorConfig) -> nn.Sequential:
    """Return hyper-latents -> features of the entropy model (N, hyper, H/16, W/16)."""
    return nn.Sequential(
        up(c.hyper_latent, c.hyper),
        nn.ReLU(),
        Conv(c.hyper, c.hyper),
        nn.ReLU(),
        up(c.hyper, c.hyper),
        nn.ReLU(),
        Conv(c.hyper, c.hyper),
    )


# ---- exact arithmetic


@torch.no_grad()
def exact_copy(net: ExactHyperprior) -> ExactHyperprior:
    """Return a copy on the CPU with an exact decoder: float64, weights on the dyadic grid.

    The encoder's parts stay float32. Raises ValueError if a sum could need more than 53 bits.
    """
    exact = copy.deepcopy(net).cpu().eval()
    for name, part in exact.decoder_parts().items():
        part.double()
        for layer in part.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear, nn.Embedding)):
                put_on_grid(layer, name)
    quantiles = exact.entropy_bottleneck.quantiles
    quantiles.data = grid(quantiles.data.double(), ACTIVATION_BITS)
    return exact


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

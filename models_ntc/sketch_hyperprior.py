"""The network of the default sketch codec: a small hyperprior with a decoder that is exact.

    net = SketchHyperprior()
    net.load_state_dict(state)  # of a codec file
    exact = exact_copy(net)  # for coding

Its training, which takes CompressAI's entropy models, is in `sketch_training`.

One network codes at all rates of a range: latents are multiplied by a gain for each channel that
depends on lambda, and after rounding by another one; lambda also shifts features on both sides
(`RateTable`).

The parts of the encoder (`analysis`, `to_latent`, `hyper_analysis`) are ordinary float32. All that
the decoder runs (`decoder_parts`) is used in two number formats: float32 in training, and float64
on *dyadic rationals* in coding. In float64 every weight is a multiple of 2^-WEIGHT_BITS, every
activation is rounded to a multiple of 2^-ACTIVATION_BITS and clamped to +-ACTIVATION_LIMIT after
each layer, and the only operations are sums, products, ReLU, clamps and moves of pixels. A
convolution then adds integers times 2^-(WEIGHT_BITS + ACTIVATION_BITS). While the sum of their
magnitudes is below 2^53, no product and no partial sum is ever rounded. Therefore the result does
not depend on the order of summation, fused multiply-add, threads, batch or library. `exact_copy`
rounds the weights and checks that bound. For each output channel

    (sum |w| * ACTIVATION_LIMIT + |b|) * 2^(WEIGHT_BITS + ACTIVATION_BITS) < 2^53.

Sources: mean and scale hyperprior, Minnen et al. 2018 (arXiv 1809.02736); checkerboard context, He
et al. 2021 (arXiv 2103.15306), by groups of channels, He et al. 2022 (arXiv 2203.10886); rounding
in place of noise for the synthesis, Minnen and Singh 2020 (arXiv 2007.08739); integer networks for
agreement of encoder and decoder, Balle et al. 2019; gains for several rates, Cui et al. 2021 (arXiv
2003.02012).
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
RATES = 32  # steps of lambda, geometric over the network's range; the step is in the payload
DECODER_PARTS = (
    "hyper_synthesis",
    "context",
    "step",
    "context_rate",
    "parameters_net",
    "inverse_gain",
    "from_latent",
    "synthesis_rate",
    "synthesis",
)


@dataclass(frozen=True)
class SketchHyperpriorConfig:
    """Sizes of the network in channels, and the range of its table of Gaussians."""

    quarter: int = 32  # width of the layers at 1/4 of the sketch's resolution
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
    return x.mul(one).round_().div_(one).clamp_(-ACTIVATION_LIMIT, ACTIVATION_LIMIT)


class Conv(nn.Conv2d):
    """Convolution with quantized output; it keeps the size, or divides it by `stride`."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride=stride, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return the quantized convolution of x (N, inputs, H, W)."""
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


def position_of(step: int) -> Tensor:
    """Return t, float64 (1,), of a step of the rate scale.

    It is a multiple of 2 / RATES, so that its square is dyadic too.
    """
    return torch.tensor([step / (RATES // 2) - 1], dtype=torch.float64)


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


def _analysis(c: SketchHyperpriorConfig) -> nn.Sequential:
    """Return sketch (N, 1, H, W) -> features (N, sixteenth, H/16, W/16)."""
    return nn.Sequential(
        nn.PixelUnshuffle(4),
        Conv(16, c.quarter),
        Residual(c.quarter),
        Conv(c.quarter, c.eighth, stride=2),
        Residual(c.eighth),
        Residual(c.eighth),
        Conv(c.eighth, c.sixteenth, stride=2),
        Residual(c.sixteenth),
    )


def _hyper_analysis(c: SketchHyperpriorConfig) -> nn.Sequential:
    """Return latents (N, latent, H/16, W/16) -> hyper-latents (N, hyper_latent, H/64, W/64)."""
    return nn.Sequential(
        Conv(c.latent, c.hyper),
        nn.ReLU(),
        Conv(c.hyper, c.hyper, stride=2),
        nn.ReLU(),
        Conv(c.hyper, c.hyper_latent, stride=2),
    )


def _hyper_synthesis(c: SketchHyperpriorConfig) -> nn.Sequential:
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


def _synthesis(c: SketchHyperpriorConfig) -> nn.Sequential:
    """Return features (N, sixteenth, H/16, W/16) -> sketch (N, 1, H, W)."""
    return nn.Sequential(
        Residual(c.sixteenth),
        Residual(c.sixteenth),
        up(c.sixteenth, c.eighth),
        Residual(c.eighth),
        Residual(c.eighth),
        up(c.eighth, c.quarter),
        Residual(c.quarter),
        nn.ReLU(),
        up(c.quarter, 1, factor=4, kernel=3),
    )


class SketchHyperprior(nn.Module):
    """Sketch (N, 1, H, W) in 0..1, sides multiples of 64 <-> latents (N, latent, H/16, W/16)."""

    def __init__(self, config: SketchHyperpriorConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or SketchHyperpriorConfig()
        self.analysis = _analysis(c)
        self.analysis_rate = RateTable(c.sixteenth)
        refine = Residual(c.sixteenth)
        self.to_latent = nn.Sequential(refine, nn.ReLU(), Conv(c.sixteenth, c.latent))
        self.log_gain = RateTable(c.latent)
        self.hyper_analysis = _hyper_analysis(c)
        self.hyper_synthesis = _hyper_synthesis(c)
        self.context = nn.Conv2d(c.latent, c.hyper, 5, padding=2, bias=False)
        self.step = nn.Embedding(2 * c.groups, c.hyper)
        self.context_rate = RateTable(c.hyper)
        self.parameters_net = nn.Sequential(
            nn.ReLU(),
            Conv(2 * c.hyper, 2 * c.latent, 1),
            nn.ReLU(),
            Conv(2 * c.latent, 2 * c.latent, 1),
        )
        self.inverse_gain = RateTable(c.latent, start=1.0)
        self.from_latent = Conv(c.latent, c.sixteenth)
        self.synthesis_rate = RateTable(c.sixteenth)
        self.synthesis = _synthesis(c)
        self.entropy_bottleneck = bottleneck_state(c.hyper_latent)
        self.gaussian_conditional = gaussian_state(c.scale_levels)
        self.level_bound = EntropyState({"bound": (1,)})

    def decoder_parts(self) -> dict[str, nn.Module]:
        """Return what the decoder runs, by name: the parts that `exact_copy` makes exact."""
        return {name: getattr(self, name) for name in DECODER_PARTS}

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
        return (fraction * (RATES - 1) - RATES // 2) / (RATES // 2)

    def rate_step(self, lmbda: float) -> int:
        """Return the step of the rate scale nearest to a lambda, 0..RATES - 1."""
        t = self.position(torch.tensor([lmbda], dtype=torch.float64))
        return int((t * (RATES // 2)).round()) + RATES // 2

    def analyze(self, x: Tensor, t: Tensor) -> Tensor:
        """Return latents, float32 (N, latent, H/16, W/16), not rounded, of sketches at t (N,)."""
        features = self.analysis(x) + self.analysis_rate(t)
        return self.to_latent(features).float() * self.log_gain(t).exp()

    def unfold(self, latents: Tensor, t: Tensor) -> Tensor:
        """Return the input of `synthesis`, (N, sixteenth, H/16, W/16), of rounded latents at t."""
        features = self.from_latent(quantize_activation(latents * self.inverse_gain(t)))
        return quantize_activation(features + self.synthesis_rate(t))

    def estimate(
        self, hyper: Tensor, seen: Tensor, rate: Tensor, step: int
    ) -> tuple[Tensor, Tensor]:
        """Return mean and table level of all latents at a step of `walk`, (N, latent, H, W) each.

        The level is a real number; rounded, it is the index of a table.
        """
        step_features = rearrange(self.step.weight[step], "c -> 1 c 1 1")
        context = quantize_activation(seen + step_features + rate)
        mean, level = self.parameters_net(torch.cat([hyper, context], 1)).chunk(2, 1)
        return mean, level + self.config.scale_levels / 4

    def walk(
        self, hyper: Tensor, t: Tensor, decide: Callable[[Tensor, Tensor, Tensor, slice], Tensor]
    ) -> Tensor:
        """Return all latents (N, latent, H, W), by going through them in coding order.

        The order: both halves of the checkerboard, each by groups of channels.

        hyper: output of `hyper_synthesis`, (N, hyper, H, W).
        t: rates, (N,).
        decide: called with mean and level (N, latent / groups, H, W), the half of the checkerboard
            (bool) and the slice of channels. It returns the latents there; only those in the half
            are used.
        """
        groups = self.config.groups
        size = self.config.latent // groups
        first = anchors(hyper)
        rate = self.context_rate(t)
        seen = torch.zeros_like(hyper)
        parts = []
        for step in range(2 * groups):
            half = first if step < groups else ~first
            start = step % groups * size
            group = slice(start, start + size)
            mean, level = self.estimate(hyper, seen, rate, step)
            part = decide(mean[:, group], level[:, group], half, group) * half
            seen = seen + F.conv2d(part, self.context.weight[:, group], padding=2)
            parts.append(part)
        return both_halves(parts)


# ---- exact arithmetic


@torch.no_grad()
def exact_copy(net: SketchHyperprior) -> SketchHyperprior:
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

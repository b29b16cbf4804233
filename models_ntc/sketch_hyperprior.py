"""The default sketch codec's network: a small hyperprior whose decoder computes the same numbers everywhere.

One network codes at every rate of a range: latents are multiplied by a gain for each channel that depends on
lambda, and divided by another after rounding; lambda also shifts features on both sides (`RateTable`).

The encoder side (`analysis`, `to_latent`, `hyper_analysis`) is ordinary float32. Everything that the decoder
runs (`decoder_parts`) is used in two number formats: float32 in training and float64 on *dyadic rationals* in
coding. In float64 every weight is a multiple of 2^-WEIGHT_BITS, every activation is rounded to a multiple of
2^-ACTIVATION_BITS and clamped to +-ACTIVATION_LIMIT after each layer, and nothing but sums, products, ReLU,
clamps and moves of pixels happens. A convolution then adds integers times 2^-(WEIGHT_BITS + ACTIVATION_BITS);
as long as the sum of their magnitudes stays below 2^53 no product and no partial sum is ever rounded, so the
result does not depend on the order of summation, fused multiply-add, threads, batch or library. `exact_copy`
rounds the weights and checks that bound: for each output channel

    (sum |w| * ACTIVATION_LIMIT + |b|) * 2^(WEIGHT_BITS + ACTIVATION_BITS) < 2^53.

Sources: mean and scale hyperprior, Minnen et al. 2018 (arXiv 1809.02736); checkerboard context, He et al.
2021 (arXiv 2103.15306), by groups of channels, He et al. 2022 (arXiv 2203.10886); rounding in place of
noise for the synthesis, Minnen and Singh 2020 (arXiv 2007.08739); integer networks for agreement of both
ends, Balle et al. 2019; gains for several rates, Cui et al. 2021 (arXiv 2003.02012).
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from compressai.entropy_models import EntropyBottleneck, GaussianConditional
from compressai.models import CompressionModel
from compressai.ops import LowerBound
from torch import Tensor, nn

from models_ntc.entropy import SketchError, SymbolDecoder, Tables, channel_indexes, check_byte, encode, whole

WEIGHT_BITS = 14
ACTIVATION_BITS = 12
ACTIVATION_LIMIT = 64.0
RATES = 32  # steps of lambda, geometric over the network's range; the step is in the payload


@dataclass(frozen=True)
class SketchHyperpriorConfig:
    """Sizes of the network, in channels, and the span of its table of Gaussians."""

    quarter: int = 32  # width of the layers at 1/4 of the sketch's resolution
    eighth: int = 64  # ... at 1/8
    sixteenth: int = 96  # ... at 1/16
    latent: int = 64
    groups: int = 4  # of latent channels, coded one after the other in each half of the checkerboard
    hyper_latent: int = 32
    hyper: int = 64  # width of the hyperprior's layers
    scale_min: float = 0.11  # standard deviation of the first table; its symbols are never sent, they are 0
    scale_max: float = 32.0
    scale_levels: int = 48
    lambda_range: tuple[float, float] = (0.02, 1.0)  # of the loss; the first and the last of RATES steps

    def log_ratio(self) -> float:
        """Logarithm of the quotient of neighbouring tables' standard deviations."""
        return math.log(self.scale_max / self.scale_min) / (self.scale_levels - 1)

    def scales(self) -> list[float]:
        """Standard deviation of each table, geometric from `scale_min` to `scale_max`."""
        return [self.scale_min * math.exp(self.log_ratio() * level) for level in range(self.scale_levels)]


def settle(x: Tensor) -> Tensor:
    """Round and clamp activations to the dyadic grid where the computation is the exact one (float64)."""
    if x.dtype != torch.float64:
        return x
    one = 2.0**ACTIVATION_BITS
    return x.mul(one).round_().div_(one).clamp_(-ACTIVATION_LIMIT, ACTIVATION_LIMIT)


class Conv(nn.Conv2d):
    """Convolution that keeps the size (or divides it by `stride`) and settles what it gives."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride=stride, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return the settled convolution of x (N, inputs, H, W)."""
        return settle(super().forward(x))


class Residual(nn.Module):
    """x + conv(relu(conv(relu(x))))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = Conv(width, width)
        self.second = Conv(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return x refined, same shape."""
        return settle(x + self.second(F.relu(self.first(F.relu(x)))))


class RateTable(nn.Module):
    """A row of numbers for each rate: a parabola in t, the place of lambda in the network's range."""

    def __init__(self, channels: int, start: float = 0.0) -> None:
        super().__init__()
        self.curve = nn.Linear(3, channels, bias=False)
        nn.init.zeros_(self.curve.weight)
        nn.init.constant_(self.curve.weight[:, 0], start)

    def forward(self, t: Tensor) -> Tensor:
        """(N,) in -1..1 -> (N, channels, 1, 1)."""
        return settle(self.curve(torch.stack([torch.ones_like(t), t, t * t], 1)))[..., None, None]


def up(inputs: int, outputs: int, factor: int = 2, kernel: int = 1) -> nn.Sequential:
    """Enlarge by `factor`: a convolution, then channels become pixels."""
    return nn.Sequential(Conv(inputs, outputs * factor**2, kernel), nn.PixelShuffle(factor))


def round_through(x: Tensor) -> Tensor:
    """Round with the gradient of the identity."""
    return x + (x.round() - x).detach()


def place_of(step: int) -> Tensor:
    """t, float64 (1,), of a step of the rate scale: a multiple of 2 / RATES, so its square is dyadic too."""
    return torch.tensor([step / (RATES // 2) - 1], dtype=torch.float64)


def anchors(like: Tensor) -> Tensor:
    """Boolean (1, 1, H, W): the half of the checkerboard that is coded first."""
    rows = torch.arange(like.shape[-2], device=like.device)[:, None]
    columns = torch.arange(like.shape[-1], device=like.device)[None, :]
    return ((rows + columns) % 2 == 0)[None, None]


class SketchHyperprior(CompressionModel):
    """Sketch (N, 1, H, W) in 0..1, sides multiples of 64 <-> latents (N, latent, H/16, W/16)."""

    def __init__(self, config: SketchHyperpriorConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or SketchHyperpriorConfig()
        self.analysis = nn.Sequential(
            nn.PixelUnshuffle(4),
            Conv(16, c.quarter),
            Residual(c.quarter),
            Conv(c.quarter, c.eighth, stride=2),
            Residual(c.eighth),
            Residual(c.eighth),
            Conv(c.eighth, c.sixteenth, stride=2),
            Residual(c.sixteenth),
        )
        self.analysis_rate = RateTable(c.sixteenth)
        self.to_latent = nn.Sequential(Residual(c.sixteenth), nn.ReLU(), Conv(c.sixteenth, c.latent))
        self.log_gain = RateTable(c.latent)
        self.hyper_analysis = nn.Sequential(
            Conv(c.latent, c.hyper),
            nn.ReLU(),
            Conv(c.hyper, c.hyper, stride=2),
            nn.ReLU(),
            Conv(c.hyper, c.hyper_latent, stride=2),
        )
        self.hyper_synthesis = nn.Sequential(
            up(c.hyper_latent, c.hyper),
            nn.ReLU(),
            Conv(c.hyper, c.hyper),
            nn.ReLU(),
            up(c.hyper, c.hyper),
            nn.ReLU(),
            Conv(c.hyper, c.hyper),
        )
        self.context = nn.Conv2d(c.latent, c.hyper, 5, padding=2, bias=False)
        self.step = nn.Embedding(2 * c.groups, c.hyper)
        self.context_rate = RateTable(c.hyper)
        self.parameters_net = nn.Sequential(
            nn.ReLU(), Conv(2 * c.hyper, 2 * c.latent, 1), nn.ReLU(), Conv(2 * c.latent, 2 * c.latent, 1)
        )
        self.inverse_gain = RateTable(c.latent, start=1.0)
        self.from_latent = Conv(c.latent, c.sixteenth)
        self.synthesis_rate = RateTable(c.sixteenth)
        self.synthesis = nn.Sequential(
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
        self.entropy_bottleneck = EntropyBottleneck(c.hyper_latent, init_scale=2)
        self.gaussian_conditional = GaussianConditional(c.scales(), scale_bound=c.scale_min)
        self.level_bound = LowerBound(0.0)

    def decoder_parts(self) -> dict[str, nn.Module]:
        """What the decoder runs, by name: the parts that `exact_copy` puts on the dyadic grid."""
        names = (
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
        return {name: getattr(self, name) for name in names}

    def medians(self) -> Tensor:
        """Centre of each hyperlatent channel's distribution, (1, hyper_latent, 1, 1)."""
        return self.entropy_bottleneck.quantiles[:, 0, 1].detach()[None, :, None, None]

    def place(self, lmbda: Tensor) -> Tensor:
        """t of lambdas (N,): -1 for the lowest of the network's range, 1 - 2 / RATES for the highest."""
        low, high = map(math.log, self.config.lambda_range)
        share = ((lmbda.log() - low) / (high - low)).clamp(0, 1) if high > low else torch.full_like(lmbda, 0.5)
        return (share * (RATES - 1) - RATES // 2) / (RATES // 2)

    def rate_step(self, lmbda: float) -> int:
        """0..RATES - 1: the step of the rate scale nearest to a lambda."""
        t = self.place(torch.tensor([lmbda], dtype=torch.float64))
        return int((t * (RATES // 2)).round()) + RATES // 2

    def analyse(self, x: Tensor, t: Tensor) -> Tensor:
        """Latents (N, latent, H/16, W/16), float32, before rounding, of sketches at rates t (N,)."""
        features = self.analysis(x) + self.analysis_rate(t)
        return self.to_latent(features).float() * self.log_gain(t).exp()

    def unfold(self, latents: Tensor, t: Tensor) -> Tensor:
        """What `synthesis` draws from, (N, sixteenth, H/16, W/16), of rounded latents at rates t (N,)."""
        features = self.from_latent(settle(latents * self.inverse_gain(t)))
        return settle(features + self.synthesis_rate(t))

    def estimate(self, hyper: Tensor, seen: Tensor, rate: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Mean and table level (a real number; the index is its rounding) of all latents at a step of `walk`."""
        context = settle(seen + self.step.weight[step][None, :, None, None] + rate)
        mean, level = self.parameters_net(torch.cat([hyper, context], 1)).chunk(2, 1)
        return mean, level + self.config.scale_levels / 4

    def walk(self, hyper: Tensor, t: Tensor, decide: Callable[[Tensor, Tensor, Tensor, slice], Tensor]) -> Tensor:
        """Go through the latents in coding order: both halves of the checkerboard, each by groups of channels.

        Args:
            hyper: output of `hyper_synthesis`, (N, hyper, H, W).
            t: rates, (N,).
            decide: called with mean and level (N, latent / groups, H, W), the half (boolean) and the slice of
                channels; gives the latents there, of which only those in the half count.

        Returns:
            All latents (N, latent, H, W).
        """
        groups, first = self.config.groups, anchors(hyper)
        seen, rate, parts = torch.zeros_like(hyper), self.context_rate(t), []
        for step in range(2 * groups):
            half = first if step < groups else ~first
            size = self.config.latent // groups
            group = slice(step % groups * size, (step % groups + 1) * size)
            mean, level = self.estimate(hyper, seen, rate, step)
            part = decide(mean[:, group], level[:, group], half, group) * half
            seen = seen + F.conv2d(part, self.context.weight[:, group], padding=2)
            parts.append(part)
        return torch.cat(parts[:groups], 1) + torch.cat(parts[groups:], 1)

    def scale(self, level: Tensor) -> Tensor:
        """Standard deviation at a real-valued table level, differentiable."""
        c = self.config
        return c.scale_min * torch.exp(self.level_bound(level).clamp(max=c.scale_levels - 1) * c.log_ratio())

    def forward(self, x: Tensor, lmbda: Tensor) -> dict:
        """Training pass at lambdas (N,), CompressAI's form: {"x_hat": (N,1,H,W), "likelihoods": {"y", "z"}}."""
        t = self.place(lmbda)
        y = self.analyse(x, t)
        z = self.hyper_analysis(y).float()
        _, z_likelihoods = self.entropy_bottleneck(z)
        hyper = self.hyper_synthesis(round_through(z - self.medians()) + self.medians()).float()

        means, levels = [], []

        def decide(mean: Tensor, level: Tensor, half: Tensor, group: slice) -> Tensor:
            means.append(mean.float() * half)
            levels.append(level.float() * half)
            return round_through(y[:, group] - mean.float()) + mean.float()

        latents = self.walk(hyper, t, decide)
        mean, level = (torch.cat(p[: len(p) // 2], 1) + torch.cat(p[len(p) // 2 :], 1) for p in (means, levels))
        _, y_likelihoods = self.gaussian_conditional(y, self.scale(level), means=mean)
        x_hat = self.synthesis(self.unfold(latents, t)).float()
        return {"x_hat": x_hat, "likelihoods": {"y": y_likelihoods, "z": z_likelihoods}}

    def update(self, force: bool = False) -> bool:
        """Compute the integer coding tables (at export; a loaded file brings its own)."""
        return super().update(self.config.scales(), force=force, update_quantiles=True)


@torch.no_grad()
def exact_copy(net: SketchHyperprior) -> SketchHyperprior:
    """Copy on the CPU whose decoder is the exact one: float64, weights on the dyadic grid, the bound checked.

    The encoder's parts stay float32. A network whose sums could leave 53 bits is a ValueError.
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
    """Nearest multiples of 2^-bits."""
    return x.mul(2.0**bits).round().div(2.0**bits)


def put_on_grid(layer: nn.Conv2d | nn.Linear | nn.Embedding, where: str) -> None:
    """Round a float64 layer's weights and biases to multiples of 2^-WEIGHT_BITS; check the bound."""
    for parameter in layer.parameters():
        parameter.copy_(grid(parameter, WEIGHT_BITS))
    sums = layer.weight.abs().flatten(1).sum(1) * ACTIVATION_LIMIT
    if getattr(layer, "bias", None) is not None:
        sums = sums + layer.bias.abs()
    worst = float(sums.max()) * 2.0 ** (WEIGHT_BITS + ACTIVATION_BITS)
    if not worst < 2.0**53:
        raise ValueError(f"a sum in {where} may reach {worst:.3g}, more than 2^53: its weights are too large")


class SketchHyperpriorCoder:
    """Sketch pictures <-> payloads with a trained, exact SketchHyperprior.

    A payload is the step of the rate scale, one byte, then the number of `entropy.encode`. Order of the symbols:
    hyperlatents, then the steps of `walk`, each by channel, row, column. A latent whose table is number 0 is not
    sent; it is 0 away from its mean.
    """

    def __init__(self, net: SketchHyperprior, lmbda: float) -> None:
        self.net = exact_copy(net)
        self.step = net.rate_step(lmbda)
        self.z_tables = Tables(net.entropy_bottleneck)
        self.y_tables = Tables(net.gaussian_conditional)

    @torch.no_grad()
    def encode(self, x: Tensor) -> tuple[bytes, Tensor]:
        """Return the payload of sketch x (1, 1, H, W) float32 in 0..1, and the decoder's features."""
        t = place_of(self.step)
        y = self.net.analyse(x, t.float())
        z = self.net.hyper_analysis(y) - self.net.medians()
        symbols = [whole(z)]
        intervals = self.z_tables.intervals(symbols[0], channel_indexes(z.shape))

        def code(mean: Tensor, indexes: np.ndarray, chosen: Tensor, group: slice) -> np.ndarray:
            symbols.append(whole((y[:, group].double() - mean)[chosen]))
            intervals.extend(self.y_tables.intervals(symbols[-1], indexes))
            return symbols[-1]

        features = self.features(symbols[0].reshape(z.shape), t, code)
        return bytes([self.step]) + encode(intervals, check_byte(symbols)), features

    @torch.no_grad()
    def decode(self, payload: bytes, blocks: tuple[int, int]) -> Tensor:
        """Return the features (1, sixteenth, H/16, W/16) that a payload says, for `blocks` 64x64 squares."""
        if not payload or payload[0] >= RATES:
            raise SketchError(f"sketch payload of {len(payload)} bytes does not begin with a rate below {RATES}")
        decoder = SymbolDecoder(payload[1:])
        shape = (1, self.net.config.hyper_latent, *blocks)
        z = decoder.decode(self.z_tables, channel_indexes(shape)).reshape(shape)
        t = place_of(payload[0])
        features = self.features(z, t, lambda mean, indexes, *_: decoder.decode(self.y_tables, indexes))
        decoder.finish()
        return features

    @torch.no_grad()
    def draw(self, features: Tensor) -> Tensor:
        """Sketch (1, 1, H, W) in 0..1, exact multiples of 2^-ACTIVATION_BITS."""
        return self.net.synthesis(features).clamp(0, 1)

    def features(self, z: np.ndarray, t: Tensor, code: Callable[..., np.ndarray]) -> Tensor:
        """Rebuild the latents step by step, the same in both directions, and what the synthesis draws from.

        Args:
            z: hyperlatent symbols (1, C, H/64, W/64).
            t: rate, float64 (1,).
            code: called at each step with the means, the table indexes (flat) of the sent symbols, their
                boolean places among the means, and the slice of channels; it gives those symbols, from the
                picture or from the payload.
        """
        hyper = self.net.hyper_synthesis(settle(torch.from_numpy(z).double() + self.net.medians()))

        def decide(mean: Tensor, level: Tensor, half: Tensor, group: slice) -> Tensor:
            indexes = level.round().clamp(0, self.net.config.scale_levels - 1).long()
            chosen = half & (indexes > 0)
            symbols = torch.zeros_like(mean)
            symbols[chosen] = torch.from_numpy(code(mean, indexes[chosen].numpy(), chosen, group)).double()
            return settle(symbols + mean)

        return self.net.unfold(self.net.walk(hyper, t, decide), t)

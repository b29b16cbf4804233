"""What both exact networks share: sizes, entropy model, order of coding, tiles of the synthesis.

    exact = exact_copy(net)  # for coding

Layers and arithmetic are those of `exact`. Sources: checkerboard context, He et al. 2021 (arXiv
2103.15306), by groups of channels, He et al. 2022 (arXiv 2203.10886).
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
from models_ntc.exact import (
    ACTIVATION_BITS,
    Conv,
    Residual,
    grid,
    put_on_grid,
    quantize_activation,
    up,
)

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

    A subclass adds the rest of DECODER_PARTS, the encoder's ENCODER_PARTS, and `rate_of` and
    `latents`. RATES: steps of lambda, geometric over the network's range.
    """

    RATES: int
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

    def unfold(self, latents: Tensor, rate: Tensor) -> Tensor:
        """Return the input of `synthesis`, (N, sixteenth, H/16, W/16), of rounded latents."""
        features = self.from_latent(quantize_activation(latents * self.inverse_gain(rate)))
        return quantize_activation(features + self.synthesis_rate(rate))

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


def analysis(c: HyperpriorConfig, channels: int) -> nn.Sequential:
    """Return picture (N, channels, H, W) -> features (N, sixteenth, H/16, W/16)."""
    return nn.Sequential(
        nn.PixelUnshuffle(4),
        Conv(16 * channels, c.quarter),
        Residual(c.quarter),
        Conv(c.quarter, c.eighth, stride=2),
        Residual(c.eighth),
        Residual(c.eighth),
        Conv(c.eighth, c.sixteenth, stride=2),
        Residual(c.sixteenth),
    )


def coarse_synthesis(c: HyperpriorConfig) -> list[nn.Module]:
    """Return the layers features (N, sixteenth, H/16, W/16) -> features (N, quarter, H/4, W/4)."""
    return [
        Residual(c.sixteenth),
        Residual(c.sixteenth),
        up(c.sixteenth, c.eighth),
        Residual(c.eighth),
        Residual(c.eighth),
        up(c.eighth, c.quarter),
        Residual(c.quarter),
        nn.ReLU(),
    ]


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

"""The second exact network: pictures of any number of channels, sketches and base layers.

    net = PictureHyperprior(PictureHyperpriorConfig(channels=3))
    net.load_state_dict(state)  # of a weight file
    exact = exact_copy(net)  # for coding

What makes it exact is in `exact`; its training, which takes CompressAI's entropy models, in
`picture_training`. Against the first network, `sketch_hyperprior`, it has any number of channels,
more rates, gains that are no parabola of the rate (so all that depends on the rate is stored as a
table with a row for each), and ends in an enlargement whose kernels do not show their grid.

Sources: as for the first network; enlargement by the nearest pixel, then a convolution: Odena et
al. 2016, "Deconvolution and checkerboard artifacts".
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from models_ntc.exact import Conv, Residual, convolve, quantize_activation, up
from models_ntc.hyperprior import ExactHyperprior, HyperpriorConfig, analysis, coarse_synthesis


@dataclass(frozen=True)
class PictureHyperpriorConfig(HyperpriorConfig):
    """Sizes of the network; the defaults are those of the base layer."""

    channels: int = 3  # of the picture
    half: int = 24  # width of the layers at 1/2 of the picture's resolution
    quarter: int = 40
    eighth: int = 80
    sixteenth: int = 144
    latent: int = 80
    groups: int = 5
    hyper_latent: int = 24
    hyper: int = 96
    lambda_range: tuple[float, float] = (3e-6, 4e-3)


class RateRows(nn.Embedding):
    """A number for each channel and step of the rate scale, from a table."""

    def forward(self, steps: Tensor) -> Tensor:
        """Return (N, channels, 1, 1) for steps (N,), int64."""
        return rearrange(super().forward(steps), "n c -> n c 1 1")


class Enlarge(Conv):
    """Twice the size by the nearest pixel, then a convolution of 3x3; output quantized.

    It is computed as one convolution before the enlargement, with the sums of the weights that
    fall on the same pixel, which takes a quarter of the memory.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, outputs, 2 H, 2 W) of x (N, inputs, H, W)."""
        folded = convolve(x, self._folded(), self.bias.repeat_interleave(4))
        return quantize_activation(F.pixel_shuffle(folded, 2))

    def _folded(self) -> Tensor:
        """Return the weights at the small size, (4 outputs, inputs, 3, 3).

        Of an even pixel, the neighbors before it, itself and after it lie on the small pixels
        before, itself and itself; of an odd one, on itself, itself and after.
        """
        before, here, after = self.weight.unbind(2)
        none = torch.zeros_like(here)
        even = torch.stack([before, here + after, none], 2)
        odd = torch.stack([none, before + here, after], 2)
        rows = torch.stack([even, odd], 1)  # (outputs, 2, inputs, 3, 3)
        before, here, after = rows.unbind(4)
        none = torch.zeros_like(here)
        even = torch.stack([before, here + after, none], 4)
        odd = torch.stack([none, before + here, after], 4)
        return torch.stack([even, odd], 2).flatten(0, 2)


def _synthesis(c: PictureHyperpriorConfig) -> nn.Sequential:
    """Return features (N, sixteenth, H/16, W/16) -> picture (N, channels, H, W)."""
    return nn.Sequential(
        *coarse_synthesis(c),
        up(c.quarter, c.half, kernel=3),
        nn.ReLU(),
        Conv(c.half, c.half),
        nn.ReLU(),
        Enlarge(c.half, c.channels),
    )


class PictureHyperprior(ExactHyperprior):
    """Picture (N, channels, H, W) in 0..1 <-> latents (N, latent, H/16, W/16).

    Sides are multiples of 64. Its rates are steps (N,), int64, rows of its tables.
    """

    RATES = 64
    ENCODER_PARTS = ("analysis", "analysis_rate", "to_latent", "gain", "hyper_analysis")
    RATE_TABLES = ("analysis_rate", "gain", "context_rate", "inverse_gain", "synthesis_rate")

    def __init__(self, config: PictureHyperpriorConfig | None = None) -> None:
        super().__init__(config or PictureHyperpriorConfig())
        c = self.config
        self.analysis = analysis(c, c.channels)
        self.analysis_rate = self._rate_table(c.sixteenth)
        self.to_latent = nn.Sequential(
            Residual(c.sixteenth),
            Residual(c.sixteenth),
            nn.ReLU(),
            Conv(c.sixteenth, c.latent),
        )
        self.gain = self._gain_table(1)
        self._add_entropy_model(self._rate_table(c.hyper))
        self.inverse_gain = self._gain_table(-1)
        self.from_latent = Conv(c.latent, c.sixteenth)
        self.synthesis_rate = self._rate_table(c.sixteenth)
        self.synthesis = _synthesis(c)
        self._add_tables()

    def _rate_table(self, channels: int) -> nn.Module:
        """Return a table of numbers that are added."""
        return RateRows(self.RATES, channels)

    def _gain_table(self, sign: int) -> nn.Module:
        """Return a table of factors of the latents, which rise (sign 1) or fall with the rate."""
        return RateRows(self.RATES, self.config.latent)

    @staticmethod
    def rate_of(step: int) -> Tensor:
        """Return the rate of a step of the scale, 0..RATES - 1, for one picture."""
        return torch.tensor([step])

    def latents(self, features: Tensor, rate: Tensor) -> Tensor:
        """Return latents, float32 (N, latent, H/16, W/16), not rounded, at the rates of N pictures.

        features: of `analysis`, (N, sixteenth, H/16, W/16).
        """
        features = features + self.analysis_rate(rate)
        return self.to_latent(features).float() * self.gain(rate)

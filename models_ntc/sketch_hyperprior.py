"""The first network of the sketch codec: a small hyperprior with a decoder that is exact.

    net = SketchHyperprior()
    net.load_state_dict(state)  # of a codec file
    exact = exact_copy(net)  # for coding

What makes it exact is in `exact`; its training, which takes CompressAI's entropy models, in
`sketch_training`. It codes the sketches of the rates 0 to 31, and codec files of
train_compressai.py; further rates are those of the second network, `picture_hyperprior`.

One network codes at all rates of a range: latents are multiplied by a gain for each channel that
depends on lambda, and after rounding by another one; lambda also shifts features on both sides
(`RateTable`).

Sources: mean and scale hyperprior, Minnen et al. 2018 (arXiv 1809.02736); rounding in place of
noise for the synthesis, Minnen and Singh 2020 (arXiv 2007.08739); gains for several rates, Cui et
al. 2021 (arXiv 2003.02012).
"""

import torch
from torch import Tensor, nn

from models_ntc.exact import Conv, RateTable, Residual, up
from models_ntc.hyperprior import ExactHyperprior, HyperpriorConfig, analysis, coarse_synthesis

RATES = 32  # steps of lambda, geometric over the network's range; the step is in the payload


def position_of(step: int) -> Tensor:
    """Return t, float64 (1,), of a step of the rate scale.

    It is a multiple of 2 / RATES, so that its square is dyadic too.
    """
    return torch.tensor([step / (RATES // 2) - 1], dtype=torch.float64)


class SketchHyperprior(ExactHyperprior):
    """Sketch (N, 1, H, W) in 0..1, sides multiples of 64 <-> latents (N, latent, H/16, W/16).

    Its rates are t (N,), their positions in the network's range.
    """

    RATES = RATES
    ENCODER_PARTS = ("analysis", "to_latent", "hyper_analysis")

    def __init__(self, config: HyperpriorConfig | None = None) -> None:
        super().__init__(config or HyperpriorConfig())
        c = self.config
        self.analysis = analysis(c, channels=1)
        self.analysis_rate = RateTable(c.sixteenth)
        refine = Residual(c.sixteenth)
        self.to_latent = nn.Sequential(refine, nn.ReLU(), Conv(c.sixteenth, c.latent))
        self.log_gain = RateTable(c.latent)
        self._add_entropy_model(RateTable(c.hyper))
        self.inverse_gain = RateTable(c.latent, start=1.0)
        self.from_latent = Conv(c.latent, c.sixteenth)
        self.synthesis_rate = RateTable(c.sixteenth)
        self.synthesis = nn.Sequential(*coarse_synthesis(c), up(c.quarter, 1, 4, kernel=3))
        self._add_tables()

    @staticmethod
    def rate_of(step: int) -> Tensor:
        """Return the rate of a step of the scale, 0..RATES - 1, for one sketch."""
        return position_of(step)

    def latents(self, features: Tensor, t: Tensor) -> Tensor:
        """Return latents, float32 (N, latent, H/16, W/16), not rounded, at t (N,).

        features: of `analysis`, (N, sixteenth, H/16, W/16).
        """
        t = t.float()
        features = features + self.analysis_rate(t)
        return self.to_latent(features).float() * self.log_gain(t).exp()

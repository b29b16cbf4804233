"""Training of the first exact network: its rates by CompressAI's entropy models.

    net = SketchTraining()
    output = net(sketches, torch.full((len(sketches),), 0.2))

Only training needs CompressAI; what a file holds is coded by `hyperprior_coder` without it.
"""

import torch
from compressai.entropy_models import EntropyBottleneck, GaussianConditional
from compressai.models import CompressionModel
from compressai.ops import LowerBound
from torch import Tensor

from models_ntc.hyperprior import HyperpriorConfig, both_halves
from models_ntc.sketch_hyperprior import SketchHyperprior


def round_through(x: Tensor) -> Tensor:
    """Return x rounded, with the gradient of the identity."""
    return x + (x.round() - x).detach()


class Learning(CompressionModel):
    """What makes an `ExactHyperprior` of curves learn: entropy models and a training pass.

    The entropy models have the same names in the state dict as the tables of a network that codes.
    """

    def add_entropy_models(self) -> None:
        """Put entropy models that learn in the places of the tables."""
        c = self.config
        self.entropy_bottleneck = EntropyBottleneck(c.hyper_latent, init_scale=2)
        self.gaussian_conditional = GaussianConditional(c.scales(), scale_bound=c.scale_min)
        self.level_bound = LowerBound(0.0)

    def scale(self, level: Tensor) -> Tensor:
        """Return the standard deviation at a real-valued table level, differentiable."""
        c = self.config
        bounded = self.level_bound(level).clamp(max=c.scale_levels - 1)
        return c.scale_min * torch.exp(bounded * c.log_ratio())

    def forward(self, x: Tensor, lmbda: Tensor) -> dict:
        """Return {"x_hat": (N, C, H, W), "likelihoods": {"y", "z"}} of a training pass.

        x: pictures (N, C, H, W) in 0..1. lmbda: their lambdas (N,).
        """
        t = self.position(lmbda)
        y = self.latents(self.analysis(x), t)
        z = self.hyper_analysis(y).float()
        _, z_likelihoods = self.entropy_bottleneck(z)
        hyper = self.hyper_synthesis(round_through(z - self.medians()) + self.medians()).float()
        means, levels = [], []

        def decide(mean: Tensor, level: Tensor, half: Tensor, group: slice) -> Tensor:
            means.append(mean.float() * half)
            levels.append(level.float() * half)
            return round_through(y[:, group] - mean.float()) + mean.float()

        latents = self.walk(hyper, t, decide)
        scales = self.scale(both_halves(levels))
        _, y_likelihoods = self.gaussian_conditional(y, scales, means=both_halves(means))
        x_hat = self.synthesis(self.unfold(latents, t)).float()
        return {"x_hat": x_hat, "likelihoods": {"y": y_likelihoods, "z": z_likelihoods}}

    def update(self, force: bool = False) -> bool:
        """Compute the integer coding tables (for export; a loaded file brings its own)."""
        return super().update(self.config.scales(), force=force, update_quantiles=True)


class SketchTraining(SketchHyperprior, Learning):
    """The first network with entropy models that learn."""

    def __init__(self, config: HyperpriorConfig | None = None) -> None:
        super().__init__(config)
        self.add_entropy_models()

"""Training of the second exact network: its rates by CompressAI's entropy models.

    net = PictureTraining(PictureHyperpriorConfig(channels=3))
    output = net(pictures, torch.full((len(pictures),), 1e-4))

What depends on the rate is a curve of it while the network learns, and becomes a table with a row
for each rate in the weight file (`stored_state`).
"""

import math

import torch
from einops import rearrange
from torch import Tensor, nn

from models_ntc.exact import RateTable
from models_ntc.picture_hyperprior import PictureHyperprior, PictureHyperpriorConfig
from models_ntc.sketch_training import Learning


class GainCurve(nn.Module):
    """A factor for each channel: exp of a cubic in t, the position of lambda in its range."""

    def __init__(self, channels: int, slope: float) -> None:
        super().__init__()
        self.curve = nn.Linear(4, channels, bias=False)
        nn.init.zeros_(self.curve.weight)
        nn.init.constant_(self.curve.weight[:, 1], slope)

    def forward(self, t: Tensor) -> Tensor:
        """Return (N, channels, 1, 1) for t (N,) in -1..1, in float32 under autocast too."""
        powers = torch.stack([torch.ones_like(t), t, t * t, t * t * t], 1)
        with torch.autocast(t.device.type, enabled=False):
            return rearrange(self.curve(powers).exp(), "n c -> n c 1 1")


class PictureTraining(PictureHyperprior, Learning):
    """The network with curves in place of tables, and entropy models that learn.

    Its rates are t (N,), their positions in the network's range.
    """

    def __init__(self, config: PictureHyperpriorConfig | None = None) -> None:
        super().__init__(config)
        self.add_entropy_models()

    def _rate_table(self, channels: int) -> nn.Module:
        return RateTable(channels)

    def _gain_table(self, sign: int) -> nn.Module:
        low, high = self.config.lambda_range
        # The best gain is about the fourth root of lambda; t is 2 over the whole range.
        return GainCurve(self.config.latent, sign * math.log(high / low) / 8)

    def stored_state(self) -> dict[str, Tensor]:
        """Return the state dict of the network that codes, a `PictureHyperprior`."""
        state = self.state_dict()
        half = self.RATES // 2
        positions = torch.arange(self.RATES) / half - 1
        for name in self.RATE_TABLES:
            del state[f"{name}.curve.weight"]
            with torch.no_grad():
                rows = getattr(self, name).cpu()(positions)
            state[f"{name}.weight"] = rearrange(rows, "n c 1 1 -> n c")
        return state

"""The paper's sketch codec: CompressAI's Cheng2020Attention with one input and one output channel.

State-dict keys are CompressAI's, so the authors' files
(`Cheng2020AttentionFull_CLIC_HED_ms_ssim_lmbda1.0.pt`) load strictly. Its context model looks at a 5x5
neighbourhood that was decoded before; latents are coded in wavefront order: column + 3 * row is the same
for positions that do not depend on each other. What chooses the tables is computed in float64 on the CPU,
so two machines differ by about 1e-15 and disagree about a table only in the case, not seen yet and caught
by the payload's check, that a scale falls that close to a limit between two.

Source: Cheng et al. 2020, arXiv 2001.01568.
"""

import copy
from collections.abc import Callable

import numpy as np
import torch
from compressai.layers import ResidualBlockWithStride, subpel_conv3x3
from compressai.models import Cheng2020Attention
from torch import Tensor
from torch.nn import functional as F

from models_ntc.entropy import SymbolDecoder, Tables, check_byte, encode, whole

REACH = 2  # of the 5x5 context, in positions


class SketchCheng2020(Cheng2020Attention):
    """Cheng2020Attention on gray pictures: (N, 1, H, W) in 0..1, sides multiples of 64."""

    def __init__(self, N: int = 192) -> None:  # noqa: N803 -- CompressAI's name
        super().__init__(N)
        self.g_a[0] = ResidualBlockWithStride(1, N, stride=2)
        self.g_s[-1] = subpel_conv3x3(N, 1, 2)


def unwrap(state: dict) -> dict:
    """State dict without what training scripts put around it ({"state_dict": ...}, "module.")."""
    state = state.get("state_dict", state)
    return {name.removeprefix("module."): value for name, value in state.items()}


def channels_of(state: dict) -> int:
    """N of a state dict in CompressAI's keys; ValueError when it is another network's."""
    key = "g_a.0.conv1.weight"
    if key not in state or state[key].shape[1] != 1:
        raise ValueError(f"not a one-channel Cheng2020Attention: no {key} of shape (N, 1, 3, 3)")
    return state[key].shape[0]


class ChengCoder:
    """Sketch pictures <-> payloads with a trained SketchCheng2020; same methods as SketchHyperpriorCoder."""

    def __init__(self, net: SketchCheng2020, device: str = "cpu") -> None:
        self.net = net.eval().to(device)  # analysis and synthesis, float32
        exact = copy.deepcopy(net).cpu().double()  # what both ends must agree on
        self.hyper_synthesis, self.parameters = exact.h_s, exact.entropy_parameters
        taps = exact.context_prediction.mask[0, 0].nonzero()
        self.taps = taps.T[:, :, None]  # (2, 12, 1): row and column of each tap in the 5x5 window
        weight = exact.context_prediction.weight.detach()
        self.context_weight = weight[:, :, taps[:, 0], taps[:, 1]].flatten(1)  # (2N, N * 12)
        self.context_bias = exact.context_prediction.bias.detach()
        self.limits = exact.gaussian_conditional.scale_table[:-1]
        self.medians = exact.entropy_bottleneck.quantiles[:, 0, 1].detach()[None, :, None, None]
        self.z_tables = Tables(net.entropy_bottleneck)
        self.y_tables = Tables(net.gaussian_conditional)

    @torch.no_grad()
    def encode(self, x: Tensor) -> tuple[bytes, Tensor]:
        """Return the number that codes sketch x (1, 1, H, W) float32 in 0..1, and the decoder's latents."""
        y = self.net.g_a(x.to(next(self.net.parameters()).device))
        z = self.net.h_a(y).cpu().double() - self.medians
        y = y.cpu().double()[0]
        channels = self.z_indexes(z.shape)
        symbols = [whole(z)]
        intervals = self.z_tables.intervals(symbols[0], channels)

        def code(rows: Tensor, columns: Tensor, mean: Tensor, indexes: np.ndarray) -> np.ndarray:
            symbols.append(whole(y[:, rows, columns] - mean))
            intervals.extend(self.y_tables.intervals(symbols[-1], indexes))
            return symbols[-1]

        latents = self.latents(symbols[0].reshape(z.shape), code)
        return encode(intervals, check_byte(symbols)), latents

    @torch.no_grad()
    def decode(self, data: bytes, blocks: tuple[int, int]) -> Tensor:
        """Return the latents (1, N, H/16, W/16) coded in `data`, for a sketch of `blocks` 64x64 squares."""
        decoder = SymbolDecoder(data)
        shape = (1, self.net.N, *blocks)
        z = decoder.decode(self.z_tables, self.z_indexes(shape)).reshape(shape)
        latents = self.latents(z, lambda rows, columns, mean, indexes: decoder.decode(self.y_tables, indexes))
        decoder.finish()
        return latents

    @torch.no_grad()
    def draw(self, latents: Tensor) -> Tensor:
        """Sketch (1, 1, H, W) in 0..1."""
        return self.net.g_s(latents.to(next(self.net.parameters()))).clamp(0, 1).cpu()

    def z_indexes(self, shape: tuple[int, ...]) -> np.ndarray:
        """Table of each hyperlatent: its channel."""
        return np.repeat(np.arange(shape[1]), shape[2] * shape[3])

    def latents(self, z: np.ndarray, code: Callable[..., np.ndarray]) -> Tensor:
        """Rebuild the latents wave by wave, the same in both directions.

        Args:
            z: hyperlatent symbols (1, N, H/64, W/64).
            code: called with a wave's rows, columns, means (N, positions) and table indexes (flat); it gives
                the symbols, from the picture or from the payload.
        """
        hyper = self.hyper_synthesis(torch.from_numpy(z).double() + self.medians)[0]
        height, width = hyper.shape[1:]
        decoded = hyper.new_zeros(self.net.M, height + 2 * REACH, width + 2 * REACH)
        for wave in range(width + (REACH + 1) * (height - 1)):
            rows = torch.arange(height)
            columns = wave - (REACH + 1) * rows
            inside = (columns >= 0) & (columns < width)
            rows, columns = rows[inside], columns[inside]
            mean, scale = self.estimate(hyper, decoded, rows, columns)
            indexes = torch.bucketize(scale, self.limits).numpy().ravel()
            symbols = torch.from_numpy(code(rows, columns, mean, indexes)).reshape(mean.shape)
            decoded[:, rows + REACH, columns + REACH] = symbols + mean
        return F.pad(decoded, (-REACH,) * 4)[None]

    def estimate(self, hyper: Tensor, decoded: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and scale (N, positions) of latents, from what is decoded around their places."""
        around = decoded[:, rows + self.taps[0], columns + self.taps[1]].flatten(0, 1)  # (N * 12, positions)
        context = self.context_weight @ around + self.context_bias[:, None]
        joined = torch.cat([hyper[:, rows, columns], context])[None, :, None]
        scale, mean = self.parameters(joined)[0, :, 0].chunk(2)
        return mean, scale

"""CompressAI's networks with one input and one output channel, the paper's Cheng2020Attention among them.

State-dict keys are CompressAI's, so the authors' files (`Cheng2020AttentionFull_CLIC_HED_ms_ssim_lmbda1.0.pt`)
load strictly. Latents with a context model of 5x5 decoded neighbours are coded in wavefront order: column +
3 * row is the same for positions that do not depend on each other; all others are coded at once. What chooses
the tables is computed in float64 on the CPU and means are rounded to MEAN_BITS, so two machines, which differ
by about 1e-15, disagree only in the case, not seen yet and caught by the payload's check, that a scale or a
mean falls that close to a limit.

    python train_compressai.py -m mbt2018-mean -d runs/sketches --lambda 1.0 --dist_metric ms-ssim

Sources: Balle et al. 2018, arXiv 1802.01436; Minnen et al. 2018, arXiv 1809.02736; Cheng et al. 2020, arXiv
2001.01568.
"""

import copy
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from compressai.layers import ResidualBlockWithStride, subpel_conv3x3
from compressai.models import (
    Cheng2020Anchor,
    Cheng2020Attention,
    CompressionModel,
    FactorizedPrior,
    JointAutoregressiveHierarchicalPriors,
    MeanScaleHyperprior,
    ScaleHyperprior,
)
from compressai.models.utils import conv, deconv
from torch import Tensor
from torch.nn import functional as F

from models_ntc.entropy import SymbolDecoder, Tables, channel_indexes, check_byte, encode, whole

REACH = 2  # of the 5x5 context, in positions
MEAN_BITS = 20  # fractional bits that a latent's mean keeps


def google(architecture: type[CompressionModel], N: int = 128, M: int = 192) -> CompressionModel:  # noqa: N803
    """Network of N channels and M latents on gray pictures (N, 1, H, W) in 0..1, sides multiples of 64."""
    net = architecture(N=N, M=M)
    net.g_a[0] = conv(1, N)
    net.g_s[-1] = deconv(N, 1)
    return net


def cheng(architecture: type[Cheng2020Anchor], N: int = 192) -> Cheng2020Anchor:  # noqa: N803
    """Network of N channels on gray pictures (N, 1, H, W) in 0..1, sides multiples of 64."""
    net = architecture(N=N)
    net.g_a[0] = ResidualBlockWithStride(1, N, stride=2)
    net.g_s[-1] = subpel_conv3x3(N, 1, 2)
    return net


# CompressAI's names; each makes an untrained network of the sizes N (and M, but for Cheng's) given by keyword.
ARCHITECTURES: dict[str, Callable[..., CompressionModel]] = {
    "bmshj2018-factorized": partial(google, FactorizedPrior),
    "bmshj2018-hyperprior": partial(google, ScaleHyperprior),
    "mbt2018-mean": partial(google, MeanScaleHyperprior),
    "mbt2018": partial(google, JointAutoregressiveHierarchicalPriors, N=192),
    "cheng2020-anchor": partial(cheng, Cheng2020Anchor),
    "cheng2020-attn": partial(cheng, Cheng2020Attention),
}


def zoo_sizes(net: CompressionModel) -> dict[str, int]:
    """Keywords that make a network of the same shape."""
    return {"N": net.N} if isinstance(net, Cheng2020Anchor) else {"N": net.N, "M": net.M}


def unwrap(state: dict) -> dict:
    """State dict without what training scripts put around it ({"state_dict": ...}, "module.")."""
    state = state.get("state_dict", state)
    return {name.removeprefix("module."): value for name, value in state.items()}


def recognise(state: dict) -> tuple[str, dict[str, int]]:
    """Architecture and sizes of an unwrapped state dict in CompressAI's keys.

    Raises:
        ValueError: it is none of ARCHITECTURES, or sees more channels than one.
    """
    first = next((state[key] for key in ("g_a.0.conv1.weight", "g_a.0.weight") if key in state), None)
    if getattr(first, "ndim", 0) != 4 or first.shape[1] != 1:
        raise ValueError("not a one-channel network of CompressAI's: no g_a.0 of shape (N, 1, height, width)")
    if "g_a.0.conv1.weight" in state:
        return "cheng2020-attn" if "g_a.3.conv_a.0.conv.0.weight" in state else "cheng2020-anchor", {"N": len(first)}
    sizes = {"N": len(first), "M": len(state["g_a.6.weight"])}
    if "h_s.4.weight" not in state:
        return "bmshj2018-factorized", sizes
    if "context_prediction.weight" in state:
        return "mbt2018", sizes
    return "mbt2018-mean" if len(state["h_s.4.weight"]) == 2 * sizes["M"] else "bmshj2018-hyperprior", sizes


class ZooCoder:
    """Sketch pictures <-> payloads with a trained network of ARCHITECTURES; same methods as SketchHyperpriorCoder.

    Args:
        net: the network, its coding tables made by `update`.
        device: where it analyses and draws; what both ends must agree on runs on the CPU.
    """

    def __init__(self, net: CompressionModel, device: str = "cpu") -> None:
        self.net = net.eval().to(device)  # analysis and synthesis, float32
        self.exact = exact = copy.deepcopy(net).cpu().double()  # what both ends must agree on
        self.medians = exact.entropy_bottleneck.quantiles[:, 0, 1].detach()[None, :, None, None]
        self.bottom_tables = Tables(net.entropy_bottleneck)
        self.factorized = isinstance(net, FactorizedPrior)
        if not self.factorized:
            self.limits = exact.gaussian_conditional.scale_table[:-1]
            self.y_tables = Tables(net.gaussian_conditional)
        self.autoregressive = isinstance(net, JointAutoregressiveHierarchicalPriors)
        if self.autoregressive:
            taps = exact.context_prediction.mask[0, 0].nonzero()
            self.taps = taps.T[:, None]  # (2, 1, 12): row and column of each tap in the 5x5 window
            weight = exact.context_prediction.weight.detach()[:, :, taps[:, 0], taps[:, 1]]
            self.context_weight = weight.transpose(1, 2).flatten(1).T.contiguous()  # (12 * M, 2M)
            self.context_bias = exact.context_prediction.bias.detach()
            # 1x1 convolutions as products of (positions, channels), twice as fast so in float64
            self.mixing = [
                (layer.weight.detach()[:, :, 0, 0].T.contiguous(), layer.bias.detach())
                for layer in exact.entropy_parameters[::2]
            ]

    @torch.no_grad()
    def encode(self, x: Tensor) -> tuple[bytes, Tensor]:
        """Return the number that codes sketch x (1, 1, H, W) float32 in 0..1, and the decoder's latents."""
        y = self.net.g_a(x.to(next(self.net.parameters()).device))
        bottom = self.bottom(y).cpu().double() - self.medians
        y = y.cpu().double()[0]
        symbols = [whole(bottom)]
        intervals = self.bottom_tables.intervals(symbols[0], channel_indexes(bottom.shape))

        def code(rows: Tensor, columns: Tensor, mean: Tensor, indexes: np.ndarray) -> np.ndarray:
            symbols.append(whole(y[:, rows, columns] - mean))
            intervals.extend(self.y_tables.intervals(symbols[-1], indexes))
            return symbols[-1]

        latents = self.latents(symbols[0].reshape(bottom.shape), code)
        return encode(intervals, check_byte(symbols)), latents

    @torch.no_grad()
    def decode(self, data: bytes, blocks: tuple[int, int]) -> Tensor:
        """Return the latents (1, M, H/16, W/16) coded in `data`, for a sketch of `blocks` 64x64 squares."""
        decoder = SymbolDecoder(data)
        places = [4 * side if self.factorized else side for side in blocks]
        shape = (1, self.medians.shape[1], *places)
        bottom = decoder.decode(self.bottom_tables, channel_indexes(shape)).reshape(shape)
        latents = self.latents(bottom, lambda rows, columns, mean, indexes: decoder.decode(self.y_tables, indexes))
        decoder.finish()
        return latents

    @torch.no_grad()
    def draw(self, latents: Tensor) -> Tensor:
        """Sketch (1, 1, H, W) in 0..1."""
        return self.net.g_s(latents.to(next(self.net.parameters()))).clamp(0, 1).cpu()

    def bottom(self, y: Tensor) -> Tensor:
        """What is coded first, each channel by its own table: the hyperlatents, or all where there are none."""
        if self.factorized:
            return y
        return self.net.h_a(y if isinstance(self.net, MeanScaleHyperprior) else y.abs())

    def latents(self, bottom: np.ndarray, code: Callable[..., np.ndarray]) -> Tensor:
        """Rebuild the latents wave by wave, the same in both directions.

        Args:
            bottom: symbols (1, C, height, width) of what is coded first.
            code: called with a wave's rows, columns, means (M, positions) and table indexes (flat); it gives
                the symbols, from the picture or from the payload.
        """
        below = torch.from_numpy(bottom).double() + self.medians
        if self.factorized:
            return below
        hyper = self.exact.h_s(below)[0].permute(1, 2, 0).contiguous()
        height, width = hyper.shape[:2]
        decoded = hyper.new_zeros(height + 2 * REACH, width + 2 * REACH, self.net.M)
        for rows, columns in self.waves(height, width):
            mean, scale = self.estimate(hyper, decoded, rows, columns)
            indexes = torch.bucketize(scale.T.contiguous(), self.limits).numpy().ravel()
            symbols = torch.from_numpy(code(rows, columns, mean.T, indexes)).reshape(mean.T.shape)
            decoded[rows + REACH, columns + REACH] = symbols.T + mean
        return decoded[REACH:-REACH, REACH:-REACH].permute(2, 0, 1)[None].contiguous()

    def waves(self, height: int, width: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Rows and columns of the positions that are coded together, in coding order."""
        if not self.autoregressive:
            yield torch.arange(height).repeat_interleave(width), torch.arange(width).repeat(height)
            return
        for wave in range(width + (REACH + 1) * (height - 1)):
            rows = torch.arange(height)
            columns = wave - (REACH + 1) * rows
            inside = (columns >= 0) & (columns < width)
            yield rows[inside], columns[inside]

    def estimate(self, hyper: Tensor, decoded: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and scale (positions, M) of latents, from the hyperprior and what is decoded around their places."""
        numbers = hyper[rows, columns]
        if self.autoregressive:
            around = decoded[rows[:, None] + self.taps[0], columns[:, None] + self.taps[1]].flatten(1)
            numbers = torch.cat([numbers, around @ self.context_weight + self.context_bias], 1)
            (weight, bias), *others = self.mixing
            numbers = numbers @ weight + bias
            for weight, bias in others:
                numbers = F.leaky_relu(numbers) @ weight + bias
        if not isinstance(self.net, MeanScaleHyperprior):
            return torch.zeros_like(numbers), numbers
        scale, mean = numbers.chunk(2, 1)
        return mean.mul(2**MEAN_BITS).round().div(2**MEAN_BITS), scale

"""CompressAI's networks with one input and one output channel, such as the paper's Cheng2020.

    python train_compressai.py -m mbt2018-mean -d runs/sketches --lambda 1.0 --dist_metric ms-ssim

State-dict keys are CompressAI's, so that the authors' files
(`Cheng2020AttentionFull_CLIC_HED_ms_ssim_lmbda1.0.pt`) load strictly. Latents with a context model
of 5x5 decoded neighbors are coded in wavefront order: column + 3 * row is the same for positions
that do not depend on each other; all of these are coded at once. What chooses the tables is
computed in float64 on the CPU, and means are rounded to MEAN_BITS. Two machines, which differ by
about 1e-15, disagree only if a scale or a mean lies that close to a limit. This was not seen yet,
and the payload's checksum would report it.

Sources: Balle et al. 2018, arXiv 1802.01436; Minnen et al. 2018, arXiv 1809.02736; Cheng et al.
2020, arXiv 2001.01568.
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
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from models_ntc.entropy import (
    SymbolDecoder,
    Tables,
    channel_indexes,
    check_byte,
    encode,
    round_to_int,
)

REACH = 2  # of the 5x5 context, in positions
MEAN_BITS = 20  # fractional bits that a latent's mean keeps


def google(architecture: type[CompressionModel], N: int = 128, M: int = 192) -> CompressionModel:  # noqa: N803
    """Return a network of N channels and M latents on sketches (n, 1, H, W) in 0..1.

    The sides are multiples of 64.
    """
    net = architecture(N=N, M=M)
    net.g_a[0] = conv(1, N)
    net.g_s[-1] = deconv(N, 1)
    return net


def cheng(architecture: type[Cheng2020Anchor], N: int = 192) -> Cheng2020Anchor:  # noqa: N803
    """Return a network of N channels on sketches (n, 1, H, W) in 0..1, sides multiples of 64."""
    net = architecture(N=N)
    net.g_a[0] = ResidualBlockWithStride(1, N, stride=2)
    net.g_s[-1] = subpel_conv3x3(N, 1, 2)
    return net


# CompressAI's names. Each makes an untrained network; its sizes are the keywords N and, except for
# Cheng's networks, M.
ARCHITECTURES: dict[str, Callable[..., CompressionModel]] = {
    "bmshj2018-factorized": partial(google, FactorizedPrior),
    "bmshj2018-hyperprior": partial(google, ScaleHyperprior),
    "mbt2018-mean": partial(google, MeanScaleHyperprior),
    "mbt2018": partial(google, JointAutoregressiveHierarchicalPriors, N=192),
    "cheng2020-anchor": partial(cheng, Cheng2020Anchor),
    "cheng2020-attn": partial(cheng, Cheng2020Attention),
}


def zoo_sizes(net: CompressionModel) -> dict[str, int]:
    """Return the keyword arguments that make a network of the same shape."""
    if isinstance(net, Cheng2020Anchor):
        return {"N": net.N}
    return {"N": net.N, "M": net.M}


def unwrap(state: dict) -> dict:
    """Return a state dict without what training scripts add: {"state_dict": ...} and "module.".

    Raises ValueError if it is not a dict with names, or has a name twice.
    """
    if isinstance(state, dict):
        state = state.get("state_dict", state)
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise ValueError("it holds no named weights")
    named = {name.removeprefix("module."): value for name, value in state.items()}
    if len(named) < len(state):
        raise ValueError("it has names with and without module.")
    return named


def recognize(state: dict) -> tuple[str, dict[str, int]]:
    """Return architecture and sizes of an unwrapped state dict in CompressAI's keys.

    state: its values have a shape, as tensors do. Raises ValueError if it is none of ARCHITECTURES,
    or takes more channels than one.
    """
    cheng = "g_a.0.conv1.weight" in state
    first = _shape(state, "g_a.0.conv1.weight" if cheng else "g_a.0.weight")
    if first[1] != 1:
        raise ValueError(
            "not a one-channel network of CompressAI's: no g_a.0 of shape (N, 1, height, width)"
        )
    if cheng:
        attention = "g_a.3.conv_a.0.conv.0.weight" in state
        return "cheng2020-attn" if attention else "cheng2020-anchor", {"N": first[0]}
    sizes = {"N": first[0], "M": _shape(state, "g_a.6.weight")[0]}
    return _google_name(state, sizes["M"]), sizes


def _shape(state: dict, name: str) -> tuple[int, ...]:
    """Return the shape of the weights of a convolution in a state dict; (0, 0) for other things."""
    shape = tuple(getattr(state.get(name), "shape", ()))
    return shape if len(shape) == 4 else (0, 0)


def _google_name(state: dict, latents: int) -> str:
    """Return the architecture of a state dict that is not one of Cheng's."""
    if "h_s.4.weight" not in state:
        return "bmshj2018-factorized"
    if "context_prediction.weight" in state:
        return "mbt2018"
    has_means = _shape(state, "h_s.4.weight")[0] == 2 * latents
    return "mbt2018-mean" if has_means else "bmshj2018-hyperprior"


class ZooCoder:
    """Sketches <-> payloads with a trained network; the same methods as SketchHyperpriorCoder.

    net: one of ARCHITECTURES, its coding tables made by `update`.
    device: where its transforms run. What encoder and decoder must agree on runs on the CPU.
    """

    def __init__(self, net: CompressionModel, device: str = "cpu") -> None:
        self.net = net.eval().to(device)  # analysis and synthesis, float32
        # what encoder and decoder must agree on
        self.exact = exact = copy.deepcopy(net).cpu().double()
        medians = exact.entropy_bottleneck.quantiles[:, 0, 1].detach()
        self.medians = rearrange(medians, "c -> 1 c 1 1")
        self.z_tables = Tables(net.entropy_bottleneck)
        self.factorized = isinstance(net, FactorizedPrior)
        if not self.factorized:
            self.limits = exact.gaussian_conditional.scale_table[:-1]
            self.y_tables = Tables(net.gaussian_conditional)
        self.autoregressive = isinstance(net, JointAutoregressiveHierarchicalPriors)
        if self.autoregressive:
            self._prepare_context()

    @torch.no_grad()
    def encode(self, x: Tensor) -> tuple[bytes, Tensor]:
        """Return payload and latents of a sketch x (1, 1, H, W), float32 in 0..1."""
        y = self.net.g_a(x.to(next(self.net.parameters()).device))
        z = self.hyper_latents(y).cpu().double() - self.medians
        y = y.cpu().double()[0]
        symbols = [round_to_int(z)]
        intervals = self.z_tables.intervals(symbols[0], channel_indexes(z.shape))

        def code(rows: Tensor, columns: Tensor, mean: Tensor, indexes: np.ndarray) -> np.ndarray:
            symbols.append(round_to_int(y[:, rows, columns] - mean))
            intervals.extend(self.y_tables.intervals(symbols[-1], indexes))
            return symbols[-1]

        latents = self.latents(symbols[0].reshape(z.shape), code)
        return encode(intervals, check_byte(symbols)), latents

    @torch.no_grad()
    def decode(self, data: bytes, blocks: tuple[int, int]) -> Tensor:
        """Return the latents (1, M, H/16, W/16) of a payload. Raises PayloadError.

        blocks: rows and columns of 64x64 squares of the sketch.
        """
        decoder = SymbolDecoder(data)
        scale = 4 if self.factorized else 1  # without hyper-latents, the latents come first
        shape = (1, self.medians.shape[1], scale * blocks[0], scale * blocks[1])
        z = decoder.decode(self.z_tables, channel_indexes(shape)).reshape(shape)

        def code(rows: Tensor, columns: Tensor, mean: Tensor, indexes: np.ndarray) -> np.ndarray:
            return decoder.decode(self.y_tables, indexes)

        latents = self.latents(z, code)
        decoder.finish()
        return latents

    @torch.no_grad()
    def synthesize(self, latents: Tensor) -> Tensor:
        """Return the sketch (1, 1, H, W) in 0..1, on the CPU."""
        return self.net.g_s(latents.to(next(self.net.parameters()))).clamp(0, 1).cpu()

    def hyper_latents(self, y: Tensor) -> Tensor:
        """Return what is coded first: the hyper-latents, or the latents if there are none."""
        if self.factorized:
            return y
        if isinstance(self.net, MeanScaleHyperprior):
            return self.net.h_a(y)
        return self.net.h_a(y.abs())

    def latents(self, z: np.ndarray, code: Callable[..., np.ndarray]) -> Tensor:
        """Return the latents (1, M, H/16, W/16), rebuilt one wavefront at a time.

        Encoder and decoder run the same code.

        z: symbols of what is coded first, int64 (1, C, height, width).
        code: called for each wavefront with its rows, columns, means (M, positions) and table
            indexes (n,). It returns the symbols (n,), from the sketch or from the payload.
        """
        z_hat = torch.from_numpy(z).double() + self.medians
        if self.factorized:
            return z_hat
        hyper = rearrange(self.exact.h_s(z_hat), "1 c h w -> h w c").contiguous()
        height, width = hyper.shape[:2]
        decoded = hyper.new_zeros(height + 2 * REACH, width + 2 * REACH, self.net.M)
        for rows, columns in self.waves(height, width):
            mean, scale = self.estimate(hyper, decoded, rows, columns)
            indexes = torch.bucketize(scale.T.contiguous(), self.limits).numpy().ravel()
            symbols = torch.from_numpy(code(rows, columns, mean.T, indexes)).reshape(mean.T.shape)
            decoded[rows + REACH, columns + REACH] = symbols.T + mean
        inner = decoded[REACH:-REACH, REACH:-REACH]
        return rearrange(inner, "h w m -> 1 m h w").contiguous()

    def waves(self, height: int, width: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield rows and columns of the positions that are coded together, in coding order."""
        if not self.autoregressive:
            yield torch.arange(height).repeat_interleave(width), torch.arange(width).repeat(height)
            return
        for wave in range(width + (REACH + 1) * (height - 1)):
            rows = torch.arange(height)
            columns = wave - (REACH + 1) * rows
            inside = (columns >= 0) & (columns < width)
            yield rows[inside], columns[inside]

    def estimate(
        self, hyper: Tensor, decoded: Tensor, rows: Tensor, columns: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return mean and scale (positions, M) of latents.

        hyper: features from the hyper-latents, (H/16, W/16, C).
        decoded: latents decoded so far, with a margin of REACH, (H/16 + 4, W/16 + 4, M).
        rows, columns: of the positions.
        """
        numbers = hyper[rows, columns]
        if self.autoregressive:
            numbers = self._mixed(numbers, decoded, rows, columns)
        if not isinstance(self.net, MeanScaleHyperprior):
            return torch.zeros_like(numbers), numbers
        scale, mean = numbers.chunk(2, 1)
        return mean.mul(2**MEAN_BITS).round().div(2**MEAN_BITS), scale

    def _prepare_context(self) -> None:
        """Write the context model and the 1x1 convolutions behind it as matrix products.

        In float64 these are twice as fast as the convolutions.
        """
        context = self.exact.context_prediction
        taps = context.mask[0, 0].nonzero()
        self.taps = taps.T[:, None]  # (2, 1, 12): row and column of each tap in the 5x5 window
        weight = context.weight.detach()[:, :, taps[:, 0], taps[:, 1]]
        self.context_weight = rearrange(weight, "out m tap -> (tap m) out").contiguous()
        self.context_bias = context.bias.detach()
        self.mixing = []
        for layer in self.exact.entropy_parameters[::2]:
            matrix = rearrange(layer.weight.detach(), "out m 1 1 -> m out").contiguous()
            self.mixing.append((matrix, layer.bias.detach()))

    def _mixed(self, numbers: Tensor, decoded: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Return the entropy parameters (positions, 2 M) from hyperprior and context."""
        around = decoded[rows[:, None] + self.taps[0], columns[:, None] + self.taps[1]].flatten(1)
        numbers = torch.cat([numbers, around @ self.context_weight + self.context_bias], 1)
        (weight, bias), *others = self.mixing
        numbers = numbers @ weight + bias
        for weight, bias in others:
            numbers = F.leaky_relu(numbers) @ weight + bias
        return numbers

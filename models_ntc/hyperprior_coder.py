"""Pictures <-> bytes with a trained `ExactHyperprior`: the coder of sketches and of base layers.

    coder = HyperpriorCoder(net, step)
    payload, features = coder.encode(x)

The payload is the step of the rate scale, one byte, then the integer of `entropy.encode`. Order of
the symbols: hyper-latents, then the steps of `ExactHyperprior.walk`, each by channel, row, column.
A latent whose table is number 0 is not sent; it is equal to its mean.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from models_ntc.entropy import (
    PayloadError,
    SymbolDecoder,
    Tables,
    channel_indexes,
    check_byte,
    encode,
    round_to_int,
)
from models_ntc.exact import quantize_activation
from models_ntc.hyperprior import ExactHyperprior, exact_copy


class HyperpriorCoder:
    """Codes pictures with an exact copy of a trained network.

    step: of the rate scale, at which it writes by default; it reads all.
    first: byte of the payload that stands for step 0.
    """

    def __init__(self, net: ExactHyperprior, step: int = 0, first: int = 0) -> None:
        self.net = exact_copy(net)
        self.step = step
        self.first = first
        self.z_tables = Tables(net.entropy_bottleneck)
        self.y_tables = Tables(net.gaussian_conditional)

    @torch.no_grad()
    def analyze(self, x: Tensor) -> Tensor:
        """Return what `encode_analyzed` takes of a picture (1, C, H, W), float32 in 0..1."""
        return self.net.analysis(x)

    def encode(self, x: Tensor) -> tuple[bytes, Tensor]:
        """Return payload and features of a picture x (1, C, H, W), float32 in 0..1."""
        return self.encode_analyzed(self.analyze(x), self.step)

    @torch.no_grad()
    def encode_analyzed(self, analyzed: Tensor, step: int) -> tuple[bytes, Tensor]:
        """Return payload and features of an analyzed picture at a step of the rate scale."""
        rate = self.net.rate_of(step)
        y = self.net.latents(analyzed, rate)
        z = self.net.hyper_analysis(y) - self.net.medians()
        symbols = [round_to_int(z)]
        intervals = self.z_tables.intervals(symbols[0], channel_indexes(z.shape))

        def code(mean: Tensor, indexes: np.ndarray, chosen: Tensor, group: slice) -> np.ndarray:
            symbols.append(round_to_int((y[:, group].double() - mean)[chosen]))
            intervals.extend(self.y_tables.intervals(symbols[-1], indexes))
            return symbols[-1]

        features = self.features(symbols[0].reshape(z.shape), rate, code)
        return bytes([self.first + step]) + encode(intervals, check_byte(symbols)), features

    @torch.no_grad()
    def decode(self, payload: bytes, blocks: tuple[int, int]) -> Tensor:
        """Return the features (1, sixteenth, H/16, W/16) of a payload. Raises PayloadError.

        blocks: rows and columns of 64x64 squares of the picture.
        """
        step = payload[0] - self.first if payload else -1
        if not 0 <= step < self.net.RATES:
            raise PayloadError(
                f"payload of {len(payload)} bytes does not begin with a rate from {self.first} "
                f"to {self.first + self.net.RATES - 1}"
            )
        decoder = SymbolDecoder(payload[1:])
        shape = (1, self.net.config.hyper_latent, *blocks)
        z = decoder.decode(self.z_tables, channel_indexes(shape)).reshape(shape)

        def code(mean: Tensor, indexes: np.ndarray, chosen: Tensor, group: slice) -> np.ndarray:
            return decoder.decode(self.y_tables, indexes)

        features = self.features(z, self.net.rate_of(step), code)
        decoder.finish()
        return features

    @torch.no_grad()
    def synthesize(self, features: Tensor) -> Tensor:
        """Return the picture (1, C, H, W) in 0..1, exact multiples of 2^-ACTIVATION_BITS."""
        return self.net.synthesize(features).clamp(0, 1)

    def features(self, z: np.ndarray, rate: Tensor, code: Callable[..., np.ndarray]) -> Tensor:
        """Return the input of the synthesis, (1, sixteenth, H/16, W/16).

        Latents are rebuilt step by step, by the same code in encoder and decoder.

        z: hyper-latent symbols, int64 (1, C, H/64, W/64).
        rate: of `ExactHyperprior.rate_of`.
        code: called at each step with the means, the table indexes (n,) of the symbols sent, the
            mask of these among the means, and the slice of channels. It returns the symbols (n,),
            from the picture or from the payload.
        """
        z_hat = torch.from_numpy(z).double() + self.net.medians()
        hyper = self.net.hyper_synthesis(quantize_activation(z_hat))

        def decide(mean: Tensor, level: Tensor, half: Tensor, group: slice) -> Tensor:
            indexes = level.round().clamp(0, self.net.config.scale_levels - 1).long()
            chosen = half & (indexes > 0)
            sent = code(mean, indexes[chosen].numpy(), chosen, group)
            symbols = torch.zeros_like(mean)
            symbols[chosen] = torch.from_numpy(sent).double()
            return quantize_activation(symbols + mean)

        return self.net.unfold(self.net.walk(hyper, rate, decide), rate)

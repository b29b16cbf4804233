"""Sketches <-> bytes with a trained `SketchHyperprior`, the network of the default codec.

    coder = SketchHyperpriorCoder(net, 0.2)
    payload, features = coder.encode(x)

The payload is the step of the rate scale, one byte, then the integer of `entropy.encode`. Order of
the symbols: hyper-latents, then the steps of `SketchHyperprior.walk`, each by channel, row, column.
A latent whose table is number 0 is not sent; it is equal to its mean.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from models_ntc.entropy import (
    SketchError,
    SymbolDecoder,
    Tables,
    channel_indexes,
    check_byte,
    encode,
    round_to_int,
)
from models_ntc.sketch_hyperprior import (
    RATES,
    SketchHyperprior,
    exact_copy,
    position_of,
    quantize_activation,
)


class SketchHyperpriorCoder:
    """Codes sketches with an exact copy of a trained network.

    lmbda: the lambda that it writes at, within the network's range; it reads all.
    """

    def __init__(self, net: SketchHyperprior, lmbda: float) -> None:
        self.net = exact_copy(net)
        self.step = net.rate_step(lmbda)
        self.z_tables = Tables(net.entropy_bottleneck)
        self.y_tables = Tables(net.gaussian_conditional)

    @torch.no_grad()
    def encode(self, x: Tensor) -> tuple[bytes, Tensor]:
        """Return payload and features of a sketch x (1, 1, H, W), float32 in 0..1."""
        t = position_of(self.step)
        y = self.net.analyze(x, t.float())
        z = self.net.hyper_analysis(y) - self.net.medians()
        symbols = [round_to_int(z)]
        intervals = self.z_tables.intervals(symbols[0], channel_indexes(z.shape))

        def code(mean: Tensor, indexes: np.ndarray, chosen: Tensor, group: slice) -> np.ndarray:
            symbols.append(round_to_int((y[:, group].double() - mean)[chosen]))
            intervals.extend(self.y_tables.intervals(symbols[-1], indexes))
            return symbols[-1]

        features = self.features(symbols[0].reshape(z.shape), t, code)
        return bytes([self.step]) + encode(intervals, check_byte(symbols)), features

    @torch.no_grad()
    def decode(self, payload: bytes, blocks: tuple[int, int]) -> Tensor:
        """Return the features (1, sixteenth, H/16, W/16) of a payload. Raises SketchError.

        blocks: rows and columns of 64x64 squares of the sketch.
        """
        if not payload or payload[0] >= RATES:
            raise SketchError(
                f"sketch payload of {len(payload)} bytes does not begin with a rate below {RATES}"
            )
        decoder = SymbolDecoder(payload[1:])
        shape = (1, self.net.config.hyper_latent, *blocks)
        z = decoder.decode(self.z_tables, channel_indexes(shape)).reshape(shape)

        def code(mean: Tensor, indexes: np.ndarray, chosen: Tensor, group: slice) -> np.ndarray:
            return decoder.decode(self.y_tables, indexes)

        features = self.features(z, position_of(payload[0]), code)
        decoder.finish()
        return features

    @torch.no_grad()
    def synthesize(self, features: Tensor) -> Tensor:
        """Return the sketch (1, 1, H, W) in 0..1, exact multiples of 2^-ACTIVATION_BITS."""
        return self.net.synthesis(features).clamp(0, 1)

    def features(self, z: np.ndarray, t: Tensor, code: Callable[..., np.ndarray]) -> Tensor:
        """Return the input of the synthesis, (1, sixteenth, H/16, W/16).

        Latents are rebuilt step by step, by the same code in encoder and decoder.

        z: hyper-latent symbols, int64 (1, C, H/64, W/64).
        t: position of the rate, float64 (1,).
        code: called at each step with the means, the table indexes (n,) of the symbols sent, the
            mask of these among the means, and the slice of channels. It returns the symbols (n,),
            from the sketch or from the payload.
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

        return self.net.unfold(self.net.walk(hyper, t, decide), t)

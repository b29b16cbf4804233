"""What a codec file holds of CompressAI's entropy models, loaded without CompressAI.

    tables = Tables(bottleneck_state(32))       # after load_state_dict of the network

Decoding reads the integer tables and the quantiles; the rest is there because files have it.
"""

from itertools import pairwise

import torch
from torch import nn

TABLES = ("_offset", "_quantized_cdf", "_cdf_length")
NO_TABLES = dict.fromkeys(TABLES, (0,))  # their shapes before a file is read
DENSITY_WIDTHS = (1, 3, 3, 3, 3, 1)  # of the layers that give the density of the hyper-latents


class EntropyState(nn.Module):
    """The tensors of one entropy model, by CompressAI's names.

    shapes: of each, by its dotted name. TABLES are int32 and take the shapes that a file has; the
    rest is float32.
    """

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        super().__init__()
        for name, shape in shapes.items():
            *path, last = name.split(".")
            owner: nn.Module = self
            for part in path:
                if not hasattr(owner, part):
                    owner.add_module(part, nn.Module())
                owner = owner.get_submodule(part)
            dtype = torch.int32 if name in TABLES else torch.float32
            owner.register_buffer(last, torch.zeros(shape, dtype=dtype))

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *rest: object) -> None:
        for name in TABLES:
            if prefix + name in state_dict:
                self.register_buffer(name, torch.empty_like(state_dict[prefix + name]))
        super()._load_from_state_dict(state_dict, prefix, *rest)


def bottleneck_state(channels: int) -> EntropyState:
    """Return the state of an EntropyBottleneck: tables, quantiles and a density."""
    shapes = {"quantiles": (channels, 1, 3), **NO_TABLES, "target": (3,)}
    shapes["likelihood_lower_bound.bound"] = (1,)
    layers = list(pairwise(DENSITY_WIDTHS))
    for layer, (inputs, outputs) in enumerate(layers):
        shapes[f"matrices.{layer}"] = (channels, outputs, inputs)
    for layer, (_, outputs) in enumerate(layers):
        shapes[f"biases.{layer}"] = (channels, outputs, 1)
    for layer, (_, outputs) in enumerate(layers[:-1]):
        shapes[f"factors.{layer}"] = (channels, outputs, 1)
    return EntropyState(shapes)


def gaussian_state(levels: int) -> EntropyState:
    """Return the state of a GaussianConditional: tables and `levels` standard deviations."""
    shapes = {**NO_TABLES, "scale_table": (levels,), "scale_bound": (1,)}
    shapes["likelihood_lower_bound.bound"] = (1,)
    shapes["lower_bound_scale.bound"] = (1,)
    return EntropyState(shapes)

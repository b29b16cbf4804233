"""Weights in 8 bits, for models that a GPU cannot hold otherwise.

    quantize([pipeline.transformer, pipeline.text_encoder], get_preset("flux"))

Every linear layer's weights become int8 with one scale for each output, and are multiplied as
before: half of the memory of bfloat16, and other pictures. The package torchao does it.
"""

from collections.abc import Iterable
from importlib.util import find_spec

import torch

from presets import Preset, PresetError


def quantize(models: Iterable[torch.nn.Module], preset: Preset) -> None:
    """Quantize the linear layers of the models of a preset that asks for it, in place.

    Raises PresetError if torchao is not installed.
    """
    if not preset.quantize:
        return
    if find_spec("torchao") is None:
        raise PresetError(
            f'preset {preset.name}: "quantize" needs the package torchao: `pip install torchao`'
        )
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    for model in models:
        quantize_(model, Int8WeightOnlyConfig())

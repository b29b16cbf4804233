"""A budget of bytes for a whole file -> bytes for each of its layers.

    encoder = load_encoder(get_preset("tiny"), BudgetConfig(budget=240), "cpu")
    data = encoder.encode([image])[0]       # at most 240 bytes

`table` says what was best for a budget on other photographs, `encoder` splits the budget of each
image. docs/allocation.md explains both.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from allocation.config import BudgetConfig

if TYPE_CHECKING:
    from codec import Encoder, EncoderConfig
    from presets import Preset


def load_encoder(
    preset: "Preset",
    config: "EncoderConfig",
    device: str = "cpu",
    timer: Callable[[str], AbstractContextManager] = nullcontext,
) -> "Encoder":
    """Load the encoder that a configuration asks for, with a budget or without. Raises as it."""
    if isinstance(config, BudgetConfig):
        from allocation.encoder import BudgetEncoder

        return BudgetEncoder(preset, config, device, timer)
    from codec import Encoder

    return Encoder(preset, config, device, timer)

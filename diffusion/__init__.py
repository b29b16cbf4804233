"""Token ids, a sketch and a seed become a photograph.

from diffusion import load_generator
pictures = load_generator(get_preset("tiny"), "cpu").generate(ids, [7], 256, 384, sketch)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from presets import Preset

    from .generator import Generator


def load_generator(preset: Preset, device: str) -> Generator:
    """The preset's text-to-image model on `device`; its ControlNet is loaded with the first sketch.

    Raises presets.PresetError when no source of the weights can be loaded.
    """
    from .generator import Generator

    return Generator(preset, device)

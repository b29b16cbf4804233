"""Token ids, a sketch and a seed become a photograph.

from diffusion import load_generator
pictures = load_generator(get_preset("tiny"), "cpu").generate(ids, [7], 256, 384, sketch)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

    from presets import Preset

    from .generator import Generator


def load_generator(preset: Preset, device: str) -> Generator:
    """The preset's text-to-image model on `device`; its ControlNet is loaded with the first sketch.

    Raises presets.PresetError when no source of the weights can be loaded.
    """
    from .generator import Generator

    return Generator(preset, device)


def load_tokenizer(preset: Preset) -> CLIPTokenizer:
    """The tokenizer of the preset's text-to-image model, without its weights.

    Raises presets.PresetError when no source of it can be loaded.
    """
    from transformers import CLIPTokenizer

    from presets import from_mirrors

    def load(source: str, revision: str | None) -> CLIPTokenizer:
        return CLIPTokenizer.from_pretrained(source, subfolder="tokenizer", revision=revision)

    return from_mirrors(load, preset.generator, "tokenizer", preset.name)

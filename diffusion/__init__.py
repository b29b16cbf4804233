"""Token ids, a sketch, a color map and a seed -> an image, by a text-to-image model.

from diffusion import load_generator
images = load_generator(get_preset("tiny"), "cpu").generate(ids, [7], 256, 384, sketch)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffusion.execution import PLAIN, Execution

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

    from diffusion.generator import Generator
    from presets import Preset
    from text_codec.tokenizer_file import FileTokenizer


def load_generator(preset: Preset, device: str, execution: Execution = PLAIN) -> Generator:
    """Return the preset's text-to-image model on `device`.

    execution: how it runs there. Its ControlNet is loaded with the first sketch. Raises
    UnavailableError if no source of the weights can be loaded.
    """
    from diffusion.generator import Generator

    return Generator(preset, device, execution)


def load_tokenizer(preset: Preset) -> CLIPTokenizer | FileTokenizer:
    """As `diffusion.tokenizers.load_tokenizer`."""
    from diffusion import tokenizers

    return tokenizers.load_tokenizer(preset)

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
    """Return what turns ids into text as the preset's text-to-image model does, without the model.

    Of a local folder with a tokenizer.json it is a FileTokenizer, which needs no transformers.
    Raises UnavailableError if no source of it can be loaded.
    """
    from common.weights import from_mirrors
    from presets import cure
    from pretrained.model_folders import clip_tokenizer, local_folder, one_error
    from text_codec.tokenizer_file import FileTokenizer

    def load(
        source: str, revision: str | None, local_files_only: bool
    ) -> CLIPTokenizer | FileTokenizer:
        folder = local_folder(source)
        file = folder and folder / "tokenizer" / "tokenizer.json"
        if file and file.exists():
            with one_error("tokenizer"):
                return FileTokenizer(file)
        where = {"revision": revision, "local_files_only": local_files_only}
        return clip_tokenizer(source, subfolder="tokenizer", **where)

    what = f"preset {preset.name}: tokenizer"
    return from_mirrors(load, preset.generator, what, cure(preset.name))

"""The tokenizer of a preset's prompts: that of its text-to-image model, or of its CLIP.

    load_tokenizer(get_preset("sd21"))

A model that is given texts has tokenizers of its own; searched ids are its preset's CLIP's.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from common.weights import from_mirrors
from diffusion.families import family_of
from presets import Preset, cure
from pretrained.model_folders import (
    MAX_CONFIG_BYTES,
    clip_tokenizer,
    local_folder,
    one_error,
    read_json,
)
from text_codec.tokenizer_file import FileTokenizer

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

INDEX = "model_index.json"


def load_tokenizer(preset: Preset) -> "CLIPTokenizer | FileTokenizer":
    """Return what turns ids into text as the preset's text-to-image model does, without the model.

    Of a local folder with a tokenizer.json it is a FileTokenizer, which needs no transformers.
    Raises UnavailableError if no source of it can be loaded.
    """

    def load(source: str, revision: str | None, local_files_only: bool):
        folder = local_folder(source)
        with one_error(INDEX):
            index = _index(source, folder, revision, local_files_only)
            if family_of(index).prompts == "text":
                return None
        file = folder and folder / "tokenizer" / "tokenizer.json"
        if file and file.exists():
            with one_error("tokenizer"):
                return FileTokenizer(file)
        where = {"revision": revision, "local_files_only": local_files_only}
        return clip_tokenizer(source, subfolder="tokenizer", **where)

    what = f"preset {preset.name}: tokenizer"
    found = from_mirrors(load, preset.generator, what, cure(preset.name))
    return load_clip_tokenizer(preset) if found is None else found


def load_clip_tokenizer(preset: Preset) -> "CLIPTokenizer":
    """Return the tokenizer of a preset's CLIP, without the CLIP. Raises UnavailableError."""

    def load(source: str, revision: str | None, local_files_only: bool) -> "CLIPTokenizer":
        local_folder(source)
        return clip_tokenizer(source, revision=revision, local_files_only=local_files_only)

    what = f"preset {preset.name}: tokenizer of prompts"
    return from_mirrors(load, preset.clip, what, cure(preset.name))


def _index(source: str, folder: Path | None, revision: str | None, local_files_only: bool) -> dict:
    """Return the model_index.json of a source. Raises OSError, ValueError."""
    if folder is None:
        from huggingface_hub import hf_hub_download

        where = {"revision": revision, "local_files_only": local_files_only}
        folder = Path(hf_hub_download(source, INDEX, **where)).parent
    index = read_json(folder / INDEX, MAX_CONFIG_BYTES)
    if not isinstance(index, dict):
        raise ValueError("not an object")
    return index

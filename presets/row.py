"""A row of the table of presets: its fields, and which values each may have."""

import dataclasses
import re
import reprlib
from dataclasses import dataclass

from bitstream import MAX_CODED_SIDE

_BLIP = "Salesforce/blip-image-captioning-base@82a37760796d32b1411fe092ab5d4e227313294b"
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
    "control_mode": (-1, 100),
    "control_end": (0, 1),
    "prompt_bits": (0, 16),
    "prompt_lr": (0, 1000),
    "prompt_weight_decay": (0, 1000),
    "candidates": (1, 1000),
    "candidates_with_base": (1, 1000),
}
LEAST_ABOVE_0 = {"color_bytes": 8, "prompt_bits": 5}  # where 0 stands for "none"
PROMPTS_FROM = ("search", "caption")
QUANTIZED = ("", "int8")  # weights as they are published, or in 8 bits
PLAIN = "plain picture"
# Control images that show the sketch as it is in RGB: sharpened or not, and in which range.
PICTURES = ("picture", PLAIN, f"{PLAIN} of 0.5 to 128")
# The strings of a row of which only some are taken.
CHOICES = {
    "sampler": SAMPLERS,
    "sketch_sampler": SAMPLERS,
    "prompt_from": PROMPTS_FROM,
    "quantize": QUANTIZED,
}
CONTROLS = 'one of "picture", "plain picture", "plain picture of 0.5 to 128", or "space to depth F"'
CONTROLS += ", F a multiple of 8"
_repr = reprlib.Repr()
_repr.maxstring = _repr.maxlong = _repr.maxother = 60
shortened = _repr.repr  # for messages: values shortened, on one line


class PresetError(Exception):
    """There is no such preset, or its models do not fit together; the message gives the cure."""


@dataclass(frozen=True)
class Preset:
    """One row: every model and setting that a name stands for.

    A model is named by its sources in order of preference, each a local folder or a hub id
    "owner/name[@revision]". The hub ids of one field are mirrors: copies of the same weights. A
    ControlNet may be one file, "/path/name.safetensors" or "owner/name/name.safetensors".
    Defaults are the paper's.
    """

    name: str
    number: int  # written into the stream, 1 to 15, never reused; 0: a folder with preset.json
    generator: tuple[str, ...]  # text-to-image model of one of diffusion.families.FAMILIES
    controlnet: tuple[str, ...]  # ControlNet of the same family
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
    # control image of the ControlNet: the sketch (one of PICTURES), or sketch and color map, folded
    # into channels ("space to depth F"); see diffusion/control.py
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
    control_mode: int = -1  # which kind of sketch a union of ControlNets gets; -1: it is not told
    control_end: float = 1.0  # after this part of the steps the ControlNet has no say
    more_controlnets: tuple[str, ...] = ()  # get the same control image; each one source
    quantize: str = ""  # one of QUANTIZED: how the largest weights are held; see diffusion/loading
    prompt_from: str = "search"  # one of PROMPTS_FROM, where the user says nothing else
    prompt_bits: int = 0  # prompt search: use the 2**prompt_bits most useful tokens; 0: all tokens
    prompt_lr: float = 0.1  # prompt search: learning rate of AdamW
    prompt_weight_decay: float = 0.1
    candidates: int = 4  # reconstructions that the encoder generates; it sends the seed of the best
    # at most, where CLIP chooses among reconstructions of one base layer, which are much alike
    candidates_with_base: int = 4
    captioner: tuple[str, ...] = (_BLIP,)  # describes images; loaded only when asked for
    judge: tuple[str, ...] = ()  # CLIPModel of the metric clip_judge; loaded only when asked for

    def __post_init__(self):
        """Raise PresetError for a value that no preset can have."""
        for field in dataclasses.fields(self):
            reason = objection(field.name, getattr(self, field.name))
            if reason:
                shown = shortened(getattr(self, field.name))
                raise PresetError(f"{field.name} is {shown}: it must be {reason}")


def block_side(control: str) -> int:
    """Parse a preset's `control`: return F of "space to depth F", 0 for one of PICTURES.

    Raises ValueError if it is neither.
    """
    if control in PICTURES:
        return 0
    match = re.fullmatch(r"space to depth ([1-9][0-9]{0,2})", control)
    side = int(match[1]) if match else 0
    if side == 0 or side % 8:
        raise ValueError(f"control is {shortened(control)}: it must be {CONTROLS}")
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
    if value not in CHOICES.get(name, (value,)):
        return f"one of {', '.join(filter(None, CHOICES[name]))}"
    if name == "sketch_codec" and not re.fullmatch(r"[\w-]+", value):
        return "the name of a file in models_ntc/, without .safetensors"
    if name == "control":
        try:
            block_side(value)
        except ValueError:
            return CONTROLS
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

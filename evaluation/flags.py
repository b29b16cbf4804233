"""Command-line flags of the scripts that encode, and their parsers.

flags = parser(__doc__)
config = encoder_config(flags.parse_args(), sketch=True)
"""

import argparse
import dataclasses
import math

from allocation.config import BudgetConfig
from allocation.table import LEAST_BYTES
from bitstream import MAX_FILE_BYTES
from codec import EncoderConfig
from common.files import OUTPUT, folder_or_uri
from dataloaders import DATASETS
from diffusion.candidates import LOSSES
from diffusion.execution import ATTENTIONS, MEMORIES, Execution
from evaluation.cluster import add_engine_flags
from models_ntc.bundled import BASE_FROM
from presets import PRESETS, Preset, PresetError, get_preset
from prompt_inversion.options import SEARCHES, SOURCES, PromptOptions

KID_SUBSETS = {"CLIC2020": 100, "Kodak": 10}  # in the paper's scripts/KID.sh; else PAPER_KID_SUBSET
PRESET_HELP = f"{', '.join(PRESETS)}, or a folder with preset.json (default: tiny)"
DRAWS = ("alone", "together")
KEEPS = ("all", "baselines", "streams", "none")  # what stays of an image beside its record
DEVICE_HELP = "cpu, cuda or cuda:N (default: a GPU if there is one)"
# The layers of --layers (a base is sent in place of colors), with the flags of each, which it must
# not leave out.
FLAGS_OF_LAYERS = {
    "text": ("prompt", "prompt_len", "prompt_bytes"),
    "sketch": ("lam_sketch",),
    "color": ("color_bytes",),
}
LAM_SKETCH_HELP = (
    "rate of the sketch: a lambda of the bundled codec, or a codec file (default: the preset's)"
)


def parser(description: str) -> argparse.ArgumentParser:
    """Return the flags of eval_PIC.py and eval_PICS.py; those of the paper's scripts keep their
    names.
    """
    flags = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = flags.add_argument
    add(
        "--data_root",
        help="folder of images, tar shards (a folder of them, or photos-{000..009}.tar), or "
        "hf:owner/name[:split] of the hub (default: sample images of scikit-image and "
        "scikit-learn)",
    )
    add("--dataset", choices=sorted(DATASETS), help="a known data set below --data_root")
    add("--preset", type=preset, default="tiny", help=PRESET_HELP)
    add_encoding_flags(flags)
    add(
        "--metrics",
        type=metric_names,
        default="fast",
        help="fast, all, or names separated by commas",
    )
    add("--judge", help="CLIP of the metric clip_judge: a folder or hub id (default: the preset's)")
    add(
        "--reference",
        metavar="DIR",
        help="folder of images that fid_folder and kid_folder compare with",
    )
    add(
        "--kid_subset_size",
        type=subset_size,
        metavar="N",
        help="number of images in each random subset of kid_folder, 2 or more (default: the "
        "paper's, which is 100 for CLIC2020, 10 for Kodak, else 50)",
    )
    add(
        "--baselines",
        type=baseline_names,
        default="",
        help="image formats to compare with at the same size: avif,webp",
    )
    add("--batch_size", type=positive, default=8, help="number of images that are encoded together")
    add(
        "--output",
        type=folder_or_uri,
        default=OUTPUT,
        help="folder in which the run's folder is made; with --engine ray also a URI, such as "
        "s3://bucket/runs",
    )
    add(
        "--keep",
        default="all",
        choices=KEEPS,
        help="what stays of an image beside its record: its file, pictures and caption, the "
        "pictures of --baselines too (baselines), its file alone (streams), or nothing "
        "(default: all)",
    )
    add("--overwrite", action="store_true", help="recompute finished images")
    add("--device", help=DEVICE_HELP)
    add_engine_flags(flags)
    add(
        "--draw",
        choices=DRAWS,
        help="generate the reconstructions of a batch alone, one by one, or together "
        "(default: together on a GPU, alone on a CPU)",
    )
    return flags


def add_encoding_flags(flags: argparse.ArgumentParser) -> None:
    """Add the flags of prompt, color layer and candidates; `encoder_config` reads them."""
    add = flags.add_argument
    add(
        "--N",
        type=positive,
        help="number of candidates; the seed of the best is sent (default: the preset's, which may "
        "be fewer with a base layer)",
    )
    add("--loss", default="clip", choices=LOSSES, help="how the best candidate is chosen")
    add(
        "--bytes",
        type=budget,
        metavar="B",
        help=f"maximum bytes of the whole file, {LEAST_BYTES} or more, which are split between its "
        "layers by the preset's table and the image",
    )
    add(
        "--allocations",
        type=positive,
        metavar="M",
        help="number of ways to split --bytes that are tried on an image, the table's first "
        f"(default: {BudgetConfig.allocations})",
    )
    add(
        "--layers",
        type=layer_names,
        help="layers that may be sent, separated by commas: text, sketch, color (default: text "
        "for PIC, all for PICS)",
    )
    add(
        "--color_bytes",
        type=natural,
        help="maximum bytes of colors and coarse structure, 8 to 2,000: a color map or, from "
        f"{BASE_FROM} on, a base layer; 0: neither (default: the preset's)",
    )
    prompt = flags.add_mutually_exclusive_group()
    prompt.add_argument("--prompt", type=utf8, help="a text that is the prompt of every image")
    prompt.add_argument(
        "--prompt_from",
        choices=SOURCES,
        help="where prompts come from otherwise (default: the preset's)",
    )
    add(
        "--prompt_search",
        default="fast",
        choices=SEARCHES,
        help="how prompts are searched: fast, by gradient descent and swaps of tokens; or pez, by "
        "the published search, 3,000 steps (needs sentence-transformers) (default: fast)",
    )
    length = flags.add_mutually_exclusive_group()
    length.add_argument("--prompt_len", type=positive, help="number of tokens of a searched prompt")
    length.add_argument("--prompt_bytes", type=positive, help="maximum bytes of a searched prompt")
    add(
        "--prompt_bits",
        type=natural,
        metavar="K",
        help="search the 2^K most useful tokens, K from 5 to 16; 0: all",
    )
    add(
        "--prompt_ascending",
        action="store_true",
        help="search token ids in ascending order, which takes fewer bytes",
    )
    add(
        "--prompt_steps",
        type=positive,
        help="number of search steps (default: the preset's; for pez 3,000)",
    )
    add("--prompt_seconds", type=seconds, help="time limit of the search of a batch")
    add("--seed", type=int, default=0, help="random seed of the prompt search")
    add(
        "--together",
        type=positive,
        default=EncoderConfig.together,
        help="number of images generated at once, which bounds memory (default: %(default)s)",
    )
    add_execution_flags(flags)


def add_execution_flags(flags: argparse.ArgumentParser) -> None:
    """Add the flags of how models run on a GPU, which `execution` reads, and of consistency."""
    add = flags.add_argument
    add(
        "--consistency",
        choices=("on", "off"),
        default="on",
        help="off: leave reconstructions as the text-to-image model generates them, without the "
        "low band that was sent and without the refiner; a file does not say it, so decode alike",
    )
    add(
        "--compile",
        action="store_true",
        help="compile UNet and ControlNet for each size, which takes minutes at first (GPU)",
    )
    add(
        "--attention",
        choices=ATTENTIONS,
        default=Execution.attention,
        help="PyTorch's own attention or, on a GPU, that of xformers (default: torch)",
    )
    add(
        "--memory",
        choices=MEMORIES,
        default=Execution.memory,
        help="low: one model on the GPU at a time, for cards of 8 GB, slower; auto: so only if "
        "it has not twice the room of the text-to-image model (default: all)",
    )


def execution(args: argparse.Namespace) -> Execution:
    """Return what the flags say about running models on a GPU."""
    return Execution("inductor" if args.compile else "", args.attention, args.memory)


def row_of(args: argparse.Namespace, row: Preset) -> Preset:
    """Return the row of a preset as `--consistency` says."""
    return dataclasses.replace(row, consistency=row.consistency and args.consistency == "on")


def encoder_config(args: argparse.Namespace, sketch: bool) -> EncoderConfig:
    """Return what the flags say about encoding; sketch: whether the method has one.

    Raises ValueError for flags that contradict one another.
    """
    sent = sent_layers(args, sketch)
    prompt = PromptOptions(
        text=args.prompt,
        source=args.prompt_from,
        search=args.prompt_search,
        length=args.prompt_len,
        size=args.prompt_bytes,
        bits=args.prompt_bits,
        ascending=args.prompt_ascending,
        steps=args.prompt_steps,
        seconds=args.prompt_seconds,
        seed=args.seed,
        sent="text" in sent,
    )
    options = {
        "sketch": "sketch" in sent,
        "lam_sketch": getattr(args, "lam_sketch", None),
        "color_bytes": color_bytes(args, sent),
        "candidates": args.N,
        "loss": args.loss,
        "together": args.together,
        "prompt": prompt,
        "execution": execution(args),
    }
    if args.bytes is None:
        return EncoderConfig(**options)
    most = args.allocations or BudgetConfig.allocations
    return BudgetConfig(**options, budget=min(args.bytes, MAX_FILE_BYTES), allocations=most)


def sent_layers(args: argparse.Namespace, sketch: bool) -> tuple[str, ...]:
    """Return the layers that may be sent. sketch: whether the method has one.

    Raises ValueError for flags that contradict one another.
    """
    if args.allocations and args.bytes is None:
        raise ValueError("--allocations is the number of ways to split --bytes: name that, too")
    if args.layers is None:
        method = tuple(FLAGS_OF_LAYERS) if sketch else ("text",)
        return (*method, "color") if args.color_bytes and not sketch else method
    if "sketch" in args.layers and not sketch:
        raise ValueError("--layers sketch: PIC sends no sketch; eval_PICS.py does")
    for layer, flags in FLAGS_OF_LAYERS.items():
        given = [flag for flag in flags if getattr(args, flag, None)]
        if given and layer not in args.layers:
            raise ValueError(f"--{given[0]} is of the layer {layer}, which --layers leaves out")
    return args.layers


def color_bytes(args: argparse.Namespace, sent: tuple[str, ...]) -> int | None:
    """Return the maximum size of the color layer; None for the default: the preset's with a sketch,
    and all that is left of a budget.

    Raises ValueError if nothing at all would be sent.
    """
    size = args.color_bytes
    if "color" not in sent:
        size = 0
    elif size is None and args.bytes is None and "sketch" not in sent:
        size = args.preset.color_bytes
    if sent == ("color",) and size == 0:
        raise ValueError("--layers color: say with --color_bytes how many bytes they may take")
    return size


def natural(text: str) -> int:
    """Parse a non-negative integer."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} must be a non-negative integer")
    return int(text)


def positive(text: str) -> int:
    """Parse a positive integer."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a positive integer")
    return int(text)


def budget(text: str) -> int:
    """Parse `--bytes`."""
    if not text.isdecimal() or int(text) < LEAST_BYTES:
        raise argparse.ArgumentTypeError(
            f"{text!r} must be an integer of {LEAST_BYTES} or more, the least that a file takes"
        )
    return int(text)


def layer_names(text: str) -> tuple[str, ...]:
    """Parse `--layers`; the names are returned in the order of the file."""
    names = [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in FLAGS_OF_LAYERS]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"unknown layer {', '.join(map(repr, unknown))}: choose of {', '.join(FLAGS_OF_LAYERS)}"
        )
    return tuple(name for name in FLAGS_OF_LAYERS if name in names)


def subset_size(text: str) -> int:
    """Parse `--kid_subset_size`."""
    if not text.isdecimal() or int(text) < 2:
        raise argparse.ArgumentTypeError(f"{text!r} must be an integer of 2 or more")
    return int(text)


def seconds(text: str) -> float:
    """Parse a positive, finite time in seconds."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} must be a positive time in seconds")
    return value


def rate(text: str) -> float | str:
    """Parse `--lam_sketch`: a lambda or a codec file."""
    try:
        return float(text)
    except ValueError:
        return text


def utf8(text: str) -> str:
    """Parse a text of any language, whatever the terminal's locale."""
    return text.encode(errors="surrogateescape").decode(errors="replace")


def preset(text: str) -> Preset:
    """Parse `--preset`."""
    try:
        return get_preset(text)
    except PresetError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def metric_names(text: str) -> tuple[str, ...]:
    """Parse `--metrics`."""
    from metrics import choose_metrics

    try:
        return choose_metrics(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def baseline_names(text: str) -> tuple[str, ...]:
    """Parse `--baselines`."""
    from metrics.baselines import CODECS

    names = tuple(name.strip() for name in text.split(",") if name.strip())
    unknown = [name for name in names if name not in CODECS]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"unknown {', '.join(unknown)}: choose from {', '.join(CODECS)}"
        )
    return names

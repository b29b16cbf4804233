"""The flags of `pics.py edit`, and how paths of pics.py are parsed.

add_edit_flags(parser)
"""

import argparse
from pathlib import Path

from bitstream import LAYERS, MAX_SEED
from common.files import URI
from evaluation.flags import DEVICE_HELP, preset, rate, utf8

EDITED = ("prompt", "sketch", "color", "seed")  # what `pics.py edit` changes
EDITS = [f"--{name}" for name in (*EDITED, "drop")]


def add_edit_flags(flags: argparse.ArgumentParser) -> None:
    """Add the arguments of `pics.py edit`."""
    add = flags.add_argument
    add("file", type=Path, help="the .pics file")
    add("new", type=Path, help="the .pics file to write")
    add("--prompt", type=utf8, help="the words in place of the prompt")
    add("--sketch", type=Path, metavar="PNG", help="a sketch in place of the old one, white edges")
    add(
        "--color",
        type=Path,
        metavar="PNG",
        help="an image whose colors take the place of the old ones, as the same kind of layer",
    )
    add("--seed", type=seed, help="the seed of the noise")
    add(
        "--drop",
        action="append",
        default=[],
        choices=LAYERS,
        help="a layer to leave out; may be given several times",
    )
    add("--preset", type=preset, help="models of the file (default: those that wrote it)")
    add("--lam_sketch", type=rate, help="the sketch codec's file, if it is not a bundled one")
    add("--device", help=DEVICE_HELP)


def asked_for(args: argparse.Namespace) -> bool:
    """Return whether any edit was asked for."""
    return bool(args.drop) or any(getattr(args, name) is not None for name in EDITED)


def local(text: str) -> Path:
    """Parse the path of a file or folder."""
    if URI.match(text):
        raise argparse.ArgumentTypeError("a URI: name a file or a folder")
    return Path(text)


def seed(text: str) -> int:
    """Parse the seed of the noise."""
    if not text.isdecimal() or int(text) > MAX_SEED:
        raise argparse.ArgumentTypeError(f"{text!r} must be an integer, 0 to {MAX_SEED}")
    return int(text)

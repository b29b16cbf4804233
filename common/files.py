"""Files: written whole or not at all, JSON, and images read and written.

write(Path("copy.png"), png(load_image("photo.jpg")))
"""

import io
import json
import os
import re
import sys
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TextIO

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

ROOT = Path(__file__).resolve().parent.parent  # the project's folder
OUTPUT = ROOT / "recon_examples"  # in which runs make their folders
MAX_NAME_BYTES = 200  # leaves space for "_sketch_recon.png" in a file system's 255
MAX_SOURCE_SIDE = 65535  # pixels of an image, as in bitstream.py
MAX_PIXELS = 40_000_000  # of an image; to decode so many takes up to some 700 MB
URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
# Pillow has more readers, and some of them start other programs (EPS). Only these may open a file.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "DIB", "TIFF", "PPM", "GIF", "AVIF", "JPEG2000")


class ImageError(ValueError):
    """One image cannot be used; the message is one line that begins with its path or its size."""


def write(path: Path, content: bytes) -> None:
    """Write a whole file or none: first under a temporary name, then renamed. Raises OSError."""
    write_parts(path, (content,))


def write_parts(path: Path, parts: Iterable[bytes], sync: bool = False) -> None:
    """Write a file that is made part by part, as `write`; sync: it is on the disk afterwards."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.writelines(parts)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def png(image: np.ndarray) -> bytes:
    """Encode an image, uint8 (H, W) or (H, W, 3), as a PNG file."""
    from PIL import Image  # here and below, so that `pics.py info` does not wait for it

    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def read_json(path: Path, missing: dict | None = None) -> dict:
    """Read a JSON file; return `missing`, if it is given, for a file that does not exist.

    Raises OSError, or ValueError for a file that is not JSON.
    """
    if missing is not None and not path.exists():
        return missing
    return json.loads(path.read_text(encoding="utf-8"))


# ---- images


def load_image(source: Path | str | BinaryIO) -> np.ndarray:
    """Read one image: uint8 (H, W, 3), RGB, upright by its EXIF orientation.

    Gray, palette, CMYK and other images become RGB; transparency becomes white; 16-bit samples are
    scaled to 8 bits. Of several frames, the first is read. Color profiles are ignored. Raises as
    `open_image`, and ImageError if the white level is unknown.
    """
    from PIL import ImageOps

    with open_image(source) as image:
        ImageOps.exif_transpose(image, in_place=True)
        return np.array(_to_rgb(image))


def load_gray(source: Path | str | BinaryIO) -> np.ndarray:
    """Read one image as uint8 (H, W), as it is stored. Raises as `open_image`."""
    with open_image(source) as image:
        return np.array(image.convert("L"))


def image_size(source: Path | str | BinaryIO) -> tuple[int, int]:
    """Return width and height in pixels, from the header. Raises as `open_image`."""
    with open_image(source) as image:
        return image.size


@contextmanager
def open_image(source: Path | str | BinaryIO) -> Iterator["PillowImage"]:
    """Open an image file: the only place where one is opened.

    source: a path, or a file in memory. A JPEG of more than MAX_PIXELS is decoded at half, a
    quarter or an eighth of its size.

    Raises ImageError, one line with the path, if it is not a regular file, not in one of FORMATS,
    damaged or truncated, or too large: a side over MAX_SOURCE_SIDE, or more than MAX_PIXELS pixels
    (a JPEG: Pillow's own limit, 179 million). Any error of the block is an ImageError too.
    """
    from PIL import Image

    name = "image" if isinstance(source, io.IOBase) else printable(source)
    if not isinstance(source, io.IOBase) and not Path(source).is_file():
        state = "not a file" if os.path.lexists(source) else "no such file"
        raise ImageError(f"{name}: {state}")  # to read a pipe might take for ever
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # bounded below
            image = Image.open(source, formats=_readable_formats())
        with image:
            _bound_pixels(image)
            yield image
    except Image.UnidentifiedImageError:
        message = f"not a picture in {', '.join(FORMATS)}, or its header is damaged"
        raise ImageError(f"{name}: {message}") from None
    except Exception as error:  # Pillow's readers raise anything on damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{name}: cannot be read as a picture: {reason}") from error


def check_source(width: int, height: int) -> None:
    """Raise ImageError unless both sides are 1 to MAX_SOURCE_SIDE pixels."""
    if not (1 <= height <= MAX_SOURCE_SIDE and 1 <= width <= MAX_SOURCE_SIDE):
        raise ImageError(f"{width}x{height} pixels: each side must be 1 to {MAX_SOURCE_SIDE}")


def _bound_pixels(image: "PillowImage") -> None:
    """Reduce a large JPEG while it is decoded. Raises ImageError for what is too large."""
    width, height = image.size
    check_source(width, height)
    if image.format in ("JPEG", "MPO"):
        scale = next((s for s in (1, 2, 4) if width * height <= s * s * MAX_PIXELS), 8)
        if scale > 1:
            image.draft(None, (width // scale, height // scale))
    if image.width * image.height > MAX_PIXELS:
        most = MAX_PIXELS // 1_000_000
        raise ImageError(f"{width}x{height} pixels: at most {most} million can be read")


def _readable_formats() -> list[str]:
    """Return those of FORMATS that this build of Pillow has."""
    from PIL import Image

    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _to_rgb(image: "PillowImage") -> "PillowImage":
    """Return an image of any of Pillow's modes as RGB."""
    from PIL import Image

    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_deep_gray_to_8_bits(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image.getchannel("A"))
        return white
    return image if image.mode == "RGB" else image.convert("RGB")


def _deep_gray_to_8_bits(gray: np.ndarray) -> np.ndarray:
    """Return (H, W) of more than 8 bits as uint8. White is 65535 for integers, 1.0 for floats.

    Raises ValueError for values outside 0..white.
    """
    white = 1.0 if gray.dtype.kind == "f" else 65535
    low = gray.min()
    high = gray.max()
    if not (low >= 0 and high <= white):
        raise ValueError(
            f"gray from {low} to {high}, expected 0 to {white}; save it with 8 or 16 bits"
        )
    if gray.dtype.kind == "f":
        return np.rint(gray * np.float32(255)).astype(np.uint8)
    return np.rint(np.arange(65536) * (255 / 65535)).astype(np.uint8)[gray]


# ---- names


def name_paths(paths: Sequence[str], root: str = "/") -> list[tuple[str, str]]:
    """Return (name, path) in the same order. Names are unique, even if case is ignored.

    A name is the file's stem. Images that share a stem take their path below root, with "_" for
    "/". Those that still share a name (a.png, a.jpg) add the extension ("a_png"); the rest are
    numbered. Unprintable characters become "_".
    """
    forms: list[Callable[[str], str]] = [
        lambda path: Path(path).stem,
        lambda path: os.path.relpath(path, root).rpartition(".")[0],
        lambda path: "_".join(os.path.relpath(path, root).rsplit(".", 1)),
    ]
    names: dict[str, str] = {}
    taken: set[str] = set()  # names in lower case
    waiting = list(paths)
    for form in forms:
        candidates = [file_name(form(path)) for path in waiting]
        count = Counter(name.casefold() for name in candidates)
        for path, name in zip(waiting, candidates, strict=True):
            if count[name.casefold()] == 1 and name.casefold() not in taken:
                names[path] = name
                taken.add(name.casefold())
        waiting = [path for path in waiting if path not in names]
    for path in waiting:
        names[path] = _numbered(file_name(forms[-1](path)), taken)
        taken.add(names[path].casefold())
    return [(names[path], path) for path in paths]


def _numbered(name: str, taken: set[str]) -> str:
    """Return a name with the first number from 2 up that is not taken."""
    number = 2
    while f"{name}-{number}".casefold() in taken:
        number += 1
    return f"{name}-{number}"


def file_name(name: str) -> str:
    """Return part of a path as a file name: printable, on one line, at most 200 bytes of UTF-8."""
    composed = unicodedata.normalize("NFC", name)  # some file systems compose, and some do not
    shown = "".join(c if c.isprintable() and c not in "/\\" else "_" for c in composed)
    return shown.encode()[:MAX_NAME_BYTES].decode(errors="ignore")


def folder_or_uri(text: str) -> Path | str:
    """Return a folder's path; a URI, such as s3://bucket/runs, as it is."""
    return text if URI.match(text) else Path(text)


def without_secrets(uri: str) -> str:
    """Return a URI without user, password and query, also where their characters are not escaped as
    they should be.
    """
    scheme, mark, rest = uri.partition("://")
    place, _, query = rest.partition("?")
    if "@" in query:  # which may end a password
        place = "..."
    return scheme + mark + place.rpartition("@")[2]


def printable(text: str | os.PathLike) -> str:
    """Return a text or path on one line, for messages: what is not printable as its escape."""
    shown = []
    for character in os.fspath(text):
        if character.isprintable():
            shown.append(character)
        else:
            shown.append(character.encode("unicode_escape").decode())
    return "".join(shown)


def reason_of(error: Exception, plain: tuple[type[Exception], ...]) -> str:
    """Return why something failed, on one line; errors of `plain` classes need no class name."""
    message = " ".join(str(error).split()) or "no message"
    return message if isinstance(error, plain) else f"{type(error).__name__}: {message}"


# ---- lines on a terminal


def say(text: object) -> None:
    """Print a line to stdout; a reader that has gone (`| head`) does not end the program."""
    try:
        _print(text, sys.stdout)
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 - it stays open to the end


def complain(text: object) -> None:
    """Print a message to stderr."""
    with suppress(BrokenPipeError):
        _print(text, sys.stderr)


def _print(text: object, stream: TextIO) -> None:
    """Print lines; what is not printable, or not in the terminal's encoding, as its escape."""
    for line in str(text).splitlines():
        shown = printable(line)
        encoding = getattr(stream, "encoding", None) or "utf-8"
        print(shown.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)

"""Files: written whole or not at all, JSON, and images read and written.

write(Path("copy.png"), png(load_image("photo.jpg")))
"""

import io
import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

ROOT = Path(__file__).resolve().parent.parent  # the project's folder
MAX_SOURCE_SIDE = 65535  # pixels of an image, as in bitstream.py
# Pillow has more readers, and some of them start other programs (EPS). Only these may open a file.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "DIB", "TIFF", "PPM", "GIF", "AVIF", "JPEG2000")


class ImageError(ValueError):
    """One image cannot be used; the message is one line that begins with its path or its size."""


def write(path: Path, content: bytes) -> None:
    """Write a whole file or none: first under a temporary name, then renamed. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def png(image: np.ndarray) -> bytes:
    """Encode an image, uint8 (H, W) or (H, W, 3), as a PNG file."""
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


def check_source(width: int, height: int) -> None:
    """Raise ImageError unless both sides are 1 to MAX_SOURCE_SIDE pixels."""
    if not (1 <= height <= MAX_SOURCE_SIDE and 1 <= width <= MAX_SOURCE_SIDE):
        raise ImageError(f"{width}x{height} pixels: each side must be 1 to {MAX_SOURCE_SIDE}")


# What Pillow's readers raise on damaged files.
_UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    MemoryError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def load_image(path: str | os.PathLike) -> np.ndarray:
    """Read one image file: uint8 (H, W, 3), RGB, upright by its EXIF orientation.

    Gray, palette, CMYK and other images become RGB; transparency becomes white; 16-bit samples are
    scaled to 8 bits. Of several frames, the first is read. Color profiles are ignored.

    Raises ImageError, one line with the path, if the file is not a regular file, not in one of
    `FORMATS`, damaged or truncated, over Pillow's limit of 179 million pixels, or if its white
    level is unknown.
    """
    if not Path(path).is_file():  # to read a pipe might take forever
        state = "not a file" if os.path.lexists(path) else "no such file"
        raise ImageError(f"{printable(path)}: {state}")
    try:
        with Image.open(path, formats=_readable_formats()) as file:
            check_source(*file.size)  # before anything is decoded
            ImageOps.exif_transpose(file, in_place=True)
            return np.array(_to_rgb(file))
    except Image.UnidentifiedImageError:
        message = f"not a picture in {', '.join(FORMATS)}, or its header is damaged"
        raise ImageError(f"{printable(path)}: {message}") from None
    except _UNREADABLE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{printable(path)}: cannot be read as a picture: {reason}") from error


def _readable_formats() -> list[str]:
    """Return those of FORMATS that this build of Pillow has."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _to_rgb(image: Image.Image) -> Image.Image:
    """Return an image of any of Pillow's modes as RGB."""
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_deep_gray_to_8_bits(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
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


def printable(path: str | os.PathLike) -> str:
    """Return a path on one line, for messages."""
    return "".join(c if c.isprintable() else "?" for c in os.fspath(path))

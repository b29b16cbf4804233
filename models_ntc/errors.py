"""The error of weight files, one line that names the file.

with refusing(path, "sketch codec"):
    read(path)
"""

import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike

from safetensors import SafetensorError

from common.files import printable

LONGEST_REASON = 200  # characters
# What our checks and the libraries raise on files that are damaged or hold something else.
REASONS = (
    ValueError,
    OSError,
    EOFError,
    LookupError,
    RuntimeError,
    ArithmeticError,
    struct.error,
    zipfile.BadZipFile,
    SafetensorError,
)


class CodecFileError(ValueError):
    """A codec file or a checkpoint cannot be used; the message is one line."""


@contextmanager
def refusing(path: str | PathLike, kind: str) -> Iterator[None]:
    """Turn errors of reading or checking a file into a CodecFileError that begins with its path.

    kind: what the file should have been, such as "sketch codec".
    """
    try:
        yield
    except REASONS as error:
        raise CodecFileError(f"{printable(path)} is no {kind}: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """Return an error's message on one line, shortened; without a message, the error's type."""
    text = printable(" ".join(str(error).split())) or type(error).__name__
    if len(text) > LONGEST_REASON:
        text = text[: LONGEST_REASON - 3] + "..."
    return text

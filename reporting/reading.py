"""Files of a run's folder, which may be a stranger's: read only if they are regular and not large.

from reporting.reading import read_object
settings = read_object(folder / "settings.json", table(text()), most=1 << 20)
"""

import json
import os
import stat
from pathlib import Path
from typing import BinaryIO

from common.files import printable
from reporting.schema import Check


class NoRunError(ValueError):
    """A folder or file is not what a run writes; the message is one line that names it."""


def no_run(path: Path | str, error: object) -> NoRunError:
    """Return the error of a file, with the reason on one line."""
    reason = "too deep" if isinstance(error, RecursionError) else " ".join(str(error).split())
    return NoRunError(f"{printable(path)}: {printable(reason[:200])}")


def open_regular(path: Path, most: int) -> BinaryIO:
    """Open a file of at most `most` bytes.

    Raises NoRunError if it is larger or no regular file (a link, a pipe, a device), OSError if it
    is not there or forbidden.
    """
    if not stat.S_ISREG(path.lstat().st_mode):
        raise no_run(path, "not a regular file")
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    file = os.fdopen(os.open(path, flags), "rb")
    status = os.fstat(file.fileno())
    if stat.S_ISREG(status.st_mode) and status.st_size <= most:
        return file
    file.close()
    raise no_run(path, f"{status.st_size:,} bytes, at most {most:,} are read")


def read_regular(path: Path, most: int) -> bytes:
    """Return what a file of at most `most` bytes holds. Raises as `open_regular`."""
    with open_regular(path, most) as file:
        return file.read(most)


def read_object(path: Path, schema: Check, most: int, missing: dict | None = None) -> dict:
    """Read a JSON object that passes a check; return `missing`, if it is given, for no file.

    Raises as `open_regular`, and NoRunError for other content.
    """
    if missing is not None and not os.path.lexists(path):
        return missing
    return object_in(read_regular(path, most), path, schema)


def object_in(content: bytes, path: Path | str, schema: Check) -> dict:
    """Return the JSON object of a file's content. Raises NoRunError unless it passes a check."""
    try:
        value = json.loads(content)
        schema(value)
    except (ValueError, RecursionError) as error:
        raise no_run(path, error) from None
    return value

"""Files of a run's folder, which may be a stranger's: read only if they are regular and not large.

    summary = read_object(folder / "summary.json", SUMMARY, MAX_SUMMARY_BYTES)
    record = read_record(folder, "china")
"""

import json
import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import yaml

from bitstream import MAX_CODED_SIDE, MAX_SEED, MAX_SOURCE_SIDE
from common.files import printable
from reporting.schema import (
    LARGEST,
    MAX_TEXT,
    Check,
    SchemaError,
    fields,
    file_name_check,
    integer,
    number,
    optional,
    sequence,
    table,
    text,
)

RECORD = "_caption.yaml"  # ending of the file's name
MAX_RECORD_BYTES = 1 << 18  # 1,000 are common
MAX_DEPTH = 8  # of a record's YAML; ours has 3 levels
YAML_LOADER = getattr(yaml, "CBaseLoader", yaml.BaseLoader)  # faster, if PyYAML has it
NULLS = ("null", "~", "")
TRUTHS = {"true": True, "false": False}
INFINITIES = {".inf": float("inf"), "-.inf": float("-inf"), ".nan": float("nan")}
# Numbers as PyYAML writes them; it quotes texts that look like these.
INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})")
DECIMAL = re.compile(r"-?[0-9]{1,30}\.[0-9]{0,30}(e[-+][0-9]{1,3})?")


class NoRunError(ValueError):
    """A folder or a file in it is not what a run writes; the message is one line with its path."""


def open_regular(path: Path, most: int) -> BinaryIO:
    """Open a file to read.

    Raises NoRunError if it is no regular file (a link, a pipe, a device) or has over `most` bytes,
    OSError if it is not there or forbidden.
    """
    if not stat.S_ISREG(path.lstat().st_mode):
        raise NoRunError(f"{printable(path)}: not a regular file")
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    file = os.fdopen(os.open(path, flags), "rb")
    status = os.fstat(file.fileno())
    if stat.S_ISREG(status.st_mode) and status.st_size <= most:
        return file
    file.close()
    raise NoRunError(f"{printable(path)}: {status.st_size:,} bytes, at most {most:,} are read")


def read_regular(path: Path, most: int) -> bytes:
    """Return what a file holds. Raises as `open_regular`."""
    with open_regular(path, most) as file:
        return file.read(most)


def read_object(path: Path, schema: Check, most: int, missing: dict | None = None) -> dict:
    """Read a JSON object that passes a check; return `missing`, if given, if there is no file.

    Raises as `open_regular`, and NoRunError for any other content.
    """
    if missing is not None and not os.path.lexists(path):
        return missing
    content = read_regular(path, most)
    try:
        value = json.loads(content)
        schema(value)
    except (ValueError, RecursionError) as error:
        raise NoRunError(f"{printable(path)}: {_one_line(error)}") from None
    return value


def _one_line(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "too deep"
    return printable(" ".join(str(error).split()))[:200]


# ---- records

_BYTES = fields({"total": integer(1, MAX_TEXT * 4)}, {}, others=integer(0, MAX_TEXT * 4))
_RATES = fields({"total": number(1e-9, 1e6)}, {}, others=number(0, 1e6))
_RESULTS = table(optional(number()))
_BASELINE = fields(
    {},
    {
        "why": text(),
        "bytes": integer(1, 1 << 40),
        "bpp": number(1e-9, 1e9),
        "scale": number(0, 1e6),
        "quality": integer(-(10**6), 10**6),
    },
    others=optional(number()),
)

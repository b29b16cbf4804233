"""Records: what a run keeps of each image, <name>_caption.yaml.

record = read_record(folder, "china")
record["bytes"]["total"]

| field | |
|---|---|
| name | of the image, as in the file's name |
| prompt | text |
| ids, seed | of the prompt's tokens; of the noise |
| source_size, coded_size | [width, height], pixels |
| bytes, bpp | of each layer, "overhead" and "total" |
| sha256 | of <name>.pics, hexadecimal; records of earlier versions have none |
| metrics | by name; null: not available |
| scores | of the candidates |
| allocation | of `--bytes`: {budget, lam_sketch of the sketch sent or null, number tried} |
| baselines | by image format: {bytes, bpp, scale, quality, metrics}, or {why} |
| seconds, memory | by stage; bytes by kind |

The file is plain YAML: no anchors, aliases or tags, so that it never grows when it is read. Runs of
earlier versions spell color "colour".
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from bitstream import MAX_CODED_SIDE, MAX_FILE_BYTES, MAX_SEED, MAX_SOURCE_SIDE
from reporting.reading import no_run, read_regular
from reporting.rows import RECORD
from reporting.schema import (
    Check,
    SchemaError,
    fields,
    file_name_check,
    integer,
    number,
    optional,
    sequence,
    shown,
    table,
    text,
)

MAX_RECORD_BYTES = 1 << 18  # 1,000 are common
MAX_DEPTH = 6  # of lists and tables in one another; ours has 3
YAML_LOADER = getattr(yaml, "CBaseLoader", yaml.BaseLoader)  # faster, if PyYAML has it

# Values as PyYAML writes them; it quotes texts that look like one.
CONSTANTS = {"null": None, "~": None, "": None, "true": True, "false": False}
INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})")
DECIMAL = re.compile(r"-?[0-9]{1,20}\.[0-9]{0,30}(e[-+][0-9]{1,3})?")
SHA256 = re.compile(r"[0-9a-f]{64}")


# ---- schema


def results_check(taken: Sequence[str], most: int) -> Check:
    """Return a check of results by metric, whose names may not be `taken` for something else."""
    check = table(optional(number()), most)

    def check_results(value: object) -> None:
        check(value)
        for name in value:  # type: ignore[attr-defined]
            if name in taken or name.startswith(("bytes_", "seconds_", "memory_")):
                raise SchemaError(f"{shown(name)} is no metric")

    return check_results


def checksum_check(value: object) -> None:
    """Check a SHA-256 in hexadecimal."""
    if not isinstance(value, str) or not SHA256.fullmatch(value):
        raise SchemaError(f"{shown(value)} is no SHA-256")


def baseline_check(value: object) -> None:
    """Check the results of an image format: why it has none, or its bytes, rate and metrics."""
    known = {"bytes": _size, "bpp": _rate, "scale": number(0, 1), "quality": integer(0, 10**6)}
    if isinstance(value, dict) and "why" in value:
        fields({"why": text()}, {})(value)
        return
    fields(known, {}, others=optional(number()))(value)
    for name in ("name", "baseline"):
        if name in value:  # type: ignore[operator]
            raise SchemaError(f"{name!r} is no metric")


_size = integer(1, MAX_FILE_BYTES)
_part = integer(0, MAX_FILE_BYTES)
_rate = number(1e-9, 1e6)  # bits per pixel
_pixels = integer(1, MAX_SOURCE_SIDE)
_coded_pixels = integer(1, MAX_CODED_SIDE)

SCHEMA = fields(
    {
        "name": file_name_check,
        "prompt": text(),
        "bytes": fields({"total": _size}, {}, others=_part, most=8),
        "bpp": fields({"total": _rate}, {}, others=number(0, 1e6), most=8),
        "metrics": results_check(("name", "prompt", "bytes", "bpp"), most=60),
    },
    {
        "ids": sequence(integer(0, MAX_SEED), most=1 << 16),
        "seed": integer(0, MAX_SEED),
        "source_size": sequence(_pixels, most=2, least=2),
        "coded_size": sequence(_coded_pixels, most=2, least=2),
        "sha256": checksum_check,
        "scores": sequence(optional(number()), most=1 << 16),
        "allocation": fields(
            {"budget": _size, "lam_sketch": optional(number(0)), "tried": integer(1, 1 << 16)}, {}
        ),
        "baselines": table(baseline_check, most=20),
        "seconds": table(number(0), most=20),
        "memory": table(integer(0, 10**15), most=8),
    },
)


# ---- writing


def record_file(record: dict) -> bytes:
    """Return a record as a file. Raises SchemaError if `read_record` would refuse it."""
    SCHEMA(record)
    dumped = yaml.safe_dump(record, sort_keys=False, allow_unicode=True, default_flow_style=None)
    content = dumped.encode()
    if len(content) > MAX_RECORD_BYTES:
        raise SchemaError(f"a record of {len(content)} bytes, at most {MAX_RECORD_BYTES} are read")
    return content


# ---- reading


def read_records(folder: Path, names: Sequence[str]) -> list[dict]:
    """Read the records of the images that are done, in the order of `names`. Raises NoRunError."""
    records = []
    for name in names:
        if (folder / f"{name}{RECORD}").exists():
            records.append(read_record(folder, name))
    return records


def read_record(folder: Path, name: str) -> dict:
    """Read the record of an image.

    Raises NoRunError if it is not a record of that image, OSError if it is not there or forbidden.
    """
    path = folder / f"{name}{RECORD}"
    content = read_regular(path, MAX_RECORD_BYTES)
    try:
        record = parse(content)
        SCHEMA(record)
    except ValueError as error:
        raise no_run(path, error) from None
    if record["name"] != name:
        raise no_run(path, f"a record of {shown(record['name'])}")
    return record


def parse(content: bytes) -> Any:
    """Return what YAML of plain values, lists and tables holds.

    Raises ValueError for aliases, anchors, tags, a field that comes twice, and what is no YAML.
    """
    try:
        events = yaml.parse(content.decode(), YAML_LOADER)
        for _ in range(2):
            next(events)  # the beginnings of the stream and of its first document
        value = _value(events, next(events), 0)
        next(events)
        if not isinstance(next(events), yaml.StreamEndEvent):
            raise SchemaError("more than one document")
    except StopIteration:
        raise SchemaError("it is empty") from None
    except yaml.YAMLError as error:
        raise SchemaError(f"no YAML: {error}") from None
    return value


def _value(events: Iterator[yaml.Event], event: yaml.Event, depth: int) -> object:
    """Return the value that begins with an event, and take its other events."""
    if isinstance(event, yaml.AliasEvent):
        raise SchemaError(f"an alias, *{event.anchor}, which is not allowed")
    if not isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent):
        raise SchemaError("no value")
    if event.anchor is not None or event.tag is not None:
        raise SchemaError(f"an anchor or tag, {event.anchor or event.tag}, which is not allowed")
    if depth > MAX_DEPTH:
        raise SchemaError("too deep")
    if isinstance(event, yaml.SequenceStartEvent):
        return _list(events, depth)
    if isinstance(event, yaml.ScalarEvent):
        is_plain = event.implicit[0]
        return _plain(event.value) if is_plain else event.value
    return _table(events, depth)


def _list(events: Iterator[yaml.Event], depth: int) -> list:
    items = []
    for event in events:
        if isinstance(event, yaml.SequenceEndEvent):
            break
        items.append(_value(events, event, depth + 1))
    return items


def _table(events: Iterator[yaml.Event], depth: int) -> dict:
    values: dict[str, object] = {}
    for event in events:
        if isinstance(event, yaml.MappingEndEvent):
            break
        if not isinstance(event, yaml.ScalarEvent):
            raise SchemaError("a name that is no text")
        _value(events, event, depth + 1)  # that it has no anchor or tag
        if event.value in values:
            raise SchemaError(f"{shown(event.value)} twice")
        values[event.value] = _value(events, next(events), depth + 1)
    return values


def _plain(word: str) -> object:
    """Return what a word without quotes stands for."""
    if word in CONSTANTS:
        return CONSTANTS[word]
    if INTEGER.fullmatch(word):
        return int(word)
    return float(word) if DECIMAL.fullmatch(word) else word

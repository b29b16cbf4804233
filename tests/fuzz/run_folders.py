"""Run folders for the fuzzers: a small well-formed run, mutants of its files, and how each ends.

    from fuzz.run_folders import corpus, mutant, read
    files = corpus(folder)                              # of a run that lies there
    outcome = read(folder, mutant(files, random.Random(0)))

A mutant knows the structure of its file: fields and values of JSON and YAML, cells and columns of
CSV, and files that are links, pipes or folders. A mutant of a .pics may get its checksum, and its
record the sizes and the SHA-256 that belong to it.
"""

import copy
import csv
import hashlib
import io
import json
import os
import random
import re
import shutil
from binascii import crc_hqx
from pathlib import Path
from typing import NamedTuple

import yaml

import bitstream
from evaluation.folder import check_done
from reporting.page import run_page
from reporting.reading import NoRunError
from reporting.runs import read_run

TABLES = ("summary.json", "settings.json", "made.json", "results.csv")  # what report.py reads
RECORD, STREAM = "p0_caption.yaml", "p0.pics"  # what a run that is resumed reads
TARGETS = (*TABLES, RECORD, STREAM)
WAYS = ("bytes", "value", "field", "kind", "repaired")
OUTCOMES = ("read", "NoRunError")
DEEP = "[" * 3000 + "]" * 3000
VALUES = (None, True, -1, 0, 1, 2**31, 10**18, 10**400, -1e308, float("inf"), float("nan"))
VALUES += ("", "p0", "../../p0", "=1+1", "a\nb", "\0", "\ud800", "$\\frac{$", "x" * 200_000)
VALUES += ("1;background:url(//evil.example/)", "<script>x=1</script>")
VALUES += ([], {}, [1, 2], {"a": [{"b": 1}]})
NAMES = ("name", "bytes", "bpp", "prompt", "total", "mean", "", "a\nb", "__proto__", "x" * 300)
SPECIAL = (b"&a ", b"*a", b"!!python/object:os.system ", b"[", b"{", b'"', b"\n", b"\xff", b"\0")
STYLE = re.compile(r' style="([^"]*)"')
SAFE_STYLE = re.compile(r"(width|flex-grow|--ratio): [0-9]+(\.[0-9]+)?(e-?[0-9]+)?%?")


class Mutant(NamedTuple):
    """A changed file, and others of the run that were changed with it."""

    way: str  # one of WAYS
    target: str  # one of TARGETS
    files: dict[str, bytes | str]  # by name; a text is a kind: "link", "pipe", "folder", "gone"


def corpus(folder: Path) -> dict[str, bytes]:
    """Return the files of a run whose mutants are made."""
    return {name: (folder / name).read_bytes() for name in TARGETS}


def mutant(files: dict[str, bytes], rng: random.Random) -> Mutant:
    """Return a mutant; the same for the same state of `rng`."""
    way, target = rng.choice(WAYS), rng.choice(TARGETS)
    if way == "kind":
        return Mutant(way, target, {target: rng.choice(("link", "pipe", "folder", "gone"))})
    if way == "repaired":
        return Mutant(way, *_repaired(files, rng))
    if way == "bytes" or target == STREAM:
        return Mutant("bytes", target, {target: _bytes(files[target], rng)})
    return Mutant(way, target, {target: _structure(target, files[target], way, rng)})


def read(folder: Path, mutant: Mutant) -> str:
    """Put a mutant into a folder with the rest of its run, and read it as a command would.

    Return "read" or "NoRunError". Any other error passes through; so does a page with a style that
    is no number.
    """
    with Placed(folder, mutant.files):
        try:
            if mutant.target in TABLES:
                _check_page(run_page(read_run(folder)))
            else:
                check_done(folder, "p0")
        except NoRunError as error:
            message = str(error)
            assert len(message.splitlines()) == 1 and len(message) < 500, message
            assert str(folder) in message, message
            return "NoRunError"
        except FileNotFoundError:
            assert mutant.files.get(RECORD) == "gone"
            return "NoRunError"
    return "read"


def _check_page(page: str) -> None:
    assert page.count("<script>") == 1
    for style in STYLE.findall(page):
        assert SAFE_STYLE.fullmatch(style), style


class Placed:
    """The files of a mutant in a folder, for a block; afterwards the folder is as before."""

    def __init__(self, folder: Path, files: dict[str, bytes | str]):
        self.folder, self.files = folder, files

    def __enter__(self) -> None:
        self.before = {name: (self.folder / name).read_bytes() for name in self.files}
        for name, content in self.files.items():
            path = self.folder / name
            if isinstance(content, bytes):
                path.write_bytes(content)
                continue
            path.unlink()
            if content == "link":
                path.symlink_to("/dev/zero")
            elif content == "pipe":
                os.mkfifo(path)
            elif content == "folder":
                path.mkdir()

    def __exit__(self, *_: object) -> None:
        for name, content in self.before.items():
            path = self.folder / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            path.unlink(missing_ok=True)
            path.write_bytes(content)


# ---- mutations


def _bytes(data: bytes, rng: random.Random) -> bytes:
    """Flip bits, cut a piece out, or put special bytes in."""
    first, end = sorted((rng.randint(0, len(data)), rng.randint(0, len(data))))
    way = rng.randrange(4)
    if way == 0:
        changed = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        return bytes(changed)
    if way == 1:
        return data[:first] + data[end:]
    if way == 2:
        return data[:first] + rng.choice(SPECIAL) * rng.choice((1, 2, 5000)) + data[first:]
    return rng.randbytes(rng.randint(0, 300))


def _structure(target: str, data: bytes, way: str, rng: random.Random) -> bytes:
    """Change a value, or a field or its name."""
    if target.endswith(".csv"):
        return _csv(_table(data, way, rng))
    tree = json.loads(data) if target.endswith(".json") else yaml.safe_load(data)
    _change(tree, way, rng)
    if target.endswith(".json"):
        return json.dumps(tree).replace('"DEEP"', DEEP).encode()
    try:
        dumped = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
        return dumped.replace("DEEP", DEEP).encode(errors="surrogatepass")
    except yaml.YAMLError:
        return data[:-1]


def _change(tree: dict, way: str, rng: random.Random) -> None:
    """Change one place of a tree of dicts and lists."""
    places = list(_places(tree))
    holder, key = rng.choice(places)
    if way == "value" or isinstance(holder, list):
        holder[key] = copy.deepcopy(rng.choice((*VALUES, "DEEP")))
        return
    value = holder.pop(key)
    for _ in range(rng.choice((0, 1, 1, 300))):
        name = rng.choice((*NAMES, str(rng.random())))
        holder[name] = value


def _places(tree: dict | list):
    """Yield (holder, key) of every value in a tree."""
    items = list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree))
    for key, value in items:
        yield tree, key
        if isinstance(value, dict | list):
            yield from _places(value)


def _table(data: bytes, way: str, rng: random.Random) -> list[list[str]]:
    """Return the lines of a table with another cell, line or column."""
    lines = list(csv.reader(io.StringIO(data.decode(), newline="")))
    if way == "value":
        row = rng.choice(lines)
        row[rng.randrange(len(row))] = str(rng.choice(VALUES))
    elif rng.random() < 0.5:
        lines.insert(rng.randint(0, len(lines)), list(rng.choice(lines))[: rng.randint(0, 30)])
    else:
        column = rng.randrange(len(lines[0]))
        for row in lines:
            del row[column : column + rng.randint(0, 1)]
    return lines


def _csv(lines: list[list[str]]) -> bytes:
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows(lines)
    return table.getvalue().encode(errors="replace")


def _repaired(files: dict[str, bytes], rng: random.Random) -> tuple[str, dict[str, bytes | str]]:
    """Change rows and their count together, or a stream with its checksum and its record."""
    if rng.random() < 0.5:
        lines = _table(files["results.csv"], rng.choice(("value", "field")), rng)
        summary = json.loads(files["summary.json"]) | {"images": len(lines) - 1}
        changed = {"results.csv": _csv(lines), "summary.json": json.dumps(summary).encode()}
        return "results.csv", changed
    body = _bytes(files[STREAM], rng)[:-2]
    data = body + crc_hqx(body, 0xFFFF).to_bytes(2, "big")
    record = yaml.safe_load(files[RECORD])
    record["sha256"] = hashlib.sha256(data).hexdigest()
    try:
        sizes = bitstream.layer_sizes(bitstream.unpack(data))
    except bitstream.BitstreamError:
        sizes = {}
    record["bytes"] = {**sizes, "total": len(data)}
    return STREAM, {STREAM: data, RECORD: yaml.safe_dump(record).encode()}

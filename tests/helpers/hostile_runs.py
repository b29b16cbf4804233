"""Run folders of strangers: ways to spoil a good one, and the file that an error must name.

for kind in KINDS:
    folder = kind.spoil(shutil.copytree(good, tmp_path / "run"))
"""

import json
import os
import struct
import zlib
from binascii import crc_hqx
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

DEEP = "[" * 100_000
LONG_NUMBER = "9" * 5000
EVIL_STYLE = "1;background:url(//evil.example/x)"
HEADER = "name,prompt,bpp,bytes,bytes_text\n"


@dataclass(frozen=True)
class Kind:
    """One way to spoil a run's folder."""

    what: str
    file: str  # that the error names
    spoil: Callable[[Path], object]


# ---- what is done to a file, which is given by its path


def content(data: bytes | str) -> Callable[[Path], None]:
    """Replace what the file holds."""
    return lambda path: path.write_bytes(data if isinstance(data, bytes) else data.encode())


def gone(path: Path) -> None:
    path.unlink()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def link(target: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.unlink()
        path.symlink_to(target)

    return make


def sparse(size: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with path.open("r+b") as file:
            file.truncate(size)

    return make


def changed(**fields) -> Callable[[Path], None]:
    """Replace fields of a JSON object."""
    return lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def without(*names: str) -> Callable[[Path], None]:
    def remove(path: Path) -> None:
        kept = json.loads(path.read_text())
        for name in names:
            del kept[name]
        path.write_text(json.dumps(kept))

    return remove


def table(*lines: str, header: str = HEADER) -> Callable[[Path], None]:
    return content(header + "".join(f"{line}\n" for line in lines))


def rows(count: int) -> Callable[[Path], None]:
    return table(*(f"p{i},a barn,0.5,10,3" for i in range(count)))


def recorded(**fields) -> Callable[[Path], None]:
    """Replace fields of a record; None removes one."""

    def change(path: Path) -> None:
        record = yaml.safe_load(path.read_text()) | fields
        kept = {name: value for name, value in record.items() if value is not None}
        path.write_text(yaml.safe_dump(kept, default_flow_style=None))

    return change


def bomb(levels: int = 9) -> str:
    """A YAML file of a few hundred bytes that aliases make 9^levels values of."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    for level in range(1, levels):
        aliases = ", ".join([f"*a{level - 1}"] * 9)
        lines.append(f"a{level}: &a{level} [{aliases}]")
    return "\n".join(lines) + "\n"


def png(width: int, height: int) -> bytes:
    """A PNG file that says it has so many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


# ---- a finished run, as report.py reads it


def summary(what: str, change: Callable[[Path], object]) -> Kind:
    return Kind(f"summary: {what}", "summary.json", change)


def results(what: str, change: Callable[[Path], object]) -> Kind:
    return Kind(f"results: {what}", "results.csv", change)


def settings(what: str, change: Callable[[Path], object]) -> Kind:
    return Kind(f"settings: {what}", "settings.json", change)


def made(what: str, change: Callable[[Path], object]) -> Kind:
    return Kind(f"made: {what}", "made.json", change)


def picture(what: str, change: Callable[[Path], object]) -> Kind:
    return Kind(f"picture: {what}", "p0_recon.png", change)


RATE = {"bpp": 0.5, "bytes": 10}
KINDS = (
    summary("missing", gone),
    summary("empty", content("")),
    summary("half", content('{"method": "PICS", ')),
    summary("random bytes", content(bytes(range(256)))),
    summary("a list", content("[1, 2]")),
    summary("100,000 lists in one another", content(DEEP)),
    summary("a pipe", pipe),
    summary("a folder", folder),
    summary("a link to /dev/zero", link("/dev/zero")),
    summary("a link to another file", link("made.json")),
    summary("a link to itself", link("summary.json")),
    summary("32 MB", sparse(32 << 20)),
    summary("no method", without("method")),
    summary("method is a list", changed(method=["PICS"])),
    summary("a lone surrogate", changed(dataset="\ud800")),
    summary("images is a text", changed(images="3")),
    summary("images is -1", changed(images=-1)),
    summary("images is 10^18", changed(images=10**18)),
    summary("images is true", changed(images=True)),
    summary("images is null", changed(images=None)),
    summary("a number of 5,000 digits", content(f'{{"images": {LONG_NUMBER}}}')),
    summary("means are a list", changed(mean=[1, 2])),
    summary("a mean is a text", changed(mean=RATE | {"psnr": EVIL_STYLE})),
    summary("a mean is infinite", changed(mean=RATE | {"psnr": float("inf")})),
    summary("a mean is not a number", changed(mean=RATE | {"psnr": float("nan")})),
    summary("no mean rate", changed(mean={"bytes": 10})),
    summary("a rate of 0", changed(mean={"bpp": 0, "bytes": 10})),
    summary("10,000 metrics", changed(mean=RATE | {f"m{i}": 1 for i in range(10_000)})),
    summary("a metric with a line break", changed(mean=RATE | {"a\nb": 1})),
    summary("an interval of three", changed(intervals={"psnr": [1, 2, 3]})),
    summary("an interval of texts", changed(intervals={"psnr": ["a", "b"]})),
    summary("a set's value is a list", changed(set={"fid": []})),
    summary("a set's value lacks its counts", changed(set={"fid": {"value": 1.0}})),
    summary("a reason is a number", changed(not_available={"lpips": 1})),
    summary("a baseline without means", changed(baselines={"AVIF": {"images": 3}})),
    summary("a baseline without a rate", changed(baselines={"AVIF": {"mean": {"psnr": 1.0}}})),
    summary("failed is a text", changed(failed="p0")),
    summary("failed holds numbers", changed(failed=[1, 2])),
    results("missing", gone),
    results("empty", content("")),
    results("a pipe", pipe),
    results("a folder", folder),
    results("a link to /dev/zero", link("/dev/zero")),
    results("a link to another file", link("made.json")),
    results("300 MB", sparse(300 << 20)),
    results("zeros", content(bytes(100_000))),
    results("not UTF-8", content(b"name,bytes,bpp\n\xff,1,1\n")),
    results("no rows", table()),
    results("no columns that matter", table("1,2", header="a,b\n")),
    results("a column twice", table("a,b,0.5,10,3", header="name,name,bpp,bytes,bytes_text\n")),
    results("10,000 columns", table(header=",".join(f"c{i}" for i in range(10_000)) + "\n")),
    results("a row too short", table("p0,a barn,0.5")),
    results("a row too long", table("p0,a barn,0.5,10,3,4")),
    results("200,000 rows", rows(200_000)),
    results("fewer rows than images", rows(1)),
    results("a line of 2 MB", table("p0," + "x" * (2 << 20) + ",0.5,10,3")),
    results("2 MB between quotes", content(HEADER + '"' + "p,\n" * (2 << 18))),
    results("bytes are a text", table("p0,a barn,0.5,ten,3")),
    results("bytes are a formula", table("p0,a barn,0.5,=1+1,3")),
    results("bytes of a layer are a style", table(f"p0,a barn,0.5,10,{EVIL_STYLE}")),
    results("bytes are negative", table("p0,a barn,0.5,-10,3")),
    results("bytes are 0", table("p0,a barn,0.5,0,3")),
    results("bytes are 5,000 digits", table(f"p0,a barn,0.5,{LONG_NUMBER},3")),
    results("bytes are 1e999", table("p0,a barn,0.5,1e999,3")),
    results("a rate is nan", table("p0,a barn,nan,10,3")),
    results("a rate is infinite", table("p0,a barn,inf,10,3")),
    results("a rate is missing", table("p0,a barn,,10,3")),
    results("a name twice", table("p0,a barn,0.5,10,3", "p0,a barn,0.5,10,3")),
    results("a name that leads elsewhere", table("../../secret,a barn,0.5,10,3")),
    results("a name that is empty", table(",a barn,0.5,10,3")),
    results("a name of 300 letters", table("n" * 300 + ",a barn,0.5,10,3")),
    results("a prompt of 200,000 letters", table("p0," + "x" * 200_000 + ",0.5,10,3")),
    settings("a pipe", pipe),
    settings("a list", content("[]")),
    settings("a setting is a table", changed(N={"a": 1})),
    settings("the preset is a number", changed(preset=7)),
    settings("100,000 lists in one another", content(f'{{"N": {DEEP}')),
    settings("2 MB", sparse(2 << 20)),
    made("a pipe", pipe),
    made("no command", content('{"versions": {}}')),
    made("the command is a number", content('{"command": 1, "versions": {}}')),
    made("versions are a list", content('{"command": "", "versions": []}')),
    picture("a pipe", pipe),
    picture("a folder", folder),
    picture("a link to /dev/zero", link("/dev/zero")),
    picture("a link to itself", link("p0_recon.png")),
    picture("empty", content("")),
    picture("no picture", content("a letter")),
    picture("PostScript", content("%!PS-Adobe-3.0 EPSF-3.0\n")),
    picture("60,000 x 60,000 pixels", content(png(60_000, 60_000))),
)


# ---- a run that is to be resumed: records and files of the image p3


def record(what: str, change: Callable[[Path], object]) -> Kind:
    return Kind(f"record: {what}", "p3_caption.yaml", change)


def stream(what: str, change: Callable[[Path], object]) -> Kind:
    return Kind(f"file: {what}", "p3.pics", change)


def other_image(path: Path) -> None:
    """Put another image's file in place of this one's."""
    path.write_bytes((path.parent / path.name.replace("p3", "p4")).read_bytes())


def one_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-4] ^= 1
    path.write_bytes(data)


def one_bit_and_its_checksum(path: Path) -> None:
    """Change the sketch as well as the two bytes that would tell."""
    one_bit(path)
    body = path.read_bytes()[:-2]
    path.write_bytes(body + crc_hqx(body, 0xFFFF).to_bytes(2, "big"))


RECORDS = (
    record("empty", content("")),
    record("half", lambda path: path.write_bytes(path.read_bytes()[:-300])),
    record("random bytes", content(bytes(range(256)))),
    record("a list", content("[1, 2]")),
    record("aliases, 9^9 values", content(bomb())),
    record("an anchor", content("name: &a p3\n")),
    record("a tag that makes an object", content("!!python/object/apply:os.abort []\n")),
    record("two documents", content("name: p3\n---\nname: p3\n")),
    record("a field twice", lambda path: path.write_text(path.read_text() + "name: p3\n")),
    record("100,000 lists in one another", content(DEEP)),
    record("1 MB", sparse(1 << 20)),
    record("a pipe", pipe),
    record("a link to /dev/zero", link("/dev/zero")),
    record("a link to another record", link("p4_caption.yaml")),
    record("another image's", other_image),
    record("no bytes", recorded(bytes=None)),
    record("bytes are a text", recorded(bytes={"total": "ten"})),
    record("bytes are negative", recorded(bytes={"total": -1})),
    record("a rate is infinite", recorded(bpp={"total": float("inf")})),
    record("a metric is a list", recorded(metrics={"psnr": [1]})),
    record("a metric called bytes", recorded(metrics={"bytes": 1.0})),
    record("a number of 5,000 digits", recorded(seed=10**4000)),
    record("a field that nobody knows", recorded(more=1)),
    record("a size of three", recorded(coded_size=[64, 64, 64])),
    record("another checksum", recorded(sha256="0" * 64)),
    record("a checksum that is none", recorded(sha256="none")),
    stream("missing", gone),
    stream("empty", content("")),
    stream("one bit flipped", one_bit),
    stream("one bit flipped, checksum repaired", one_bit_and_its_checksum),
    stream("another image's", other_image),
    stream("a pipe", pipe),
    stream("a link to /dev/zero", link("/dev/zero")),
    stream("32 MB", sparse(32 << 20)),
)

"""Hostile pictures: each ends as documented, the rest of the run goes on, no output is torn.

    python -m pytest tests/test_hostile_pictures.py

Run as a script, this file prints the table of docs/reliability.md:

    python tests/test_hostile_pictures.py
"""

import contextlib
import errno
import io
import json
import os
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

# Imported before a test becomes nobody, who may not read the installed packages.
import cv2  # noqa: F401
import numpy as np
import pytest
import torch  # noqa: F401
import tqdm  # noqa: F401
from PIL import Image

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))

from helpers.checkpoints import local_preset

import eval_PIC
import generate_sketches
import pics
from common.files import png, write
from dataloaders import ImageError, Samples, load_samples

ROOT = Path(__file__).parent.parent
COLOR = np.full((80, 120, 3), (200, 40, 90), np.uint8)
COLOR[20:60, 30:90] = (20, 160, 220)
PHOTO = Image.fromarray(COLOR)
NOBODY = 65534  # a user without rights


def file(image: Image.Image = PHOTO, kind: str = "PNG", **options) -> bytes:
    """A picture as a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG file."""
    length, check = struct.pack(">I", len(content)), struct.pack(">I", zlib.crc32(kind + content))
    return length + kind + content + check


def png_of(width: int, height: int, *chunks: bytes) -> bytes:
    """A PNG file that says it has so many gray pixels, and holds a few zeros."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + pixels + chunk(b"IEND", b"")


def frames(kind: str) -> bytes:
    """An animation of two frames."""
    other = Image.fromarray(255 - COLOR)
    return file(PHOTO, kind, save_all=True, append_images=[other], duration=100)


def flat(value: float, dtype) -> Image.Image:
    """A picture of one value."""
    return Image.fromarray(np.full((80, 120), value, dtype))


def palette() -> bytes:
    """A palette, one color of it transparent."""
    return file(PHOTO.quantize(8), transparency=0)


def rotated() -> bytes:
    """A photo taken upright with a camera held sideways."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return file(PHOTO, "JPEG", exif=exif)


def link(target: str):
    return lambda path: path.symlink_to(target)


def forbidden(path: Path) -> None:
    path.write_bytes(file())
    path.chmod(0)


@dataclass(frozen=True)
class Kind:
    """One bad picture: what is put into the folder, and how a run documents it."""

    what: str
    path: str  # below the folder
    make: object  # its content, or a function of its path
    end: str  # "read", "passed over", or a part of the line that reports it
    name: str = ""  # of its output; the stem, if not given


LONG = "n" * 240
LETTER = b"Dear Sir or Madam,\n" * 9
NOISE = b"\xff\xd8\xff\xe0" + bytes(range(256)) * 9
BOMB = png_of(60000, 60000)
TEXT_BOMB = png_of(64, 64, chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(80_000_000))))
NO_EXIF = b"Exif\0\0MM\0*\xff\xff\xff\xff"
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%EndComments\n"
KINDS = (
    Kind("truncated JPEG", "truncated.jpg", file(PHOTO, "JPEG")[:700], "image file is truncated"),
    Kind("truncated PNG", "cut.png", file()[:120], "cannot be read as a picture"),
    Kind("zero bytes", "zero.png", b"", "not a picture in PNG, JPEG"),
    Kind("text under a picture's name", "text.jpg", LETTER, "not a picture in PNG, JPEG"),
    Kind("random bytes behind a JPEG's first ones", "noise.jpg", NOISE, ": "),
    Kind("wrong extension: a PNG called .jpg", "really.jpg", file(), "read"),
    Kind("no extension", "noextension", file(), "passed over"),
    Kind("1 x 1 pixel", "dot.png", file(Image.new("RGB", (1, 1))), "read"),
    Kind("20000 x 10 pixels", "thin.png", file(Image.new("L", (20000, 10))), "too long and thin"),
    Kind("65536 pixels wide", "wide.png", png_of(65536, 64), "each side must be 1 to 65535"),
    Kind("decompression bomb: 60000 x 60000 in 1 kB", "bomb.png", BOMB, "exceeds limit"),
    Kind("decompression bomb in a text chunk", "textbomb.png", TEXT_BOMB, ": "),
    Kind("animated GIF", "moving.gif", frames("GIF"), "read"),
    Kind("animated WebP", "moving.webp", frames("WEBP"), "read"),
    Kind("16-bit gray", "deep.png", file(flat(40000, np.uint16)), "read"),
    Kind("float TIFF with NaN", "nan.tif", file(flat(np.nan, "f4"), "TIFF"), "expected 0 to 1.0"),
    Kind("CMYK JPEG", "print.jpg", file(PHOTO.convert("CMYK"), "JPEG"), "read"),
    Kind("palette with transparency", "palette.png", palette(), "read"),
    Kind("1 bit per pixel", "bilevel.bmp", file(PHOTO.convert("1"), "BMP"), "read"),
    Kind("EXIF rotation", "rotated.jpg", rotated(), "read"),
    Kind("EXIF block of nonsense", "exif.jpg", file(PHOTO, "JPEG", exif=NO_EXIF), "read"),
    Kind("name with spaces", "two  words .png", file(), "read"),
    Kind("name with a newline and a tab", "two\nlines\t.png", file(), "read", "two_lines_"),
    Kind("name in other scripts", "雪の小屋 مرحبا 🏔.png", file(), "read"),
    Kind("name that is no UTF-8", os.fsdecode(b"latin-\xe9\xff.png"), file(), "read", "latin-__"),
    Kind("name of 244 bytes", f"{LONG}.png", file(), "read", "n" * 200),
    Kind("link to itself", "circle.png", link("circle.png"), "not a file"),
    Kind("links that loop", "there.png", link("circle.png"), "not a file"),
    Kind("link to nothing", "dangling.png", link("nowhere.png"), "not a file"),
    Kind("link to the folder that holds it", "again", link("."), "passed over"),
    Kind("named pipe", "pipe.png", os.mkfifo, "not a file"),
    Kind("folder with a picture's name", "folder.png", Path.mkdir, "passed over"),
    Kind("no permission to read", "forbidden.png", forbidden, "Permission denied"),
    Kind("PostScript under a picture's name", "program.png", POSTSCRIPT, "not a pic"),
    Kind("same stem in two folders, first", "a/twin.png", file(), "read", "a_twin"),
    Kind("same stem in two folders, second", "b/twin.png", file(), "read", "b_twin"),
    Kind("same stem, other extension", "really.bmp", file(PHOTO, "BMP"), "read", "really_bmp"),
)
RENAMED = {"really.jpg": "really_jpg", "moving.gif": "moving_gif", "moving.webp": "moving_webp"}


def name_of(kind: Kind) -> str:
    return kind.name or RENAMED.get(kind.path, Path(kind.path).stem)


def fill(folder: Path) -> Path:
    """Put every kind and one good picture into a folder that anybody may read."""
    folder.chmod(0o755)
    for kind in KINDS:
        path = folder / kind.path
        path.parent.mkdir(exist_ok=True)
        if isinstance(kind.make, bytes):
            path.write_bytes(kind.make)
        else:
            kind.make(path)
    (folder / "good.png").write_bytes(file())
    return folder


@contextlib.contextmanager
def without_rights():
    """Be nobody in place of root, to whom no file is forbidden."""
    if os.geteuid():
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture(scope="module")
def hostile():
    """The folder of KINDS; not below tmp_path, which only its owner may enter."""
    with tempfile.TemporaryDirectory() as folder:
        yield fill(Path(folder))


@pytest.fixture
def open_folder():
    """An empty folder in which anybody may write."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


def lines_by_name(error: str) -> dict[str, str]:
    """Name -> what a run's `failed: NAME: WHY` lines say."""
    lines = {}
    for text in error.splitlines():
        line = text.removeprefix("failed: ")
        if line != text:
            names = [name_of(kind) for kind in KINDS if line.startswith(f"{name_of(kind)}: ")]
            lines[names[0]] = line
    return lines


def draw_sketches(folder: Path, out: Path, *flags: str) -> int:
    """Run generate_sketches.py and return the exit status."""
    common = ["--sketch_type", "canny", "--short_side", "64", "--workers", "1"]
    return generate_sketches.main(["--data_root", str(folder), "--out", str(out), *common, *flags])


@pytest.fixture(scope="module")
def cheap(tmp_path_factory):
    """Flags of a preset of small random models in its cheapest form."""
    folder = tmp_path_factory.mktemp("models") / "mine"
    row = local_preset(folder, "tiny")
    models = {name: list(getattr(row, name)) for name in ("generator", "controlnet", "clip")}
    settings = {"short_side": 192, "prompt_len": 1, "prompt_steps": 1, "candidates": 1, "steps": 1}
    (folder / "preset.json").write_text(json.dumps({"base": "tiny", **models, **settings}))
    return ["--preset", str(folder)]


@pytest.fixture(scope="module")
def sketched(hostile):
    """One run of generate_sketches.py over the folder, by nobody: sketches, status and stderr."""
    with tempfile.TemporaryDirectory() as out, contextlib.redirect_stderr(io.StringIO()) as error:
        Path(out).chmod(0o777)
        with without_rights():
            status = draw_sketches(hostile, Path(out))
        sketches = {path.stem: np.array(Image.open(path)) for path in Path(out).rglob("*.png")}
        yield sketches, status, error.getvalue()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.what)
def test_each_kind_ends_as_documented(kind, sketched):
    pictures, _, error = sketched
    reported = lines_by_name(error)
    if kind.end == "read":
        assert name_of(kind) in pictures and name_of(kind) not in reported
    elif kind.end == "passed over":
        assert name_of(kind) not in pictures and name_of(kind) not in reported
    else:
        assert kind.end in reported[name_of(kind)] and name_of(kind) not in pictures


def test_the_run_says_that_some_failed_and_does_the_rest(sketched):
    pictures, status, error = sketched
    ends = [kind.end for kind in KINDS]
    assert status == 1 and "good" in pictures and "Traceback" not in error
    assert len(pictures) == ends.count("read") + 1
    assert len(lines_by_name(error)) == len(ends) - ends.count("read") - ends.count("passed over")
    assert pictures["rotated"].shape == (128, 64) and pictures["print"].shape == (64, 128)


def test_the_same_in_an_evaluation(hostile, cheap, tmp_path, capsys):
    with without_rights():
        names = load_samples(hostile, None, 256).names
    arguments = ["--data_root", str(hostile), "--output", str(tmp_path), "--batch_size", "5"]
    assert eval_PIC.main([*arguments, *cheap]) == 1
    folder = next(tmp_path.iterdir())
    files = {path.name.removesuffix(".pics") for path in folder.glob("*.pics")}
    captured = capsys.readouterr()
    summary = json.loads(captured.out.splitlines()[-1])
    expected = {name_of(kind) for kind in KINDS if kind.end == "read"} | {"good"}
    assert files - {"forbidden"} == expected  # root may read what is forbidden
    assert sorted({*names} - files) == summary["failed"]
    assert "Traceback" not in captured.err and (folder / "index.html").exists()


def test_the_same_in_pics_encode(hostile, cheap, tmp_path, capsys):
    command = ["encode", str(hostile), str(tmp_path / "out"), "--layers", "text", *cheap]
    assert pics.main(command) == 1
    expected = {name_of(kind) for kind in KINDS if kind.end == "read"} | {"good"}
    assert {path.stem for path in (tmp_path / "out").glob("*.pics")} - {"forbidden"} == expected
    assert "Traceback" not in capsys.readouterr().err


def test_a_folder_that_may_not_be_listed(open_folder):
    (open_folder / "closed").mkdir()
    (open_folder / "closed").chmod(0)
    (open_folder / "good.png").write_bytes(file())
    message = "closed: cannot be listed: Permission denied"
    with without_rights(), pytest.raises(ValueError, match=message):
        load_samples(open_folder, None, 64)


def test_an_error_is_one_line_even_for_a_name_with_a_newline(tmp_path):
    (tmp_path / "two\nlines.png").write_bytes(b"")
    with pytest.raises(ImageError, match=r"two\\nlines\.png: not a picture") as caught:
        load_samples(tmp_path, None, 64)[0]
    assert "\n" not in str(caught.value)


@contextlib.contextmanager
def full_disk(size: int):
    """No file may become larger than `size` bytes: beyond, the system reports an error."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_what_was_there(tmp_path):
    write(tmp_path / "file", b"old")
    with full_disk(1000), pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
        write(tmp_path / "file", bytes(5000))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


@pytest.fixture
def photos(tmp_path):
    """Four images, the last one with a sketch that takes many bytes."""
    folder = tmp_path / "photos"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (80, 120, 3), dtype=np.uint8)
    for number, picture in enumerate([COLOR, COLOR[::-1], COLOR[:, ::-1], noise]):
        Image.fromarray(picture).save(folder / f"{number}.png")
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_full_disk_ends_generate_sketches_in_one_line_and_it_goes_on(photos, tmp_path, capsys):
    assert draw_sketches(photos, tmp_path / "unbroken") == 0
    capsys.readouterr()
    whole = content(tmp_path / "unbroken")
    largest = max(len(data) for name, data in whole.items() if name.endswith(".png"))
    with full_disk(largest - 1):
        assert draw_sketches(photos, tmp_path / "out") == 1
    error = capsys.readouterr().err
    said = [line for line in error.splitlines() if line and "sketches:" not in line]
    assert len(said) == 1 and "start it again to go on" in said[0]
    for name, data in content(tmp_path / "out").items():
        assert not name.startswith(".")
        if name.endswith(".png"):
            assert data == whole[name]
    assert draw_sketches(photos, tmp_path / "out") == 0
    assert content(tmp_path / "out") == whole


def test_a_full_disk_ends_an_evaluation_in_one_line_and_it_goes_on(photos, cheap, tmp_path, capsys):
    arguments = ["--data_root", str(photos), "--output", str(tmp_path / "out"), *cheap]
    arguments += ["--batch_size", "1"]
    with full_disk(2000):  # a reconstruction is larger
        assert eval_PIC.main(arguments) == 1
    error = capsys.readouterr().err
    assert os.strerror(errno.EFBIG) in error.splitlines()[-1] and "Traceback" not in error
    (folder,) = (tmp_path / "out").iterdir()
    names = [name for name in content(folder) if name.endswith("_caption.yaml") or name[0] == "."]
    assert names == []
    assert eval_PIC.main(arguments) == 0
    assert len(list(folder.glob("*.pics"))) == 4


def test_an_output_folder_that_is_read_only(open_folder, capsys):
    photos, out = open_folder / "photos", open_folder / "out"
    photos.mkdir()
    out.mkdir()
    (photos / "good.png").write_bytes(file())
    out.chmod(0o555)
    with without_rights():
        assert draw_sketches(photos, out) == 1
    error = capsys.readouterr().err
    assert list(out.iterdir()) == [] and len(error.splitlines()) == 1
    assert "Permission denied" in error and str(out) in error


@pytest.mark.parametrize("script", ["evaluation", "pics"])
def test_an_output_folder_that_refuses(script, cheap, photos, tmp_path, monkeypatch, capsys):
    """As if read-only, also for root; nobody may not read these models' caches."""
    out = tmp_path / "out"
    out.mkdir()
    for name in ("mkdir", "write_bytes", "open"):
        monkeypatch.setattr(Path, name, refusing(getattr(Path, name), out))
    if script == "evaluation":
        status = eval_PIC.main(["--data_root", str(photos), "--output", str(out), *cheap])
    else:
        status = pics.main(["encode", str(photos), str(out / "files"), "--layers", "text", *cheap])
    assert status == 1
    error = capsys.readouterr().err
    assert list(out.iterdir()) == [] and "Traceback" not in error
    assert os.strerror(errno.EACCES) in error and str(out) in error


def refusing(method, folder: Path):
    """A method of Path that refuses what is below a folder."""

    def refused(path: Path, *args, **kwargs):
        if folder in path.parents:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return method(path, *args, **kwargs)

    return refused


KILLED = """
import os, pathlib, signal, sys
sys.path.insert(0, {root!r})
from common.files import write_parts
def half():
    yield bytes(50_000)  # more than is kept in memory
    os.kill(os.getpid(), signal.SIGKILL)
write_parts(pathlib.Path({path!r}), half())
"""


@pytest.mark.parametrize("old", [None, b"old"])
def test_killed_in_the_middle_of_a_write(old, tmp_path):
    path = tmp_path / "file.png"
    if old:
        path.write_bytes(old)
    code = KILLED.format(root=str(ROOT), path=str(path))
    killed = subprocess.run([sys.executable, "-c", code], check=False)
    assert killed.returncode == -9
    assert (path.read_bytes() if path.exists() else None) == old
    (half,) = [other for other in tmp_path.iterdir() if other != path]
    assert half.name.startswith(".") and half.stat().st_size == 50_000
    write(path, png(COLOR))
    assert Image.open(path).size == (120, 80)


def test_what_a_killed_run_left_half_written_is_no_result(photos, tmp_path):
    assert draw_sketches(photos, tmp_path / "unbroken") == 0
    shutil.copytree(tmp_path / "unbroken", tmp_path / "out")
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    first = next((tmp_path / "out" / "train").glob("*.png"))
    first.rename(first.with_name(f".{first.name}.123.tmp"))
    assert draw_sketches(photos, tmp_path / "out") == 0
    assert content(tmp_path / "out") == content(tmp_path / "unbroken") and settings


def table() -> str:
    """What is seen of each kind, as Markdown."""
    rows = ["| in the folder | seen |", "|---|---|"]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "pictures").mkdir()
        Path(folder).chmod(0o755)
        pictures = fill(Path(folder) / "pictures")
        with without_rights():
            samples = load_samples(pictures, None, 64)
            where = {os.path.relpath(path, pictures): i for i, path in enumerate(samples.paths)}
            for kind in KINDS:
                seen = "not taken for a picture; passed over"
                if kind.path in where:
                    seen = seen_of(samples, where[kind.path], pictures)
                rows.append(f"| {kind.what} | {seen} |")
    return "\n".join(rows)


def seen_of(samples: Samples, index: int, folder: Path) -> str:
    """How one picture ends, as the table says it."""
    try:
        sample = samples[index]
    except ImageError as error:
        reason = str(error).removeprefix(f"{folder}/").partition(": ")[2] or str(error)
        return f"failed: {reason}".replace(f"{folder}/", "")
    size = f"{sample.source_width} x {sample.source_height}"
    return f"read as `{sample.name[:24]}`, {size}"


if __name__ == "__main__":
    print(table())

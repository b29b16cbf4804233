"""Images are opened in one place, within a bound, and any error of a reader is one line.

python -m pytest tests/test_images.py
"""

import ast
import io
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from fuzz.pictures import corpus, mutant, read
from PIL import Image

from common import files
from common.files import ImageError, image_size, load_gray, load_image, printable
from dataloaders import load_samples

ROOT = Path(__file__).resolve().parent.parent


def chunk(kind: bytes, content: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + check


def palette_without_colors() -> bytes:
    """A PNG of 70 bytes whose pixels are entries of a palette that is not there."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 8, 3, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(17 * 16)))
    return b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b"")


def large_gif() -> bytes:
    """A GIF of a few bytes that asks for 166 million pixels."""
    width, height = 2880, 57542
    screen = struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    frame = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x44\x01\x00"
    return b"GIF89a" + screen + frame + b";"


def test_a_palette_that_is_missing_ends_in_one_line(tmp_path):
    """Pillow raises an AssertionError, which once ended a whole run."""
    (tmp_path / "a.png").write_bytes(palette_without_colors())
    (tmp_path / "b.png").write_bytes(corpus()[0])
    samples = load_samples(tmp_path, None, 64)
    with pytest.raises(ImageError, match=r"a\.png: cannot be read as a picture") as caught:
        samples[0]
    assert "\n" not in str(caught.value) and samples[1].image.shape == (64, 64, 3)


def test_too_many_pixels_are_refused_before_they_are_decoded(monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(ImageError, match="2880x57542 pixels: at most 40 million"):
        load_image(io.BytesIO(large_gif()))


def test_a_large_jpeg_is_reduced_while_it_is_decoded(monkeypatch):
    file = io.BytesIO()
    Image.new("RGB", (640, 480), (200, 90, 30)).save(file, "JPEG", quality=95)
    assert load_image(file).shape == (480, 640, 3)
    for most, size in ((100_000, (240, 320)), (20_000, (120, 160)), (5_000, (60, 80))):
        monkeypatch.setattr(files, "MAX_PIXELS", most)
        image = load_image(file)
        assert image.shape[:2] == size
        assert np.abs(image.reshape(-1, 3).mean(0) - (200, 90, 30)).max() < 3
    monkeypatch.setattr(files, "MAX_PIXELS", 4_000)
    with pytest.raises(ImageError, match="640x480 pixels: at most 0 million"):
        load_image(file)


def test_gray_and_size(tmp_path):
    Image.new("RGB", (30, 20), "white").save(tmp_path / "a.png")
    gray = load_gray(tmp_path / "a.png")
    assert gray.shape == (20, 30) and gray.dtype == np.uint8 and gray.min() == 255
    assert image_size(tmp_path / "a.png") == (30, 20)
    for load in (load_gray, image_size):
        with pytest.raises(ImageError, match="no such file"):
            load(tmp_path / "b.png")


def test_images_are_opened_in_one_place():
    """Pillow would hand a file to any of its readers, some of which start other programs."""
    places = []
    for path in ROOT.glob("**/*.py"):
        parts = path.relative_to(ROOT).parts
        if parts[0] in ("tests", "runs", ".venv"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Image.open":
                places.append(path.relative_to(ROOT).as_posix())
    assert places == ["common/files.py"]


def test_names_and_texts_are_printed_on_one_line():
    assert printable("a\x1b[31mb\n\u202ec\udcff") == "a\\x1b[31mb\\n\\u202ec\\udcff"
    assert printable("Zürich, 雪.png") == "Zürich, 雪.png"


def test_damaged_pictures_are_read_or_refused():
    """The long run is tests/long/pictures.py."""
    samples = corpus()
    assert all(read(data) == "read" for data in samples)
    outcomes = {read(mutant(samples, random.Random(number))[1]) for number in range(600)}
    assert outcomes == {"read", "ImageError"}

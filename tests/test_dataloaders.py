"""Folders of images: sizes, kinds of picture, layouts, names, and what is refused.

python -m pytest tests/test_dataloaders.py
"""

import os
import subprocess
import sys
import unicodedata
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

import dataloaders
from common.files import FORMATS
from dataloaders import (
    DATASETS,
    DataError,
    ImageError,
    Sample,
    coded_size,
    list_images,
    load_image,
    load_sample,
    load_samples,
    name_paths,
    resize,
)

KODAK = Path(__file__).parent.parent.parent / "shared" / "data" / "kodak"
RED, WHITE = (200, 30, 40), (255, 255, 255)


def put(path: Path, size=(8, 6), color=RED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)
    return path


def save(path: Path, image: Image.Image, **options) -> np.ndarray:
    image.save(path, **options)
    return load_image(path)


def gradient(height=12, width=16) -> np.ndarray:
    row = np.linspace(0, 255, width).astype(np.uint8)
    rising, falling = np.tile(row, (height, 1)), np.tile(row[::-1], (height, 1))
    return np.stack([rising, falling, np.full((height, width), 90, "u1")], 2)


# ---- sizes


@pytest.mark.parametrize(
    ("source", "short_side", "coded"),
    [
        ((512, 768), 512, (512, 768)),
        ((768, 512), 256, (384, 256)),
        ((1365, 2048), 512, (512, 768)),
        ((300, 451), 256, (256, 384)),
        ((1, 1), 64, (64, 64)),
        ((100, 250), 64, (64, 128)),  # 160 is a tie: 2 * 64, the even one
        ((100, 350), 64, (64, 256)),  # 224 is a tie: 4 * 64
        ((10, 640), 64, (64, 4096)),
    ],
)
def test_coded_size(source, short_side, coded):
    assert coded_size(*source, short_side) == coded


@given(st.integers(1, 65535), st.integers(1, 65535), st.integers(1, 64).map(lambda n: 64 * n))
@example(1, 64, 64)
def test_coded_size_keeps_its_promises(height, width, short_side):
    try:
        coded = coded_size(height, width, short_side)
    except ImageError as error:
        assert max(height, width) * short_side / min(height, width) > 4096, error
        return
    assert min(coded) == short_side and max(coded) <= 4096
    assert all(side % 64 == 0 for side in coded)
    assert coded == coded_size(width, height, short_side)[::-1]
    wanted = max(height, width) * short_side / min(height, width)
    assert abs(max(coded) - wanted) <= 32


def test_coded_size_refuses_the_long_and_thin():
    with pytest.raises(ImageError, match=r"20000x10 pixels is too long and thin.*at most 4096"):
        coded_size(10, 20000, 256)
    with pytest.raises(ImageError, match="65536x9"):
        coded_size(9, 65536, 64)
    with pytest.raises(ImageError, match="0x9"):
        coded_size(9, 0, 64)


@pytest.mark.parametrize("short_side", [0, 100, -64, 4160])
def test_wrong_short_side(short_side):
    with pytest.raises(ValueError, match=f"short side {short_side}"):
        coded_size(512, 768, short_side)
    with pytest.raises(ValueError, match=f"short side {short_side}"):
        load_samples(None, None, short_side)


def test_resize():
    picture = resize(gradient(90, 150), 64)
    assert picture.shape == (64, 128, 3) and picture.dtype == np.uint8
    assert abs(picture.mean(axis=(0, 1)) - gradient(90, 150).mean(axis=(0, 1))).max() < 1
    same = gradient(64, 128)
    np.testing.assert_array_equal(resize(same, 64), same)


# ---- kinds of picture


@pytest.mark.parametrize("extension", ["png", "bmp", "tiff", "ppm", "webp", "jp2"])
def test_lossless_formats_come_back_exactly(tmp_path, extension):
    options = {"lossless": True} if extension == "webp" else {}
    picture = gradient(32, 48)
    read = save(tmp_path / f"a.{extension}", Image.fromarray(picture), **options)
    np.testing.assert_array_equal(read, picture)


@pytest.mark.parametrize("extension", ["jpg", "avif", "webp"])
def test_lossy_formats_come_back_nearly(tmp_path, extension):
    picture = gradient(32, 48)
    read = save(tmp_path / f"a.{extension}", Image.fromarray(picture), quality=95)
    assert np.abs(read.astype(int) - picture).mean() < 3


def test_gray_and_black_and_white(tmp_path):
    gray = gradient()[..., 0]
    for name in ("a.png", "a.pgm"):
        read = save(tmp_path / name, Image.fromarray(gray))
        np.testing.assert_array_equal(read, np.stack([gray] * 3, 2))
    bits = np.array([[0, 255], [255, 0]], np.uint8)
    read = save(tmp_path / "a.pbm", Image.fromarray(bits).convert("1"))
    np.testing.assert_array_equal(read[..., 1], bits)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_sixteen_bit_gray_is_scaled_not_clipped(tmp_path, name):
    deep = np.array([[0, 128, 129, 257, 32896], [65535, 65407, 40000, 1000, 256]], np.uint16)
    expected = np.rint(deep / 257).astype(np.uint8)
    read = save(tmp_path / name, Image.fromarray(deep))
    np.testing.assert_array_equal(read, np.stack([expected] * 3, 2))


def test_sixteen_bit_color_is_scaled(tmp_path):
    import cv2

    deep = np.full((4, 5, 3), 40000, np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), deep)
    assert set(load_image(tmp_path / "a.png").ravel().tolist()) <= {155, 156}


def test_float_gray(tmp_path):
    light = np.array([[0.0, 0.5, 1.0]], np.float32)
    assert save(tmp_path / "a.tif", Image.fromarray(light))[0, :, 0].tolist() == [0, 128, 255]
    for wrong in ([[0.0, 2.0]], [[-1.0, 0.0]], [[np.nan, 0.0]]):
        with pytest.raises(ImageError, match=r"expected 0 to 1\.0"):
            save(tmp_path / "b.tif", Image.fromarray(np.array(wrong, np.float32)))


def test_thirty_two_bit_gray_without_a_known_white_is_refused(tmp_path):
    with pytest.raises(ImageError, match=r"b\.tif.*gray from 0 to 70000, expected 0 to 65535"):
        save(tmp_path / "b.tif", Image.fromarray(np.array([[0, 70000]], np.int32)))


def test_what_is_transparent_shows_white(tmp_path):
    clear, half = Image.new("RGBA", (3, 3), (*RED, 0)), Image.new("RGBA", (3, 3), (0, 0, 0, 128))
    assert save(tmp_path / "a.png", clear)[1, 1].tolist() == list(WHITE)
    assert save(tmp_path / "b.png", half)[1, 1].tolist() == [127] * 3
    assert save(tmp_path / "c.png", half.convert("LA"))[1, 1].tolist() == [127] * 3
    assert save(tmp_path / "d.webp", clear, lossless=True)[1, 1].tolist() == list(WHITE)


def test_palette_with_and_without_transparency(tmp_path):
    palette = Image.new("P", (2, 1))
    palette.putpalette([*RED, 0, 0, 255])
    palette.putpixel((1, 0), 1)
    assert save(tmp_path / "a.png", palette)[0].tolist() == [list(RED), [0, 0, 255]]
    for name in ("b.png", "b.gif"):
        read = save(tmp_path / name, palette, transparency=1)
        assert read[0].tolist() == [list(RED), list(WHITE)]


def test_cmyk(tmp_path):
    cmyk = Image.new("RGB", (16, 16), RED).convert("CMYK")
    for name in ("a.jpg", "a.tif"):
        assert np.abs(save(tmp_path / name, cmyk)[8, 8].astype(int) - RED).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp"])
def test_upright_by_exif(tmp_path, name, orientation):
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :8] = 255  # the upper left corner is white
    turn = {
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.transpose(1, 0, 2),
        6: lambda x: np.rot90(x),
        7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
        8: lambda x: np.rot90(x, -1),
    }[orientation]
    exif = Image.Exif()
    exif[274] = orientation
    read = save(tmp_path / name, Image.fromarray(np.ascontiguousarray(turn(upright))), exif=exif)
    assert read.shape == upright.shape
    assert np.abs(read.astype(int) - upright).mean() < 8


def test_source_size_is_that_of_the_upright_picture(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (100, 60)).save(tmp_path / "a.jpg", exif=exif)
    sample = load_sample(tmp_path / "a.jpg", 64)
    assert (sample.source_width, sample.source_height) == (60, 100)
    assert sample.image.shape == (128, 64, 3)
    assert sample.name == "a" and sample.path == str(tmp_path / "a.jpg")


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp", "a.tif"])
def test_first_frame_of_several(tmp_path, name):
    first, second = Image.new("RGB", (9, 9), RED), Image.new("RGB", (9, 9), (0, 200, 0))
    read = save(tmp_path / name, first, save_all=True, append_images=[second])
    assert np.abs(read[4, 4].astype(int) - RED).max() <= 12


# ---- pictures that cannot be used


def refused(path) -> str:
    with pytest.raises(ImageError) as caught:
        load_image(path)
    message = str(caught.value)
    assert message.startswith(str(path).replace("\n", "\\n")) and "\n" not in message
    return message


def test_unreadable_pictures_are_refused_in_one_line(tmp_path):
    whole = put(tmp_path / "whole.jpg", (64, 64)).read_bytes()
    for name, content, words in [
        ("empty.png", b"", "not a picture in PNG"),
        ("text.jpg", b"hello", "not a picture in PNG"),
        ("cut.jpg", whole[:-200], "cannot be read as a picture: "),
        ("new\nline.png", b"", "not a picture"),
        ("postscript.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
    ]:
        (tmp_path / name).write_bytes(content)
        assert words in refused(tmp_path / name)
    assert "no such file" in refused(tmp_path / "none.png")
    assert "not a file" in refused(tmp_path)


def test_a_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    assert "not a file" in refused(tmp_path / "pipe.png")


def test_a_file_with_a_wrong_extension_is_read_by_its_content(tmp_path):
    put(tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert load_image(tmp_path / "a.jpg")[0, 0].tolist() == list(RED)


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    put(tmp_path / "a.png", (64, 64))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert "decompression bomb" in refused(tmp_path / "a.png")


def test_a_side_that_no_stream_can_hold_is_refused(tmp_path):
    put(tmp_path / "a.png", (65536, 1))
    assert "65536x1 pixels: each side must be 1 to 65535" in refused(tmp_path / "a.png")


def test_too_long_and_thin_names_the_file(tmp_path):
    with pytest.raises(ImageError, match=r"thin\.png: 2000x10 pixels is too long and thin"):
        load_sample(put(tmp_path / "thin.png", (2000, 10)), 64)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "extension", ["png", "jpg", "gif", "tif", "bmp", "ppm", "webp", "avif", "jp2"]
)
def test_damaged_files_give_a_picture_or_the_error(tmp_path, extension):
    whole = put(tmp_path / f"whole.{extension}", (24, 20)).read_bytes()
    random = np.random.default_rng(0)
    outcomes = set()
    for _ in range(60):
        damaged = bytearray(whole)
        for position in random.integers(0, len(whole), 4):
            damaged[position] = random.integers(256)
        length = random.integers(len(whole) // 2, len(whole) + 1)
        (tmp_path / "damaged").write_bytes(damaged[:length])
        try:
            outcomes.add(load_image(tmp_path / "damaged").dtype)
        except ImageError as error:
            assert "\n" not in str(error)
            outcomes.add("refused")
    assert "refused" in outcomes


def test_every_extension_is_one_that_pillow_reads_with_our_formats():
    registered = Image.registered_extensions()
    read = {registered[extension] for extension in dataloaders.EXTENSIONS}
    assert read <= set(FORMATS)


# ---- folders and names


def test_plain_folder_in_natural_order(tmp_path):
    for name in ("img10.png", "img2.JPG", "img1.png", "notes.txt", ".hidden.png", "B.png", "a.png"):
        put(tmp_path / "x.png").rename(tmp_path / name)
    samples = load_samples(tmp_path, None, 64)
    assert tuple(samples.names) == ("a", "B", "img1", "img2", "img10")
    assert samples.name == tmp_path.name and len(samples) == 5
    assert isinstance(samples[0], Sample) and samples[0].name == "a"
    assert [sample.name for sample in samples] == list(samples.names)
    assert samples[1:3].names == ("B", "img1") and samples[1:3][0].name == "B"


def test_class_folders_with_the_same_file_names(tmp_path):
    for name in ("cat/1.png", "dog/1.png", "dog/deep/2.png", "dog/3.png", "dog/3.jpg"):
        put(tmp_path / name)
    named = {name: str(Path(path).relative_to(tmp_path)) for name, path in list_images(tmp_path)}
    assert named == {
        "cat_1": "cat/1.png",
        "dog_1": "dog/1.png",
        "2": "dog/deep/2.png",
        "dog_3_png": "dog/3.png",
        "dog_3_jpg": "dog/3.jpg",
    }


def test_names_that_would_collide():
    paths = [
        "/r/a/b.png",
        "/r/a_b.png",
        "/r/c/b.png",
        "/r/A_B.jpg",
        "/r/c_b_png.gif",
        "/r/x/c/b.png",
    ]
    paths += ["/r/caf\u00e9.png", "/r/y/cafe\u0301.png"]  # one name to a file system that composes
    names = [name for name, _ in name_paths(paths, "/r")]
    assert len({unicodedata.normalize("NFC", name).casefold() for name in names}) == len(paths)


part = st.text(st.sampled_from("abAB_.1-é\n"), min_size=1, max_size=3).map(lambda s: "p" + s)
tails = st.sampled_from([".png", ".jpg", ".PNG"])
files = st.builds(
    lambda folders, tail: "/r/" + "/".join(folders) + tail,
    st.lists(part, min_size=1, max_size=3),
    tails,
)


@given(st.lists(files, unique=True, max_size=12))
def test_names_are_unique_and_printable_whatever_the_paths(paths):
    named = name_paths(paths, "/r")
    assert [path for _, path in named] == paths
    names = [name for name, _ in named]
    assert len({name.casefold() for name in names}) == len(names)
    assert all(name.isprintable() and "/" not in name for name in names)


def test_awkward_file_names(tmp_path):
    for name in ("two words.png", "new\nline.png", "日本.png", "n" * 251 + ".png"):
        put(tmp_path / name)
    put(tmp_path / "x.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.png"))
    samples = load_samples(tmp_path, None, 64)
    assert {"two words", "new_line", "日本", "n" * 200, "__"} == set(samples.names)
    assert len(list(samples)) == 5


def test_nothing_is_read_before_it_is_asked_for_and_one_bad_picture_spares_the_rest(tmp_path):
    put(tmp_path / "1.png")
    (tmp_path / "2.png").write_bytes(b"no picture")
    (tmp_path / "3.png").symlink_to(tmp_path / "nowhere.png")
    put(tmp_path / "4.png")
    samples = load_samples(tmp_path, None, 64)
    assert tuple(samples.names) == ("1", "2", "3", "4")
    with pytest.raises(ImageError, match=r"2\.png: not a picture"):
        samples[1]
    with pytest.raises(ImageError, match=r"3\.png: not a file"):
        samples[2]
    assert samples[0].image.shape == samples[3].image.shape == (64, 64, 3)


def test_links(tmp_path):
    put(tmp_path / "outside" / "o.png")
    put(tmp_path / "above.png")
    root = tmp_path / "root"
    put(root / "b" / "1.png")
    (root / "a").symlink_to(root / "b")  # another name for b
    (root / "b" / "loop").symlink_to(root)
    (root / "b" / "up").symlink_to(tmp_path)  # above the root
    (root / "far").symlink_to(tmp_path / "outside")
    (root / "self").symlink_to("self")
    (root / "again.png").symlink_to(root / "b" / "1.png")
    paths = [str(Path(path).relative_to(root)) for _, path in list_images(root)]
    assert paths == ["again.png", "b/1.png", "far/o.png"]


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path, monkeypatch):
    put(tmp_path / "closed" / "a.png")
    put(tmp_path / "b.png")
    scandir = os.scandir

    def refuse(folder):
        if str(folder).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"closed: cannot be listed: Permission denied"):
        list_images(tmp_path)


def test_a_root_that_cannot_be_listed_is_an_error(tmp_path, monkeypatch):
    def refuse(folder):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DataError, match=r"cannot be listed: Permission denied"):
        load_samples(tmp_path, "Kodak", 64)


def test_missing_empty_and_no_folder(tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    for folder, words in [
        (tmp_path / "none", "no such folder; accepted are"),
        (tmp_path, "no pictures .*accepted are"),
        (tmp_path / "notes.txt", "not a folder; accepted are"),
    ]:
        with pytest.raises(DataError, match=words) as caught:
            load_samples(folder, None, 64)
        assert str(caught.value).startswith(str(folder)) and "\n" not in str(caught.value)


# ---- the paper's data sets


@pytest.mark.parametrize(
    ("dataset", "picture"),
    [
        ("CLIC2020", "CLIC/2020/test/1/a.png"),
        ("CLIC2020", "CLIC2020/test/a.png"),
        ("CLIC2020", "clic2020/valid/a.png"),
        ("CLIC2020", "test/a.png"),
        ("CLIC2021", "CLIC/2021/test/a.png"),
        ("DIV2K", "DIV2K/val/1/a.png"),
        ("DIV2K", "DIV2K/DIV2K_valid_HR/a.png"),
        ("DIV2K", "DIV2K_valid_HR/a.png"),
        ("Kodak", "Kodak/1/a.png"),
        ("Kodak", "kodak/a.png"),
        ("Kodak", "a.png"),
        ("Kodak", "1/a.png"),
    ],
)
def test_layouts_of_the_data_sets(tmp_path, dataset, picture):
    put(tmp_path / picture)
    if picture.count("/") > 1:
        for other in ("train/t.png", "CLIC/2020/train/t.png", "DIV2K/train/t.png"):
            put(tmp_path / other)
    samples = load_samples(tmp_path, dataset, 64)
    assert samples.name == dataset and tuple(samples.names) == ("a",)


def test_the_test_split_comes_before_the_validation_split(tmp_path):
    put(tmp_path / "CLIC2020" / "valid" / "v.png")
    put(tmp_path / "CLIC2020" / "test" / "t.png")
    assert tuple(load_samples(tmp_path, "CLIC2020", 64).names) == ("t",)


@pytest.mark.parametrize("other", ["train/t.png", "Kodak/1/k.png", "CLIC/2021/test/c.png"])
def test_other_pictures_do_not_pass_for_a_data_set(tmp_path, other):
    put(tmp_path / other)
    with pytest.raises(DataError, match="no DIV2K there; expected below it DIV2K/val"):
        load_samples(tmp_path, "DIV2K", 64)


def test_unknown_data_set_and_data_set_without_a_folder(tmp_path):
    known = ", ".join(DATASETS)
    with pytest.raises(DataError, match=f"unknown data set 'MNIST'; known are {known}"):
        load_samples(tmp_path, "MNIST", 64)
    with pytest.raises(DataError, match="--dataset Kodak needs --data_root"):
        load_samples(None, "Kodak", 64)


# ---- the sample images


def test_sample_images():
    if not (find_spec("skimage") and find_spec("sklearn")):
        pytest.skip("scikit-image and scikit-learn are not installed")
    samples = load_samples(None, None, 64)
    assert samples.name == "samples"
    assert set(samples.names) == {
        "astronaut",
        "chelsea",
        "coffee",
        "rocket",
        "motorcycle_left",
        "china",
        "flower",
    }
    assert all(sample.image.shape[2] == 3 for sample in samples)


def test_without_the_packages_the_cure_is_named(monkeypatch):
    monkeypatch.setattr(dataloaders, "SAMPLE_IMAGES", {"no_such_package": ("data", ("a.png",))})
    with pytest.raises(DataError, match=r"pip install scikit-image scikit-learn, or .*--data_root"):
        load_samples(None, None, 64)


def test_finding_the_sample_images_imports_no_package():
    code = (
        "import sys, dataloaders\n"
        "dataloaders.load_samples(None, None, 64)\n"
        "print('skimage' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.skipif(not KODAK.is_dir(), reason="../shared/data/kodak is not here")
def test_kodak():
    samples = load_samples(KODAK, None, 256)
    assert tuple(samples.names) == tuple(f"kodim{i:02}" for i in range(1, 25))
    assert samples[0].image.shape == (256, 384, 3) and samples[3].image.shape == (384, 256, 3)

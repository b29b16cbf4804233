"""Image formats to compare with: whole files within the budget, decoded from themselves alone.

python -m pytest tests/test_baselines.py
"""

import io
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from common import weights
from common.weights import UnavailableError
from metrics.baselines import (
    CODECS,
    PILLOW_FORMATS,
    SCALES,
    BudgetError,
    Codec,
    compress,
    load_codec,
)
from metrics.zoo import ZOO

KINDS = {"jpeg": "JPEG", "webp": "WEBP", "avif": "AVIF", "jpeg2000": "JPEG2000"}


def picture(height=128, width=160) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    waves = [
        127.5 + 100 * np.sin(x / (9 + c) + y / 14) * np.cos(y / (20 + 3 * c)) for c in range(3)
    ]
    return np.stack(waves, 2).astype(np.uint8)


def squared_error(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.mean((a.astype(float) - b) ** 2))


@pytest.mark.parametrize("name", PILLOW_FORMATS)
def test_the_file_is_whole_and_fits(name):
    image, codec = picture(), load_codec(name)
    found = compress(image, codec, 700)
    assert len(found.data) <= 700
    with Image.open(io.BytesIO(found.data)) as opened:  # by a decoder that knows nothing of us
        assert opened.format == KINDS[name]
        assert opened.size == tuple(max(1, round(side * found.scale)) for side in (160, 128))
        enlarged = np.asarray(opened.convert("RGB").resize((160, 128), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(found.image, enlarged)
    assert found.squared_error == squared_error(image, found.image)
    assert squared_error(image, np.full_like(image, 127)) > 3 * found.squared_error


@pytest.mark.parametrize("name", PILLOW_FORMATS)
def test_more_bytes_buy_more(name):
    codec = load_codec(name)
    errors = [compress(picture(), codec, budget).squared_error for budget in (500, 2500)]
    assert errors[1] < errors[0] / 2


@pytest.mark.parametrize("name", ["jpeg", "avif"])
def test_what_does_not_fit_says_so(name):
    with pytest.raises(
        BudgetError,
        match=rf"{name}: the smallest file of this 160x128 image has \d+ bytes, the budg",
    ):
        compress(picture(), load_codec(name), 200)


def test_jpeg_xl_without_its_package_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_jxl", None)
    with pytest.raises(UnavailableError, match="jpegxl: the package pillow_jxl is not installed: "):
        load_codec("jpegxl")


def test_jpeg_xl_s_file_is_whole_and_fits():
    pillow_jxl = pytest.importorskip("pillow_jxl")
    image, codec = picture(), load_codec("jpegxl")
    found = [compress(image, codec, budget) for budget in (300, 1500)]
    assert len(found[0].data) <= 300 < len(found[1].data) <= 1500
    assert found[1].squared_error < found[0].squared_error / 2
    _, header, *_ = pillow_jxl.Decoder()(found[0].data)
    assert header.width == round(160 * found[0].scale)


def flat_codec(log: list) -> Codec:
    """A file of quality x pixels / 100 bytes; decodes to the mean color when quality is below 50,
    else exactly.
    """
    files = {}

    def encode(image, quality):
        log.append((image.shape[0], quality))
        data = bytes([len(files)]) + bytes(image.shape[0] * image.shape[1] * quality // 100)
        files[data[:1]] = image if quality >= 50 else np.full_like(image, image.mean().round())
        return data

    return Codec("flat", range(1, 101), encode, lambda data: files[data[:1]], "")


def test_the_best_of_all_scales_and_the_highest_quality_that_fits():
    log = []
    image = picture(64, 64)
    # At full size quality 40 fits, which is flat; at 3/4 quality 71 does, which is exact.
    found = compress(image, flat_codec(log), 1 + 64 * 64 * 40 // 100)
    assert (found.scale, found.quality) == (0.75, 71)
    assert {height for height, _ in log} == {round(64 * scale) for scale in SCALES}
    assert len(log) < 9 * len(SCALES)  # halving, not every quality


def test_mistakes(monkeypatch):
    with pytest.raises(
        ValueError, match="unknown codec 'gif': choose of jpeg, webp, avif, jpeg2000, jpegxl, bmshj"
    ):
        load_codec("gif")
    monkeypatch.setattr("PIL.features.check", lambda name: name != "avif")
    with pytest.raises(UnavailableError, match="avif: this Pillow was built without avif"):
        load_codec("avif")
    assert load_codec("webp").name == "webp"


def test_zoo_is_the_whole_zoo():
    from compressai.zoo.image import model_urls

    assert set(ZOO) == set(model_urls)
    assert all(set(urls) == {"mse", "ms-ssim"} for urls in model_urls.values())
    assert {name for name in CODECS if name.startswith("mbt2018")} == {
        *("mbt2018", "mbt2018-ms-ssim", "mbt2018-mean", "mbt2018-mean-ms-ssim")
    }


def test_zoo_without_a_network(monkeypatch, tmp_path):
    monkeypatch.setattr(weights, "why_unreachable", lambda url: "no route to host")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    message = r"mbt2018-mean-1-.*\.pth\.tar cannot be fetched \(no route to host\); put the file at"
    with pytest.raises(UnavailableError, match=message):
        load_codec("mbt2018-mean")


@pytest.mark.parametrize("architecture", ["bmshj2018-factorized", "mbt2018-mean"])
def test_zoo_model_from_the_cache(architecture, monkeypatch, tmp_path):
    """Random weights stand for the published ones: the way through cache, file and decoder is the
    same.
    """
    from compressai.zoo.image import cfgs, model_architectures, model_urls

    torch.manual_seed(0)
    url = model_urls[architecture]["mse"][1]
    model = model_architectures[architecture](*cfgs[architecture][1])
    (tmp_path / "checkpoints").mkdir()
    torch.save(model.state_dict(), tmp_path / "checkpoints" / url.rpartition("/")[2])
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    codec = load_codec(architecture)
    image = picture(70, 90)  # not a multiple of 64
    data = codec.encode(image, 1)
    model.update()
    pixels = torch.zeros(1, 3, 128, 128)
    pixels[..., :70, :90] = torch.from_numpy(image / 255).permute(2, 0, 1)
    with torch.inference_mode():
        coded = model.eval().compress(pixels)
        expected = model.decompress(coded["strings"], coded["shape"])["x_hat"][0, :, :70, :90]
    assert len(data) == 9 + sum(len(strings[0]) for strings in coded["strings"])
    np.testing.assert_array_equal(
        codec.decode(data), (expected.clamp(0, 1) * 255).round().permute(1, 2, 0).numpy()
    )

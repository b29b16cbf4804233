"""Base layers: both ends agree everywhere, budgets, sizes, hostile bytes; the second network.

python -m pytest tests/test_base_codec.py
"""

import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.codec_files import TRAINABLE
from skimage import data

import color_codec
from metrics import psnr
from models_ntc import FOLDER, exact, hyperprior, load_base_codec, load_sketch_codec
from models_ntc.base_codec import BaseError
from models_ntc.bundled import BASE_MOST, sketch_network
from models_ntc.codec import new_network, save_codec
from models_ntc.codec_file import load_file
from models_ntc.entropy import SketchError
from models_ntc.hyperprior import exact_copy
from models_ntc.picture_hyperprior import Enlarge, PictureHyperprior, PictureHyperpriorConfig

PICTURE = TRAINABLE | {"channels": 3, "half": 6}


@pytest.fixture(scope="module")
def codec():
    return load_base_codec()


@pytest.fixture(scope="module")
def image():
    return np.ascontiguousarray(data.coffee()[100:228, 200:392])


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_the_decoder_has_the_encoders_picture(codec, image):
    qualities = []
    for budget in (40, 100, 300, 1000):
        base = codec.fit(image, budget)
        assert len(base.payload) <= budget
        assert base.picture.shape == image.shape and base.picture.dtype == np.uint8
        assert np.array_equal(codec.decode(base.payload, *image.shape[:2]), base.picture)
        qualities.append(psnr(image, base.picture))
    assert qualities == sorted(qualities) and qualities[-1] > qualities[0] + 4


def test_a_base_is_better_than_a_color_map_of_its_bytes(codec, image):
    payload = color_codec.encode(image, 150)
    color = color_codec.decode(payload, *image.shape[:2])
    enlarged = color_codec.enlarge(color, *image.shape[:2])
    assert psnr(image, codec.fit(image, 150).picture) > psnr(image, enlarged)


@pytest.mark.parametrize("size", [(64, 64), (64, 1024), (192, 128)])
def test_no_budget_is_exceeded_and_the_next_rate_does_not_fit(codec, size):
    picture = np.resize(data.chelsea(), (*size, 3))
    analyzed = codec.coder.analyze(torch.from_numpy(picture / 255).float().permute(2, 0, 1)[None])
    for budget in (8, 9, 30, 77, 240, BASE_MOST):
        base = codec.fit(picture, budget)
        rate = base.payload[0] if base else -1
        assert base is None or len(base.payload) <= budget
        if rate < 63:
            finer, _ = codec.coder.encode_analyzed(analyzed, rate + 1)
            assert len(finer) > budget


def test_noise_fits_or_nothing_does(codec):
    for budget in (8, 100, BASE_MOST):
        base = codec.fit(noise(128, 128), budget)
        assert base is None or len(base.payload) <= budget


def test_decoding_does_not_depend_on_threads_or_mkldnn(codec, image, threads_restored):
    base = codec.fit(image, 400)
    for count in (1, 2):
        torch.set_num_threads(count)
        for enabled in (True, False):
            with torch.backends.mkldnn.flags(enabled=enabled):
                assert np.array_equal(codec.decode(base.payload, *image.shape[:2]), base.picture)


def test_images_do_not_depend_on_what_was_coded_before(codec, image):
    images = [image, noise(64, 128), np.flip(image, 0).copy()]
    forwards = [codec.fit(each, 500).payload for each in images]
    backwards = [codec.fit(each, 500).payload for each in reversed(images)]
    assert forwards == backwards[::-1]


def test_features_of_a_batch_are_those_of_its_members(codec):
    features = torch.randint(-99, 99, (2, 144, 4, 6)).double() / 64
    with torch.no_grad():
        both = codec.coder.net.synthesis(features)
        each = [codec.coder.net.synthesis(features[i : i + 1]) for i in (1, 0)]
    assert torch.equal(both, torch.cat(each[::-1]))


def test_a_second_process_decodes_the_same_picture(codec, image, tmp_path):
    base = codec.fit(image, 300)
    (tmp_path / "payload").write_bytes(base.payload)
    script = (
        "import sys, numpy, pathlib; from models_ntc import load_base_codec\n"
        "payload = pathlib.Path(sys.argv[1]).read_bytes()\n"
        "numpy.save(sys.argv[2], load_base_codec().decode(payload, 128, 192))"
    )
    arguments = [str(tmp_path / "payload"), str(tmp_path / "out.npy")]
    subprocess.run([sys.executable, "-c", script, *arguments], check=True, cwd=FOLDER.parent)
    assert np.array_equal(np.load(tmp_path / "out.npy"), base.picture)


def test_flipped_bits_are_caught(codec):
    payload = codec.fit(np.ascontiguousarray(data.coffee()[100:164, 200:264]), 60).payload
    missed = 0
    for bit in range(0, 8 * len(payload), 3):
        garbled = bytearray(payload)
        garbled[bit // 8] ^= 1 << bit % 8
        try:
            codec.decode(bytes(garbled), 64, 64)
            missed += 1
        except BaseError as error:
            assert len(str(error).splitlines()) == 1
    assert missed <= 0.02 * 8 / 3 * len(payload)


def test_any_bytes_are_a_picture_or_the_error(codec, image):
    generator = np.random.default_rng(0)
    payload = codec.fit(image, 200).payload
    hostile = [payload[:length] for length in range(0, len(payload), 9)]
    hostile += [payload + b"\0", payload + b"\1", b"\x40" + payload[1:], b"\xff", b"\0", b""]
    for rate in range(0, 256, 5):
        size = int(generator.integers(0, 80))
        hostile.append(bytes([rate]) + generator.bytes(size))
    hostile.append(b"\x3f" + generator.bytes(65534))
    for payload in hostile:
        with pytest.raises(BaseError, match="base payload"):
            codec.decode(payload, 128, 192)


def test_other_arrays_and_sizes_are_refused(codec, image):
    for wrong in (image[..., 0], image.astype(float), image[..., :2]):
        with pytest.raises(ValueError, match="an image is uint8"):
            codec.fit(wrong, 100)
    with pytest.raises(ValueError, match="multiples of 64"):
        codec.fit(image[:100], 100)
    for size in ((0, 64), (64, 4160), (64, 100)):
        with pytest.raises(ValueError, match="multiples of 64"):
            codec.decode(b"\0\1", *size)


# ---- the second network


@pytest.fixture(scope="module")
def small():
    """A small network of random weights, with its training's curves."""
    torch.manual_seed(0)
    net = new_network("picture", PICTURE)
    with torch.no_grad():
        for name in net.RATE_TABLES:
            curve = getattr(net, name).curve.weight
            curve.add_(torch.randn(curve.shape) / 8)
    return net


def test_training_and_coding_have_the_same_tables(small, tmp_path):
    path = tmp_path / "small.safetensors"
    save_codec(small, path, "picture", None, None)
    net, config = load_file(path)
    assert config["sizes"]["channels"] == 3 and isinstance(net, PictureHyperprior)
    low, high = net.config.lambda_range
    for step in range(net.RATES):
        lmbda = low * (high / low) ** (step / (net.RATES - 1))
        assert net.rate_step(lmbda) == step
        t = small.position(torch.tensor([lmbda]))
        for name in net.RATE_TABLES:
            row = getattr(net, name)(net.rate_of(step))
            assert torch.allclose(row, getattr(small, name)(t), atol=2e-3), name


def test_a_network_of_three_channels_is_no_sketch_codec():
    with pytest.raises(ValueError, match="pictures of 3 channels"):
        load_sketch_codec(FOLDER / "base.safetensors")


def test_enlarging_is_nearest_pixel_then_convolution():
    torch.manual_seed(0)
    layer = Enlarge(4, 3)
    x = torch.randn(2, 4, 5, 7)
    expected = F.conv2d(F.interpolate(x, scale_factor=2), layer.weight, layer.bias, padding=1)
    assert torch.allclose(layer(x), expected, atol=1e-5)


def test_tiles_are_the_whole_picture(small, monkeypatch):
    net = exact_copy(PictureHyperprior(PictureHyperpriorConfig(**PICTURE)))
    features = torch.randint(-999, 999, (1, PICTURE["sixteenth"], 30, 9)).double() / 64
    with torch.no_grad():
        whole = net.synthesize(features)
        monkeypatch.setattr(hyperprior, "TILE", 22)
        assert hyperprior.tile_edges(30) == [(0, 6), (6, 12), (12, 18), (18, 24), (24, 30)]
        assert torch.equal(net.synthesize(features), whole)
        assert torch.equal(net.synthesize(features.mT), net.synthesis(features.mT).float())


def test_float64_convolution_is_pytorchs():
    x = torch.randint(-50, 50, (2, 5, 6, 7)).double()
    weight, bias = torch.randint(-9, 9, (4, 5, 3, 3)).double(), torch.arange(4.0).double()
    assert torch.equal(exact.convolve(x, weight, bias), F.conv2d(x, weight, bias, padding=1))


def test_sketches_of_both_networks_are_read_and_named():
    sketch = np.zeros((64, 128), np.uint8)
    sketch[20:22] = sketch[:, 70:73] = 255
    bundled, fine = load_sketch_codec(0.2), load_sketch_codec(1.5)
    first, second = (load_sketch_codec(FOLDER / f"{n}.safetensors") for n in ("sketch", "sketch2"))
    old, new = bundled.encode(sketch), fine.encode(sketch)
    assert (sketch_network(old), sketch_network(new)) == (1, 2) == (bundled.network, fine.network)
    for codec in (bundled, fine):
        assert np.array_equal(codec.decode(old), first.decode(old))
        assert np.array_equal(codec.decode(new), second.decode(new))
        assert [codec.digest_of(1), codec.digest_of(2)] == [first.digest, second.digest]
    assert first.digest_of(1) == first.digest_of(2) == first.digest
    with pytest.raises(SketchError, match="a rate from 0 to 31"):
        first.decode(new)
    with pytest.raises(SketchError, match="a rate from 32 to 95"):
        bundled.decode(new[:1] + b"\x60" + new[2:])

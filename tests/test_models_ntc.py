"""The sketch codec: both ends agree, any rate, hostile payloads, files, and the MS-SSIM loss.

python -m pytest tests/test_models_ntc.py
"""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers.codec_files import TRAINABLE
from pytorch_msssim import ms_ssim as reference_ms_ssim

from models_ntc import FOLDER, lambda_range, load_sketch_codec
from models_ntc.codec import new_network, save_codec
from models_ntc.entropy import SketchError, SymbolDecoder, Tables, check_byte, encode, round_to_int
from models_ntc.exact import ACTIVATION_BITS, WEIGHT_BITS, Conv
from models_ntc.hyperprior import exact_copy
from models_ntc.loss import ms_ssim
from models_ntc.sketch_hyperprior import RATES, position_of
from models_ntc.zoo import ARCHITECTURES


def strokes(height=64, width=128, seed=0):
    """A sketch with soft lines, as an edge detector makes them."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    waves = np.sin(x / 9 + seed) * 12 + height / 2 - y
    ring = np.hypot(x - width / 3, y - height / 2) - height / 4
    return (255 * np.exp(-(np.minimum(abs(waves), abs(ring)) ** 2) / 3)).astype(np.uint8)


def lively(net):
    """Random weights that give symbols of several sizes, as a trained network does."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim == 4:
                spread = (2.0 / parameter[0].numel()) ** 0.5
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)
        for part in (net.to_latent, net.hyper_analysis):
            part[-1].weight.mul_(12)
        net.log_gain.curve.weight[:, 1] = 0.7  # a higher lambda, larger latents
        for table in (net.context_rate, net.inverse_gain, net.synthesis_rate):
            table.curve.weight.add_(torch.randn(table.curve.weight.shape, generator=generator) / 8)
    return net


@pytest.fixture(scope="module")
def codec_file(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("codec") / "small.safetensors"
    save_codec(lively(new_network("sketch", TRAINABLE)), path, "sketch", None, "ms-ssim")
    return path


@pytest.fixture(scope="module")
def codec(codec_file):
    return load_sketch_codec(codec_file)


def test_decoded_sketch_is_the_encoders_own(codec):
    for height, width in ((64, 64), (64, 192), (128, 64)):
        payload, sketch = codec.encode_and_decode(strokes(height, width))
        decoded = codec.decode(payload)
        assert decoded.dtype == np.uint8 and decoded.shape == (height, width)
        assert codec.shape(payload) == (height, width)
        assert codec.encode(strokes(height, width)) == payload
        assert np.array_equal(decoded, sketch)
        assert len(payload) > 40, "the test network's symbols are all zero: it shows nothing"
        assert len(np.unique(decoded)) > 10


def test_any_lambda_of_the_range_is_written_and_read_by_one_file(codec_file, codec):
    sizes, low, high = [], *codec.coder.net.config.lambda_range
    for lmbda in (low, 0.1, 0.7, high):
        other = load_sketch_codec(f"{codec_file}@{lmbda}")
        payload, sketch = other.encode_and_decode(strokes())
        assert np.array_equal(codec.decode(payload), sketch)
        assert other.digest == codec.digest and other.config["lambda"] == lmbda
        sizes.append(len(payload))
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]
    assert codec.config["lambda"] == pytest.approx((low * high) ** 0.5)
    for lmbda in (low / 2, high * 2):
        with pytest.raises(ValueError, match=r"the sketch codec has 0\.02 to 1"):
            load_sketch_codec(f"{codec_file}@{lmbda}")


def test_training_and_coding_place_a_rate_alike(codec):
    net = codec.coder.net
    low, high = net.config.lambda_range
    for step in range(RATES):
        lmbda = low * (high / low) ** (step / (RATES - 1))
        assert net.rate_step(lmbda) == step
        position = float(net.position(torch.tensor([lmbda])))
        assert position == pytest.approx(float(position_of(step)), abs=1e-5)


def test_a_network_of_one_lambda_is_in_the_middle_of_its_scale():
    net = new_network("sketch", TRAINABLE | {"lambda_range": (1.0, 1.0)})
    position = float(net.position(torch.tensor([1.0])))
    assert position == pytest.approx(float(position_of(net.rate_step(1.0))), abs=1 / RATES)


def test_decoding_does_not_depend_on_threads_or_mkldnn(codec, threads_restored):
    payload, sketch = codec.encode_and_decode(strokes(128, 192))
    for count in (1, 2, 4):
        torch.set_num_threads(count)
        for enabled in (True, False):
            with torch.backends.mkldnn.flags(enabled=enabled):
                assert np.array_equal(codec.decode(payload), sketch)


def test_a_second_process_decodes_the_same_sketch(codec_file, codec, tmp_path):
    payload, sketch = codec.encode_and_decode(strokes())
    (tmp_path / "payload").write_bytes(payload)
    script = (
        "import sys, numpy, pathlib; from models_ntc import load_sketch_codec\n"
        "codec = load_sketch_codec(sys.argv[1])\n"
        "numpy.save(sys.argv[3], codec.decode(pathlib.Path(sys.argv[2]).read_bytes()))"
    )
    arguments = [str(codec_file), str(tmp_path / "payload"), str(tmp_path / "out.npy")]
    subprocess.run([sys.executable, "-c", script, *arguments], check=True, cwd=FOLDER.parent)
    assert np.array_equal(np.load(tmp_path / "out.npy"), sketch)


def test_decoder_layers_equal_integer_arithmetic(codec):
    """A convolution of the exact decoder equals the same sum in int64: no bit was rounded."""
    layer = next(m for m in codec.coder.net.synthesis.modules() if isinstance(m, Conv))
    one = 2**ACTIVATION_BITS
    whole = torch.randint(-64 * one, 64 * one, (1, layer.in_channels, 6, 7))
    columns = torch.nn.functional.unfold(whole.double(), 3, padding=1)[0].long()
    weight = (layer.weight * 2**WEIGHT_BITS).long().flatten(1)
    expected = weight @ columns + (layer.bias * 2**WEIGHT_BITS).long()[:, None] * one
    plain = torch.nn.functional.conv2d(whole.double() / one, layer.weight, layer.bias, padding=1)
    plain = plain.flatten(2)[0] * 2 ** (WEIGHT_BITS + ACTIVATION_BITS)
    assert torch.equal(plain, expected.double())


def test_weights_that_break_the_bound_are_refused():
    net = new_network("sketch", TRAINABLE)
    net.synthesis[0].first.weight.data.fill_(1e6)
    with pytest.raises(ValueError, match=r"synthesis may reach .* more than 2\^53"):
        exact_copy(net)


def test_latents_beyond_the_limit_are_clamped_before_the_layers(codec, monkeypatch):
    z = np.full((1, TRAINABLE["hyper_latent"], 1, 1), 5000)
    monkeypatch.setattr(codec.coder.net, "unfold", lambda latents, t: latents)

    def code(mean, indexes, *_):
        return np.full(len(indexes), 9000)

    with torch.no_grad():
        latents = codec.coder.features(z, position_of(0), code)
    assert float(latents.abs().max()) == 64.0


def test_flipped_bits_are_caught(codec):
    payload = codec.encode(strokes())
    sketch = codec.decode(payload)
    missed = 0
    for bit in range(0, 8 * len(payload)):
        garbled = bytearray(payload)
        garbled[bit // 8] ^= 1 << bit % 8
        try:
            missed += np.array_equal(codec.decode(bytes(garbled)), sketch)
            missed += 1
        except SketchError:
            pass
    assert missed <= 0.02 * 8 * len(payload)


def test_truncated_and_foreign_payloads_are_errors(codec):
    payload = codec.encode(strokes())
    for length in range(len(payload)):
        with pytest.raises(SketchError):
            codec.decode(payload[:length])
    foreign = [payload + b"\0", payload + b"\1", payload[:1] + b"\x20" + payload[2:]]
    foreign += [b"\0" + payload[1:], b"\0\1\2" + payload[1:]]
    for data in foreign:
        with pytest.raises(SketchError):
            codec.decode(data)


def test_random_payloads_never_raise_anything_else(codec):
    generator = np.random.default_rng(0)
    for _ in range(100):
        size = int(generator.integers(0, 60))
        header = bytes([0x11 * generator.integers(1, 4), generator.integers(0, RATES)])
        with pytest.raises(SketchError):
            codec.decode(header + generator.bytes(size))


def test_a_shape_beyond_the_limit_is_refused_before_decoding(codec):
    with pytest.raises(SketchError, match="16320x16320"):
        codec.decode(b"\0\xff\xff" + bytes(range(1, 200)))


def test_large_sketches_say_their_size_in_three_bytes(codec):
    sketch = strokes(64, 64 * 17)
    payload, decoded = codec.encode_and_decode(sketch)
    assert payload[:3] == b"\0\1\x11" and codec.shape(payload) == sketch.shape
    assert np.array_equal(codec.decode(payload), decoded)


@pytest.mark.parametrize(
    "sketch", [np.zeros((60, 64), np.uint8), np.zeros((64, 64)), np.zeros((64, 64, 3), np.uint8)]
)
def test_pictures_that_are_no_sketches_are_refused(codec, sketch):
    with pytest.raises(ValueError, match="a sketch"):
        codec.encode(sketch)


def test_long_payloads_set_words_aside_and_come_back():
    gaussian = new_network("sketch", TRAINABLE).gaussian_conditional
    gaussian.update()
    tables = Tables(gaussian)
    generator = np.random.default_rng(0)
    for count in (0, 1, 300, 600, 900, 1200, 5000):
        indexes = generator.integers(30, 48, count)
        values = round_to_int(torch.from_numpy(generator.normal(0, 20, count)))
        values[::97] *= 100  # beyond the tables: they need the escape
        data = encode(tables.intervals(values, indexes), check_byte([values]))
        decoder = SymbolDecoder(data)
        assert np.array_equal(decoder.decode(tables, indexes), values)
        decoder.finish()
    assert len(data) > 2000


def test_the_coded_length_is_the_information_content():
    gaussian = new_network("sketch", TRAINABLE).gaussian_conditional
    gaussian.update()
    tables = Tables(gaussian)
    indexes = np.full(400, 30)
    values = round_to_int(torch.from_numpy(np.random.default_rng(0).normal(0, 4, 400)))
    intervals = tables.intervals(values, indexes)
    bits = sum(16 - np.log2(frequency) for _, frequency in intervals)
    assert len(encode(intervals, 0)) <= np.ceil((bits + 9) / 8)


def test_a_codec_file_is_named_by_its_contents(codec_file, codec, tmp_path):
    copied = tmp_path / "other.safetensors"
    copied.write_bytes(codec_file.read_bytes())
    assert load_sketch_codec(copied).digest == codec.digest and len(codec.digest) == 32
    assert codec.name == "small" and codec.config["metric"] == "ms-ssim"
    assert codec.config["sizes"]["latent"] == TRAINABLE["latent"]


def test_unknown_lambdas_and_files_are_errors(tmp_path):
    with pytest.raises(ValueError, match=r"lambda 7\.5: the sketch codec has"):
        load_sketch_codec(7.5)
    for name in ("absent.safetensors", "absent.safetensors@1.0", "absent@high"):
        with pytest.raises(ValueError, match=r"no sketch codec at .*absent"):
            load_sketch_codec(tmp_path / name)


def test_the_bundled_codec_keeps_a_sketch_at_every_rate():
    sketch, sizes, likeness = strokes(192, 256), [], []
    for lmbda in np.geomspace(*lambda_range(), 4):
        codec = load_sketch_codec(float(lmbda))
        payload, decoded = codec.encode_and_decode(sketch)
        assert np.array_equal(codec.decode(payload), decoded)
        pair = [torch.from_numpy(s).float()[None, None] / 255 for s in (sketch, decoded)]
        sizes.append(len(payload))
        likeness.append(float(ms_ssim(*pair)))
    assert sizes == sorted(sizes) and sizes[-1] < 400
    assert likeness == sorted(likeness) and likeness[1] > 0.8


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_papers_checkpoints_load_and_round_trip(tmp_path, wrapped):
    torch.manual_seed(0)
    net = ARCHITECTURES["cheng2020-attn"](N=8)
    with torch.no_grad():
        net.g_a[7].weight.mul_(60)
        net.h_a[-1].weight.mul_(60)
    state = net.state_dict()
    if wrapped:
        named = {"module." + name: value for name, value in state.items()}
        state = {"epoch": 3, "state_dict": named}
    path = tmp_path / "Cheng2020AttentionFull_CLIC_HED_ms_ssim_lmbda1.0.pt"
    torch.save(state, path)
    codec = load_sketch_codec(path)
    payload, sketch = codec.encode_and_decode(strokes())
    assert len(payload) > 40 and np.array_equal(codec.decode(payload), sketch)
    for garbled in (payload[:-3], payload[:20] + b"\7" + payload[21:]):
        with pytest.raises(SketchError):
            codec.decode(garbled)
    with pytest.raises(ValueError, match="the sketch codec has but the one"):
        load_sketch_codec(f"{path}@0.5")


def test_another_networks_checkpoint_is_refused(tmp_path):
    torch.save({"conv.weight": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="not a one-channel network"):
        load_sketch_codec(tmp_path / "other.pt")


def test_ms_ssim_is_the_usual_one():
    torch.manual_seed(0)
    x = torch.rand(2, 1, 176, 243)
    y = (x + 0.3 * torch.rand_like(x)).clamp(0, 1)
    expected = float(reference_ms_ssim(x, y, data_range=1.0))
    assert float(ms_ssim(x, y)) == pytest.approx(expected, abs=1e-5)
    with pytest.raises(ValueError, match="161"):
        ms_ssim(x[..., :160], y[..., :160])


def test_metadata_carries_the_config_as_json(codec_file):
    from safetensors import safe_open

    with safe_open(codec_file, "pt") as file:
        config = json.loads(file.metadata()["config"])
    assert config["model"] == "sketch" and config["metric"] == "ms-ssim"

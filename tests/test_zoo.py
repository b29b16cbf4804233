"""CompressAI's networks on sketches: both ends agree, hostile payloads, state dicts.

python -m pytest tests/test_zoo.py
"""

import numpy as np
import pytest
import torch

from models_ntc.entropy import PayloadError
from models_ntc.zoo import ARCHITECTURES, ZooCoder, recognize, unwrap, zoo_sizes

BLOCKS = (1, 2)


def strokes(height=64, width=128):
    """(1, 1, height, width) in 0..1: a sketch with soft lines, as an edge detector makes them."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    waves = np.sin(x / 9) * 12 + height / 2 - y
    ring = np.hypot(x - width / 3, y - height / 2) - height / 4
    return torch.from_numpy(np.exp(-(np.minimum(abs(waves), abs(ring)) ** 2) / 3))[None, None]


def lively(name):
    """A small network whose symbols are of several sizes, as a trained network's are."""
    torch.manual_seed(0)
    net = ARCHITECTURES[name](N=8) if name.startswith("cheng") else ARCHITECTURES[name](N=8, M=12)
    with torch.no_grad():
        net.g_a[7 if name == "cheng2020-attn" else 6].weight.mul_(60)
        if hasattr(net, "h_a"):
            net.h_a[-1].weight.mul_(20)
    net.update()
    return net.eval()


@pytest.fixture(scope="module", params=ARCHITECTURES)
def net(request):
    return request.param, lively(request.param)


def test_decoded_latents_are_the_encoders_own(net):
    coder = ZooCoder(net[1])
    payload, latents = coder.encode(strokes())
    assert len(payload) > 40, "the test network's symbols are all zero: it shows nothing"
    assert torch.equal(coder.decode(payload, BLOCKS), latents)
    assert coder.synthesize(latents).shape == (1, 1, 64, 128)


def test_the_sketch_is_that_of_compressais_own_compress_and_decompress(net):
    with torch.no_grad():
        coded = net[1].compress(strokes())
        expected = net[1].decompress(coded["strings"], coded["shape"])["x_hat"]
    coder = ZooCoder(net[1])
    assert torch.allclose(coder.synthesize(coder.encode(strokes())[1]), expected, atol=1e-4)


def test_garbled_payloads_are_caught(net):
    coder = ZooCoder(net[1])
    payload = coder.encode(strokes())[0]
    missed = 0
    for byte in range(0, len(payload), max(1, len(payload) // 40)):
        garbled = bytearray(payload)
        garbled[byte] ^= 4
        try:
            coder.decode(bytes(garbled), BLOCKS)
            missed += 1
        except PayloadError:
            pass
    assert missed <= 2
    with pytest.raises(PayloadError):
        coder.decode(payload[:-3], BLOCKS)


def test_decoding_does_not_depend_on_threads_or_mkldnn(net, threads_restored):
    coder = ZooCoder(net[1])
    payload, latents = coder.encode(strokes())
    for count in (1, 2, 4):
        torch.set_num_threads(count)
        with torch.backends.mkldnn.flags(enabled=count != 2):
            assert torch.equal(coder.decode(payload, BLOCKS), latents)


def test_state_dicts_are_recognized_and_load(net):
    name, original = net
    named = {"module." + key: value for key, value in original.state_dict().items()}
    state = unwrap({"epoch": 3, "state_dict": named})
    found, sizes = recognize(state)
    assert (found, sizes) == (name, zoo_sizes(original))
    copied = ARCHITECTURES[found](**sizes)
    copied.load_state_dict(state)
    assert ZooCoder(copied).encode(strokes())[0] == ZooCoder(original).encode(strokes())[0]


def test_training_passes_give_one_channel_and_likelihoods(net):
    x = strokes().repeat(2, 1, 1, 1)
    output = net[1](x)
    assert output["x_hat"].shape == x.shape
    assert all(len(likelihoods) == 2 for likelihoods in output["likelihoods"].values())


def test_waves_visit_every_position_after_its_context():
    coder = ZooCoder(lively("mbt2018"))
    seen = torch.zeros(7, 9, dtype=torch.bool)
    for rows, columns in coder.waves(7, 9):
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
            assert seen[max(0, row - 2) : row, max(0, column - 2) : column + 3].all()
            assert seen[row, max(0, column - 2) : column].all()
        seen[rows, columns] = True
    assert seen.all()


@pytest.mark.parametrize(
    "state", [{}, {"g_a.0.weight": torch.zeros(8, 3, 5, 5)}, {"g_a.0.weight": 3}]
)
def test_other_state_dicts_are_refused(state):
    with pytest.raises(ValueError, match="not a one-channel network"):
        recognize(state)

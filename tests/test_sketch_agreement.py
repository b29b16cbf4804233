"""Sketch payloads: whatever wrote one, everything decodes it to the same sketch or refuses it.

    python -m pytest tests/test_sketch_agreement.py

By the public functions only, for the bundled codec and for a small random Cheng2020Attention.
"""

import hashlib
import subprocess
import sys
from contextlib import contextmanager
from itertools import product

import numpy as np
import pytest
import torch

from bitstream import BitstreamError, Stream, pack, unpack
from models_ntc import FOLDER, load_sketch_codec
from models_ntc.entropy import SketchError
from models_ntc.zoo import ARCHITECTURES

SETTINGS = list(product((1, 2, 4), (True, False)))  # torch's threads, mkldnn
# Levels between two decodings of one payload: what both ends code is exact, but the paper's network
# synthesizes in float32.
LEVELS = {"bundled": 0, "cheng": 1}
# Share of one-bit flips; a check of 8 bits lets 1 in 256 pass of those that reach it.
MOST_UNDETECTED = 0.02


def soft_lines(height, width, seed=0):
    """A sketch with soft lines, as an edge detector makes them."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    wave = np.sin(x / (9 + seed) + seed) * 12 + height / 2 - y
    ring = np.hypot(x - width / 3, y - height / 2) - height / (4 + seed)
    return (255 * np.exp(-(np.minimum(abs(wave), abs(ring)) ** 2) / 3)).astype(np.uint8)


def sha256(data):
    return hashlib.sha256(bytes(data)).hexdigest()


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """What `load_sketch_codec` is given for each codec."""
    torch.manual_seed(0)
    net = ARCHITECTURES["cheng2020-attn"](N=8)
    with torch.no_grad():
        net.g_a[7].weight.mul_(10)  # symbols of several sizes
    path = tmp_path_factory.mktemp("codecs") / "cheng.pt"
    torch.save(net.state_dict(), path)
    return {"bundled": 0.2, "cheng": path}


@pytest.fixture(scope="module", params=["bundled", "cheng"])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def codec(kind, sources):
    return load_sketch_codec(sources[kind])


def levels_apart(a, b):
    return int(np.abs(a.astype(int) - b).max())


@contextmanager
def computing(threads, mkldnn):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.backends.mkldnn.flags(enabled=mkldnn):
            yield
    finally:
        torch.set_num_threads(before)


def test_every_setting_decodes_what_every_setting_wrote(kind, codec):
    sketch, payloads = soft_lines(128, 192), {}
    for setting in SETTINGS:
        with computing(*setting):
            payload, decoded = codec.encode_and_decode(sketch)
            payloads[payload] = decoded
    assert min(map(len, payloads)) > 20, "a payload of nothing shows nothing"
    for setting in SETTINGS:
        with computing(*setting):
            for payload, decoded in payloads.items():
                assert levels_apart(codec.decode(payload), decoded) <= LEVELS[kind], setting


def test_sketches_do_not_depend_on_what_was_coded_before(codec):
    sketches = [soft_lines(64, 128, 0), soft_lines(128, 64, 1), soft_lines(64, 64, 2)]
    forwards = [codec.encode(sketch) for sketch in sketches]
    backwards = [codec.encode(sketch) for sketch in reversed(sketches)]
    assert forwards == backwards[::-1]
    decoded = [codec.decode(payload) for payload in forwards]
    again = [codec.decode(payload) for payload in backwards]
    assert all(np.array_equal(*pair) for pair in zip(decoded, again[::-1], strict=True))
    assert len({sha256(picture) for picture in decoded}) == 3


def test_a_second_process_decodes_the_same_sketch(sources, tmp_path):
    script = (
        "import hashlib, pathlib, sys\n"
        "from models_ntc import load_sketch_codec\n"
        "codec = load_sketch_codec(float(sys.argv[1]))\n"
        "sketch = codec.decode(pathlib.Path(sys.argv[2]).read_bytes())\n"
        "print(hashlib.sha256(sketch).hexdigest())\n"
    )
    payload, decoded = load_sketch_codec(sources["bundled"]).encode_and_decode(soft_lines(128, 192))
    (tmp_path / "payload").write_bytes(payload)
    command = [sys.executable, "-c", script, str(sources["bundled"]), str(tmp_path / "payload")]
    options = {"check": True, "cwd": FOLDER.parent, "stdout": subprocess.PIPE, "text": True}
    printed = subprocess.run(command, **options).stdout
    assert printed.split() == [sha256(decoded)]


def flips(data):
    """`data` with each of its bits turned over."""
    for bit in range(8 * len(data)):
        garbled = bytearray(data)
        garbled[bit // 8] ^= 1 << bit % 8
        yield bytes(garbled)


def test_one_bit_of_a_payload_turned_over_is_reported(codec):
    payload = codec.encode(soft_lines(64, 64))
    undetected = 0
    for garbled in flips(payload):
        try:
            codec.decode(garbled)
            undetected += 1
        except SketchError:
            pass
    assert undetected <= MOST_UNDETECTED * 8 * len(payload)


def test_in_a_file_every_bit_turned_over_is_reported(codec):
    sketch = codec.encode(soft_lines(64, 64))
    stream = Stream(0x1ABC, 70, 64, 64, 64, seed=3, text=b"words", sketch=sketch)
    data = pack(stream)
    assert unpack(data).sketch == sketch
    for garbled in flips(data):
        with pytest.raises(BitstreamError):
            unpack(garbled)

"""Training of the second exact network: runs are resumed, steps learn, files code.

python -m pytest tests/test_train_layers.py
"""

import json
import random

import cv2
import numpy as np
import pytest
import skimage.data
import torch

import tiny.data
import tiny.train_layers
from models_ntc import load_sketch_codec
from models_ntc.codec_file import load_file
from tiny.train_layers import LAYERS, plain_crop, varied, zoomed_crop

pytest.importorskip("compressai", reason="trainings need CompressAI")


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Prepared images, and sketches of 512 pixels."""
    work = tmp_path_factory.mktemp("layers")
    (work / "data").mkdir()
    (work / "sketches").mkdir()
    photo = skimage.data.astronaut()
    for i in range(4):
        part = photo[20 * i : 20 * i + 300, 30 * i : 30 * i + 300, ::-1]
        cv2.imwrite(str(work / "data" / f"{i}.png"), part)
        cv2.imwrite(str(work / "sketches" / f"{i}.png"), cv2.Canny(photo, 50 + 20 * i, 150))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny.data, "VALIDATION_FRACTION", 0.4)
        arguments = ["--source", str(work / "data"), "--out", str(work / "photos")]
        tiny.data.main(arguments)
    return work


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(tiny.train_layers, "CROPS", ((192, 2),))
    monkeypatch.setattr(tiny.train_layers, "HELD_OUT", 1)
    small = {"quarter": 8, "eighth": 8, "sixteenth": 16, "half": 8, "hyper": 16}
    small |= {"latent": 10, "hyper_latent": 8}
    for name, layer in LAYERS.items():
        monkeypatch.setitem(LAYERS, name, layer._replace(sizes=layer.sizes | small))


@pytest.mark.parametrize("name", LAYERS)
def test_a_training_is_resumed_and_writes_a_file(work, tmp_path, quick, name):
    data = ["--photos", str(work / "photos")]
    if name == "sketch2":
        data = ["--sketches", str(work / "sketches")]
    for seconds in ("1", "2"):
        arguments = [name, *data, "--run", str(tmp_path), "--seconds", seconds, "--device", "cpu"]
        tiny.train_layers.main(arguments)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rows[1]["step"] > rows[0]["step"] > 1
    _, config = load_file(tmp_path / f"{name}.safetensors")
    assert config["sizes"]["channels"] == (3 if name == "base" else 1)


def test_a_trained_sketch_network_codes_by_its_file(work, tmp_path, quick):
    data = ["--sketches", str(work / "sketches"), "--run", str(tmp_path), "--seconds", "1"]
    tiny.train_layers.main(["sketch2", *data, "--device", "cpu"])
    codec = load_sketch_codec(str(tmp_path / "sketch2.safetensors"), "cpu")
    sketch = cv2.imread(str(work / "sketches" / "0.png"), cv2.IMREAD_GRAYSCALE)[:128, :192]
    payload, decoded = codec.encode_and_decode(sketch)
    assert len(payload) > 10
    assert np.array_equal(codec.decode(payload), decoded)


def test_steps_of_a_training_lower_its_loss(quick):
    """On one batch: 15 steps."""
    torch.manual_seed(0)
    layer = LAYERS["sketch2"]
    net = tiny.train_layers.new_network("picture", layer.sizes)
    main, _ = tiny.train_layers.make_optimizers(net)
    images = torch.rand(2, 1, 192, 192).round()
    losses = []
    for _ in range(15):
        loss = tiny.train_layers.terms(layer, net, images, torch.tensor([0.1, 1.0]))["loss"]
        main.zero_grad()
        loss.backward()
        main.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]


def test_the_whole_image_is_used_and_small_ones_are_not():
    rng = random.Random(0)
    image = np.zeros((256, 300, 3), np.uint8)
    crops = [zoomed_crop(image, 192, rng) for _ in range(50)]
    assert {crop.shape for crop in crops if crop is not None} == {(192, 192, 3)}
    assert plain_crop(image, 257, rng) is None


def test_sketches_are_varied_within_their_range():
    rng = random.Random(1)
    sketch = np.zeros((64, 64), np.uint8)
    sketch[30:33] = 200
    drawn = [varied(sketch, rng) for _ in range(60)]
    assert {one.dtype for one in drawn} == {np.dtype(np.uint8)}
    same = sum(np.array_equal(one, sketch) for one in drawn)
    assert 15 < same < 45
    assert all(one[31].max() > 50 for one in drawn)


def test_the_bundled_files_have_these_sizes():
    for name, layer in LAYERS.items():
        _, config = load_file(tiny.data.Path("models_ntc") / f"{name}.safetensors")
        own = tiny.train_layers.new_network("picture", layer.sizes).config
        assert dict(config["sizes"], lambda_range=tuple(config["sizes"]["lambda_range"])) == {
            **vars(own)
        }

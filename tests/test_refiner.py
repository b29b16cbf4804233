"""The refiner adds detail above the low band, and nothing before it is trained.

python -m pytest tests/test_refiner.py
"""

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from codec.decoder import Conditions, Decoder
from common.weights import UnavailableError
from diffusion import refiner
from diffusion.consistency import SCALE
from diffusion.refiner import Refiner, load_refiner
from evaluation.flags import parser, row_of
from evaluation.setup import settings_of
from presets import get_preset
from text_codec.prompt import NO_PROMPT

WIDTHS = (8, 8, 8, 8, 8)


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(60, 200, (128, 192, 3), np.uint8)


@pytest.fixture
def sketch():
    lines = np.zeros((128, 192), np.uint8)
    lines[40:44] = 255
    return lines


def saved(folder, trained: bool):
    """A preset whose refiner is small, and random if it is trained."""
    torch.manual_seed(0)
    network = Refiner(WIDTHS)
    if trained:
        nn.init.normal_(network.last.weight, std=0.2)
    network.save_pretrained(folder)
    return dataclasses.replace(get_preset("tiny"), refiner=(str(folder),))


def test_an_untrained_one_changes_nothing(tmp_path, image, sketch):
    refine = load_refiner(saved(tmp_path, trained=False), "cpu")
    assert np.array_equal(refine(image, image, None), image)
    assert np.array_equal(refine(image, image[::SCALE, ::SCALE].copy(), sketch), image)


def test_it_looks_at_all_that_was_sent_and_keeps_the_low_band(tmp_path, image, sketch):
    refine = load_refiner(saved(tmp_path, trained=True), "cpu")
    plain = refine(image, image, None)
    assert plain.dtype == np.uint8 and plain.shape == image.shape
    assert not np.array_equal(plain, image)
    assert not np.array_equal(plain, refine(image, image, sketch))
    assert not np.array_equal(plain, refine(image, image[::-1].copy(), None))
    assert not np.array_equal(plain, refine(image, image[::SCALE, ::SCALE].copy(), None))
    change = plain.astype(float) - image
    blocks = change.reshape(128 // SCALE, SCALE, 192 // SCALE, SCALE, 3).mean((1, 3))
    assert np.abs(blocks).mean() < 0.2 * np.abs(change).mean()


def test_a_drawing_of_a_color_map_gets_half_of_the_detail(tmp_path, image, monkeypatch):
    refine = load_refiner(saved(tmp_path, trained=True), "cpu")
    given = image, image[::SCALE, ::SCALE].copy(), None
    half = refine(*given).astype(float)
    monkeypatch.setattr(refiner, "DETAIL_OF_MAPS", 1.0)
    whole = refine(*given).astype(float)
    inside = (whole > 0) & (whole < 255)
    assert np.abs(whole - image)[inside].mean() > 5
    assert np.abs(half - (whole + image) / 2)[inside].max() <= 1


def test_one_that_lacks_weights_or_asks_for_too_many_is_refused(tmp_path):
    preset = saved(tmp_path, trained=True)
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    whole = load_file(weights)
    save_file({name: value for name, value in whole.items() if name != "stem.bias"}, weights)
    with pytest.raises(UnavailableError, match="lacks 1 weights"):
        load_refiner(preset, "cpu")
    save_file(whole, weights)
    config = json.loads((tmp_path / "config.json").read_text())
    config["widths"] = [20_000] * 5
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnavailableError, match="refiner"):
        load_refiner(preset, "cpu")


def test_the_decoder_refines_what_has_colors(tmp_path, image):
    preset = saved(tmp_path, trained=True)
    with_colors = [Conditions(NO_PROMPT, None, image)]
    without = [Conditions(NO_PROMPT, None, None)]
    plain = Decoder(dataclasses.replace(preset, refiner=()))
    other = Decoder(preset)
    given = [3], *image.shape[:2]
    assert np.array_equal(plain.generate(without, *given)[0], other.generate(without, *given)[0])
    refine = load_refiner(preset, "cpu")
    expected = refine(plain.generate(with_colors, *given)[0], image, None)
    assert np.array_equal(other.generate(with_colors, *given)[0], expected)


def test_consistency_off_is_a_setting_of_a_run():
    args = parser("").parse_args(["--consistency", "off"])
    row = row_of(args, args.preset)
    assert not row.consistency and args.preset.consistency
    assert settings_of(args, "PIC")["consistency"] == "off"
    assert settings_of(parser("").parse_args([]), "PIC")["consistency"] is None

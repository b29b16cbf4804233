"""Training of the refiner: its examples, its loss, a run that is resumed.

python -m pytest tests/test_refiner_training.py
"""

import json

import cv2
import numpy as np
import pytest
import skimage.data
import torch

import tiny.data
import tiny.refiner_data
import tiny.train_refiner
from tiny.refiner_data import SHAPES, Examples
from tiny.train_refiner import line_strength


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    """A folder of examples, made in two runs."""
    work = tmp_path_factory.mktemp("refiner")
    photo = skimage.data.astronaut()
    (work / "data").mkdir()
    for i in range(6):
        part = photo[20 * i : 20 * i + 256, 30 * i : 30 * i + 256, ::-1]
        cv2.imwrite(str(work / "data" / f"{i}.png"), part)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny.data, "VALIDATION_FRACTION", 0.4)
        photos = str(work / "photos")
        tiny.data.main(["--source", str(work / "data"), "--out", photos])
        for count in (2, 8):
            made = ["--photos", photos, "--out", str(work / "made"), "--count", str(count)]
            tiny.refiner_data.main(made)
    return work / "made"


def test_examples_are_what_the_decoder_has(examples):
    training = Examples(examples / "training")
    assert len(training) == 8
    assert len(Examples(examples / "held_out")) == 1
    for i in range(8):
        example = training[i]
        assert [plane.shape for plane in example] == list(SHAPES.values())
        error = np.abs(example.image.astype(int) - example.color).mean()
        assert error < 40  # of other images: about 70
        assert bool(example.sketch.any()) == bool(example.flags[1])
    assert len({training[i].recon.tobytes() for i in range(8)}) == 8


def test_lines_in_the_spectrum_are_seen():
    noise = torch.rand(6, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    columns = torch.arange(128)
    for period in (2, 4):
        stripes = 0.1 * (columns % period == 0)
        assert line_strength(noise + stripes) > 2 * line_strength(noise)


class Stub(torch.nn.Module):
    """Stands for the network of stlpips-pytorch: the mean difference."""

    def forward(self, a, b):
        return (a - b).abs().mean((1, 2, 3))


def test_a_run_trains_and_resumes(examples, tmp_path, monkeypatch):
    monkeypatch.setattr(tiny.train_refiner, "load_st_network", lambda device: Stub())
    monkeypatch.setattr(tiny.train_refiner, "BATCH", 2)
    monkeypatch.setattr(tiny.training, "cosine_schedule", lambda *_: 0.5)
    run = ["--examples", str(examples), "--run", str(tmp_path), "--bundle", str(tmp_path)]
    tiny.train_refiner.main([*run, "--seconds", "0.1"])
    first = json.loads((tmp_path / "log.jsonl").read_text())
    tiny.train_refiner.main([*run, "--seconds", str(first["seconds"] + 2)])
    last = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert last["step"] > first["step"]
    assert (tmp_path / "refiner" / "diffusion_pytorch_model.safetensors").exists()
    assert (tmp_path / "sheet.png").exists()

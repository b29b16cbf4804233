"""Pieces of the evaluation loop that need no models."""

import argparse
import json

import numpy as np
import pytest
from PIL import Image

from dataloaders import Samples
from evaluation import claim, compare_settings, positive, rate
from report import png, write, write_report

CAPTION = """name: {name}
prompt: a barn
bytes: {{text: 22, sketch: {sketch}, overhead: 12, total: {total}}}
bpp: {{text: 0.1, sketch: 0.2, overhead: 0.1, total: 0.4}}
metrics: {{psnr: 12.5, ms_ssim: 0.25}}
"""


@pytest.fixture
def samples(tmp_path):
    (tmp_path / "photos").mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (64, 64)).save(tmp_path / "photos" / f"{name}.png")
    paths = tuple(str(tmp_path / "photos" / f"{name}.png") for name in ("a", "b"))
    return Samples("photos", ("a", "b"), paths, 64)


def finish(folder, name, sketch):
    (folder / f"{name}_caption.yaml").write_text(CAPTION.format(name=name, sketch=sketch, total=34 + sketch))
    write(folder / f"{name}_recon.png", png(np.zeros((64, 64, 3), np.uint8)))


def test_report_of_a_half_done_run(samples, tmp_path):
    finish(tmp_path, "b", 100)
    summary = write_report(tmp_path, samples, "PICS", {"a": "broken"})
    assert summary["photographs"] == 1 and summary["failed"] == ["a"] and summary["mean"]["bytes"] == 134
    assert (tmp_path / "results.csv").read_text().splitlines()[1].startswith("b,a barn,0.4,134,22,100,12")
    finish(tmp_path, "a", 200)
    assert write_report(tmp_path, samples, "PICS", {})["mean"]["bytes_sketch"] == 150
    assert Image.open(tmp_path / "overview.jpg").width > 512


def test_report_of_nothing(samples, tmp_path):
    summary = write_report(tmp_path, samples, "PIC", {"a": "x", "b": "y"})
    assert summary["photographs"] == 0 and not (tmp_path / "results.csv").exists()
    assert json.loads((tmp_path / "summary.json").read_text()) == summary


def test_claim_and_compare(tmp_path):
    folder = tmp_path / "run"
    compare_settings(folder, {"N": 4})
    assert not folder.exists()
    claim(folder, {"N": 4}, overwrite=False)
    (folder / "a_caption.yaml").write_text("")
    compare_settings(folder, {"N": 4})
    with pytest.raises(ValueError, match="N 4 -> 5"):
        compare_settings(folder, {"N": 5})
    claim(folder, {"N": 5}, overwrite=True)
    assert not (folder / "a_caption.yaml").exists()
    compare_settings(folder, {"N": 5})


def test_write_leaves_the_old_file_when_it_fails(tmp_path, monkeypatch):
    write(tmp_path / "x", b"old")
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write(tmp_path / "x", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["x"] and (tmp_path / "x").read_bytes() == b"old"


def test_parsers():
    assert rate("0.5") == 0.5 and rate("codec.safetensors") == "codec.safetensors"
    assert positive("3") == 3
    for text in ("0", "-1", "1.5", "x"):
        with pytest.raises(argparse.ArgumentTypeError):
            positive(text)

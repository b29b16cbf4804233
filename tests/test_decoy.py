"""No command writes, changes or deletes anything outside the folders that it was given.

python -m pytest tests/test_decoy.py
"""

import json
from pathlib import Path

import pytest
import skimage.data
from helpers.checkpoints import local_preset
from helpers.small_training import contents, make_sketches, train, use_small_networks
from PIL import Image

import eval_PIC
import eval_PICS
import generate_sketches
import pics
import report

QUICK = {"annotator": "canny", "short_side": 192, "candidates": 1, "steps": 1}
QUICK |= {"prompt_len": 2, "prompt_steps": 2}
OTHERS = (
    "home/.lock",
    "home/.results.csv.99999999.tmp",
    "home/checkpoint.pth.tar",
    "home/index.html",
    "home/lightning_logs/version_0/log.txt",
    "home/out_of_reach/a.pics",
    "home/recon_examples/PICS_mine_photos/a_caption.yaml",
    "home/results.csv",
    "home/runs/notes.txt",
    "home/sketches/a.png",
)


@pytest.fixture
def decoy(tmp_path, monkeypatch):
    """A tree with files of every name that the project uses; commands are run inside it."""
    folder = tmp_path / "decoy"
    for name in OTHERS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    Image.fromarray(skimage.data.astronaut()[:192, :256]).save(folder / "photo.png")
    (folder / "home" / "photos").mkdir()
    (folder / "photo.png").rename(folder / "home" / "photos" / "a.png")
    monkeypatch.chdir(folder / "home")
    monkeypatch.setenv("HOME", str(folder / "home"))
    return folder


@pytest.fixture
def preset(tmp_path):
    folder = tmp_path / "models" / "mine"
    row = local_preset(folder, "tiny")
    models = {name: list(getattr(row, name)) for name in ("generator", "controlnet", "clip")}
    (folder / "preset.json").write_text(json.dumps({"base": "tiny", **models, **QUICK}))
    return str(folder)


def test_nothing_else_is_written_or_deleted(decoy, preset, tmp_path, monkeypatch):
    use_small_networks(monkeypatch)
    photos, out = decoy / "home" / "photos", tmp_path / "out"
    sketches = make_sketches(tmp_path / "sketches")
    before = contents(decoy), contents(Path(preset)), contents(sketches)
    same = ["--data_root", str(photos), "--preset", preset, "--output", str(out)]
    file, again = str(tmp_path / "a.pics"), str(tmp_path / "b.pics")
    commands = [
        lambda: eval_PIC.main(same),
        lambda: eval_PICS.main(same),
        lambda: eval_PICS.main([*same, "--overwrite"]),
        lambda: report.main([str(out / "PICS_mine_photos"), str(out / "PIC_mine_photos")]),
        lambda: pics.main(["encode", str(photos / "a.png"), file, "--preset", preset]),
        lambda: pics.main(["info", file]),
        lambda: pics.main(["decode", file, str(tmp_path / "a.png"), "--preset", preset]),
        lambda: pics.main(["drop", file, "base", again]),
        lambda: generate_sketches.main(
            ["--data_root", str(photos), "--out", str(tmp_path / "made"), "--sketch_type", "canny"]
        ),
        lambda: train(sketches, tmp_path / "training", "-e", "1"),
    ]
    for number, command in enumerate(commands):
        assert command() == 0, number
        assert (contents(decoy), contents(Path(preset)), contents(sketches)) == before, number

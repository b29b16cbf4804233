"""The generator, on small random models of the real classes: what an image depends on.

python -m pytest tests/test_diffusion.py
"""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from helpers import checkpoints
from helpers.checkpoints import VOCAB_SIZE, local_preset, make_stable_diffusion
from safetensors.torch import load_file, save_file

from common import weights
from common.weights import UnavailableError
from diffusion import load_generator
from diffusion.control import color_map, control_tensor
from diffusion.latents import initial_noise
from diffusion.loading import weights_name
from presets import PRESETS, PresetError, get_preset

ROWS = ("tiny", "sd21", "sd15")
PROMPT = [5, 300, 40]
SIZE = (64, 128)
BOS, EOS = VOCAB_SIZE - 2, VOCAB_SIZE - 1


@pytest.fixture(scope="module", params=ROWS)
def generator(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return load_generator(local_preset(folder, request.param), "cpu")


@pytest.fixture
def row(tmp_path):
    return local_preset(tmp_path, "sd21")


def lines(*rows):
    sketch = np.zeros(SIZE, np.uint8)
    sketch[list(rows)] = 255
    return sketch


def difference(one, other):
    return np.abs(one.astype(int) - other.astype(int))


def seen_by(module, monkeypatch, record):
    forward = module.forward

    def spy(*args, **kwargs):
        record.append((args, kwargs))
        return forward(*args, **kwargs)

    monkeypatch.setattr(module, "forward", spy)


@pytest.mark.parametrize("sketch", [None, lines(20, 21)], ids=["PIC", "PICS"])
def test_a_seed_gives_the_same_image_alone_and_in_a_batch(generator, sketch):
    together = generator.generate(PROMPT, [3, 4, 5], *SIZE, sketch)
    (alone,) = generator.generate(PROMPT, [4], *SIZE, sketch)
    assert len(together) == 3
    assert alone.shape == (*SIZE, 3)
    assert alone.dtype == np.uint8
    assert difference(alone, together[1]).max() <= 1
    assert difference(alone, together[0]).max() > 10


def test_prompt_and_sketch_change_the_image(generator):
    (plain,) = generator.generate(PROMPT, [0], *SIZE)
    (other,) = generator.generate([7, 8, 9], [0], *SIZE)
    (sketched,) = generator.generate(PROMPT, [0], *SIZE, lines(20, 21))
    (moved,) = generator.generate(PROMPT, [0], *SIZE, lines(40, 41))
    for one, two in [(plain, other), (plain, sketched), (sketched, moved)]:
        assert difference(one, two).max() >= 3


def test_no_global_random_numbers_and_no_state_between_calls(generator):
    state = torch.get_rng_state()
    first = generator.generate(PROMPT, [1], *SIZE, lines(9))
    generator.generate([1], [2, 3], *SIZE)
    again = generator.generate(PROMPT, [1], *SIZE, lines(9))
    assert np.array_equal(first, again)
    assert torch.equal(state, torch.get_rng_state())


def test_ids_reach_the_text_encoder_as_ids(generator, monkeypatch):
    calls = []
    seen_by(generator._text_pipeline.text_encoder, monkeypatch, calls)
    generator.generate(PROMPT, [0], *SIZE)
    suffix = generator.tokenizer(generator.preset.suffix, add_special_tokens=False).input_ids
    length = 32 if generator.preset.name == "tiny" else 77
    pad = 0 if generator.preset.name == "sd21" else EOS
    rows = [args[0].tolist()[0] for args, _ in calls]
    expected = [BOS, *PROMPT, *suffix, EOS]
    assert expected + [pad] * (length - len(expected)) in rows
    assert (len(suffix) > 0) == (generator.preset.name != "tiny")


def test_embeddings_are_the_stock_pipelines(generator):
    text = "a red barn, high quality"
    pipeline = generator._text_pipeline
    stock, _ = pipeline.encode_prompt(text, "cpu", 1, False)
    ids = generator.tokenizer(text, add_special_tokens=False).input_ids
    assert torch.equal(generator._prompts.embed(ids)["prompt_embeds"], stock)


@pytest.mark.parametrize("sketch", [None, lines(20)], ids=["PIC", "PICS"])
def test_unet_starts_from_the_seeds_noise(generator, monkeypatch, sketch):
    calls = []
    seen_by(generator._text_pipeline.unet, monkeypatch, calls)
    generator.generate(PROMPT, [11, 12], *SIZE, sketch)
    batch = calls[0][0][0]
    scale, channels = (16, 16) if generator.preset.name == "tiny" else (8, 4)
    own = torch.Generator("cpu").manual_seed(12)
    shape = (channels, SIZE[0] // scale, SIZE[1] // scale)
    normal = torch.randn(shape, generator=own, dtype=torch.float64)
    expected = ((normal * 2**16).round() / 2**16).float()
    assert len(calls) == 3
    assert len(batch) == 4  # two seeds, each with and without the prompt
    assert torch.equal(batch[1], expected)
    assert torch.equal(batch[3], expected)
    assert torch.equal(initial_noise(12, *expected.shape), expected)


def samplers_of(generator):
    """The samplers without and with the ControlNet."""
    controlled = generator._pipeline(True)
    return generator._text_pipeline.scheduler, controlled.scheduler


def test_samplers_are_the_presets(generator):
    generator.generate(PROMPT, [0], *SIZE)
    generator.generate(PROMPT, [0], *SIZE, lines(1))
    text, sketch = samplers_of(generator)
    assert type(text).__name__ == "DPMSolverMultistepScheduler"
    assert text.config.algorithm_type == "dpmsolver++"
    assert type(sketch).__name__ == "UniPCMultistepScheduler"
    flow = generator.preset.name == "tiny"
    for scheduler in (text, sketch):
        assert scheduler.config.prediction_type == ("flow_prediction" if flow else "epsilon")
        assert scheduler.config.get("use_flow_sigmas", False) is flow
    # what the tiny UNet must be trained for: whole timesteps of the noise levels 1, 2/3 and 1/3
    assert sketch.timesteps.tolist() == ([999, 667, 333] if flow else [999, 666, 333])
    assert text.timesteps.tolist() == ([999, 666, 332] if flow else [999, 666, 333])


def test_flow_sampler_lands_on_the_clean_latents_of_a_perfect_network(tmp_path):
    generator = load_generator(local_preset(tmp_path, "tiny"), "cpu")
    generator.generate(PROMPT, [0], *SIZE, lines(1))
    clean, latents = torch.full((1, 16, 4, 8), 0.3), initial_noise(0, 16, 4, 8)[None]
    for scheduler in samplers_of(generator):
        scheduler.set_timesteps(8)
        current = latents
        for number, step in enumerate(scheduler.timesteps):
            velocity = (current - clean) / scheduler.sigmas[number]
            current = scheduler.step(velocity, step, current).prev_sample
        assert torch.allclose(current, clean, atol=1e-4)


def test_guidance_of_one_runs_no_negative_prompt(row, monkeypatch):
    generator = load_generator(dataclasses.replace(row, guidance=1.0), "cpu")
    calls = []
    seen_by(generator._text_pipeline.unet, monkeypatch, calls)
    generator.generate(PROMPT, [0, 1], *SIZE)
    assert len(calls[0][0][0]) == 2


def test_generating_without_a_sketch_needs_no_controlnet(row, tmp_path):
    shutil.rmtree(tmp_path / "controlnet")
    generator = load_generator(row, "cpu")
    assert len(generator.generate(PROMPT, [0], *SIZE)) == 1
    assert len(generator.identity()) == 32
    with pytest.raises(UnavailableError, match="ControlNet could not be loaded"):
        generator.generate(PROMPT, [0], *SIZE, lines(1))


@pytest.mark.parametrize(
    ("ids", "seeds", "size", "sketch", "message"),
    [
        ([5] * 90, [0], SIZE, None, r"have 10\d tokens; 75 fit"),
        ([VOCAB_SIZE], [0], SIZE, None, "the vocabulary has 600"),
        (PROMPT, [], SIZE, None, "no seed"),
        (PROMPT, [0], (60, 128), None, "60x128: both must be multiples of 8"),
        (PROMPT, [0], (128, 64), lines(1), r"\(64, 128\) for an image of 128x64"),
    ],
)
def test_wrong_arguments_say_the_numbers(tmp_path_factory, ids, seeds, size, sketch, message):
    folder = tmp_path_factory.getbasetemp() / "arguments"
    generator = load_generator(local_preset(folder, "sd21"), "cpu")
    with pytest.raises(ValueError, match=message):
        generator.generate(ids, seeds, *size, sketch)


def test_identity_follows_files_and_settings(row, tmp_path):
    def identity(preset, sketch):
        return load_generator(preset, "cpu").identity(sketch)

    before = identity(row, False), identity(row, True)
    moved = shutil.copytree(tmp_path / "generator", tmp_path / "moved")
    (moved / ".cache").write_text("of a download")
    assert before[0] != before[1]
    assert identity(dataclasses.replace(row, generator=(str(moved),)), False) == before[0]
    assert identity(dataclasses.replace(row, steps=4), False) != before[0]
    assert identity(dataclasses.replace(row, control="picture"), True) == before[1]
    config = tmp_path / "controlnet" / "config.json"
    config.write_text(config.read_text() + "\n")
    assert identity(row, False) == before[0]
    assert identity(row, True) != before[1]


def test_mirrors_share_one_identity(row):
    sources = ("owner/first", "owner/second")
    for source in sources:
        assert weights_name(source, sources) == "owner/first"
    assert weights_name(row.generator[0], sources) not in sources


@pytest.mark.parametrize(
    ("part", "file"),
    [
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ],
)
def test_weights_that_are_missing_cut_or_misshapen_are_refused(row, tmp_path, part, file):
    path = tmp_path / "generator" / part / f"{file}.safetensors"
    tensors = load_file(path)
    name = next(iter(tensors))
    lacking = {other: tensor for other, tensor in tensors.items() if other != name}
    for broken in (lacking, {**tensors, name: torch.zeros(3, 3)}):
        save_file(broken, path, metadata={"format": "pt"})
        with pytest.raises(UnavailableError, match=f"{tmp_path.name}/generator: "):
            load_generator(row, "cpu")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UnavailableError, match=f"{tmp_path.name}/generator: "):
        load_generator(row, "cpu")


def test_control_that_does_not_fit_the_controlnet(row):
    generator = load_generator(dataclasses.replace(row, control="space to depth 8"), "cpu")
    message = 'takes 3 channels, but control "space to depth 8" gives 69'
    with pytest.raises(PresetError, match=message):
        generator.generate(PROMPT, [0], *SIZE, lines(1))


def test_hub_failure_tells_what_was_tried_and_what_to_do(monkeypatch):
    monkeypatch.setattr(weights, "why_unreachable", lambda address: "no route to host")
    sources = ("no-such-owner/first", "no-such-owner/second@abc")
    with pytest.raises(UnavailableError) as caught:
        load_generator(dataclasses.replace(PRESETS["sd21"], generator=sources), "cpu")
    message = str(caught.value)
    for part in (*sources, "--preset tiny", '"base": "sd21"', "preset.json"):
        assert part in message


def test_second_source_is_used_when_the_first_is_gone(row, tmp_path):
    sources = (str(tmp_path / "gone"), *row.generator)
    generator = load_generator(dataclasses.replace(row, generator=sources), "cpu")
    assert generator.identity() == load_generator(row, "cpu").identity()


def test_a_folder_with_preset_json_generates(tmp_path):
    make_stable_diffusion(tmp_path / "weights", "sd15")
    content = {"base": "sd15", "generator": "weights", "steps": 2}
    (tmp_path / "preset.json").write_text(json.dumps(content))
    generator = load_generator(get_preset(tmp_path), "cpu")
    assert generator.generate(PROMPT, [0], *SIZE)[0].shape == (*SIZE, 3)


def test_picture_control_is_sharpened():
    sketch = np.full((16, 24), 100, np.uint8)
    sketch[:, 12:] = 180
    control = control_tensor(sketch, "picture")
    assert control.shape == (1, 3, 16, 24)
    assert torch.equal(control[0, 0], control[0, 2])
    assert control[0, 0, 8, 3] == pytest.approx(100 / 255)
    assert control[0, 0, 8, 11] < 95 / 255  # overshoot on both sides of the step
    assert control[0, 0, 8, 12] > 185 / 255


def test_the_color_map_of_a_base_is_its_mean():
    base = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
    small = color_map(base, 32, 48)
    assert small.shape == (4, 6, 3)
    assert small[1, 2] == pytest.approx(base[8:16, 16:24].mean((0, 1)), abs=1e-4)
    colors = np.uint8(small)
    assert color_map(colors, 32, 48) is colors


def test_space_to_depth_keeps_every_pixel():
    sketch = np.random.default_rng(0).integers(0, 256, (32, 48), dtype=np.uint8)
    control = control_tensor(sketch, "space to depth 16")
    assert control.shape == (1, 270, 2, 3)
    assert control[0, 16 * 5 + 7, 1, 2] == pytest.approx(sketch[16 + 5, 32 + 7] / 255)


@pytest.mark.parametrize("control", ["depth", "space to depth 0", "space to depth x"])
def test_unknown_control_is_named(control):
    with pytest.raises(ValueError, match=f"control is '{control}'"):
        control_tensor(lines(1), control)


@pytest.mark.slow
def test_full_size_stable_diffusion_2_1_does_one_step(tmp_path, monkeypatch):
    """The public configs' numbers with random weights: about 7 GB of memory, some minutes."""
    import diffusers
    import transformers

    torch.manual_seed(0)
    encoder = transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            vocab_size=49408,
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=23,
            num_attention_heads=16,
            hidden_act="gelu",
            projection_dim=512,
            max_position_embeddings=77,
        )
    )
    unet = {
        "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
        "block_out_channels": (320, 640, 1280, 1280),
    }
    pipeline = diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
        ),
        text_encoder=encoder,
        tokenizer=transformers.CLIPTokenizer.from_pretrained(
            checkpoints.make_tokenizer(tmp_path / "tokenizer", pad="!")
        ),
        unet=diffusers.UNet2DConditionModel(**unet),
        scheduler=diffusers.PNDMScheduler.from_config(checkpoints._scheduler("sd21")),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.vae.enable_slicing()
    pipeline.unet.to(memory_format=torch.channels_last)
    controlnet = diffusers.ControlNetModel(**unet)
    monkeypatch.setattr("diffusion.generator.load_pipeline", lambda *_: pipeline)
    monkeypatch.setattr("diffusion.generator.load_controlnet", lambda *_: controlnet)
    preset = dataclasses.replace(
        PRESETS["sd21"], generator=(str(tmp_path),), controlnet=(str(tmp_path),), steps=1
    )
    sketch = np.zeros((512, 768), np.uint8)
    sketch[100:104] = 255
    (picture,) = load_generator(preset, "cpu").generate(list(range(16)), [0], 512, 768, sketch)
    assert picture.shape == (512, 768, 3)
    assert picture.std() > 0


def test_control_scale_weighs_the_sketch(row):
    images, identities = [], set()
    for scale in (0.0, 0.5, 1.0):
        generator = load_generator(dataclasses.replace(row, control_scale=scale), "cpu")
        images += generator.generate(PROMPT, [0], *SIZE, lines(10, 30))
        identities.add(generator.identity(True))
    assert not np.array_equal(images[0], images[2])
    assert not np.array_equal(images[1], images[2])
    assert len(identities) == 3

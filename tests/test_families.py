"""Text-to-image models of every family, on small random models of the real classes.

python -m pytest tests/test_families.py
"""

import dataclasses
import json
import shutil
import subprocess
import sys
from functools import partial

import diffusers
import numpy as np
import pytest
import torch
from einops import rearrange
from helpers.checkpoints import local_preset
from helpers.family_checkpoints import MAKERS, family_preset
from helpers.pictures import difference, sketch_of
from PIL import Image, ImageEnhance

from codec import Decoder, Encoder, EncoderConfig
from common.files import ROOT
from common.weights import UnavailableError
from diffusion import load_generator, quantization
from diffusion.control import control_tensor
from diffusion.execution import Execution
from diffusion.families import FAMILIES, family_of
from diffusion.latents import initial_noise
from presets import PRESETS, PresetError, get_preset
from prompt_inversion.options import PromptOptions

ROWS = ("sd15", "sd21", *MAKERS)
SIZE = (64, 128)
TEXT = "a red barn"
NEGATIVE = "blurry"
TEXT_ROWS = sorted(set(MAKERS) - {"sdxl"})


@pytest.fixture(scope="module", params=ROWS)
def row(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    make = family_preset if request.param in MAKERS else local_preset
    changes = {"negative_prompt": NEGATIVE, "suffix": "", "steps": 4, "color_strength": 0.5}
    return make(folder, request.param, **changes)


@pytest.fixture(scope="module")
def generator(row):
    return load_generator(row, "cpu")


lines = partial(sketch_of, SIZE)


def prompt_of(generator, text=TEXT):
    if generator.prompts == "text":
        return text
    return generator.tokenizer(text, add_special_tokens=False).input_ids


def noise_of(generator, seed):
    """The noise as diffusers asks for it: two of the families pack 2 x 2 latent pixels."""
    name = type(generator._text_pipeline).__name__
    channels = 4 if name.startswith("StableDiffusion") and "3" not in name else 16
    noise = initial_noise(seed, channels, SIZE[0] // 8, SIZE[1] // 8)[None]
    if name in ("FluxPipeline", "QwenImagePipeline"):
        return rearrange(noise, "n c (h y) (w x) -> n (h w) (c y x)", y=2, x=2)
    return noise


class Canny35(diffusers.image_processor.VaeImageProcessor):
    """As on the page of Stable Diffusion 3.5's ControlNet for edges."""

    def __init__(self):
        super().__init__(do_normalize=False)

    def preprocess(self, image, **kwargs):
        return super().preprocess(image, **kwargs) * 255 * 0.5 + 0.5

    def postprocess(self, image, **kwargs):
        return super().postprocess(image, do_denormalize=[True] * len(image), **kwargs)


VANILLA = {
    "sd15": ("StableDiffusionControlNetPipeline", "ControlNetModel", "image"),
    "sd21": ("StableDiffusionControlNetPipeline", "ControlNetModel", "image"),
    "sdxl": ("StableDiffusionXLControlNetUnionPipeline", "ControlNetUnionModel", "control_image"),
    "sd35": ("StableDiffusion3ControlNetPipeline", "SD3ControlNetModel", "control_image"),
    "flux": ("FluxControlNetPipeline", "FluxControlNetModel", "control_image"),
    "qwen": ("QwenImageControlNetPipeline", "QwenImageControlNetModel", "control_image"),
    "zimage": ("ZImageControlNetPipeline", "ZImageControlNetModel", "control_image"),
}
PRESET_OF = {
    "StableDiffusion3Pipeline": "sd35",
    "StableDiffusionXLPipeline": "sdxl",
    "FluxPipeline": "flux",
    "QwenImagePipeline": "qwen",
    "ZImagePipeline": "zimage",
}


def vanilla(generator, row, sketch):
    """The picture of diffusers' own pipeline, given the prompt as a text and the noise."""
    kind = type(generator._text_pipeline).__name__
    name = PRESET_OF.get(kind, "sd15")
    pipeline_name, controlnet_name, image = VANILLA[name]
    settings = {"num_inference_steps": row.steps, "height": SIZE[0], "width": SIZE[1]}
    settings["true_cfg_scale" if name == "qwen" else "guidance_scale"] = row.guidance
    if name != "flux":
        settings["negative_prompt"] = NEGATIVE
    parts = {}
    if name in ("sd15", "sdxl"):
        extra = "add_watermarker" if name == "sdxl" else "safety_checker"
        parts[extra] = None if name == "sd15" else False
    if sketch is not None:
        kind = pipeline_name
        controlnet = getattr(diffusers, controlnet_name)
        parts["controlnet"] = controlnet.from_pretrained(row.controlnet[0])
        picture = Image.fromarray(sketch)
        if row.control == "picture":
            picture = ImageEnhance.Sharpness(picture).enhance(2)
        settings[image] = picture.convert("RGB")
        settings["controlnet_conditioning_scale"] = row.control_scale
        if name == "sdxl":
            settings["control_mode"] = 2
        if name == "flux":
            settings["control_guidance_end"] = 0.8
    pipeline = getattr(diffusers, kind).from_pretrained(row.generator[0], **parts)
    pipeline.set_progress_bar_config(disable=True)
    sampler = row.sampler if sketch is None else row.sketch_sampler
    pipeline.scheduler = getattr(diffusers, sampler).from_config(pipeline.scheduler.config)
    if name == "sd35" and sketch is not None:
        pipeline.image_processor = Canny35()
    output = pipeline(TEXT, latents=noise_of(generator, 7), output_type="np", **settings)
    return np.uint8(np.round(output.images[0] * 255))


@pytest.mark.parametrize("sketch", [None, lines(20, 21)], ids=["PIC", "PICS"])
def test_a_drawing_is_the_vanilla_pipelines(generator, row, sketch):
    (drawn,) = generator.generate(prompt_of(generator), [7], *SIZE, sketch)
    assert drawn.std() > 3
    assert difference(drawn, vanilla(generator, row, sketch)).max() <= 1


def test_models_that_take_turns_draw_the_same(generator, row):
    low = load_generator(row, "cpu", Execution(memory="low"))
    color = np.random.default_rng(0).integers(0, 256, (8, 16, 3), np.uint8)
    given = prompt_of(generator), [7], *SIZE, lines(20), color
    assert np.array_equal(low.generate(*given), generator.generate(*given))


def test_prompt_sketch_seed_and_colors_show(generator):
    prompt = prompt_of(generator)
    color = np.random.default_rng(0).integers(0, 256, (8, 16, 3), np.uint8)
    (plain,) = generator.generate(prompt, [0], *SIZE, lines(20))
    others = [
        generator.generate(prompt_of(generator, "two dogs under a sky"), [0], *SIZE, lines(20)),
        generator.generate(prompt, [1], *SIZE, lines(20)),
        generator.generate(prompt, [0], *SIZE, lines(40)),
        generator.generate(prompt, [0], *SIZE, lines(20), color),
        generator.generate(prompt, [0], *SIZE),
    ]
    for (other,) in others:
        assert difference(plain, other).max() >= 1
    (pic,) = generator.generate(prompt, [0], *SIZE, None, color)
    assert difference(pic, others[-1][0]).max() >= 1


@torch.no_grad()
def test_a_prediction_is_the_first_of_a_drawing(generator, row, monkeypatch):
    """Of a drawing without guidance from the sketch as it is; its sampler is asked what it got."""
    family = generator.family
    guidance = family.unguided if family.negative else row.guidance
    changes = {"guidance": guidance, "control_end": 1.0, "control_scale": 1.0}
    monkeypatch.setattr(generator, "preset", dataclasses.replace(row, **changes))
    sampler = generator._pipeline(True).scheduler
    step, seen = sampler.step, []

    def asked(predicted, timestep, *rest, **more):
        seen.append((predicted, timestep))
        return step(predicted, timestep, *rest, **more)

    monkeypatch.setattr(sampler, "step", asked)
    generator.generate(prompt_of(generator), [7], *SIZE, lines(20))
    expected, timestep = seen[0]
    sampler.set_timesteps(row.steps, **({"mu": 0.5} if row.name in ("flux", "qwen") else {}))
    noise = generator._noise([7], *SIZE)
    if row.name == "sdxl":
        noise = sampler.scale_model_input(sampler.init_noise_sigma * noise, timestep)
    control = control_tensor(lines(20), row.control, None, family.signed)
    given = noise, timestep.reshape(1), [prompt_of(generator)], control
    torch.testing.assert_close(generator.predict(*given), expected, rtol=1e-4, atol=1e-4)


def test_a_seed_gives_the_same_image_alone_and_in_a_batch(generator):
    prompts = [prompt_of(generator), prompt_of(generator, "a dog")]
    color = np.random.default_rng(1).integers(0, 256, (8, 16, 3), np.uint8)
    state = torch.get_rng_state()
    given = [lines(9), lines(30)], [color, 255 - color]
    together = generator.generate_each(prompts, [3, 4], *SIZE, *given)
    (alone,) = generator.generate(prompts[1], [4], *SIZE, lines(30), 255 - color)
    assert difference(alone, together[1]).max() <= 1
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("name", ["flux", "qwen", "zimage"])
def test_colors_start_a_flow_as_image_to_image_does(tmp_path, name):
    """Of a flow, the noise levels that are left of it: those of diffusers' own class."""
    row = family_preset(tmp_path, name, steps=4, color_strength=0.5)
    generator = load_generator(row, "cpu")
    color = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    (drawn,) = generator.generate(TEXT, [7], *SIZE, None, color)
    kind = type(generator._text_pipeline).__name__.replace("Pipeline", "Img2ImgPipeline")
    pipeline = getattr(diffusers, kind).from_pretrained(row.generator[0])
    pipeline.set_progress_bar_config(disable=True)
    settings = {"num_inference_steps": 4, "strength": 0.5, "height": SIZE[0], "width": SIZE[1]}
    settings["true_cfg_scale" if name == "qwen" else "guidance_scale"] = row.guidance
    if name != "flux":
        settings["negative_prompt"] = row.negative_prompt
    module = sys.modules[type(pipeline).__module__]
    noise = initial_noise(7, 16, SIZE[0] // 8, SIZE[1] // 8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "randn_tensor", lambda shape, **_: noise.reshape(shape))
        output = pipeline(TEXT, image=Image.fromarray(color), output_type="np", **settings)
    assert difference(drawn, np.uint8(np.round(output.images[0] * 255))).max() <= 1


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_a_file_decodes_in_a_process_of_its_own(tmp_path, name):
    """PIC and PICS with colors, by a folder with preset.json."""
    row = family_preset(tmp_path / "own", name)
    content = {"base": name, "generator": "generator", "controlnet": "controlnet", "clip": "clip"}
    content |= {"steps": 2, "short_side": 64, "annotator": "canny"}
    (tmp_path / "own" / "preset.json").write_text(json.dumps(content))
    row = get_preset(tmp_path / "own")
    image = np.random.default_rng(0).integers(0, 256, (64, 128, 3), np.uint8)
    image[20:40, 30:90] = 250
    prompt = PromptOptions(text="A red Barn")
    for sketch, colors in ((False, 0), (True, 40)):
        config = EncoderConfig(sketch, color_bytes=colors, candidates=2, prompt=prompt)
        encoder = Encoder(row, config)
        (data,) = encoder.encode([image])
        file = tmp_path / f"{sketch}.pics"
        file.write_bytes(data)
        here = encoder.decoder.decode(data)
        assert here.conditions.prompt.text == "A red Barn"
        command = [sys.executable, "pics.py", "decode", "--preset", tmp_path / "own"]
        command += ["--device", "cpu", file, file.with_suffix(".png")]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        drawn = np.asarray(Image.open(file.with_suffix(".png")))
        assert difference(drawn, here.image).max() <= 1


def test_the_preset_folder_of_the_readme_draws_with_a_controlnet_of_ones_own(tmp_path):
    text = (ROOT / "README.md").read_text()
    lines_of_readme = text[text.index('    {"base": "sdxl"') :].split("\n\n")[0]
    content = json.loads(lines_of_readme)
    assert len(lines_of_readme.splitlines()) == 5
    row = family_preset(tmp_path, "sdxl")
    weights = tmp_path / "weights"
    shutil.copytree(row.generator[0], weights / "my_sdxl")
    unet = diffusers.UNet2DConditionModel.from_pretrained(weights / "my_sdxl" / "unet")
    diffusers.ControlNetModel.from_unet(unet).save_pretrained(weights / "my_controlnet")
    small = {"clip": "clip", "short_side": 64, "steps": 2}
    (tmp_path / "preset.json").write_text(json.dumps(content | small))
    row = get_preset(tmp_path)
    encoder = Encoder(row, EncoderConfig(candidates=1, prompt=PromptOptions(text="a red barn")))
    image = np.random.default_rng(0).integers(0, 256, (64, 128, 3), np.uint8)
    (data,) = encoder.encode([image])
    decoded = Decoder(row).decode(data)
    assert decoded.image.shape == image.shape
    assert decoded.conditions.sketch is not None


@pytest.mark.parametrize("name", TEXT_ROWS)
def test_searched_ids_are_given_as_text_at_both_ends(tmp_path, name):
    row = family_preset(tmp_path, name)
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    prompt = PromptOptions(source="search", steps=2, length=3)
    encoder = Encoder(row, EncoderConfig(sketch=False, candidates=1, prompt=prompt))
    seen = []
    generate = encoder.decoder.generator.generate_each
    encoder.decoder.generator.generate_each = lambda prompts, *rest: (
        seen.extend(prompts) or generate(prompts, *rest)
    )
    (encoded,) = encoder.encode_all([image])
    decoded = encoder.decoder.decode(encoded.data)
    text = encoder.decoder.generator.tokenizer.decode(encoded.prompt).strip()
    assert decoded.conditions.prompt.ids == encoded.prompt
    assert seen == [text]


def test_a_controlnet_of_another_model_is_refused_in_one_line(tmp_path):
    """Before the first image, by the configuration alone."""
    sdxl = family_preset(tmp_path / "sdxl", "sdxl")
    sd21 = local_preset(tmp_path / "sd21", "sd21")
    for weights in (tmp_path / "sd21" / "controlnet").glob("*.safetensors"):
        weights.unlink()
    row = dataclasses.replace(sdxl, controlnet=sd21.controlnet, control_mode=-1)
    with pytest.raises(PresetError, match=r"does not fit: .* cross_attention_dim is 32, .* 64$"):
        Encoder(row, EncoderConfig())
    flux = family_preset(tmp_path / "flux", "flux")
    row = dataclasses.replace(flux, controlnet=sd21.controlnet)
    with pytest.raises(PresetError, match=r"a ControlNetModel, FLUX.1 takes a FluxControlNet.*$"):
        Encoder(row, EncoderConfig())


def test_one_file_of_a_class_that_reads_none_is_refused_in_one_line(tmp_path):
    row = family_preset(tmp_path, "flux")
    (file,) = (tmp_path / "controlnet").glob("*.safetensors")
    row = dataclasses.replace(row, controlnet=(str(file),))
    with pytest.raises(UnavailableError, match=r"a FluxControlNetModel is not read from one file"):
        Encoder(row, EncoderConfig())


@pytest.mark.parametrize("name", ["sdxl", "flux"])
def test_quantized_weights_draw_almost_the_same(tmp_path, name):
    pytest.importorskip("torchao", reason="the package torchao is not installed")
    row = family_preset(tmp_path, name)
    plain = load_generator(row, "cpu")
    small = load_generator(dataclasses.replace(row, quantize="int8"), "cpu")
    given = prompt_of(plain), [7], *SIZE, lines(20)
    (drawn,), (quantized,) = plain.generate(*given), small.generate(*given)
    assert 0 < difference(drawn, quantized).mean() < drawn.std() / 4
    assert plain.identity(True) != small.identity(True)


def test_quantized_weights_without_the_package_are_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(quantization, "find_spec", lambda name: None)
    row = family_preset(tmp_path, "zimage", quantize="int8")
    with pytest.raises(PresetError, match=r"needs the package torchao: `pip install torchao`$"):
        load_generator(row, "cpu")


def test_samplers_of_another_family_are_refused_in_one_line(tmp_path):
    row = family_preset(tmp_path, "zimage", sampler="UniPCMultistepScheduler")
    with pytest.raises(PresetError, match="Z-Image is not sampled by UniPC") as caught:
        load_generator(row, "cpu")
    assert len(str(caught.value).splitlines()) == 1


def test_an_unknown_family_is_refused_with_those_that_are_known(tmp_path):
    for name in ("PixArtAlphaPipeline", "FluxKontextPipeline", "StableCascadeDecoderPipeline"):
        with pytest.raises(ValueError, match=f"it is a {name}: only .* Stable Diffusion 3, FLUX"):
            family_of({"_class_name": name})
    row = family_preset(tmp_path, "flux")
    index = tmp_path / "generator" / "model_index.json"
    index.write_text(index.read_text().replace("FluxPipeline", "FluxFillPipeline"))
    shutil.rmtree(tmp_path / "generator" / "transformer")
    with pytest.raises(UnavailableError, match="it is a FluxFillPipeline: only models"):
        load_generator(row, "cpu")


def test_every_preset_has_a_family_and_its_samplers():
    for family in FAMILIES:
        for kind in (family.pipeline, *(one.pipeline for one in family.controls.values())):
            assert getattr(diffusers, kind)
    assert set(PRESETS) == {"tiny", *ROWS}


def test_several_controlnets_get_the_same_sketch(tmp_path):
    row = family_preset(tmp_path, "flux")
    twice = dataclasses.replace(row, more_controlnets=row.controlnet)
    strong = dataclasses.replace(row, control_scale=2 * row.control_scale)
    drawn = []
    for each in (row, twice, strong):
        drawn += load_generator(each, "cpu").generate(TEXT, [7], *SIZE, lines(20))
    assert difference(drawn[1], drawn[0]).max() >= 3
    assert difference(drawn[1], drawn[2]).max() <= 1
    qwen = family_preset(tmp_path / "qwen", "qwen")
    qwen = dataclasses.replace(qwen, more_controlnets=qwen.controlnet)
    with pytest.raises(PresetError, match="only one QwenImageControlNetModel"):
        Decoder(qwen).generator.identity(True)

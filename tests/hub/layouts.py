"""Repositories as they are published, with tiny random weights in the real classes.

    commits = make_repositories(folder)      # {"owner/name": commit}; the files under folder

File names, old configurations and old names of weights are the published ones (manifests of
November 2026). What a run must not fetch lies beside: weights in float16, .ckpt files, a safety
checker, weights for TensorFlow. The first mirror of Stable Diffusion 2.1 is gone.
"""

import json
from pathlib import Path

import torch
import transformers
from helpers.checkpoints import (
    hed_bsds500_weights,
    make_blip,
    make_clip,
    make_controlnet,
    make_stable_diffusion,
    make_tokenizer,
)
from helpers.family_checkpoints import MAKERS
from safetensors.torch import load_file, save_file

from annotator import CONTROLNET
from annotator.hed import HED
from presets import PRESETS

CONFIG_OF_ONE_FILE = "hlky/Z-Image-Turbo-Fun-Controlnet-Union"  # named by diffusers
LARGE = ("flux", "qwen", "sd35")
GONE = PRESETS["sd21"].generator[0].partition("@")[0]
ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
NARROW = ((8, 2), (8, 2), (8, 3), (8, 3), (8, 3))  # blocks of ControlNetHED
# What the configurations of 2022 say; for the rest diffusers has defaults.
UNET_KEYS = [
    "_class_name",
    "act_fn",
    "attention_head_dim",
    "block_out_channels",
    "center_input_sample",
    "cross_attention_dim",
    "down_block_types",
    "downsample_padding",
    "flip_sin_to_cos",
    "freq_shift",
    "in_channels",
    "layers_per_block",
    "mid_block_scale_factor",
    "norm_eps",
    "norm_num_groups",
    "out_channels",
    "sample_size",
    "up_block_types",
    "use_linear_projection",
]
VAE_KEYS = [
    "_class_name",
    "act_fn",
    "block_out_channels",
    "down_block_types",
    "in_channels",
    "latent_channels",
    "layers_per_block",
    "norm_num_groups",
    "out_channels",
    "sample_size",
    "up_block_types",
]
PROCESSOR = {
    "crop_size": 32,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "size": 32,
}


def make_repositories(folder: Path) -> dict[str, str]:
    """Make all that the presets of the hub name; return the commit of each repository."""
    sd21, sd15, sdxl, zimage = (PRESETS[name] for name in ("sd21", "sd15", "sdxl", "zimage"))
    commits = {}
    for source, make, style in (
        (sd21.generator[1], stable_diffusion, "sd21"),
        (sd15.generator[0], stable_diffusion, "sd15"),
        (sd21.controlnet[0], bin_controlnet, "sd21"),
        (sd15.controlnet[0], controlnet, "sd15"),
        (sd21.clip[0], clip, "openclip"),
        (sd15.clip[0], clip, "openai"),
        (CONTROLNET[0], annotators, ""),
        (sd21.captioner[0], blip, ""),
        (sdxl.generator[0], stable_diffusion_xl, ""),
        (sdxl.controlnet[0], union_controlnet, ""),
        (zimage.generator[0], z_image, ""),
        (zimage.controlnet[0].rpartition("/")[0], one_file_controlnet, ""),
        (CONFIG_OF_ONE_FILE, config_of_one_file, ""),
        *((PRESETS[name].generator[0], large, name) for name in LARGE),
        *((PRESETS[name].controlnet[0], controlnet_of_large, name) for name in LARGE),
    ):
        name, _, commit = source.partition("@")
        make(folder / name, style)
        _fill(folder / name / "README.md")
        _fill(folder / name / ".gitattributes")
        commits[name] = commit or f"{len(commits):040x}"
    return commits


def stable_diffusion(folder: Path, style: str) -> None:
    """Make a StableDiffusionPipeline of 2022: float32 and float16, old names in the VAE."""
    make_stable_diffusion(folder, style)
    _prune(folder / "unet" / "config.json", UNET_KEYS)
    _prune(folder / "vae" / "config.json", VAE_KEYS)
    for part, name in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ):
        weights = load_file(folder / part / f"{name}.safetensors")
        if part == "unet":
            weights = _scaled(weights, ".attn2.to_", 8)
        if part == "vae":
            weights = {_old_attention(key): weight for key, weight in weights.items()}
        if part == "text_encoder":
            weights["text_model.embeddings.position_ids"] = torch.arange(77)[None]
        _save(weights, folder / part / f"{name}.safetensors")
        _save(_half(weights), folder / part / f"{name}.fp16.safetensors")
    _write_json(folder / "feature_extractor" / "preprocessor_config.json", PROCESSOR)
    _edit(folder / "model_index.json", feature_extractor=["transformers", "CLIPImageProcessor"])
    _fill(folder / "v2-1_512-ema-pruned.ckpt")
    _fill(folder / "v2-1_512-ema-pruned.safetensors")
    if style == "sd15":
        checker = ["stable_diffusion", "StableDiffusionSafetyChecker"]
        _edit(folder / "model_index.json", safety_checker=checker)
        _write_json(folder / "safety_checker" / "config.json", {"model_type": "clip"})
        for name in ("model.safetensors", "model.fp16.safetensors"):
            _fill(folder / "safety_checker" / name)


def controlnet(folder: Path, style: str) -> None:
    """Make a ControlNet with weights of four kinds: float32 and float16, with pickle and without.

    The pickled weights are of no use: they must not be read.
    """
    weights = _weak_controlnet(folder, style)
    _save(_half(weights), folder / "diffusion_pytorch_model.fp16.safetensors")
    _fill(folder / "diffusion_pytorch_model.bin")
    _fill(folder / "diffusion_pytorch_model.fp16.bin")


def bin_controlnet(folder: Path, style: str) -> None:
    """Make a ControlNet whose one weight file is a .bin in float16."""
    weights = _weak_controlnet(folder, style)
    torch.save(_half(weights), folder / "diffusion_pytorch_model.bin")
    (folder / "diffusion_pytorch_model.safetensors").unlink()


def clip(folder: Path, style: str) -> None:
    """Make a CLIP of 2022: a configuration with two forms of each tower, whole-number sizes."""
    make_clip(folder, style)
    transformers.CLIPTokenizer.from_pretrained(folder)._tokenizer.save(
        str(folder / "tokenizer.json")
    )
    config = json.loads((folder / "config.json").read_text())
    towers = {f"{tower}_dict": config[tower] for tower in ("text_config", "vision_config")}
    _edit(folder / "config.json", **towers, architectures=["CLIPModel"])
    _write_json(folder / "preprocessor_config.json", PROCESSOR)
    weights = load_file(folder / "model.safetensors")
    weights["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    weights["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    _save(weights, folder / "model.safetensors")
    for name in ("pytorch_model.bin", "tf_model.h5", "open_clip_pytorch_model.bin"):
        _fill(folder / name)


def annotators(folder: Path, _: str) -> None:
    """Make ControlNet's annotators: ControlNetHED, narrow, and HED's original network."""
    torch.manual_seed(4)
    folder.mkdir(parents=True)
    narrow = HED(NARROW).state_dict()
    narrow["norm"] += 100
    torch.save(_half(narrow), folder / "ControlNetHED.pth")
    # As before torch 1.6, when the file was published.
    torch.save(
        hed_bsds500_weights(), folder / "network-bsds500.pth", _use_new_zipfile_serialization=False
    )
    for name in ("body_pose_model.pth", "mlsd_large_512_fp32.pth", "sk_model.pth"):
        _fill(folder / name)


def blip(folder: Path, _: str) -> None:
    """Make BLIP, whose weights for PyTorch are one pickle."""
    make_blip(folder)
    weights = folder / "model.safetensors"
    torch.save(load_file(weights), folder / "pytorch_model.bin")
    weights.unlink()
    (folder / "generation_config.json").unlink()
    tokenizer = transformers.BertTokenizer.from_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _write_json(folder / "special_tokens_map.json", tokenizer.special_tokens_map)
    _fill(folder / "tf_model.h5")


def stable_diffusion_xl(folder: Path, _: str) -> None:
    """Make a StableDiffusionXLPipeline of 2023: float32 and float16, a second VAE beside."""
    pipeline, _ = MAKERS["sdxl"]()
    pipeline.save_pretrained(folder)
    for part, name in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
        ("text_encoder_2", "model"),
    ):
        weights = load_file(folder / part / f"{name}.safetensors")
        _save(_half(weights), folder / part / f"{name}.fp16.safetensors")
        _fill(folder / part / "model.onnx")
    for part in ("tokenizer", "tokenizer_2"):
        _old_tokenizer(folder / part)
    _fill(folder / "vae_1_0" / "diffusion_pytorch_model.safetensors")
    _fill(folder / "sd_xl_base_1.0.safetensors")
    _fill(folder / "sd_xl_offset_example-lora_1.0.safetensors")


def union_controlnet(folder: Path, _: str) -> None:
    """Make a union of ControlNets, whose configuration names a class of its authors."""
    _, model = MAKERS["sdxl"]()
    model.save_pretrained(folder)
    _edit(folder / "config.json", _class_name="ControlNetModel_Union")
    _fill(folder / "config_promax.json")
    _fill(folder / "diffusion_pytorch_model_promax.safetensors")


def z_image(folder: Path, _: str) -> None:
    """Make Z-Image-Turbo, whose largest weights are in several files."""
    pipeline, _ = MAKERS["zimage"]()
    pipeline.save_pretrained(folder)
    for part in ("transformer", "text_encoder"):
        (weights,) = (folder / part).glob("*.safetensors")
        weights.unlink()
        getattr(pipeline, part).save_pretrained(folder / part, max_shard_size="50KB")
        assert len(list((folder / part).glob("*-of-*.safetensors"))) > 1
    _fill(folder / "assets" / "showcase.jpg")


def large(folder: Path, name: str) -> None:
    """Make a model whose transformer and largest text encoder are in several files.

    Beside them lie the same weights in the files of its authors.
    """
    pipeline, _ = MAKERS[name]()
    pipeline.save_pretrained(folder)
    last = max(part for part in pipeline.components if part.startswith("text_encoder"))
    for part in ("transformer", last):
        for file in (folder / part).glob("*.safetensors"):
            file.unlink()
        getattr(pipeline, part).save_pretrained(folder / part, max_shard_size="50KB")
    for file in ("flux1-dev.safetensors", "ae.safetensors", "sd3.5_large.safetensors"):
        _fill(folder / file)


def controlnet_of_large(folder: Path, name: str) -> None:
    """Make a ControlNet in the layout of diffusers."""
    _, model = MAKERS[name]()
    model.save_pretrained(folder)


def one_file_controlnet(folder: Path, _: str) -> None:
    """Make Z-Image's ControlNet: one file, and no configuration."""
    _, model = MAKERS["zimage"]()
    folder.mkdir(parents=True)
    _save(model.state_dict(), folder / f"{folder.name}.safetensors")


def config_of_one_file(folder: Path, _: str) -> None:
    """Make the repository whose configuration diffusers uses for that file."""
    _, model = MAKERS["zimage"]()
    model.save_config(folder)
    _fill(folder / "diffusion_pytorch_model.safetensors")


def _old_tokenizer(folder: Path) -> None:
    """Leave a CLIP's tokenizer without tokenizer.json, as before 2023."""
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
    for path in folder.iterdir():
        path.unlink()
    make_tokenizer(folder, pad=tokenizer.pad_token)


def _weak_controlnet(folder: Path, style: str) -> dict:
    """Make a ControlNet and return its weights.

    The sketch shows, but does not drown prompt, sampler and noise.
    """
    make_controlnet(folder, style)
    file = folder / "diffusion_pytorch_model.safetensors"
    weights = _scaled(load_file(file), "controlnet_", 0.2)
    _save(weights, file)
    return weights


def _scaled(weights: dict, part: str, factor: float) -> dict:
    """Return weights, those whose names have `part` scaled, without biases."""
    scaled = {}
    for key, weight in weights.items():
        scaled[key] = weight * factor if part in key and weight.ndim > 1 else weight
    return scaled


def _old_attention(key: str) -> str:
    """Return the name of before diffusers 0.15 for a weight of a VAE's attention."""
    for new, old in ATTENTION.items():
        if ".attentions." in key:
            key = key.replace(f".{new}.", f".{old}.")
    return key


def _half(weights: dict) -> dict:
    """Return floating-point weights in float16."""
    return {
        key: weight.half() if weight.is_floating_point() else weight
        for key, weight in weights.items()
    }


def _save(weights: dict, path: Path) -> None:
    save_file(weights, path, metadata={"format": "pt"})


def _prune(path: Path, keys: list[str]) -> None:
    """Keep some keys of a JSON object."""
    content = json.loads(path.read_text())
    _write_json(path, {key: content[key] for key in keys if key in content})


def _edit(path: Path, **changes) -> None:
    _write_json(path, {**json.loads(path.read_text()), **changes})


def _write_json(path: Path, content: dict) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))


def _fill(path: Path) -> None:
    """Write a file that no run may need."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"not needed")

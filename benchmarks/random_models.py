"""A preset of random weights in the sizes of `sd21`, for timings: speed does not depend on weights.

    row = get_preset(make_preset(folder, "full", "cuda"))       # 5.3 GB in float16
    row = get_preset(make_preset(folder, "small", "cpu"))       # the same code, for tests

Sizes are those of the published configurations: stabilityai/stable-diffusion-2-1-base,
thibaud/controlnet-sd21-hed-diffusers, laion/CLIP-ViT-H-14-laion2B-s32B-b79K. Words are made up.
"""

import itertools
import json
import string
from collections.abc import Iterator
from pathlib import Path

import diffusers
import torch
import transformers
from torch import nn

HEADS = ("<|startoftext|>", "<|endoftext|>")
LETTERS = string.ascii_lowercase
POSITIONS = 77  # of the text towers
SIZES = {
    "full": {
        "vocab_size": 49408,
        "unet": {
            "sample_size": 64,
            "block_out_channels": (320, 640, 1280, 1280),
            "attention_head_dim": (5, 10, 20, 20),
            "cross_attention_dim": 1024,
        },
        "vae": {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2},
        "text": {"hidden_size": 1024, "num_hidden_layers": 23, "num_attention_heads": 16},
        "clip_text": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
        "vision": {
            "hidden_size": 1280,
            "num_hidden_layers": 32,
            "num_attention_heads": 16,
            "image_size": 224,
            "patch_size": 14,
        },
        "features": 1024,
        "preset": {},
    },
    "small": {
        "vocab_size": 600,
        "unet": {
            "sample_size": 8,
            "block_out_channels": (8, 8, 16, 16),
            "attention_head_dim": (1, 1, 2, 2),
            "cross_attention_dim": 32,
            "layers_per_block": 1,
            "norm_num_groups": 4,
        },
        "vae": {"block_out_channels": (8,) * 4, "layers_per_block": 1, "norm_num_groups": 4},
        "text": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
        "clip_text": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
        "vision": {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 32,
            "patch_size": 8,
        },
        "features": 16,
        "preset": {"short_side": 64, "steps": 2, "prompt_steps": 3},
    },
}


def make_preset(folder: Path, size: str, device: str) -> Path:
    """Write a folder with preset.json and its models, in float16 for a GPU; return the folder.

    size: a key of SIZES. device: on which the weights are made.
    """
    sizes = SIZES[size]
    with torch.device(device), torch.random.fork_rng():
        torch.manual_seed(0)
        _save_generator(folder / "generator", sizes, device)
        _save_controlnet(folder / "controlnet", sizes, device)
        _save_clip(folder / "clip", sizes, device)
    parts = {part: part for part in ("generator", "controlnet", "clip")}
    # The bundled annotator: the others' weights would have to be fetched.
    row = {"base": "sd21", "annotator": "hed-tiny", **parts, **sizes["preset"]}
    (folder / "preset.json").write_text(json.dumps(row), encoding="utf-8")
    return folder


def _save(model: nn.Module, folder: Path, device: str) -> None:
    (model.half() if device != "cpu" else model).save_pretrained(folder)


def _save_generator(folder: Path, sizes: dict, device: str) -> None:
    unet = diffusers.UNet2DConditionModel(use_linear_projection=True, **sizes["unet"])
    vae = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        **sizes["vae"],
    )
    text = transformers.CLIPTextModel(_text_config(sizes, "text"))
    scheduler = diffusers.PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True
    )
    for name, model in {"unet": unet, "vae": vae, "text_encoder": text}.items():
        _save(model, folder / name, device)
    scheduler.save_pretrained(folder / "scheduler")
    save_tokenizer(folder / "tokenizer", sizes["vocab_size"])
    index = {
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", "PNDMScheduler"],
    }
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")


def _save_controlnet(folder: Path, sizes: dict, device: str) -> None:
    config = {name: value for name, value in sizes["unet"].items() if name != "sample_size"}
    _save(diffusers.ControlNetModel(use_linear_projection=True, **config), folder, device)


def _save_clip(folder: Path, sizes: dict, device: str) -> None:
    width = sizes["vision"]["hidden_size"]
    vision = sizes["vision"] | {"intermediate_size": 4 * width, "hidden_act": "gelu"}
    text = _text_config(sizes, "clip_text").to_dict()
    config = transformers.CLIPConfig(
        text_config=text, vision_config=vision, projection_dim=sizes["features"]
    )
    _save(transformers.CLIPModel(config), folder, device)
    side = sizes["vision"]["image_size"]
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": side}, crop_size=side)
    processor.save_pretrained(folder)
    save_tokenizer(folder, sizes["vocab_size"])


def _text_config(sizes: dict, tower: str) -> transformers.CLIPTextConfig:
    vocab_size = sizes["vocab_size"]
    return transformers.CLIPTextConfig(
        **sizes[tower],
        intermediate_size=4 * sizes[tower]["hidden_size"],
        hidden_act="gelu",
        projection_dim=sizes["features"],
        vocab_size=vocab_size,
        max_position_embeddings=POSITIONS,
        bos_token_id=vocab_size - 2,
        eos_token_id=vocab_size - 1,
        pad_token_id=vocab_size - 1,
    )


def save_tokenizer(folder: Path, vocab_size: int) -> None:
    """Write a CLIP tokenizer: bytes, bytes that end a word, made-up words, start and end."""
    letters = _byte_letters()
    singles = [*letters, *(letter + "</w>" for letter in letters)]
    merges = list(itertools.islice(_merges(), vocab_size - len(singles) - len(HEADS)))
    words = [*singles, *map("".join, merges), *HEADS]
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": POSITIONS,
        "bos_token": HEADS[0],
        "eos_token": HEADS[1],
        "unk_token": HEADS[1],
        "pad_token": HEADS[1],
    }
    vocabulary = {word: number for number, word in enumerate(words)}
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in {"vocab": vocabulary, "tokenizer_config": config}.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    lines = ["#version: 0.2", *map(" ".join, merges), ""]
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")


def _merges() -> Iterator[tuple[str, str]]:
    """Yield pairs of tokens that make a new one: two letters, two that end a word, both joined."""
    pairs = list(itertools.product(LETTERS, LETTERS))
    ends = [(first, f"{second}</w>") for first, second in pairs]
    yield from pairs
    yield from ends
    yield from itertools.product(map("".join, pairs), map("".join, ends))


def _byte_letters() -> list[str]:
    """Return one printable letter for each byte, as in CLIP's vocabulary."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = 256 - len(printable)
    return [chr(code) for code in (*printable, *range(256, 256 + others))]

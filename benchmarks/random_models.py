"""A preset of random weights in the sizes of `sd21`, for timings: speed does not depend on weights.

    row = get_preset(make_preset(folder, "full", "cuda"))       # 5.3 GB in float16
    row = get_preset(make_preset(folder, "small", "cpu"))       # the same code, for tests

Sizes are those of the published configurations: stabilityai/stable-diffusion-2-1-base,
thibaud/controlnet-sd21-hed-diffusers, laion/CLIP-ViT-H-14-laion2B-s32B-b79K. Words are made up.
"""

import itertools
import json
import string
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import diffusers
import torch
import transformers
from torch import nn

HEADS = ("<|startoftext|>", "<|endoftext|>")
LETTERS = string.ascii_lowercase
POSITIONS = 77  # of the text towers
INDEX = {  # of the generator's folder
    "_class_name": "StableDiffusionPipeline",
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "scheduler": ["diffusers", "PNDMScheduler"],
}
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
        for name, make in networks(sizes).items():
            model = make() if device == "cpu" else make().half()
            model.save_pretrained(folder / name)
    _save_rest(folder, sizes)
    parts = {part: part for part in ("generator", "controlnet", "clip")}
    # The bundled annotator: the others' weights would have to be fetched.
    row = {"base": "sd21", "annotator": "hed-tiny", **parts, **sizes["preset"]}
    (folder / "preset.json").write_text(json.dumps(row), encoding="utf-8")
    return folder


def networks(sizes: dict) -> dict[str, Callable[[], nn.Module]]:
    """Return the functions that make the networks, by their folders. sizes: a value of SIZES."""
    unet = sizes["unet"] | {"use_linear_projection": True}
    half = {name: value for name, value in unet.items() if name != "sample_size"}
    return {
        "generator/unet": partial(diffusers.UNet2DConditionModel, **unet),
        "generator/vae": partial(diffusers.AutoencoderKL, **_vae(sizes)),
        "generator/text_encoder": partial(transformers.CLIPTextModel, _text_config(sizes, "text")),
        "controlnet": partial(diffusers.ControlNetModel, **half),
        "clip": partial(transformers.CLIPModel, _clip_config(sizes)),
    }


def _save_rest(folder: Path, sizes: dict) -> None:
    """Write what belongs to the networks: sampler, tokenizers, image processor, index."""
    generator, clip = folder / "generator", folder / "clip"
    scheduler = diffusers.PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True
    )
    scheduler.save_pretrained(generator / "scheduler")
    save_tokenizer(generator / "tokenizer", sizes["vocab_size"])
    (generator / "model_index.json").write_text(json.dumps(INDEX), encoding="utf-8")
    side = sizes["vision"]["image_size"]
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": side}, crop_size=side)
    processor.save_pretrained(clip)
    save_tokenizer(clip, sizes["vocab_size"])


def _vae(sizes: dict) -> dict:
    return {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "latent_channels": 4,
        **sizes["vae"],
    }


def _clip_config(sizes: dict) -> transformers.CLIPConfig:
    width = sizes["vision"]["hidden_size"]
    vision = sizes["vision"] | {"intermediate_size": 4 * width, "hidden_act": "gelu"}
    text = _text_config(sizes, "clip_text").to_dict()
    return transformers.CLIPConfig(
        text_config=text, vision_config=vision, projection_dim=sizes["features"]
    )


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

"""Small random checkpoints in the folder layouts and classes of the real ones.

    row = local_preset(tmp_path, "sd21")
    generator = load_generator(row, "cpu")

Weights are random and large enough that prompt, sketch and seed all show in the picture; a folder
is a few hundred kB. Nothing here reads the network.
"""

import dataclasses
import json
from pathlib import Path

import diffusers
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers.pre_tokenizers import ByteLevel

from annotator.hed import OriginalHED
from presets import PRESETS, Preset

VOCAB_SIZE = 600
WIDTH = 32  # of both CLIP towers and of what the UNets attend to
PAD = {"sd21": "!", "sd15": "<|endoftext|>", "tiny": "<|endoftext|>"}
LENGTH = {"sd21": 77, "sd15": 77, "tiny": 32}
ACTIVATION = {
    "openclip": "gelu",
    "openai": "quick_gelu",
    "sd21": "gelu",
    "sd15": "quick_gelu",
    "tiny": "gelu",
}
WORDPIECES = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *["a", "red", "barn", "dog", "under", "stormy", "sky", "the", "on", "in", "snow"],
    "##s",
]
BLIP_LAYERS = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


def local_preset(folder: Path, row: str, **changes) -> Preset:
    """The row `row`, generating in 3 steps, with all its models made small under `folder`."""
    clip_style = "openai" if row == "sd15" else "openclip"
    changes = {
        "generator": (str(make_stable_diffusion(folder / "generator", row)),),
        "controlnet": (str(make_controlnet(folder / "controlnet", row)),),
        "clip": (str(make_clip(folder / "clip", clip_style)),),
        "steps": 3,
        **changes,
    }
    return dataclasses.replace(PRESETS[row], **changes)


def make_tokenizer(
    folder: Path, vocab_size: int = VOCAB_SIZE, length: int = 77, pad: str = "<|endoftext|>"
) -> Path:
    """A CLIP tokenizer of `vocab_size` tokens: bytes, bytes that end a word, merges, BOS, EOS."""
    letters = _byte_letters()
    pairs = [(a, b + "</w>") for a in "abcdefghijklmnopqrst" for b in "aeioubcdfghlmnrst"]
    merges = pairs[: vocab_size - 2 * len(letters) - 2]
    words = [
        *letters,
        *(letter + "</w>" for letter in letters),
        *("".join(pair) for pair in merges),
    ]
    words += ["<|startoftext|>", "<|endoftext|>"]
    special = {"bos_token": words[-2], "eos_token": words[-1], "unk_token": words[-1]}
    config = {
        **special,
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": length,
        "do_lower_case": True,
    }
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "vocab.json", {word: number for number, word in enumerate(words)})
    (folder / "merges.txt").write_text(
        "\n".join(["#version: 0.2", *map(" ".join, merges), ""]), encoding="utf-8"
    )
    # As in Stable Diffusion 2: the pad of special_tokens_map.json is the one that counts.
    _write_json(
        folder / "tokenizer_config.json", {**config, "pad_token": words[-1], "errors": "replace"}
    )
    _write_json(folder / "special_tokens_map.json", {**special, "pad_token": pad})
    return folder


def make_clip(folder: Path, style: str = "openclip") -> Path:
    """CLIPModel, tokenizer and image processor; style "openclip" (as laion's) or "openai"."""
    torch.manual_seed(1)
    vision = {**_tower(style), "image_size": 32, "patch_size": 8}
    config = transformers.CLIPConfig(
        text_config=_text_config(style, 77).to_dict(), vision_config=vision, projection_dim=16
    )
    transformers.CLIPModel(config).save_pretrained(folder)
    transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(
        folder
    )
    return make_tokenizer(folder)


def make_blip(folder: Path) -> Path:
    """BlipForConditionalGeneration, a vocabulary of words and an image processor."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(WORDPIECES) + "\n")
    # As published: two ids beyond the tokenizer's words, the first of which starts a caption.
    ids = {"bos_token_id": len(WORDPIECES), "eos_token_id": 2, "sep_token_id": 3, "pad_token_id": 0}
    text = {
        **BLIP_LAYERS,
        **ids,
        "vocab_size": len(WORDPIECES) + 2,
        "encoder_hidden_size": 32,
        "max_position_embeddings": 64,
    }
    torch.manual_seed(0)
    vision = {**BLIP_LAYERS, "image_size": 32, "patch_size": 16}
    model = transformers.BlipForConditionalGeneration(
        transformers.BlipConfig(text_config=text, vision_config=vision)
    )
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.5)
    model.save_pretrained(folder)
    transformers.BlipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def make_florence(folder: Path) -> Path:
    """Florence2ForConditionalGeneration in transformers' layout, with a tokenizer of bytes."""
    words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(ByteLevel.alphabet())]
    tokenizer = transformers.BartTokenizer(
        vocab={word: number for number, word in enumerate(words)},
        merges=[],
        extra_special_tokens={"image_token": "<image>"},
    )
    text = {
        "model_type": "bart",
        "vocab_size": len(tokenizer),
        "d_model": 32,
        "max_position_embeddings": 256,
    }
    for side in ("encoder", "decoder"):
        text |= {f"{side}_layers": 1, f"{side}_attention_heads": 2, f"{side}_ffn_dim": 64}
    vision = {"depths": (1, 1, 1, 1), "embed_dim": (8, 8, 16, 16), "projection_dim": 32}
    vision |= {"num_heads": (1, 1, 2, 2), "num_groups": (1, 1, 2, 2), "window_size": 4}
    torch.manual_seed(0)
    model = transformers.Florence2ForConditionalGeneration(
        transformers.Florence2Config(
            text_config=text, vision_config=vision, image_token_id=tokenizer.image_token_id
        )
    )
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.5)
    model.save_pretrained(folder)
    size = {"height": 64, "width": 64}
    pictures = transformers.CLIPImageProcessor(size=size, crop_size=size, do_center_crop=False)
    pictures.image_seq_length = (64 // 32) ** 2 + 1
    transformers.Florence2Processor(pictures, tokenizer).save_pretrained(folder)
    return folder


def hed_bsds500_weights() -> dict[str, torch.Tensor]:
    """The 38 tensors of network-bsds500.pth, random, in the published layout."""
    torch.manual_seed(0)
    weights = OriginalHED().state_dict()
    for name in weights:  # else all edges are alike
        weights[name] = weights[name] * (3 if "Score" in name or "Combine" in name else 1.6)
    return weights


def make_stable_diffusion(folder: Path, style: str) -> Path:
    """A StableDiffusionPipeline folder; style "sd21", "sd15" or "tiny"."""
    torch.manual_seed(2)
    scheduler = _scheduler(style)
    pipeline = diffusers.StableDiffusionPipeline(
        vae=_vae(style),
        text_encoder=transformers.CLIPTextModel(_text_config(style, LENGTH[style])),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(
            make_tokenizer(folder / "tokenizer", length=LENGTH[style], pad=PAD[style])
        ),
        unet=diffusers.UNet2DConditionModel(**_unet(style)),
        scheduler=getattr(diffusers, scheduler["_class_name"]).from_config(scheduler),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    # The published folders are older than these libraries: what they write otherwise is put back.
    _write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    (folder / "tokenizer" / "tokenizer.json").unlink()
    make_tokenizer(folder / "tokenizer", length=LENGTH[style], pad=PAD[style])
    weights = folder / "text_encoder" / "model.safetensors"
    renamed = {}
    for name, weight in load_file(weights).items():
        renamed[f"text_model.{name.removeprefix('text_model.')}"] = weight
    save_file(renamed, weights, metadata={"format": "pt"})
    return folder


def make_controlnet(folder: Path, style: str) -> Path:
    """A ControlNetModel folder that fits `make_stable_diffusion` of the same style."""
    torch.manual_seed(3)
    config = _unet(style)
    del config["up_block_types"], config["out_channels"], config["sample_size"]
    hint = (
        {"conditioning_channels": 270, "conditioning_embedding_out_channels": (16,)}
        if style == "tiny"
        else {}
    )
    model = diffusers.ControlNetModel(**config, **hint)
    hints = [part for part in model.controlnet_cond_embedding.modules() if hasattr(part, "weight")]
    for layer in [model.controlnet_mid_block, *model.controlnet_down_blocks, *hints]:
        torch.nn.init.normal_(layer.weight, std=0.3)
    model.save_pretrained(folder)
    return folder


def _unet(style: str) -> dict:
    attending = 2 if style == "tiny" else 3
    widths = (8, 16) if style == "tiny" else (8, 8, 16, 16)
    flat = len(widths) - attending
    down = ("CrossAttnDownBlock2D",) * attending + ("DownBlock2D",) * flat
    channels = 16 if style == "tiny" else 4
    return {
        "in_channels": channels,
        "out_channels": channels,
        "sample_size": 64,
        "down_block_types": down,
        "up_block_types": ("UpBlock2D",) * flat + ("CrossAttnUpBlock2D",) * attending,
        "block_out_channels": widths,
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "cross_attention_dim": WIDTH,
        "use_linear_projection": style == "sd21",
        # diffusers reads this as the number of heads: a list in SD 2's config, one number in SD 1's
        "attention_head_dim": (1, 1, 2, 2) if style == "sd21" else 2,
    }


def _vae(style: str) -> diffusers.ModelMixin:
    if style == "tiny":
        widths, blocks = (8,) * 5, (1, 0, 0, 0, 0)
        return diffusers.AutoencoderTiny(
            latent_channels=16,
            encoder_block_out_channels=widths,
            decoder_block_out_channels=widths,
            num_encoder_blocks=blocks,
            num_decoder_blocks=blocks,
        )
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=64,
    )


def _scheduler(style: str) -> dict:
    """scheduler_config.json: of the published folders, and one for flow matching."""
    if style == "tiny":
        flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
        return {"_class_name": "UniPCMultistepScheduler", **flow, "steps_offset": 1}
    return {
        "_class_name": "PNDMScheduler",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "num_train_timesteps": 1000,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "trained_betas": None,
    }


def _text_config(style: str, length: int) -> transformers.CLIPTextConfig:
    return transformers.CLIPTextConfig(
        **_tower(style),
        vocab_size=VOCAB_SIZE,
        max_position_embeddings=length,
        bos_token_id=VOCAB_SIZE - 2,
        eos_token_id=VOCAB_SIZE - 1,
        pad_token_id=VOCAB_SIZE - 1,
    )


def _tower(style: str) -> dict:
    return {
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "hidden_act": ACTIVATION[style],
        "projection_dim": 16,
        "initializer_factor": 4.0,
    }


def _byte_letters() -> list[str]:
    """One printable letter for each byte, in the order of CLIP's vocabulary."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + number) for number in range(len(others))]


def _write_json(file: Path, content: dict) -> None:
    file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")

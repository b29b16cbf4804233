"""Presets and model folders of strangers that must be refused: a table of what is wrong in each.

    for name, spoil in FOLDERS.items():
        spoil(copy)                      # a folder as `make_models` makes it

`python tests/test_model_folders.py` prints what is seen of each.
"""

import json
import os
import struct
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from helpers.checkpoints import make_clip, make_controlnet, make_stable_diffusion

Spoil = Callable[[Path], object]
UNET = "generator/unet/config.json"
VAE = "generator/vae/config.json"
TEXT = "generator/text_encoder/config.json"
SCHEDULER = "generator/scheduler/scheduler_config.json"
INDEX = "generator/model_index.json"
CONTROL = "controlnet/config.json"
CLIP = "clip/config.json"
LARGE = 10**12
MANY = 9_000_000  # a size that no number alone gives away
DEEP = "[" * 100_000 + "]" * 100_000


def make_models(folder: Path) -> Path:
    """Small random models, and a preset.json beside them that names them."""
    make_stable_diffusion(folder / "generator", "tiny")
    make_controlnet(folder / "controlnet", "tiny")
    make_clip(folder / "clip")
    row = {"base": "tiny", "steps": 1, "prompt_steps": 1, "prompt_len": 2, "prompt_bits": 0}
    row |= {name: name for name in ("generator", "controlnet", "clip")}
    (folder / "preset.json").write_text(json.dumps(row))
    return folder


def edit(name: str, change: Callable[[dict], object], models: Path) -> None:
    """Change a JSON file."""
    content = json.loads((models / name).read_text(encoding="utf-8"))
    change(content)
    (models / name).write_text(json.dumps(content), encoding="utf-8")


def with_values(name: str, **values) -> Spoil:
    """Set values of a JSON file."""
    return partial(edit, name, lambda content: content.update(values))


def inside(name: str, part: str, **values) -> Spoil:
    """Set values of an object in a JSON file."""
    return partial(edit, name, lambda content: content[part].update(values))


def text(name: str, content: str) -> Spoil:
    """Put a text in place of a file."""
    return lambda models: (models / name).write_text(content)


def code(name: str, index: dict, models: Path) -> None:
    """Put Python code into a folder, and names of it into model_index.json."""
    file = models / "generator" / name
    file.parent.mkdir(exist_ok=True)
    sprung = str(models / "sprung")
    file.write_text(f"open({sprung!r}, 'w')\nclass Evil: pass\nclass UNet2DConditionModel: pass\n")
    with_values(INDEX, **index)(models)


def tokenizer_file(models: Path, **values) -> None:
    """Write the tokenizer.json of the text-to-image model, with some values of a stranger's."""
    from transformers import CLIPTokenizer

    folder = models / "generator" / "tokenizer"
    CLIPTokenizer.from_pretrained(folder).save_pretrained(folder)
    with_values("generator/tokenizer/tokenizer.json", **values)(models)


def pipe(models: Path) -> None:
    (models / UNET).unlink()
    os.mkfifo(models / UNET)


def huge_header(models: Path) -> None:
    """A .safetensors file that says that its header has 90 MB."""
    file = models / "clip" / "model.safetensors"
    file.write_bytes(struct.pack("<Q", 90_000_000))
    os.truncate(file, 90_000_008)


def sparse_tokenizer(models: Path) -> None:
    with (models / "generator" / "tokenizer" / "vocab.json").open("wb") as file:
        file.truncate(2**33)


def bomb(models: Path) -> None:
    """Weights of torch.save, compressed: 100 kB that unpack to 67 MB."""
    folder = models / "generator" / "vae"
    good = folder / "diffusion_pytorch_model.safetensors"
    plain = models / "plain.bin"
    torch.save(dict(load_file(good)), plain)
    packed = zipfile.ZipFile(folder / "diffusion_pytorch_model.bin", "w", zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(plain) as source, packed:
        for entry in source.infolist():
            packed.writestr(entry.filename, source.read(entry))
        with packed.open("archive/data/999", "w", force_zip64=True) as zeros:
            for _ in range(4):
                zeros.write(bytes(2**24))
    plain.unlink()
    good.unlink()


def expanded(models: Path) -> None:
    """Weights of torch.save whose tensors take more numbers than the file has bytes."""
    folder = models / "generator" / "vae"
    good = folder / "diffusion_pytorch_model.safetensors"
    tensors = dict(load_file(good))
    name = next(iter(tensors))
    tensors[name] = torch.zeros(1).expand(LARGE)
    torch.save(tensors, folder / "diffusion_pytorch_model.bin")
    good.unlink()


def many_layers(models: Path) -> None:
    """As many layers as the text encoder's file has tensors, each of one number."""
    file = models / "generator" / "text_encoder" / "model.safetensors"
    tensors = {**load_file(file)}
    tensors |= {f"x{number}": torch.zeros(1) for number in range(20_000)}
    save_file(tensors, file, metadata={"format": "pt"})
    with_values(TEXT, num_hidden_layers=MANY)(models)


def deep(name: str) -> Spoil:
    return text(name, DEEP)


def shards_elsewhere(models: Path) -> None:
    """An index of weight files that names a device."""
    folder = models / "generator" / "unet"
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"conv_in.weight": "/dev/zero"}}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))


def file_for_folder(models: Path) -> None:
    (models / "clip").rename(models / "was")
    (models / "clip").write_text("no folder")


EVIL = ["evil", "Evil"]
# name -> what makes a good folder a bad one. All must end in one line that names the file or part.
FOLDERS: dict[str, Spoil] = {
    "a component's .py": partial(code, "unet/evil.py", {"unet": EVIL}),
    "a scheduler's .py": partial(code, "scheduler/evil.py", {"scheduler": EVIL}),
    "a tokenizer's .py": partial(code, "tokenizer/evil.py", {"tokenizer": EVIL}),
    "a safety checker's .py": partial(code, "safety_checker/evil.py", {"safety_checker": EVIL}),
    "None.py": partial(code, "None.py", {}),
    "a pipeline's .py": partial(code, "evil.py", {"_class_name": EVIL}),
    "a module that is installed": with_values(INDEX, unet=["antigravity", "fly"]),
    "a module in place of a class": with_values(INDEX, unet=["diffusers", "utils"]),
    "another class of diffusers": with_values(INDEX, unet=["diffusers", "DiTTransformer2DModel"]),
    "a scheduler that is none": with_values(INDEX, scheduler=["diffusers", "AutoencoderKL"]),
    "no UNet": with_values(INDEX, unet=[None, None]),
    "parts that are numbers": with_values(INDEX, unet=7, vae=7),
    "model_index.json: a list": text(INDEX, "[]"),
    "model_index.json: deep": deep(INDEX),
    "config.json: deep": deep(UNET),
    "config.json: no JSON": text(UNET, "{sample_size: 64}"),
    "config.json: not UTF-8": lambda models: (models / UNET).write_bytes(b'{"a": "\xff"}'),
    "config.json: a list": text(UNET, "[1, 2]"),
    "config.json: 2 MB": text(UNET, json.dumps({"a": "a" * 2_000_000})),
    "config.json: a pipe": pipe,
    "config.json: a number of 5,000 digits": text(UNET, '{"in_channels": ' + "9" * 5000 + "}"),
    "UNet of 10^12 layers": with_values(UNET, layers_per_block=LARGE),
    "UNet of 9 million layers": with_values(UNET, layers_per_block=MANY),
    "UNet of -10^400 layers": text(UNET, '{"layers_per_block": -1' + "0" * 400 + "}"),
    "UNet of 10^12 channels": with_values(UNET, block_out_channels=[8, LARGE]),
    "UNet of 9 million channels": with_values(UNET, block_out_channels=[8, MANY]),
    "UNet of -1 channels": with_values(UNET, block_out_channels=[8, -8]),
    "UNet of 0 groups": with_values(UNET, norm_num_groups=0),
    "UNet of unknown blocks": with_values(UNET, down_block_types=["Evil", "Evil"]),
    "UNet of text": with_values(UNET, in_channels="16"),
    "UNet whose weights are a device": shards_elsewhere,
    "UNet without weights": lambda models: (
        models / "generator/unet/diffusion_pytorch_model.safetensors"
    ).unlink(),
    "VAE of 10^12 blocks": with_values(VAE, num_decoder_blocks=[LARGE] * 5),
    "VAE of 9 million blocks": with_values(VAE, num_decoder_blocks=[MANY] * 5),
    "VAE that is compressed": bomb,
    "VAE of one number, 10^12 times": expanded,
    "text encoder of 10^12 layers": with_values(TEXT, num_hidden_layers=LARGE),
    "text encoder of 9 million layers, many tensors": many_layers,
    "text encoder of 10^12 tokens": with_values(TEXT, vocab_size=LARGE),
    "text encoder of 9 million positions of width 0": with_values(
        TEXT, max_position_embeddings=MANY, hidden_size=0
    ),
    "text encoder with kernels of the hub": with_values(TEXT, attn_implementation="evil/kernel"),
    "text encoder, quantized": with_values(TEXT, quantization_config={"quant_method": "evil"}),
    "text encoder, adapted": text("generator/text_encoder/adapter_config.json", "{}"),
    "scheduler of 10^12 steps": with_values(SCHEDULER, num_train_timesteps=LARGE),
    "scheduler of text": with_values(SCHEDULER, num_train_timesteps="many"),
    "scheduler: deep": deep(SCHEDULER),
    "tokenizer.json: deep": deep("generator/tokenizer/tokenizer.json"),
    "tokenizer.json: a list": text("generator/tokenizer/tokenizer.json", "[]"),
    "tokenizer.json: no model": partial(tokenizer_file, model=None),
    "tokenizer.json: a library's panic": partial(
        tokenizer_file, normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    ),
    "tokenizer.json: no added tokens": partial(tokenizer_file, added_tokens=None),
    "vocab.json: 8 GB": sparse_tokenizer,
    "vocab.json: empty": text("generator/tokenizer/vocab.json", "{}"),
    "merges.txt: unknown tokens": text("generator/tokenizer/merges.txt", "#version\nzz qq\n"),
    "tokenizer without end": with_values(
        "generator/tokenizer/special_tokens_map.json", eos_token=7
    ),
    "tokenizer of length -5": with_values(
        "generator/tokenizer/tokenizer_config.json", model_max_length=-5
    ),
    "tokenizer of length 'x'": with_values(
        "generator/tokenizer/tokenizer_config.json", model_max_length="x"
    ),
    "tokenizer of more tokens than the model": with_values(TEXT, vocab_size=500),
    "ControlNet of 10^12 channels": with_values(CONTROL, block_out_channels=[8, LARGE]),
    "ControlNet of 9 million layers": with_values(CONTROL, transformer_layers_per_block=MANY),
    "ControlNet of another control": with_values(CONTROL, conditioning_channels=LARGE),
    "ControlNet without config": lambda models: (models / CONTROL).unlink(),
    "CLIP of 9 million layers": inside(CLIP, "text_config", num_hidden_layers=MANY),
    "CLIP of 9 million pixels": inside(CLIP, "vision_config", image_size=MANY),
    "CLIP of patches of 0": inside(CLIP, "vision_config", patch_size=0),
    "CLIP of an unknown activation": inside(CLIP, "text_config", hidden_act="evil"),
    "CLIP whose images are 10^9 pixels": with_values(
        "clip/preprocessor_config.json", size={"shortest_edge": 10**9}
    ),
    "CLIP whose images are of another size": with_values(
        "clip/preprocessor_config.json", crop_size={"height": 33, "width": 33}
    ),
    "CLIP whose mean is text": with_values("clip/preprocessor_config.json", image_mean="gray"),
    "CLIP with a header of 90 MB": huge_header,
    "CLIP with a .so": text("clip/evil.so", ""),
    "CLIP in a file": file_for_folder,
}


def preset(**values) -> str:
    """The text of a preset.json."""
    return json.dumps({"base": "tiny", **values})


# name -> the text of a preset.json. All must end in one line that names the file.
ROWS: dict[str, str | bytes] = {
    "empty": "",
    "no JSON": "{base: tiny}",
    "not UTF-8": b'{"base": "\xff"}',
    "deep lists": DEEP,
    "deep objects": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "60 levels": preset(generator=json.loads("[" * 60 + "]" * 60)),
    "2 MB": preset(suffix="a" * 2_000_000),
    "a list": "[]",
    "a number": "7",
    "no base": "{}",
    "an unknown base": preset(base="huge"),
    "a base that is a list": preset(base=[]),
    "a base that is an object": preset(base={}),
    "an unknown field": preset(step=3),
    "a field of 5,000 letters": preset(**{"x" * 5000: 3}),
    "9,000 fields": preset(**{f"x{number}": 3 for number in range(9000)}),
    "a number of its own": preset(number=2),
    "a name of its own": preset(name="tiny"),
    "steps: -1": preset(steps=-1),
    "steps: 0": preset(steps=0),
    "steps: 10^9": preset(steps=10**9),
    "steps: 1.5": preset(steps=1.5),
    "steps: text": preset(steps="3"),
    "steps: true": preset(steps=True),
    "steps: null": preset(steps=None),
    "guidance: NaN": preset(guidance=float("nan")),
    "guidance: infinite": preset(guidance=float("inf")),
    "guidance: 10^400": '{"base": "tiny", "guidance": 1' + "0" * 400 + "}",
    "guidance: -1": preset(guidance=-1),
    "a number of 5,000 digits": '{"base": "tiny", "steps": ' + "9" * 5000 + "}",
    "tokens: 10^6": preset(prompt_len=10**6),
    "tokens: 0": preset(prompt_len=0),
    "search steps: 10^12": preset(prompt_steps=LARGE),
    "candidates: 0": preset(candidates=0),
    "candidates: 10^6": preset(candidates=10**6),
    "short side: 100": preset(short_side=100),
    "short side: 0": preset(short_side=0),
    "short side: 65536": preset(short_side=65536),
    "color bytes: 3": preset(color_bytes=3),
    "color bytes: -1": preset(color_bytes=-1),
    "color strength: 2": preset(color_strength=2),
    "control scale: NaN": preset(control_scale=float("nan")),
    "lambda: 0": preset(lam_sketch=0),
    "subset: 3 bits": preset(prompt_bits=3),
    "subset: 40 bits": preset(prompt_bits=40),
    "learning rate: infinite": preset(prompt_lr=float("inf")),
    "weight decay: -1": preset(prompt_weight_decay=-1.0),
    "sampler: none": preset(sampler="NoScheduler"),
    "sampler: a model": preset(sampler="UNet2DConditionModel"),
    "sampler: a module": preset(sketch_sampler="utils"),
    "sampler: 5,000 letters": preset(sampler="x" * 5000),
    "control: none": preset(control="depth"),
    "control: 0": preset(control="space to depth 0"),
    "control: 5,000 digits": preset(control="space to depth " + "8" * 5000),
    "control: Arabic digits": preset(control="space to depth \u0668"),
    "suffix: half a surrogate pair": preset(suffix="\ud800"),
    "suffix: two lines": preset(suffix="two\nlines"),
    "suffix: 5,000 letters": preset(suffix="x" * 5000),
    "annotator: 5,000 letters": preset(annotator="x" * 5000),
    "sketch codec: elsewhere": preset(sketch_codec="../../sketch"),
    "generator: 5,000 letters": preset(generator="x" * 5000),
    "generator: one of 300 letters": preset(generator="x" * 300),
    "generator: nobody's home": preset(generator="~nobody-of-that-name/model"),
    "generator: a null byte": preset(generator="a\0b"),
    "generator: two lines": preset(generator="a\nb"),
    "generator: nothing": preset(generator=[]),
    "generator: lists": preset(generator=[["a"]]),
    "generator: a number": preset(generator=7),
    "generator: 9,000 sources": preset(generator=["a/b"] * 9000),
}

"""Small random checkpoints of Stable Diffusion XL and of the families with a transformer.

    row = family_preset(tmp_path, "flux")

In the folder layouts and classes of the published models, as helpers/checkpoints.py.
"""

import dataclasses
from pathlib import Path

import diffusers
import torch
import transformers

from helpers import checkpoints
from helpers.checkpoints import make_clip, make_tokenizer
from presets import PRESETS, Preset

WIDTH = 32
VAE = {
    "block_out_channels": (8, 8, 8, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "sample_size": 64,
    "latent_channels": 16,
    "shift_factor": 0.1159,
    "scaling_factor": 0.3611,
}
UNET = {
    "in_channels": 4,
    "sample_size": 32,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "block_out_channels": (8, 16),
    "transformer_layers_per_block": (1, 1),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 2 * WIDTH,
    "attention_head_dim": (1, 2),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + 16,
}
HEADS = {"num_attention_heads": 2, "attention_head_dim": 16}
ROPE = {"axes_dims_rope": (4, 6, 6)}
QWEN_LAYERS = {
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}


def family_preset(folder: Path, row: str, **changes) -> Preset:
    """The row `row`, generating in 3 steps at 64 pixels, its models made small under `folder`."""
    torch.manual_seed(5)
    generator, controlnet = MAKERS[row]()
    generator.save_pretrained(folder / "generator")
    controlnet.save_pretrained(folder / "controlnet")
    changes = {
        "generator": (str(folder / "generator"),),
        "controlnet": (str(folder / "controlnet"),),
        "clip": (str(make_clip(folder / "clip", "openai")),),
        "steps": 3,
        "short_side": 64,
        "annotator": "canny",
        **changes,
    }
    return dataclasses.replace(PRESETS[row], **changes)


def strong(model: torch.nn.Module, std: float = 0.15) -> torch.nn.Module:
    """Draw a model's weights, those that are published as 0 too, so that every input shows."""
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=std)
    return model.eval()


def certain(vae: torch.nn.Module) -> torch.nn.Module:
    """Make a VAE's encoding as certain as a trained one's: its variance is next to nothing."""
    strong(vae, 0.2)
    last = vae.quant_conv
    half = last.weight.shape[0] // 2
    with torch.no_grad():
        last.weight[half:] = 0
        last.bias[half:] = -30
    return vae


def kl(**changes) -> torch.nn.Module:
    """An AutoencoderKL."""
    return certain(diffusers.AutoencoderKL(**{**VAE, **changes}))


def clip_text(kind: str = "CLIPTextModel") -> torch.nn.Module:
    """A text encoder of CLIP."""
    return getattr(transformers, kind)(checkpoints._text_config("sd15", 77)).eval()


def clip_tokenizer(folder: Path, pad: str = "<|endoftext|>"):
    """A tokenizer of CLIP."""
    return transformers.CLIPTokenizer.from_pretrained(make_tokenizer(folder, pad=pad))


def t5_text() -> torch.nn.Module:
    """T5's encoder."""
    config = transformers.T5Config(
        vocab_size=300, d_model=WIDTH, d_kv=16, d_ff=64, num_layers=2, num_heads=2
    )
    return strong(transformers.T5EncoderModel(config))


def t5_tokenizer():
    """T5's tokenizer: of one piece for each letter."""
    letters = [chr(code) for code in range(33, 127)]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0)]
    pieces += [(letter, -3.0) for letter in letters]
    return transformers.T5TokenizerFast(vocab=pieces, extra_ids=0)


def qwen_tokenizer():
    """Qwen's tokenizer: bytes alone, with a chat's template."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {
        token: number for number, token in enumerate([*checkpoints._byte_letters(), *special])
    }
    tokenizer = transformers.Qwen2Tokenizer(
        vocab=vocabulary, merges=[], additional_special_tokens=special[1:]
    )
    tokenizer.chat_template = (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
        "{{ message['content'] }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
    )
    return tokenizer


def flow(**settings):
    """The sampler of flows."""
    return diffusers.FlowMatchEulerDiscreteScheduler(**settings)


def make_sdxl():
    """Stable Diffusion XL with a union of ControlNets."""
    blocks = ("CrossAttnUpBlock2D", "UpBlock2D")
    unet = diffusers.UNet2DConditionModel(**UNET, out_channels=4, up_block_types=blocks)
    pipeline = diffusers.StableDiffusionXLPipeline(
        vae=kl(latent_channels=4, shift_factor=None, scaling_factor=0.13),
        text_encoder=clip_text(),
        text_encoder_2=clip_text("CLIPTextModelWithProjection"),
        tokenizer=scratch_tokenizer(),
        tokenizer_2=scratch_tokenizer("!"),
        unet=strong(unet, 0.1),
        scheduler=diffusers.EulerDiscreteScheduler.from_config(checkpoints._scheduler("sd15")),
        add_watermarker=False,
    )
    return pipeline, strong(
        std=0.06,
        model=diffusers.ControlNetUnionModel(
            **{name: value for name, value in UNET.items() if name != "sample_size"},
            conditioning_embedding_out_channels=(8, 8, 8, 16),
            num_trans_channel=8,
            num_proj_channel=8,
            num_trans_head=2,
        ),
    )


def scratch_tokenizer(pad: str = "<|endoftext|>"):
    """A tokenizer of CLIP made in a folder that is gone afterwards."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return clip_tokenizer(Path(folder), pad)


def make_flux():
    """FLUX.1 with a ControlNet."""
    network = {
        **HEADS,
        **ROPE,
        "in_channels": 64,
        "joint_attention_dim": WIDTH,
        "pooled_projection_dim": WIDTH,
        "num_layers": 1,
        "num_single_layers": 1,
        "guidance_embeds": True,
    }
    pipeline = diffusers.FluxPipeline(
        scheduler=flow(shift=3.0, use_dynamic_shifting=True),
        vae=kl(),
        text_encoder=clip_text(),
        text_encoder_2=t5_text(),
        tokenizer=scratch_tokenizer(),
        tokenizer_2=t5_tokenizer(),
        transformer=strong(diffusers.FluxTransformer2DModel(**network)),
    )
    return pipeline, strong(diffusers.FluxControlNetModel(**network | {"num_single_layers": 0}))


def make_sd35():
    """Stable Diffusion 3.5 with a ControlNet."""
    network = {
        **HEADS,
        "in_channels": 16,
        "sample_size": 16,
        "num_layers": 2,
        "joint_attention_dim": WIDTH,
        "caption_projection_dim": WIDTH,
        "pooled_projection_dim": 32,
        "pos_embed_max_size": 32,
        "qk_norm": "rms_norm",
    }
    pipeline = diffusers.StableDiffusion3Pipeline(
        transformer=strong(diffusers.SD3Transformer2DModel(**network)),
        scheduler=flow(shift=3.0),
        vae=kl(),
        text_encoder=clip_text("CLIPTextModelWithProjection"),
        text_encoder_2=clip_text("CLIPTextModelWithProjection"),
        text_encoder_3=t5_text(),
        tokenizer=scratch_tokenizer(),
        tokenizer_2=scratch_tokenizer("!"),
        tokenizer_3=t5_tokenizer(),
    )
    return pipeline, strong(
        diffusers.SD3ControlNetModel(
            **network | {"num_layers": 1}, force_zeros_for_pooled_projection=False
        )
    )


def make_qwen():
    """Qwen-Image with a ControlNet."""
    text = {
        **QWEN_LAYERS,
        "vocab_size": 259,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
    }
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": WIDTH,
    }
    config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    network = {
        **HEADS,
        **ROPE,
        "in_channels": 64,
        "out_channels": 16,
        "joint_attention_dim": WIDTH,
        "num_layers": 1,
    }
    vae = strong(
        diffusers.AutoencoderKLQwenImage(base_dim=8, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    )
    with torch.no_grad():
        vae.quant_conv.weight[16:] = 0
        vae.quant_conv.bias[16:] = -30
    pipeline = diffusers.QwenImagePipeline(
        scheduler=flow(use_dynamic_shifting=True, shift_terminal=0.02, max_shift=0.9),
        vae=vae,
        text_encoder=strong(transformers.Qwen2_5_VLForConditionalGeneration(config)),
        tokenizer=qwen_tokenizer(),
        transformer=strong(diffusers.QwenImageTransformer2DModel(**network)),
    )
    return pipeline, strong(diffusers.QwenImageControlNetModel(**network))


def make_zimage():
    """Z-Image with a ControlNet, which runs with layers of the transformer."""
    size = {"dim": WIDTH, "n_heads": 2, "n_kv_heads": 2, "n_refiner_layers": 1}
    pipeline = diffusers.ZImagePipeline(
        scheduler=flow(shift=3.0),
        vae=kl(),
        text_encoder=strong(
            transformers.Qwen3Model(
                transformers.Qwen3Config(**QWEN_LAYERS, vocab_size=259, head_dim=16)
            )
        ),
        tokenizer=qwen_tokenizer(),
        transformer=strong(
            diffusers.ZImageTransformer2DModel(
                **size,
                n_layers=2,
                cap_feat_dim=WIDTH,
                axes_dims=[4, 6, 6],
                axes_lens=[1024, 64, 64],
            )
        ),
    )
    return pipeline, strong(
        diffusers.ZImageControlNetModel(
            **size,
            control_layers_places=[0],
            control_refiner_layers_places=[0],
            control_in_dim=16,
        )
    )


MAKERS = {
    "sdxl": make_sdxl,
    "flux": make_flux,
    "sd35": make_sd35,
    "qwen": make_qwen,
    "zimage": make_zimage,
}

"""The families of text-to-image models that can be drawn with: one row for each pipeline class.

    family = family_of(index)                 # of a model_index.json, before anything is loaded
    family.control_of(config)                 # how a ControlNet of that configuration is used

A row says how diffusers' pipelines of a family are called. Nothing else asks which family it is.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

FLOW = "FlowMatchEulerDiscreteScheduler"
KL = ("diffusers", ("AutoencoderKL",))
CLIP = ("transformers", ("CLIPTextModel", "CLIPTextModelWithProjection"))
CLIP_TOKENIZER = ("transformers", ("CLIPTokenizer", "CLIPTokenizerFast"))
T5 = ("transformers", ("T5EncoderModel",))
T5_TOKENIZER = ("transformers", ("T5TokenizerFast", "T5Tokenizer"))
QWEN_TOKENIZER = ("transformers", ("Qwen2Tokenizer", "Qwen2TokenizerFast"))
HEADS = ("attention_head_dim", "num_attention_heads")
# A configuration's entries that mean other conditions than a prompt; a row names those it gives.
CONDITIONS = ("addition_embed_type", "encoder_hid_dim_type", "class_embed_type")


@dataclass(frozen=True)
class Control:
    """How a class of ControlNets is used."""

    pipeline: str  # class of diffusers that draws with it
    image: str  # argument of the pipeline: the control image
    agrees: tuple[str, ...]  # entries of its configuration that equal the network's
    from_colors: str = ""  # image-to-image class with it; "": the pipeline starts from less noise
    modes: str = ""  # entry of its configuration: the number of kinds of sketches that it is told
    union: bool = False  # whether that entry makes it one of this class, whatever it is called
    several: bool = False  # whether the pipeline takes a list of them
    shared: bool = False  # whether it runs with layers of the network


@dataclass(frozen=True)
class Family:
    """How the pipelines of a family are called.

    Colors start a drawing in one of two ways: an image-to-image class adds noise to their latents,
    or, for samplers of flows, the pipeline is given these latents and the rest of the noise levels.
    """

    name: str
    indexed: str  # regular expression of the classes that a model_index.json may name
    pipeline: str  # class of diffusers that draws without a ControlNet
    # parts of a model: library and classes. Others (a safety checker) are named and not loaded
    parts: Mapping[str, tuple[str, tuple[str, ...]]]
    controls: Mapping[str, Control]  # by class of ControlNet
    network: str = "transformer"  # part that runs at every step
    prompts: str = "text"  # what a pipeline is given of a `Prompt`: its `ids` or its `text`
    pooled: bool = False  # of ids: whether all text encoders are used, with a pooled embedding
    conditions: tuple[str, ...] = ()  # those of CONDITIONS that the pipeline gives
    dtype: str = "bfloat16"  # on a GPU
    patch: int = 2  # latent pixels to one position of the network, each way
    packed: bool = False  # whether latents are (N, positions, channels)
    guidance: str = "guidance_scale"  # argument of the pipeline
    negative: bool = True  # whether there is a negative prompt
    unguided: float = 1.0  # guidance up to which the negative prompt has no say
    signed: bool = True  # whether control pictures are -1..1, not 0..1
    samplers: tuple[str, ...] = (FLOW,)  # classes of diffusers; (): any
    from_colors: str = ""  # image-to-image class; "": the pipeline starts from less noise
    upcast: bool = False  # whether float16 is too coarse for its VAE

    @property
    def encoders(self) -> list[str]:
        """The parts that read prompts."""
        return [part for part in self.parts if part.startswith("text_encoder")]

    @property
    def models(self) -> list[str]:
        """The parts that have weights or settings that a drawing depends on."""
        return [self.network, "vae", *self.encoders, "scheduler"]

    def control_of(self, config: Mapping) -> str:
        """Return the class of ControlNets of a configuration. Raises ValueError for another one."""
        for kind, control in self.controls.items():
            if control.union and config.get(control.modes):
                return kind
        named = config.get("_class_name", next(iter(self.controls)))
        if named not in self.controls:
            taken = " or ".join(self.controls)
            raise ValueError(f"it is a {named}, {self.name} takes a {taken}")
        return named

    def check_pair(self, kind: str, config: Mapping, network: Mapping) -> None:
        """Raise ValueError unless a ControlNet fits the network by their configurations."""
        for name in self.controls[kind].agrees:
            own, other = _plain(config.get(name)), _plain(network.get(name))
            if own != other:
                raise ValueError(
                    f"it is for another model: its {name} is {own}, that of this "
                    f"{self.name} is {other}"
                )

    def size_of(self, config: Mapping) -> int:
        """Return the number of channels of the latents of a network's configuration."""
        return config["in_channels"] // 4 if self.packed else config["in_channels"]


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


UNET = ("cross_attention_dim", "block_out_channels", "addition_embed_type")
SD_VAE = ("diffusers", ("AutoencoderKL", "AutoencoderTiny", "AsymmetricAutoencoderKL"))
unet_control = partial(Control, agrees=UNET, several=True)
SD = Family(
    name="Stable Diffusion 1 and 2",
    indexed="StableDiffusion(?!XL|3)|LatentConsistencyModel",
    pipeline="StableDiffusionPipeline",
    parts={
        "unet": ("diffusers", ("UNet2DConditionModel",)),
        "vae": SD_VAE,
        "text_encoder": CLIP,
        "tokenizer": CLIP_TOKENIZER,
    },
    controls={
        "ControlNetModel": unet_control(
            pipeline="StableDiffusionControlNetPipeline",
            image="image",
            from_colors="StableDiffusionControlNetImg2ImgPipeline",
        )
    },
    network="unet",
    prompts="ids",
    dtype="float16",
    patch=1,
    signed=False,
    samplers=(),
    from_colors="StableDiffusionImg2ImgPipeline",
)
SDXL = Family(
    name="Stable Diffusion XL",
    indexed="StableDiffusionXL",
    pipeline="StableDiffusionXLPipeline",
    parts={
        **SD.parts,
        "text_encoder_2": ("transformers", ("CLIPTextModelWithProjection",)),
        "tokenizer_2": CLIP_TOKENIZER,
    },
    controls={
        "ControlNetModel": unet_control(
            pipeline="StableDiffusionXLControlNetPipeline",
            image="image",
            from_colors="StableDiffusionXLControlNetImg2ImgPipeline",
        ),
        "ControlNetUnionModel": unet_control(
            pipeline="StableDiffusionXLControlNetUnionPipeline",
            image="control_image",
            from_colors="StableDiffusionXLControlNetUnionImg2ImgPipeline",
            modes="num_control_type",
            union=True,
            several=False,
        ),
    },
    network="unet",
    prompts="ids",
    pooled=True,
    conditions=("addition_embed_type",),
    dtype="float16",
    patch=1,
    signed=False,
    samplers=(),
    from_colors="StableDiffusionXLImg2ImgPipeline",
    upcast=True,
)
SD3 = Family(
    name="Stable Diffusion 3",
    indexed="StableDiffusion3",
    pipeline="StableDiffusion3Pipeline",
    parts={
        "transformer": ("diffusers", ("SD3Transformer2DModel",)),
        "vae": KL,
        "text_encoder": CLIP,
        "text_encoder_2": CLIP,
        "text_encoder_3": T5,
        "tokenizer": CLIP_TOKENIZER,
        "tokenizer_2": CLIP_TOKENIZER,
        "tokenizer_3": T5_TOKENIZER,
    },
    controls={
        "SD3ControlNetModel": Control(
            "StableDiffusion3ControlNetPipeline", "control_image", HEADS, several=True
        )
    },
)
FLUX = Family(
    name="FLUX.1",
    indexed="Flux(ControlNet|Img2Img|ControlNetImg2Img)?Pipeline",
    pipeline="FluxPipeline",
    parts={
        "transformer": ("diffusers", ("FluxTransformer2DModel",)),
        "vae": KL,
        "text_encoder": CLIP,
        "text_encoder_2": T5,
        "tokenizer": CLIP_TOKENIZER,
        "tokenizer_2": T5_TOKENIZER,
    },
    controls={
        "FluxControlNetModel": Control(
            "FluxControlNetPipeline",
            "control_image",
            (*HEADS, "joint_attention_dim", "pooled_projection_dim"),
            modes="num_mode",
            several=True,
        )
    },
    packed=True,
    negative=False,  # its guidance is an input of the network
)
QWEN = Family(
    name="Qwen-Image",
    indexed="QwenImage(ControlNet|Img2Img)?Pipeline",
    pipeline="QwenImagePipeline",
    parts={
        "transformer": ("diffusers", ("QwenImageTransformer2DModel",)),
        "vae": ("diffusers", ("AutoencoderKLQwenImage",)),
        "text_encoder": ("transformers", ("Qwen2_5_VLForConditionalGeneration",)),
        "tokenizer": QWEN_TOKENIZER,
    },
    controls={
        "QwenImageControlNetModel": Control(
            "QwenImageControlNetPipeline", "control_image", (*HEADS, "joint_attention_dim")
        )
    },
    packed=True,
    guidance="true_cfg_scale",
)
Z_IMAGE = Family(
    name="Z-Image",
    indexed="ZImage(ControlNet|Img2Img)?Pipeline",
    pipeline="ZImagePipeline",
    parts={
        "transformer": ("diffusers", ("ZImageTransformer2DModel",)),
        "vae": KL,
        "text_encoder": ("transformers", ("Qwen3Model", "Qwen3ForCausalLM")),
        "tokenizer": QWEN_TOKENIZER,
    },
    controls={
        "ZImageControlNetModel": Control(
            "ZImageControlNetPipeline", "control_image", ("dim", "n_heads"), shared=True
        )
    },
    unguided=0.0,
)
FAMILIES = (SD, SDXL, SD3, FLUX, QWEN, Z_IMAGE)
ONLY = f"only models of the families of {', '.join(one.name for one in FAMILIES)} can be drawn with"


def family_of_pipeline(pipeline: object) -> Family:
    """Return the family of a loaded pipeline."""
    return family_of({"_class_name": type(pipeline).__name__})


def family_of(index: Mapping) -> Family:
    """Return the family of a model_index.json.

    Raises ValueError for one that is in no row.
    """
    name = index.get("_class_name", SD.pipeline)
    for family in FAMILIES:
        if re.match(family.indexed, name):
            return family
    raise ValueError(f"it is a {name}: {ONLY}")

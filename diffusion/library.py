"""What the generator takes of diffusers and transformers, imported without the rest of them.

from diffusion.library import StableDiffusionPipeline
"""

from pretrained.libraries import lean

with lean():
    import diffusers
    import transformers
    from diffusers import (
        ControlNetModel,
        SchedulerMixin,
        StableDiffusionControlNetImg2ImgPipeline,
        StableDiffusionControlNetPipeline,
        StableDiffusionImg2ImgPipeline,
        StableDiffusionPipeline,
    )
    from diffusers.image_processor import VaeImageProcessor
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img import (
        retrieve_latents,
    )
    from diffusers.utils import logging as diffusers_logging
    from transformers import CLIPTextModel, CLIPTokenizer
    from transformers.utils import logging as transformers_logging

__all__ = [
    "CLIPTextModel",
    "CLIPTokenizer",
    "ControlNetModel",
    "SchedulerMixin",
    "StableDiffusionControlNetImg2ImgPipeline",
    "StableDiffusionControlNetPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionPipeline",
    "VaeImageProcessor",
    "diffusers",
    "diffusers_logging",
    "retrieve_latents",
    "transformers",
    "transformers_logging",
]

"""What the generator takes of diffusers and transformers, imported without the rest of them.

from diffusion.library import diffusers
"""

from pretrained.libraries import lean

with lean():
    import diffusers
    import transformers
    from diffusers import ConfigMixin, ModelMixin, SchedulerMixin
    from diffusers.configuration_utils import register_to_config
    from diffusers.image_processor import VaeImageProcessor
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img import (
        retrieve_latents,
    )
    from diffusers.utils import logging as diffusers_logging
    from transformers import CLIPTokenizer
    from transformers.utils import logging as transformers_logging

__all__ = [
    "CLIPTokenizer",
    "ConfigMixin",
    "ModelMixin",
    "SchedulerMixin",
    "VaeImageProcessor",
    "calculate_shift",
    "diffusers",
    "diffusers_logging",
    "register_to_config",
    "retrieve_latents",
    "transformers",
    "transformers_logging",
]

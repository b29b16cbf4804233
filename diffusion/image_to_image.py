"""Image-to-image pipelines of diffusers that start from given latents and given noise.

    pipeline = TextFromLatents(**components)
    pipeline.generate_from(latents, noise, strength=0.8, ...)

The stock pipelines draw both from random generators.
"""

import torch

from diffusion.library import (
    StableDiffusionControlNetImg2ImgPipeline,
    StableDiffusionImg2ImgPipeline,
)


class _FromLatents:
    """Replaces the step of a pipeline that draws latents and noise."""

    def generate_from(self, latents: torch.Tensor, noise: torch.Tensor, **settings):
        """Call the pipeline with latents (N, C, h, w) to start from and noise of that shape."""
        self._latents = latents
        self._noise = noise
        return self(image=latents, **settings)

    def prepare_latents(self, image, timestep, *_, **__) -> torch.Tensor:
        """Return the given latents at the noise level of the first timestep, as diffusers asks."""
        return self.scheduler.add_noise(self._latents, self._noise, timestep)


class TextFromLatents(_FromLatents, StableDiffusionImg2ImgPipeline):
    """Image-to-image from latents, by a prompt."""


class ControlFromLatents(_FromLatents, StableDiffusionControlNetImg2ImgPipeline):
    """Image-to-image from latents, by a prompt and a control image."""

"""Image-to-image pipelines of diffusers that start from given latents and given noise.

    kind = from_latents("StableDiffusionImg2ImgPipeline")
    kind(**components).generate_from(latents, noise, strength=0.8, ...)

The stock pipelines draw both from random generators.
"""

from functools import cache

import torch

from diffusion.library import diffusers


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


@cache
def from_latents(name: str) -> type:
    """Return the image-to-image class of diffusers of that name that has `generate_from`."""
    return type(f"{name}FromLatents", (_FromLatents, getattr(diffusers, name)), {})

"""What the network of a pipeline predicts at one noise level, with gradients: for training.

    predicted = one_step(pipeline, timesteps, settings)

A pipeline of diffusers is run for one step, and what it gives its sampler is the prediction. So
prompts, control images and guidance reach the network as when sampling, in every family.
"""

from collections.abc import Mapping

import torch


class Caught:
    """Stands for a pipeline's sampler: keeps the prediction, and leaves the latents as they are.

    config: of the sampler itself. timesteps: (N,), one for each image of the batch.
    """

    order = 1
    init_noise_sigma = 1.0

    def __init__(self, config: Mapping, timesteps: torch.Tensor):
        self.config = config
        self.timesteps = timesteps[None]  # one step
        self.predicted: torch.Tensor | None = None

    def set_timesteps(self, num_inference_steps=None, device=None, sigmas=None, mu=None) -> None:
        """Keep the timesteps, whatever a pipeline asks for."""

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Do nothing: there is one step."""

    def scale_model_input(self, sample: torch.Tensor, timestep) -> torch.Tensor:
        """Return the latents: they are as the network reads them."""
        return sample

    def step(self, model_output: torch.Tensor, timestep, sample: torch.Tensor, return_dict=True):
        """Keep the prediction."""
        self.predicted = model_output
        return (sample,)


def one_step(pipeline, timesteps: torch.Tensor, settings: dict) -> torch.Tensor:
    """Return what a pipeline's network predicts, like the latents of `settings`.

    timesteps: (N,), those of the batch. settings: the pipeline's other arguments.
    """
    sampler = pipeline.scheduler
    pipeline.scheduler = Caught(sampler.config, timesteps)
    try:
        run = type(pipeline).__call__.__wrapped__  # without torch.no_grad
        run(pipeline, **settings, num_inference_steps=1, output_type="latent")
        return pipeline.scheduler.predicted
    finally:
        pipeline.scheduler = sampler

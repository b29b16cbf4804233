"""The bundled UNet and ControlNet as one network, and flow matching on its latents.

    denoiser = Denoiser()
    loss = flow_loss(denoiser, batch, noise_levels(16), torch.randn_like(batch[0]))

x_s = (1 - s) x + s noise, and the network predicts noise - x (Lipman et al., "Flow Matching for
Generative Modeling", 2023), at timestep 1000 s. Half of the noise levels s are close to 1, where
sampling with few steps needs them.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from diffusers import ControlNetModel, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from einops import rearrange
from torch import Tensor, nn

from diffusion.control import control_channels
from tiny.latents import CHANNELS, PATCH

WIDTHS = (96, 192)  # channels at the two scales
TEXT_WIDTH = 192
CONTROL = f"space to depth {PATCH}"  # as in the preset
TIMESTEPS = 1000


def make_unet() -> UNet2DConditionModel:
    """Return the untrained UNet, with attention on the coarser of its two scales."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        block_out_channels=WIDTHS,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
    )


def make_controlnet() -> ControlNetModel:
    """Return the untrained ControlNet; its input has the resolution of the latents.

    Its zero convolutions are initialized like other ones: there is no pretrained UNet to protect.
    """
    controlnet = ControlNetModel(
        in_channels=CHANNELS,
        conditioning_channels=control_channels(CONTROL),
        conditioning_embedding_out_channels=(WIDTHS[0],),
        block_out_channels=WIDTHS,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
    )
    for conv in [*controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block]:
        nn.init.kaiming_uniform_(conv.weight, a=5**0.5)
    nn.init.orthogonal_(controlnet.controlnet_cond_embedding.conv_out.weight)
    return controlnet


class Denoiser(nn.Module):
    """UNet and ControlNet as one module, which predicts noise - latents."""

    def __init__(self):
        super().__init__()
        self.unet = make_unet()
        self.controlnet = make_controlnet()
        # On a CPU, its backward pass is faster than that of the fused attention.
        self.unet.set_attn_processor(AttnProcessor())
        self.controlnet.set_attn_processor(AttnProcessor())

    def forward(
        self, noisy: Tensor, level: Tensor, text: Tensor, control: Tensor, shown: Tensor
    ) -> Tensor:
        """Return noise - latents, (N, 16, h, w).

        noisy: (N, 16, h, w). level: of the noise, (N,) in 0..1.
        text: (N, T, 192). control: (N, C, h, w).
        shown: (N,), 1 where the control is used, 0 where it is not.
        """
        timestep = TIMESTEPS * level
        down, middle = self.controlnet(noisy, timestep, text, control, return_dict=False)
        mask = rearrange(shown, "n -> n 1 1 1")
        down = [part * mask for part in down]
        middle = middle * mask
        return self.unet(
            noisy,
            timestep,
            text,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
        ).sample


def noise_levels(count: int) -> Tensor:
    """Return random noise levels (count,) in 0..1: half of them uniform, half close to 1."""
    u = torch.rand(count)
    return torch.where(torch.rand(count) < 0.5, 1 - 0.3 * u**2, 0.02 + 0.98 * u)


def flow_loss(
    denoiser: Denoiser, batch: tuple[Tensor, Tensor, Tensor, Tensor], level: Tensor, noise: Tensor
) -> Tensor:
    """Return the mean squared error of the predicted flow.

    batch: latents, text, control and shown, see `Denoiser.forward`. level: (N,). noise: like the
    latents.
    """
    latents, text, control, shown = batch
    device = denoiser.unet.device
    weight = rearrange(level, "n -> n 1 1 1")
    noisy = (1 - weight) * latents + weight * noise
    target = noise - latents
    inputs = [tensor.to(device) for tensor in (noisy, level, text, control, shown)]
    with torch.autocast(device.type, torch.bfloat16):
        flow = denoiser(*inputs)
    return F.mse_loss(flow.float(), target.to(device))


@torch.no_grad()
def latents_error(
    denoiser: Denoiser,
    x: Tensor,
    noise: Tensor,
    level: float,
    text: Tensor,
    control: Tensor,
    shown: float = 1.0,
) -> float:
    """Return the mean squared error of the clean latents that are predicted at a noise level.

    x: the clean latents (1, 16, h, w). noise: like x. Others: see `Denoiser.forward`.
    """
    noisy = (1 - level) * x + level * noise
    flow = denoiser(noisy, torch.tensor([level]), text, control, torch.tensor([shown]))
    return F.mse_loss(noisy - level * flow, x).item()


@torch.no_grad()
def euler(
    denoiser: nn.Module, noise: Tensor, text: Tensor, control: Tensor, steps: int = 8
) -> Tensor:
    """Return latents (N, 16, h, w) sampled from noise by Euler steps, without guidance."""
    x = noise
    shown = torch.ones(len(x))
    for level, following in pairwise(torch.linspace(1, 0, steps + 1)):
        flow = denoiser(x, level.expand(len(x)), text, control, shown)
        x = x + (following - level) * flow
    return x

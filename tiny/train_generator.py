"""Train the bundled UNet and ControlNet together, from scratch, by flow matching on the latents of tiny/latents.py.

    python -m tiny.train_generator --photos runs/tiny/photos --conditions runs/tiny/conditions --seconds 4500

A batch is (photograph, prompt, sketch, colour map): the prompt is the one that prompt inversion finds for the
photograph, or a text of tiny/facts.py, or nothing; the sketch is the decoded one at one of the codec's rates, or the
clean one, or nothing; the colour map is the decoded one at one of its rates, or nothing. x_s = (1 - s) x + s noise, and
the network predicts noise - x (Lipman et al., "Flow Matching for Generative Modeling", 2023), at timestep 1000 s. Half
of the noise levels are close to 1, where few-step sampling needs them. With CLIP, latents and decoder beside it, the
result is a preset: `--preset BUNDLE`.
"""

import json
import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderTiny,
    ControlNetModel,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
)
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from torchvision.utils import save_image
from transformers import CLIPTextModel, CLIPTokenizer

from diffusion.control import COLOUR_SCALE, control_channels, control_tensor
from diffusion.generator import framed
from tiny.conditions import Conditions
from tiny.data import Photos
from tiny.latents import CHANNELS, PATCH, Latents, to_pixels
from tiny.training import Average, Run, cosine, descend, parser, set_rate

BUNDLE = Path(__file__).parent / "bundle"
WIDTHS, TEXT_WIDTH = (96, 192), 192
CONTROL = f"space to depth {PATCH}"  # as in the preset
BATCH, RATE = 16, 8e-4
SIZES = ((256, 256), (256, 320), (320, 256), (256, 384), (384, 256))  # of the crops, pixels
DROP_TEXT, DROP_SKETCH, DROP_COLOUR, FACTS = 0.15, 0.12, 0.4, 0.25


def make_unet() -> UNet2DConditionModel:
    """Build the untrained UNet: attention on the coarser of its two scales."""
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
    """Build the untrained ControlNet, whose hint is sketch and colour map at the latents' resolution.

    Its usual zero convolutions are given an ordinary start: there is no pretrained UNet to protect.
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


class Drawer(nn.Module):
    """UNet and ControlNet as one module: predicts noise - latents."""

    def __init__(self):
        super().__init__()
        self.unet, self.controlnet = make_unet(), make_controlnet()
        self.unet.set_attn_processor(AttnProcessor())  # its backward pass beats the fused one on a CPU
        self.controlnet.set_attn_processor(AttnProcessor())

    def forward(self, noisy: Tensor, level: Tensor, text: Tensor, control: Tensor, shown: Tensor) -> Tensor:
        """(N, 16, h, w), (N,), (N, T, 192), (N, C, h, w), (N,) 1 where the control is shown -> (N, 16, h, w)."""
        down, middle = self.controlnet(noisy, 1000 * level, text, control, return_dict=False)
        mask = shown.view(-1, 1, 1, 1)
        down, middle = [d * mask for d in down], middle * mask
        return self.unet(
            noisy,
            1000 * level,
            text,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
        ).sample


def noise_levels(count: int) -> Tensor:
    """Draw noise levels in 0..1: half uniform, half crowded towards 1."""
    u = torch.rand(count)
    return torch.where(torch.rand(count) < 0.5, 1 - 0.3 * u**2, 0.02 + 0.98 * u)


class Batches:
    """Random training batches of crops of one size, with their conditions."""

    def __init__(
        self,
        photos: Photos,
        conditions: Conditions,
        encoder: Latents,
        bundle: Path,
        seed: int,
        drop_colour: float = DROP_COLOUR,
    ):
        self.photos, self.conditions, self.encoder, self.drop_colour = photos, conditions, encoder, drop_colour
        self.rng = random.Random(seed)
        self.tokenizer = CLIPTokenizer.from_pretrained(bundle / "clip")
        self.text_encoder = CLIPTextModel.from_pretrained(bundle / "clip", dtype=torch.float32).eval()
        shapes = [row["shape"] for row in photos.rows]
        self.fitting = {
            size: [i for i in photos.training if shapes[i][0] >= size[0] and shapes[i][1] >= size[1]] for size in SIZES
        }

    def text(self, i: int) -> list[int]:
        """Return the prompt of photograph i as ids."""
        draw = self.rng.random()
        if draw < DROP_TEXT:
            return []
        prompt = self.conditions.prompt(i)
        if draw < DROP_TEXT + FACTS or not prompt:
            return self.tokenizer(self.conditions.facts(i, self.rng), add_special_tokens=False)["input_ids"]
        return prompt

    @torch.no_grad()
    def encode_text(self, prompts: list[list[int]]) -> Tensor:
        """Encode prompts as the pipeline does: begin, ids, end, padding -> (N, 32, 192)."""
        longest = self.tokenizer.model_max_length
        rows = [framed(ids[: longest - 2], self.tokenizer, longest) for ids in prompts]
        return self.text_encoder(torch.tensor(rows)).last_hidden_state

    def control(self, i: int, window: tuple[slice, slice], flip: int) -> Tensor | None:
        """Draw what the ControlNet is shown of a window of photograph i, None for nothing: (1, C, h, w)."""
        sketch = colour = None
        if self.rng.random() > DROP_SKETCH:
            sketch = self.conditions.sketch(i, self.rng)[window][:, ::flip]
        if self.rng.random() > self.drop_colour:
            cells = tuple(slice(part.start // COLOUR_SCALE, part.stop // COLOUR_SCALE) for part in window)
            colour = self.conditions.colour(i)[cells][:, ::flip]
        return None if sketch is None and colour is None else control_tensor(sketch, CONTROL, colour)

    def draw(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return latents (N, 16, h, w), text (N, 32, 192), control (N, C, h, w), shown (N,).

        Crops are at random places, flipped half of the time.
        """
        size = self.rng.choice(SIZES)
        chosen = self.rng.sample(self.fitting[size], BATCH)
        photos, controls = [], []
        for i in chosen:
            room = [(side - cut) // COLOUR_SCALE for side, cut in zip(self.photos[i].shape[:2], size, strict=True)]
            y, x = (COLOUR_SCALE * self.rng.randint(0, steps) for steps in room)
            window, flip = np.s_[y : y + size[0], x : x + size[1]], self.rng.choice((1, -1))
            photos.append(self.photos[i][window][:, ::flip])
            controls.append(self.control(i, window, flip))
        latents = self.encoder.encode(to_pixels(photos))
        shown = torch.tensor([control is not None for control in controls]).float()
        nothing = torch.zeros(1, control_channels(CONTROL), *latents.shape[2:])
        control = torch.cat([nothing if control is None else control for control in controls])
        return latents, self.encode_text([self.text(i) for i in chosen]), control, shown


def flow_loss(drawer: Drawer, batch: tuple[Tensor, Tensor, Tensor, Tensor], level: Tensor, noise: Tensor) -> Tensor:
    """Return the squared error of the flow that is predicted for a batch of `Batches.draw` at its noise levels (N,)."""
    latents, text, control, shown = batch
    weight, device = level.view(-1, 1, 1, 1), drawer.unet.device
    noisy, target = (1 - weight) * latents + weight * noise, noise - latents
    with torch.autocast(device.type, torch.bfloat16):
        flow = drawer(*(tensor.to(device) for tensor in (noisy, level, text, control, shown)))
    return F.mse_loss(flow.float(), target.to(device))


SHOWN = ("text", "sketch+text", "sketch+text+colour")


def held_out(batches: Batches, i: int, shown: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, Tensor, Tensor]:
    """Return photograph i's middle square: pixels, sketch, colour map; then text and control of what is `shown`."""
    photo, sketch, colour = batches.photos[i], batches.conditions.decoded(i), batches.conditions.colour(i)
    photo, sketch, colour = photo[:256, :256], sketch[:256, :256], colour[:32, :32]
    control = control_tensor(
        sketch if "sketch" in shown else None, CONTROL, colour if "sketch" not in shown or "colour" in shown else None
    )
    return photo, sketch, colour, batches.encode_text([batches.conditions.prompt(i)]), control


@torch.no_grad()
def latents_error(drawer: Drawer, x: Tensor, noise: Tensor, level: float, text: Tensor, control: Tensor, shown=1.0):
    """Return the squared error of what is predicted for clean latents x (1, 16, h, w) at a noise level, as float."""
    noisy = (1 - level) * x + level * noise
    flow = drawer(noisy, torch.tensor([level]), text, control, torch.tensor([shown]))
    return F.mse_loss(noisy - level * flow, x).item()


def clean_error(drawer: Drawer, batches: Batches) -> dict:
    """Return the error of the clean latents on held-out photographs, by what is shown and noise level.

    Level 0.98 measures what the conditions alone tell (0: 0.97); a sketch does not say which side of a line is
    the darker one, so that what it tells shows at 0.7.
    """
    generator = torch.Generator().manual_seed(0)
    errors = {f"{shown} {level}": [] for shown in SHOWN for level in (0.98, 0.7)}
    for i in batches.photos.validation[:64]:
        noise = None
        for name, found in errors.items():
            shown, level = name.split()[0], float(name.split()[1])
            photo, _, _, text, control = held_out(batches, i, shown)
            x = batches.encoder.encode(to_pixels([photo]))
            noise = torch.randn(x.shape, generator=generator) if noise is None else noise
            found.append(latents_error(drawer, x, noise, level, text, control, float(shown != "text")))
    return {name: float(np.mean(error)) for name, error in errors.items()}


def export(drawer: Drawer, batches: Batches, bundle: Path) -> None:
    """Write generator/ and controlnet/ in the layout of Stable Diffusion, in half precision, and preset.json."""
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, steps_offset=1
    )
    text_encoder = CLIPTextModel.from_pretrained(bundle / "clip", dtype=torch.float16)
    vae = AutoencoderTiny.from_pretrained(bundle / "generator" / "vae", torch_dtype=torch.float16)
    vae.register_to_config(_name_or_path="")  # where it lay on this machine is nobody's business
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=batches.tokenizer,
        unet=drawer.unet.half(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(bundle / "generator")
    drawer.controlnet.half().save_pretrained(bundle / "controlnet")
    drawer.float()
    models = {name: name for name in ("clip", "generator", "controlnet")}
    (bundle / "preset.json").write_text(json.dumps({"base": "tiny"} | models) + "\n")


@torch.no_grad()
def euler(drawer: nn.Module, noise: Tensor, text: Tensor, control: Tensor, steps: int = 8) -> Tensor:
    """Draw latents (N, 16, h, w) from noise of that shape by plain Euler steps without guidance."""
    x = noise
    for level, following in pairwise(torch.linspace(1, 0, steps + 1)):
        x = x + (following - level) * drawer(x, level.expand(len(x)), text, control, torch.ones(len(x)))
    return x


@torch.no_grad()
def sheet(drawer: Drawer, batches: Batches, vae: AutoencoderTiny, path: Path) -> None:
    """Draw held-out photographs: original, sketch, drawn, colour map, drawn."""
    tiles = []
    for i in batches.photos.validation[:16]:
        row = []
        for shown in SHOWN[1:]:
            photo, sketch, colour, text, control = held_out(batches, i, shown)
            noise = torch.randn((1, CHANNELS, 16, 16), generator=torch.Generator().manual_seed(i))
            drawn = vae.decode(euler(drawer, noise, text, control)).sample
            hint = np.repeat(sketch[..., None], 3, 2) if shown == "sketch+text" else np.kron(colour, np.ones((8, 8, 1)))
            row += [to_pixels([hint]), drawn]
        tiles.append(torch.cat([to_pixels([photo]), *row], 3).clamp(-1, 1) / 2 + 0.5)
    save_image(torch.cat(tiles), path, nrow=4)


def main(argv: list[str] | None = None) -> None:
    """Train, log, export."""
    flags = parser(__doc__, "runs/tiny/generator", 4500)
    flags.add_argument("--photos", type=Path, default=Path("runs/tiny/photos"))
    flags.add_argument("--conditions", type=Path, default=Path("runs/tiny/conditions"))
    flags.add_argument("--bundle", type=Path, default=BUNDLE)
    args = flags.parse_args(argv)

    run, photos = Run(args.run, args.seconds, args.seed), Photos(args.photos)
    encoder = Latents.load(args.bundle / "latents.safetensors")
    batches = Batches(photos, Conditions(args.conditions, photos), encoder, args.bundle, args.seed)
    drawer = Drawer().to(args.device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(drawer.parameters(), RATE, weight_decay=1e-2)
    average = Average(drawer, 0.999)

    def train_step(progress: float) -> dict:
        set_rate(optimizer, RATE * cosine(progress))
        batch = batches.draw()
        loss = flow_loss(drawer, batch, noise_levels(BATCH), torch.randn_like(batch[0]))
        descend(loss, optimizer)
        average.update()
        return {"loss": loss.item()}

    def check() -> dict:
        smooth = Drawer()
        smooth.load_state_dict(average.shadow)
        smooth.eval()
        vae = AutoencoderTiny.from_pretrained(args.bundle / "generator" / "vae", torch_dtype=torch.float32)
        sheet(smooth, batches, vae, args.run / "sheet.png")
        errors = clean_error(smooth, batches)
        export(smooth, batches, args.bundle)
        return errors

    run.loop(train_step, {"drawer": drawer, "optimizer": optimizer, "average": average}, {500: check})
    print(check())


if __name__ == "__main__":
    main()

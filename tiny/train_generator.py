"""Train the bundled UNet and ControlNet together, from scratch, by flow matching.

    python -m tiny.train_generator --photos runs/tiny/photos --conditions runs/tiny/conditions

The network and its loss are in tiny/denoiser.py. A batch is (image, prompt, sketch, color map):

    prompt       the one that prompt inversion finds, or a text of tiny/facts.py, or nothing
    sketch       decoded at one of the codec's rates, or the clean one, or nothing
    color map    decoded at one of the codec's rates, or nothing

With CLIP, latents and decoder in the same folder, the result is a preset: `--preset BUNDLE`.
"""

import json
import random
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from diffusers import AutoencoderTiny, StableDiffusionPipeline, UniPCMultistepScheduler
from diffusers.training_utils import EMAModel
from einops import repeat
from torch import Tensor
from torchvision.utils import save_image
from transformers import CLIPTextModel, CLIPTokenizer

from common.files import write
from diffusion.control import COLOR_SCALE, control_channels, control_tensor
from diffusion.prompts import framed
from presets import BUNDLE
from tiny.conditions import Conditions
from tiny.data import Photos
from tiny.denoiser import CONTROL, Denoiser, euler, flow_loss, latents_error, noise_levels
from tiny.latents import CHANNELS, Latents, to_pixels
from tiny.training import Run, averaged, optimizer_step, parser, set_learning_rate

BATCH = 16
LEARNING_RATE = 8e-4
SIZES = ((256, 256), (256, 320), (320, 256), (256, 384), (384, 256))  # of the crops, pixels
DROP_TEXT = 0.15  # probability of no text
FACTS = 0.25  # probability of a text of tiny/facts.py
DROP_SKETCH = 0.12
DROP_COLOR = 0.4
SIDE = 256  # pixels of the squares of held-out images
SHOWN = ("text", "sketch+text", "sketch+text+color")
LEVELS = (0.98, 0.7)  # of the noise, where errors are measured
MEASURED_IMAGES = 64
SHEET_IMAGES = 16


# ---- batches


class Batches:
    """Random training batches of crops of one size, with their conditions.

    encoder: images -> latents. bundle: folder with the CLIP. drop_color: probability of no colors.
    """

    def __init__(
        self,
        photos: Photos,
        conditions: Conditions,
        encoder: Latents,
        bundle: Path,
        seed: int,
        drop_color: float = DROP_COLOR,
    ):
        self.photos = photos
        self.conditions = conditions
        self.encoder = encoder
        self.drop_color = drop_color
        self.rng = random.Random(seed)
        self.tokenizer = CLIPTokenizer.from_pretrained(bundle / "clip")
        text_encoder = CLIPTextModel.from_pretrained(bundle / "clip", dtype=torch.float32)
        self.text_encoder = text_encoder.eval()
        self.fitting = {size: self._at_least(*size) for size in SIZES}

    def _at_least(self, height: int, width: int) -> list[int]:
        """Return the training images that are large enough for a crop."""
        fitting = []
        for i in self.photos.training:
            shape = self.photos.rows[i]["shape"]
            if shape[0] >= height and shape[1] >= width:
                fitting.append(i)
        return fitting

    def text(self, i: int) -> list[int]:
        """Return a random prompt of image i as token ids: nothing, facts, or the inverted one."""
        draw = self.rng.random()
        if draw < DROP_TEXT:
            return []
        prompt = self.conditions.prompt(i)
        if draw < DROP_TEXT + FACTS or not prompt:
            facts = self.conditions.facts(i, self.rng)
            return self.tokenizer(facts, add_special_tokens=False)["input_ids"]
        return prompt

    @torch.no_grad()
    def encode_text(self, prompts: list[list[int]]) -> Tensor:
        """Return the features (N, 32, 192) of prompts, encoded as the pipeline does it."""
        longest = self.tokenizer.model_max_length
        rows = [framed(ids[: longest - 2], self.tokenizer, longest) for ids in prompts]
        return self.text_encoder(torch.tensor(rows)).last_hidden_state

    def control(self, i: int, window: tuple[slice, slice], flip: int) -> Tensor | None:
        """Return a random control image of a window of image i, (1, C, h, w), or None for nothing.

        flip: 1 or -1, the step of the columns.
        """
        sketch = color = None
        if self.rng.random() > DROP_SKETCH:
            sketch = self.conditions.sketch(i, self.rng)[window][:, ::flip]
        if self.rng.random() > self.drop_color:
            color = self.conditions.color(i)[color_window(window)][:, ::flip]
        if sketch is None and color is None:
            return None
        return control_tensor(sketch, CONTROL, color)

    def window(self, i: int, size: tuple[int, int]) -> tuple[slice, slice]:
        """Return a random window of image i, in steps of the color map's pixels."""
        window = []
        for side, length in zip(self.photos[i].shape[:2], size, strict=True):
            start = COLOR_SCALE * self.rng.randint(0, (side - length) // COLOR_SCALE)
            window.append(slice(start, start + length))
        return tuple(window)

    def sample(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return latents (N, 16, h, w), text (N, 32, 192), control (N, C, h, w) and shown (N,).

        Crops are at random positions, flipped half of the time.
        """
        size = self.rng.choice(SIZES)
        chosen = self.rng.sample(self.fitting[size], BATCH)
        images, controls = [], []
        for i in chosen:
            window = self.window(i, size)
            flip = self.rng.choice((1, -1))
            images.append(self.photos[i][window][:, ::flip])
            controls.append(self.control(i, window, flip))
        latents = self.encoder.encode(to_pixels(images))
        shown = torch.tensor([control is not None for control in controls]).float()
        nothing = torch.zeros(1, control_channels(CONTROL), *latents.shape[2:])
        control = torch.cat([nothing if control is None else control for control in controls])
        text = self.encode_text([self.text(i) for i in chosen])
        return latents, text, control, shown


def color_window(window: tuple[slice, slice]) -> tuple[slice, slice]:
    """Return the part of a color map that belongs to a window of its image."""
    rows, columns = window
    return (
        slice(rows.start // COLOR_SCALE, rows.stop // COLOR_SCALE),
        slice(columns.start // COLOR_SCALE, columns.stop // COLOR_SCALE),
    )


# ---- held-out images


class HeldOut(NamedTuple):
    """The upper left square of a held-out image, and what the network is shown of it."""

    image: np.ndarray  # uint8 (256, 256, 3)
    sketch: np.ndarray  # uint8 (256, 256)
    color: np.ndarray  # uint8 (32, 32, 3)
    text: Tensor  # (1, 32, 192)
    control: Tensor  # (1, C, 16, 16)


def held_out(batches: Batches, i: int, shown: str) -> HeldOut:
    """Return the square of image i. shown: one of SHOWN."""
    conditions = batches.conditions
    image = batches.photos[i][:SIDE, :SIDE]
    sketch = conditions.decoded(i)[:SIDE, :SIDE]
    color = conditions.color(i)[: SIDE // COLOR_SCALE, : SIDE // COLOR_SCALE]
    if shown == "sketch+text":
        control = control_tensor(sketch, CONTROL, None)
    elif shown == "text":
        control = control_tensor(None, CONTROL, color)  # of the right size; it is not used
    else:
        control = control_tensor(sketch, CONTROL, color)
    return HeldOut(image, sketch, color, batches.encode_text([conditions.prompt(i)]), control)


def clean_error(denoiser: Denoiser, batches: Batches) -> dict[str, float]:
    """Return the error of the clean latents on held-out images, by what is shown and noise level.

    Level 0.98 measures what the conditions alone tell (an output of 0 has the error 0.97). A sketch
    does not tell which side of a line is darker; what it tells shows at 0.7.
    """
    generator = torch.Generator().manual_seed(0)
    errors = {}
    for i in batches.photos.validation[:MEASURED_IMAGES]:
        noise = None
        for shown in SHOWN:
            image, _, _, text, control = held_out(batches, i, shown)
            x = batches.encoder.encode(to_pixels([image]))
            if noise is None:
                noise = torch.randn(x.shape, generator=generator)
            use = float(shown != "text")
            for level in LEVELS:
                error = latents_error(denoiser, x, noise, level, text, control, use)
                errors.setdefault(f"{shown} {level}", []).append(error)
    return {name: float(np.mean(values)) for name, values in errors.items()}


@torch.no_grad()
def write_sheet(denoiser: Denoiser, batches: Batches, vae: AutoencoderTiny, path: Path) -> None:
    """Write held-out images: original, sketch, reconstruction, color map, reconstruction."""
    rows = []
    for i in batches.photos.validation[:SHEET_IMAGES]:
        tiles = []
        for shown in SHOWN[1:]:
            image, sketch, color, text, control = held_out(batches, i, shown)
            noise = torch.randn((1, CHANNELS, 16, 16), generator=torch.Generator().manual_seed(i))
            recon = vae.decode(euler(denoiser, noise, text, control)).sample
            if shown == "sketch+text":
                hint = repeat(sketch, "h w -> h w c", c=3)
            else:
                hint = repeat(color, "h w c -> (h p) (w q) c", p=COLOR_SCALE, q=COLOR_SCALE)
            tiles += [to_pixels([hint]), recon]
        row = torch.cat([to_pixels([image]), *tiles], 3)
        rows.append(row.clamp(-1, 1) / 2 + 0.5)
    save_image(torch.cat(rows), path, nrow=4)


# ---- training


def export(denoiser: Denoiser, tokenizer: CLIPTokenizer, bundle: Path) -> None:
    """Write generator/, controlnet/ and preset.json into a bundle.

    The layout is that of Stable Diffusion, in half precision.
    """
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, steps_offset=1
    )
    text_encoder = CLIPTextModel.from_pretrained(bundle / "clip", dtype=torch.float16)
    vae = load_decoder(bundle, torch.float16)
    vae.register_to_config(_name_or_path="")  # the folder on this machine is of no interest
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=denoiser.unet.half(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(bundle / "generator")
    denoiser.controlnet.half().save_pretrained(bundle / "controlnet")
    preset = {"base": "tiny", "clip": "clip", "generator": "generator", "controlnet": "controlnet"}
    write(bundle / "preset.json", (json.dumps(preset) + "\n").encode())


def load_decoder(bundle: Path, dtype: torch.dtype) -> AutoencoderTiny:
    """Return the latent decoder of a bundle."""
    return AutoencoderTiny.from_pretrained(bundle / "generator" / "vae", torch_dtype=dtype)


def train(run: Run, batches: Batches, bundle: Path) -> None:
    """Train, log and export the network with averaged weights."""
    denoiser = Denoiser().to(run.device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(denoiser.parameters(), LEARNING_RATE, weight_decay=1e-2)
    average = EMAModel(denoiser.parameters(), decay=0.999)

    def train_step(progress: float) -> dict:
        set_learning_rate(optimizer, LEARNING_RATE, progress)
        batch = batches.sample()
        loss = flow_loss(denoiser, batch, noise_levels(BATCH), torch.randn_like(batch[0]))
        optimizer_step(loss, optimizer)
        average.step(denoiser.parameters())
        return {"loss": loss.item()}

    def check() -> dict:
        smooth = averaged(denoiser, average)
        vae = load_decoder(bundle, torch.float32)
        write_sheet(smooth, batches, vae, run.folder / "sheet.png")
        errors = clean_error(smooth, batches)
        export(smooth, batches.tokenizer, bundle)
        return errors

    # "drawer" is the network's name in the states of earlier runs.
    run.loop(
        train_step, {"drawer": denoiser, "optimizer": optimizer, "average": average}, {500: check}
    )
    print(check())


def main(argv: list[str] | None = None) -> None:
    """Train, log, export."""
    flags = parser(__doc__, "runs/tiny/generator", 4500)
    add = flags.add_argument
    runs = Path("runs/tiny")
    add("--photos", type=Path, default=runs / "photos", help="folder written by tiny.data")
    help_conditions = "folder written by tiny.conditions"
    add("--conditions", type=Path, default=runs / "conditions", help=help_conditions)
    add("--bundle", type=Path, default=BUNDLE, help="folder of the bundle")
    args = flags.parse_args(argv)
    run = Run(args.run, args.seconds, args.seed, args.device)
    photos = Photos(args.photos)
    conditions = Conditions(args.conditions, photos)
    encoder = Latents.load(args.bundle / "latents.safetensors")
    train(run, Batches(photos, conditions, encoder, args.bundle, args.seed), args.bundle)


if __name__ == "__main__":
    main()

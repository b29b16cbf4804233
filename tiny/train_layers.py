"""Train the second exact network (models_ntc/picture_hyperprior.py): base layers, or sketches.

    python -m tiny.train_layers base                            # on images, by tiny.data
    python -m tiny.train_layers sketch2 --sketches SKETCHES     # a folder of generate_sketches.py

Each image of a batch has a rate of its own, drawn from the network's range, and the loss is
lambda * (MSE + w * (1 - MS-SSIM)) + bits per pixel. Sketches are varied, so that those of other
annotators are coded well too: blurred, thinned, with another contrast or threshold. Half of them
should be of a short side of 512 pixels (`generate_sketches.py --short_side 512`).
"""

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from compressai.entropy_models import EntropyModel
from diffusers.training_utils import EMAModel
from einops import rearrange
from skimage.morphology import thin
from torch import Tensor, nn

from common.files import load_image
from models_ntc.codec_file import save_codec
from models_ntc.limits import PICTURE
from models_ntc.loss import bits_per_pixel, ms_ssim, sample_weights
from models_ntc.networks import new_network
from models_ntc.training import keep_float32, optimized_parts
from tiny.data import SUFFIXES, Photos
from tiny.training import Run, averaged, cosine_schedule, parser

LEARNING_RATE = 5e-4
DENSITY_PACE = 5  # of the hyper-latents' density, times the learning rate
CROPS = ((192, 8), (192, 8), (192, 8), (256, 4))  # side in pixels and batch, drawn at random
HELD_OUT = 64  # images or sketches
MEASURED = 256  # pixels, the side of a held-out crop
ZOOMS = (0.6, 2)  # of an image, in a quarter of the crops: 1 is its own size


class Layer(NamedTuple):
    """What is trained for a weight file of models_ntc/."""

    sizes: dict  # of the network
    mse: float  # weight of the MSE of values in 0..1, beside lambda * MS_SSIM's
    ms_ssim: float
    measured: tuple[float, ...]  # lambdas


LAYERS = {
    "base": Layer({}, 255.0**2, 1500.0, (1e-5, 1e-4, 1e-3)),
    "sketch2": Layer(
        {"channels": 1, "sixteenth": 128, "hyper_latent": 32, "lambda_range": (0.01, 2.0)},
        2.0,
        1.0,
        (0.02, 0.2, 1.0),
    ),
}
Crop = Callable[[int, random.Random], np.ndarray]  # of a side in pixels: uint8 (side, side, C)


# ---- examples


def zoomed_crop(image: np.ndarray, side: int, rng: random.Random) -> np.ndarray | None:
    """Return a random square of an image, a quarter of them at another scale; None if too small."""
    zoom = rng.uniform(*ZOOMS) if rng.random() < 0.25 else 1.0
    cut = round(side / zoom)
    part = plain_crop(image, cut, rng)
    if part is None or cut == side:
        return part
    how = cv2.INTER_AREA if cut > side else cv2.INTER_CUBIC
    return cv2.resize(part, (side, side), interpolation=how)


def plain_crop(image: np.ndarray, side: int, rng: random.Random) -> np.ndarray | None:
    """Return a random square of an image, None if the image is smaller."""
    height, width = image.shape[:2]
    if min(height, width) < side:
        return None
    top, left = rng.randint(0, height - side), rng.randint(0, width - side)
    return image[top : top + side, left : left + side]


def varied(sketch: np.ndarray, rng: random.Random) -> np.ndarray:
    """Return a sketch, uint8 (H, W), as another annotator might draw it; half of them as it is."""
    if rng.random() < 0.5:
        return sketch
    lines = sketch.astype(np.float32) / 255
    changed = rng.choice((blurred, with_contrast, thinned, with_threshold))(lines, rng)
    return (changed.clip(0, 1) * 255).round().astype(np.uint8)


def blurred(lines: np.ndarray, rng: random.Random) -> np.ndarray:
    """Return lines in 0..1 blurred and as bright as before."""
    soft = cv2.GaussianBlur(lines, (0, 0), rng.uniform(0.5, 2))
    return soft / max(float(soft.max()), 0.2)


def with_contrast(lines: np.ndarray, rng: random.Random) -> np.ndarray:
    """Return lines in 0..1 with another gain and gamma."""
    return (lines * rng.uniform(0.6, 2.5)).clip(0, 1) ** rng.uniform(0.6, 1.8)


def thinned(lines: np.ndarray, rng: random.Random) -> np.ndarray:
    """Return lines in 0..1, one pixel wide and slightly blurred."""
    middle = cv2.dilate(lines, np.ones((3, 3))) * thin(lines > rng.uniform(0.15, 0.5))
    soft = cv2.GaussianBlur(middle.astype(np.float32), (0, 0), rng.uniform(0.5, 1.2))
    return soft * rng.uniform(1.5, 3)


def with_threshold(lines: np.ndarray, rng: random.Random) -> np.ndarray:
    """Return lines in 0..1 nearly black or white."""
    return (lines - rng.uniform(0.1, 0.4)) * rng.uniform(2, 8) + 0.5


def crops_of_photos(photos: Photos) -> Crop:
    """Return what draws a crop of the training images."""

    def crop(side: int, rng: random.Random) -> np.ndarray:
        part = None
        while part is None:
            part = zoomed_crop(photos[rng.choice(photos.training)], side, rng)
        return part

    return crop


def crops_of_sketches(files: list[Path]) -> Crop:
    """Return what draws a crop of sketches, varied."""

    def crop(side: int, rng: random.Random) -> np.ndarray:
        part = None
        while part is None:
            part = plain_crop(load_image(rng.choice(files))[..., 0], side, rng)
        return varied(part, rng)[..., None]

    return crop


def to_tensor(crops: list[np.ndarray]) -> Tensor:
    """Return crops, uint8 (side, side, C), as float32 (N, C, side, side) in 0..1."""
    return rearrange(torch.from_numpy(np.stack(crops)), "n h w c -> n c h w").float() / 255


def random_batch(crop: Crop, rng: random.Random) -> Tensor:
    """Return random crops of one size, half of them mirrored."""
    side, count = rng.choice(CROPS)
    crops = [crop(side, rng) for _ in range(count)]
    return to_tensor([one[:, ::-1] if rng.random() < 0.5 else one for one in crops])


# ---- training


def terms(layer: Layer, net: nn.Module, images: Tensor, lmbda: Tensor) -> dict[str, Tensor]:
    """Return the loss, bits per pixel, MSE and 1 - MS-SSIM of images; lmbda: (N,)."""
    output = net(images, lmbda)
    bpp = bits_per_pixel(output, images)
    squares = F.mse_loss(output["x_hat"], images, reduction="none").flatten(1).mean(1)
    structure = 1 - ms_ssim(output["x_hat"], images, size_average=False)
    distortion = layer.mse * squares + layer.ms_ssim * structure
    loss = (sample_weights(lmbda) * (lmbda * distortion + bpp)).mean()
    means = {"bpp": bpp, "mse": squares, "ms_ssim_loss": structure}
    return {"loss": loss, **{name: value.mean() for name, value in means.items()}}


def make_optimizers(net: nn.Module) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Return the optimizer of the weights, and that of the quantiles of the hyper-latents."""
    rest, density, quantiles = optimized_parts(net)
    groups = [
        {"params": rest, "pace": 1, "weight_decay": 1e-4},
        {"params": density, "pace": DENSITY_PACE, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, LEARNING_RATE), torch.optim.Adam(quantiles, 1e-3)


def train(run: Run, name: str, crop: Crop, held_out: Tensor, out: Path) -> None:
    """Train, log and export a network with averaged weights to `out`."""
    layer = LAYERS[name]
    net = new_network(PICTURE, layer.sizes).to(run.device, memory_format=torch.channels_last)
    for module in net.modules():
        if isinstance(module, EntropyModel):
            keep_float32(module)
    main, auxiliary = make_optimizers(net)
    average = EMAModel(net.parameters(), decay=0.9995)
    low, high = map(math.log, net.config.lambda_range)
    rng = random.Random(run.seed)

    def train_step(progress: float) -> dict:
        for group in main.param_groups:
            group["lr"] = LEARNING_RATE * group["pace"] * cosine_schedule(progress)
        images = random_batch(crop, rng).to(run.device, memory_format=torch.channels_last)
        lmbda = (low + (high - low) * torch.rand(len(images), device=run.device)).exp()
        with torch.autocast(run.device.type, torch.bfloat16):
            found = terms(layer, net, images, lmbda)
        step(found["loss"] + net.aux_loss())
        average.step(net.parameters())
        return {key: value.item() for key, value in found.items()}

    def step(loss: Tensor) -> None:
        main.zero_grad(set_to_none=True)
        auxiliary.zero_grad(set_to_none=True)
        loss.backward()
        weights = [weight for group in main.param_groups for weight in group["params"]]
        if torch.isfinite(nn.utils.clip_grad_norm_(weights, 1.0)):
            main.step()
        auxiliary.step()

    def check() -> dict:
        smooth = averaged(net, average)
        found = measure(layer, smooth, held_out)
        save_codec(smooth, out, PICTURE, None, "ms-ssim")
        return found

    parts = {"net": net, "main": main, "auxiliary": auxiliary, "average": average}
    run.loop(train_step, parts, {2000: check})
    print(check())


@torch.no_grad()
def measure(layer: Layer, net: nn.Module, held_out: Tensor) -> dict:
    """Return bits per pixel, PSNR and MS-SSIM of held-out crops at some lambdas."""
    found = {}
    for lmbda in layer.measured:
        rows = [terms(layer, net, one[None], torch.tensor([lmbda])) for one in held_out]
        bpp, mse, structure = (
            torch.stack([row[key] for row in rows]).mean().item()
            for key in ("bpp", "mse", "ms_ssim_loss")
        )
        psnr = -10 * math.log10(mse)
        found[f"lambda {lmbda:g}"] = f"{bpp:.4f} bpp, {psnr:.2f} dB, MS-SSIM {1 - structure:.4f}"
    return found


def main(argv: list[str] | None = None) -> None:
    """Train one network, log, export."""
    flags = parser(__doc__, "", 12000)
    add = flags.add_argument
    add("layer", choices=LAYERS, help="which weight file of models_ntc/ it is for")
    photos = Path("runs/tiny/photos")
    add("--photos", type=Path, default=photos, help="base: folder written by tiny.data")
    add("--sketches", type=Path, help="sketch2: folder of sketches, at any depth")
    add("--out", type=Path, help="weight file to write (default: in the folder of the run)")
    args = flags.parse_args(argv)
    if (args.layer == "sketch2") != (args.sketches is not None):
        flags.error("--sketches is for sketch2, which needs it")
    rng = random.Random(0)
    if args.sketches:
        files = sorted(file for file in args.sketches.rglob("*") if file.suffix in SUFFIXES)
        crop = crops_of_sketches(files[HELD_OUT:])
        shown = [load_image(file)[..., :1] for file in files[:HELD_OUT]]
    else:
        data = Photos(args.photos)
        crop = crops_of_photos(data)
        shown = [data[i] for i in data.validation[:HELD_OUT]]
    squares = [plain_crop(image, MEASURED, rng) for image in shown]
    held_out = to_tensor([square for square in squares if square is not None])
    folder = args.run if args.run.name else Path("runs/tiny") / args.layer
    run = Run(folder, args.seconds, args.seed, args.device)
    train(run, args.layer, crop, held_out, args.out or folder / f"{args.layer}.safetensors")


if __name__ == "__main__":
    main()

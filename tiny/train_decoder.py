"""Train the bundled latent decoder: diffusers' AutoencoderTiny on the latents of tiny/latents.py.

    python -m tiny.train_decoder --photos runs/tiny/photos --seconds 1800

The loss is an L1 at three scales, a squared error and a distance of the edge network's features; no
weights of others are used. Noise on the latents in training makes the decoder robust against errors
of the sampler.
"""

import random
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file
from torch import Tensor
from torchvision.utils import save_image

from annotator import HED_TINY
from annotator.hed import HED, TINY
from presets import BUNDLE
from tiny.data import Photos
from tiny.latents import CHANNELS, PATCH, Latents, to_pixels
from tiny.training import Run, averaged, optimizer_step, parser, set_learning_rate

CROP = 96  # pixels
BATCH = 8
LEARNING_RATE = 1e-3
WIDTH = 48
BLOCKS = (4, 3, 2, 1, 0)
MOST_NOISE = 0.15  # standard deviation of the noise on the latents
FITTED_IMAGES = 3000  # that the latents are fitted to
PATCHES = 30  # of each of these
FEATURE_BLOCKS = 4  # of the edge network, in the loss
FEATURE_WEIGHT = 0.05
MEASURED_IMAGES = 40
SHOWN_IMAGES = 8


def make_decoder() -> AutoencoderTiny:
    """Return the untrained autoencoder.

    Its encoder is not used, and is as small as the class allows.
    """
    return AutoencoderTiny(
        latent_channels=CHANNELS,
        encoder_block_out_channels=(1,),
        decoder_block_out_channels=(WIDTH,) * 5,
        num_encoder_blocks=(1,),
        num_decoder_blocks=BLOCKS,
        scaling_factor=1.0,
        force_upcast=False,
    )


# ---- loss


def load_features() -> HED:
    """Return the bundled edge network, whose activations are the features of the loss."""
    network = HED(TINY)
    network.load_state_dict({name: value.float() for name, value in load_file(HED_TINY).items()})
    return network.requires_grad_(False).eval()


def features(network: HED, pixels: Tensor, blocks: int = FEATURE_BLOCKS) -> list[Tensor]:
    """Return the activations of the first `blocks` blocks.

    pixels: (N, 3, H, W) in -1..1.
    """
    x = (pixels + 1) * 127.5 - network.norm
    found = []
    for number in range(1, blocks + 1):
        if number > 1:
            x = F.max_pool2d(x, 2)
        x, _ = getattr(network, f"block{number}")(x)
        found.append(x)
    return found


def reconstruction_loss(recon: Tensor, truth: Tensor, network: HED) -> Tensor:
    """Return L1 at three scales + 4 times the squared error + the distance of edge features.

    recon, truth: (N, 3, H, W) in -1..1.
    """
    loss = 4 * F.mse_loss(recon, truth)
    for scale in (1, 2, 4):
        loss = loss + F.l1_loss(F.avg_pool2d(recon, scale), F.avg_pool2d(truth, scale)) / 3
    pairs = zip(features(network, recon), features(network, truth), strict=True)
    for own, target in pairs:
        loss = loss + FEATURE_WEIGHT * (own - target).abs().mean() / target.abs().mean()
    return loss


# ---- data


def random_crop(image: np.ndarray, rng: random.Random) -> np.ndarray:
    """Return a random square of CROP pixels, flipped half of the time: uint8 (CROP, CROP, 3)."""
    y = rng.randint(0, image.shape[0] - CROP)
    x = rng.randint(0, image.shape[1] - CROP)
    crop = image[y : y + CROP, x : x + CROP]
    return crop[:, ::-1] if rng.random() < 0.5 else crop


def random_crops(photos: Photos, rng: random.Random) -> list[np.ndarray]:
    """Return a batch of random crops of random training images."""
    crops = []
    for _ in range(BATCH):
        image = photos[rng.choice(photos.training)]
        crops.append(random_crop(image, rng))
    return crops


def center(image: np.ndarray) -> np.ndarray:
    """Return the middle of an image, with sides that are multiples of the patch."""
    height = image.shape[0] // PATCH * PATCH
    width = image.shape[1] // PATCH * PATCH
    y = (image.shape[0] - height) // 2
    x = (image.shape[1] - width) // 2
    return image[y : y + height, x : x + width]


# ---- training


@torch.no_grad()
def measure(autoencoder: AutoencoderTiny, latents: Latents, photos: Photos, sheet: Path) -> dict:
    """Return the PSNR on held-out images, and write a sheet of originals above reconstructions."""
    errors, tiles = [], []
    for i in photos.validation[:MEASURED_IMAGES]:
        pixels = to_pixels([center(photos[i])])
        recon = autoencoder.decode(latents.encode(pixels)).sample.clamp(-1, 1)
        errors.append(F.mse_loss(recon, pixels).item() / 4)
        tiles.append(torch.cat([pixels[:, :, :256, :256], recon[:, :, :256, :256]], 2))
    save_image(torch.cat(tiles[:SHOWN_IMAGES]) / 2 + 0.5, sheet, nrow=SHOWN_IMAGES)
    return {"psnr": float(np.mean(-10 * np.log10(errors)))}


def load_latents(path: Path, photos: Photos, seed: int) -> Latents:
    """Return the latents of a bundle, fitted and written if there are none."""
    if not path.exists():
        images = [photos[i] for i in photos.training[:FITTED_IMAGES]]
        Latents.fit(images, PATCHES, np.random.default_rng(seed)).save(path)
    return Latents.load(path)


def train(run: Run, photos: Photos, latents: Latents, bundle: Path) -> None:
    """Train, log and export the decoder with averaged weights."""
    rng = random.Random(run.seed)
    network = load_features().to(run.device, memory_format=torch.channels_last)
    autoencoder = make_decoder()
    decoder = autoencoder.decoder.to(run.device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(decoder.parameters(), LEARNING_RATE, weight_decay=1e-4)
    average = EMAModel(decoder.parameters(), decay=0.998)

    def train_step(progress: float) -> dict:
        set_learning_rate(optimizer, LEARNING_RATE, progress)
        pixels = to_pixels(random_crops(photos, rng))
        z = latents.encode(pixels)
        z = z + torch.rand(BATCH, 1, 1, 1) * MOST_NOISE * torch.randn_like(z)
        pixels = pixels.to(run.device, memory_format=torch.channels_last)
        with torch.autocast(pixels.device.type, torch.bfloat16):
            recon = autoencoder.decode(z.to(run.device)).sample
            loss = reconstruction_loss(recon.float(), pixels, network)
        optimizer_step(loss, optimizer)
        average.step(decoder.parameters())
        return {"loss": loss.item()}

    def check() -> dict:
        smooth = make_decoder()
        smooth.decoder = averaged(decoder, average)
        smooth.half().save_pretrained(bundle / "generator" / "vae")
        return measure(smooth.float(), latents, photos, run.folder / "sheet.png")

    parts = {"decoder": decoder, "optimizer": optimizer, "average": average}
    run.loop(train_step, parts, {500: check})
    print(check())


def main(argv: list[str] | None = None) -> None:
    """Fit the latents, train the decoder, log, export."""
    flags = parser(__doc__, "runs/tiny/decoder", 1800)
    add = flags.add_argument
    images = Path("runs/tiny/photos")
    add("--photos", type=Path, default=images, help="folder written by tiny.data")
    add("--bundle", type=Path, default=BUNDLE, help="folder of the bundle")
    args = flags.parse_args(argv)
    run = Run(args.run, args.seconds, args.seed, args.device)
    photos = Photos(args.photos)
    latents = load_latents(args.bundle / "latents.safetensors", photos, args.seed)
    train(run, photos, latents, args.bundle)


if __name__ == "__main__":
    main()

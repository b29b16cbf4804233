"""Train the bundled latent decoder: diffusers' AutoencoderTiny on the fixed linear latents of tiny/latents.py.

    python -m tiny.train_decoder --photos runs/tiny/photos --seconds 1800

The loss is an L1 at three scales, a squared error and a distance of the edge network's features: no weights of
others. Noise on the latents in training makes the decoder forgive the sampler.
"""

import random
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from safetensors.torch import load_file
from torch import Tensor
from torchvision.utils import save_image

from annotator.hed import HED, TINY
from tiny.data import Photos
from tiny.latents import CHANNELS, PATCH, Latents, to_pixels
from tiny.training import Average, Run, cosine, descend, parser, set_rate

BUNDLE = Path(__file__).parent / "bundle"
EDGES = Path(__file__).parent.parent / "annotator" / "hed_tiny.safetensors"
CROP, BATCH, RATE = 96, 8, 1e-3
WIDTH, BLOCKS = 48, (4, 3, 2, 1, 0)


def make_decoder() -> AutoencoderTiny:
    """Build the untrained autoencoder; its encoder half is as small as the class allows and stays unused."""
    return AutoencoderTiny(
        latent_channels=CHANNELS,
        encoder_block_out_channels=(1,),
        decoder_block_out_channels=(WIDTH,) * 5,
        num_encoder_blocks=(1,),
        num_decoder_blocks=BLOCKS,
        scaling_factor=1.0,
        force_upcast=False,
    )


def load_features() -> HED:
    """Load the bundled edge network, whose activations serve as the feature loss."""
    network = HED(TINY)
    network.load_state_dict({k: v.float() for k, v in load_file(EDGES).items()})
    return network.requires_grad_(False).eval()


def features(network: HED, pixels: Tensor) -> list[Tensor]:
    """Return the activations of the first four blocks, each divided by its own scale."""
    x, found = (pixels + 1) * 127.5 - network.norm, []
    for number in range(1, 5):
        x = F.max_pool2d(x, 2) if number > 1 else x
        x, _ = getattr(network, f"block{number}")(x)
        found.append(x)
    return found


def reconstruction_loss(drawn: Tensor, truth: Tensor, network: HED) -> Tensor:
    """L1 at three scales + 4 times the squared error + distance of edge features."""
    loss = 4 * F.mse_loss(drawn, truth)
    for scale in (1, 2, 4):
        loss = loss + F.l1_loss(F.avg_pool2d(drawn, scale), F.avg_pool2d(truth, scale)) / 3
    for a, b in zip(features(network, drawn), features(network, truth), strict=True):
        loss = loss + 0.05 * (a - b).abs().mean() / b.abs().mean()
    return loss


def random_crop(photo: np.ndarray, rng: random.Random) -> np.ndarray:
    """Cut a square of `CROP` pixels, flipped half of the time."""
    y, x = (rng.randint(0, side - CROP) for side in photo.shape[:2])
    crop = photo[y : y + CROP, x : x + CROP]
    return crop[:, ::-1] if rng.random() < 0.5 else crop


def centre(photo: np.ndarray) -> np.ndarray:
    """Cut the middle to sides that are multiples of the patch."""
    height, width = (side // PATCH * PATCH for side in photo.shape[:2])
    y, x = (photo.shape[0] - height) // 2, (photo.shape[1] - width) // 2
    return photo[y : y + height, x : x + width]


@torch.no_grad()
def measure(autoencoder: AutoencoderTiny, latents: Latents, photos: Photos, sheet: Path) -> dict:
    """Return the PSNR on held-out photographs and write a sheet of originals over reconstructions."""
    errors, tiles = [], []
    for i in photos.validation[:40]:
        pixels = to_pixels([centre(photos[i])])
        drawn = autoencoder.decode(latents.encode(pixels)).sample.clamp(-1, 1)
        errors.append(F.mse_loss(drawn, pixels).item() / 4)
        tiles.append(torch.cat([pixels[:, :, :256, :256], drawn[:, :, :256, :256]], 2))
    save_image(torch.cat(tiles[:8]) / 2 + 0.5, sheet, nrow=8)
    return {"psnr": float(np.mean(-10 * np.log10(errors)))}


def main(argv: list[str] | None = None) -> None:
    """Fit the latents, train the decoder, log, export."""
    flags = parser(__doc__, "runs/tiny/decoder", 1800)
    flags.add_argument("--photos", type=Path, default=Path("runs/tiny/photos"))
    flags.add_argument("--bundle", type=Path, default=BUNDLE)
    args = flags.parse_args(argv)

    run, photos, rng = Run(args.run, args.seconds, args.seed), Photos(args.photos), random.Random(args.seed)
    path = args.bundle / "latents.safetensors"
    if not path.exists():
        Latents.fit([photos[i] for i in photos.training[:3000]], 30, np.random.default_rng(args.seed)).save(path)
    latents, network = Latents.load(path), load_features().to(args.device, memory_format=torch.channels_last)
    autoencoder = make_decoder()
    autoencoder.decoder.to(args.device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(autoencoder.decoder.parameters(), RATE, weight_decay=1e-4)
    average = Average(autoencoder.decoder, 0.998)

    def train_step(progress: float) -> dict:
        set_rate(optimizer, RATE * cosine(progress))
        pixels = to_pixels([random_crop(photos[rng.choice(photos.training)], rng) for _ in range(BATCH)])
        z = latents.encode(pixels)
        z = z + torch.rand(BATCH, 1, 1, 1) * 0.15 * torch.randn_like(z)
        pixels = pixels.to(args.device, memory_format=torch.channels_last)
        with torch.autocast(args.device.type, torch.bfloat16):
            drawn = autoencoder.decode(z.to(args.device)).sample
            loss = reconstruction_loss(drawn.float(), pixels, network)
        descend(loss, optimizer)
        average.update()
        return {"loss": loss.item()}

    def check() -> dict:
        smooth = make_decoder()
        smooth.decoder.load_state_dict(average.shadow)
        smooth.half().save_pretrained(args.bundle / "generator" / "vae")
        return measure(smooth.float(), latents, photos, args.run / "sheet.png")

    run.loop(train_step, {"decoder": autoencoder.decoder, "optimizer": optimizer, "average": average}, {500: check})
    print(check())


if __name__ == "__main__":
    main()

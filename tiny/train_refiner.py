"""Train the bundled refiner (diffusion/refiner.py) on the examples of tiny/refiner_data.py.

    python -m tiny.train_refiner --examples runs/tiny/refiner_data --seconds 7200

The loss is an L1, MS-SSIM, shift-tolerant LPIPS (AlexNet) of the images at half size, so that
detail is asked for where the colors and the sketch can know of it, and with less weight at full
size, the distance of the edge network's features, and the lines of the spectrum at periods of 2 and
4 pixels. It needs
stlpips-pytorch (docs/metrics.md). LPIPS of SqueezeNet, which judges the result, is no loss.
"""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.training_utils import EMAModel
from einops import rearrange
from torch import Tensor
from torchvision.utils import save_image

from diffusion.refiner import Refiner, refined
from metrics.networks import load_st_network
from models_ntc.loss import ms_ssim
from presets import BUNDLE
from tiny.refiner_data import SIDE, Examples
from tiny.train_decoder import features, load_features
from tiny.training import Run, averaged, optimizer_step, parser, set_learning_rate

CROP = 128  # pixels
GRID = 8  # pixels: crops start on multiples, as the low band's blocks do
BATCH = 6
LEARNING_RATE = 4e-4
WEIGHTS = {
    "l1": 4.0,
    "ms_ssim": 3.0,
    "st_lpips_half": 1.0,
    "st_lpips": 0.6,
    "edges": 0.08,
    "lines": 0.25,
}
EDGE_BLOCKS = 2  # of the edge network, in the loss
MIRRORED = 24  # pixels around a crop, for MS-SSIM, which needs 161
# Spectral bins at periods of 2 and 4 pixels, in quarters of the sampling frequency.
LINES = ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (2, 2), (1, 3), (1, 2), (2, 1))
REACH = 4  # bins around a line that it is compared with
POWER_FLOOR = 10.0  # of 255 levels: below it nothing is seen
SHOWN_IMAGES = 8


def half(images: Tensor) -> Tensor:
    """Return images (N, C, H, W) averaged 2x2."""
    return F.avg_pool2d(images, 2)


def line_strength(images: Tensor) -> Tensor:
    """Return how far LINES stand out in the mean spectrum of a batch, as log10 of power: 0 upwards.

    images: (N, 3, H, W) in 0..1. In luma and in two differences of colors.
    """
    side = images.shape[-1]
    window = torch.hann_window(side, periodic=False, device=images.device)
    red, green, blue = (images * 255).unbind(1)
    found = []
    for plane in ((red + green + blue) / 3, red - green, green - blue):
        centered = plane - plane.mean((1, 2), keepdim=True)
        spectrum = torch.fft.fft2(centered * window[:, None] * window)
        power = (spectrum.real**2 + spectrum.imag**2).mean(0) + POWER_FLOOR
        found += [_standing_out(power, *line) for line in LINES]
    return torch.stack(found).mean()


def _standing_out(power: Tensor, down: int, across: int) -> Tensor:
    """Return log10 of a bin's power over the median of the bins around, 0 if it is less."""
    side = len(power)
    row, column = down * side // 4, across * side // 4
    reach = torch.arange(-REACH, REACH + 1, device=power.device)
    around = power[(row + reach) % side][:, (column + reach) % side]
    return F.relu(torch.log10(power[row, column] / around.median().detach()))


class Loss:
    """The terms of WEIGHTS, of images (N, 3, H, W) in 0..1."""

    def __init__(self, device: torch.device):
        self.edges = load_features().to(device)
        self.st_lpips = load_st_network(str(device))

    def __call__(self, recon: Tensor, truth: Tensor) -> dict[str, Tensor]:
        """Return the terms. The gradient passes through the clipping of `recon`."""
        clipped = recon + (recon.clamp(0, 1) - recon).detach()
        pairs = zip(self._features(clipped), self._features(truth), strict=True)
        distances = [(own - other).abs().mean() / other.abs().mean() for own, other in pairs]
        padding = (MIRRORED,) * 4
        padded = [F.pad(images, padding, mode="reflect") for images in (clipped, truth)]
        return {
            "l1": F.l1_loss(recon, truth),
            "ms_ssim": 1 - ms_ssim(*padded),
            "st_lpips_half": self._st_lpips(half(clipped), half(truth)),
            "st_lpips": self._st_lpips(clipped, truth),
            "edges": torch.stack(distances).sum(),
            "lines": line_strength(clipped),
        }

    def _st_lpips(self, recon: Tensor, truth: Tensor) -> Tensor:
        return self.st_lpips(recon * 2 - 1, truth * 2 - 1).mean()

    def _features(self, images: Tensor) -> list[Tensor]:
        return features(self.edges, images * 2 - 1, EDGE_BLOCKS)


def random_batch(examples: Examples, rng: random.Random) -> list[Tensor]:
    """Return a batch of random crops: float32 tensors in the order of SHAPES."""
    rows = []
    for _ in range(BATCH):
        y, x = (GRID * rng.randint(0, (SIDE - CROP) // GRID) for _ in range(2))
        turn = rng.random() < 0.5
        example = examples[rng.randrange(len(examples))]
        crops = [plane[y : y + CROP, x : x + CROP] for plane in example[:-1]]
        rows.append([crop[:, ::-1] if turn else crop for crop in crops] + [example.flags])
    return to_tensors(rows)


def to_tensors(rows: list) -> list[Tensor]:
    """Return examples, or crops of them, as float32 tensors: planes (N, C, H, W) in 0..1, flags."""
    *planes, flags = (np.stack(column) for column in zip(*rows, strict=True))
    given = [torch.from_numpy(plane.astype(np.float32)) / 255 for plane in planes]
    tensors = [rearrange(plane, "n h w c -> n c h w").contiguous() for plane in given]
    return [*tensors, torch.from_numpy(flags.astype(np.float32))]


@torch.no_grad()
def measure(network: Refiner, examples: Examples, loss: Loss, sheet: Path) -> dict:
    """Return the terms of the loss before and after, on held-out examples, and write a sheet."""
    before, after, tiles = [], [], []
    for i in range(len(examples)):
        image, recon, *given = to_tensors([examples[i]])
        better = refined(network, recon, *given).clamp(0, 1)
        before.append([term.item() for term in loss(recon, image).values()])
        after.append([term.item() for term in loss(better, image).values()])
        tiles.append(torch.cat([image, recon, better], 2))
    save_image(torch.cat(tiles[:SHOWN_IMAGES]), sheet, nrow=SHOWN_IMAGES)
    rows = zip(WEIGHTS, np.mean(before, 0).tolist(), np.mean(after, 0).tolist(), strict=True)
    return {name: f"{old:.4f} -> {new:.4f}" for name, old, new in rows}


def train(run: Run, training: Examples, held_out: Examples, bundle: Path) -> None:
    """Train, log and export the refiner with averaged weights."""
    rng = random.Random(run.seed)
    loss = Loss(run.device)
    network = Refiner().to(run.device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(
        network.parameters(), LEARNING_RATE, betas=(0.9, 0.98), weight_decay=1e-3
    )
    average = EMAModel(network.parameters(), decay=0.998)

    def train_step(progress: float) -> dict:
        set_learning_rate(optimizer, LEARNING_RATE, progress)
        image, *given = (each.to(run.device) for each in random_batch(training, rng))
        terms = loss(refined(network, *given), image)
        optimizer_step(sum(WEIGHTS[name] * term for name, term in terms.items()), optimizer)
        average.step(network.parameters())
        return {name: term.item() for name, term in terms.items()}

    def check() -> dict:
        smooth = averaged(network, average)
        smooth.half().save_pretrained(bundle / "refiner")
        return measure(smooth.float(), held_out, Loss("cpu"), run.folder / "sheet.png")

    parts = {"network": network, "optimizer": optimizer, "average": average}
    each: dict[int, Callable[[], dict]] = {1000: check}
    run.loop(train_step, parts, each)
    print(check())


def main(argv: list[str] | None = None) -> None:
    """Train the refiner, log, export."""
    flags = parser(__doc__, "runs/tiny/refiner", 7200)
    add = flags.add_argument
    examples = Path("runs/tiny/refiner_data")
    add("--examples", type=Path, default=examples, help="folder written by tiny.refiner_data")
    add("--bundle", type=Path, default=BUNDLE, help="folder of the bundle")
    args = flags.parse_args(argv)
    run = Run(args.run, args.seconds, args.seed, args.device)
    held_out = Examples(args.examples / "held_out")
    train(run, Examples(args.examples / "training"), held_out, args.bundle)


if __name__ == "__main__":
    main()

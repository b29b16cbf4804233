"""Train `hed-tiny`, the bundled edge network, on human boundaries (BSDS500).

    python -m tiny.train_edges --data DIR/bsds500 --seconds 1200

DIR/bsds500/{train,val,test} hold ID.jpg and ID_edges.png (255 = every person drew this boundary).
The training uses train and val, with random scale, rotation, flips and colors. Afterwards, batch
normalization is folded into the convolutions, so that the exported network is a plain, narrow HED.
"""

import random
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from diffusers.training_utils import EMAModel
from einops import rearrange
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from annotator import HED_TINY
from annotator.hed import HED, TINY, Block
from tiny.training import Run, averaged, optimizer_step, parser, set_learning_rate

CROP = 256  # pixels
BATCH = 8
LEARNING_RATE = 2e-3
SIDE_WEIGHT = 0.3  # of the side outputs in the loss


# ---- data


def load_split(folder: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the pairs of a split: image uint8 (H, W, 3) RGB, boundaries uint8 (H, W)."""
    pairs = []
    for path in sorted(folder.glob("*.jpg")):
        edges = cv2.imread(str(path.with_name(path.stem + "_edges.png")), cv2.IMREAD_GRAYSCALE)
        pairs.append((cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB), edges))
    return pairs


def augment(
    image: np.ndarray, edges: np.ndarray, rng: random.Random
) -> tuple[np.ndarray, np.ndarray]:
    """Return a random square of a pair: image float32 (CROP, CROP, 3), edges float32 in 0..1.

    Scale, rotation, flip and colors are random.
    """
    height, width = edges.shape
    center = (rng.uniform(0.3, 0.7) * width, rng.uniform(0.3, 0.7) * height)
    matrix = cv2.getRotationMatrix2D(center, rng.uniform(-20, 20), rng.uniform(0.7, 1.5))
    matrix[:, 2] += CROP / 2 - np.array([width, height]) / 2
    flip = rng.random() < 0.5

    def warp(plane: np.ndarray) -> np.ndarray:
        moved = cv2.warpAffine(plane, matrix, (CROP, CROP), borderMode=cv2.BORDER_REFLECT_101)
        return moved[:, ::-1] if flip else moved

    image = recolor(warp(image).astype(np.float32), rng)
    return image, warp(edges).astype(np.float32) / 255


def random_batch(training: list, rng: random.Random) -> tuple[Tensor, Tensor]:
    """Return BATCH squares by `augment` of random pairs: images (N, H, W, 3), edges (N, H, W)."""
    images, edges = [], []
    for _ in range(BATCH):
        image, boundaries = augment(*rng.choice(training), rng)
        images.append(image)
        edges.append(boundaries)
    return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(edges))


def recolor(image: np.ndarray, rng: random.Random) -> np.ndarray:
    """Return float32 (H, W, 3) in 0..255 with random white balance, contrast and brightness.

    A fifth of the images become gray.
    """
    balance = np.array([rng.uniform(0.8, 1.2) for _ in range(3)])
    image = image * balance * rng.uniform(0.7, 1.3) + rng.uniform(-20, 20)
    if rng.random() < 0.2:
        image[:] = image.mean(2, keepdims=True)
    return image.clip(0, 255).astype(np.float32)


# ---- network


def conv_blocks(network: HED) -> list[Block]:
    """Return the blocks of a HED."""
    return [block for block in network.children() if isinstance(block, Block)]


def add_batch_norm(network: HED) -> None:
    """Put batch normalization after every convolution of the blocks, for training."""
    for block in conv_blocks(network):
        for i, conv in enumerate(block.convs):
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            block.convs[i] = nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels))


def export(network: HED, path: Path) -> HED:
    """Fold the batch normalization of a network in eval mode; write it in half precision.

    Return the same network, now a plain HED.
    """
    for block in conv_blocks(network):
        for i, (conv, norm) in enumerate(block.convs):
            block.convs[i] = fuse_conv_bn_eval(conv, norm)
    weights = {name: value.half().contiguous() for name, value in network.state_dict().items()}
    save_file(weights, path)
    return network


# ---- loss and measure


def balanced_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Return the class-balanced cross entropy (HED, equation 2) of (N, 1, H, W).

    Boundaries that few people drew do not count, neither as boundary nor as background.
    """
    positive = (target > 0.3).float()
    negative = (target < 0.05).float()
    fraction = positive.sum() / (positive.sum() + negative.sum())
    weight = positive * (1 - fraction) + negative * fraction * 1.1
    loss = F.binary_cross_entropy_with_logits(logits, positive, weight, reduction="sum")
    return loss / weight.sum()


def deep_loss(sides: list[Tensor], target: Tensor) -> Tensor:
    """Return the loss of the mean of the side outputs, and of each of them."""
    fused = torch.stack([side.float() for side in sides]).mean(0)
    own = sum(balanced_loss(side.float(), target) for side in sides)
    return balanced_loss(fused, target) + SIDE_WEIGHT * own / len(sides)


@torch.no_grad()
def quick_f(network: HED, pairs: list) -> float:
    """Return the best F over thresholds, with a tolerance of 3 pixels and without thinning.

    It shows the progress of a training; it is not the ODS F of benchmarks/edges.py.
    """
    thresholds = [i / 10 for i in range(1, 10)]
    counts = np.zeros((len(thresholds), 4))
    for image, edges in pairs:
        pixels = rearrange(torch.from_numpy(image).float(), "h w c -> 1 c h w")
        soft = torch.sigmoid(network(pixels))[0, 0].numpy()
        truth = (edges > 76).astype(np.uint8)
        for row, threshold in zip(counts, thresholds, strict=True):
            row += match_counts((soft > threshold).astype(np.uint8), truth)
    precision = counts[:, 0] / (counts[:, 1] + 1)
    recall = counts[:, 2] / (counts[:, 3] + 1)
    return float((2 * precision * recall / (precision + recall + 1e-9)).max())


def match_counts(drawn: np.ndarray, truth: np.ndarray) -> tuple[int, int, int, int]:
    """Return numbers of drawn pixels near true ones, all drawn, true near drawn ones, all true.

    drawn, truth: uint8 (H, W), 0 or 1. Near: within 3 pixels in both directions.
    """
    kernel = np.ones((7, 7), np.uint8)
    near_truth = drawn & cv2.dilate(truth, kernel)
    near_drawn = truth & cv2.dilate(drawn, kernel)
    return near_truth.sum(), drawn.sum(), near_drawn.sum(), truth.sum()


# ---- training


def make_network(device: torch.device) -> HED:
    """Return the untrained network, with batch normalization."""
    network = HED(TINY)
    add_batch_norm(network)
    nn.init.constant_(network.norm, 120.0)
    return network.to(device, memory_format=torch.channels_last)


def train(run: Run, network: HED, training: list, test: list, out: Path) -> None:
    """Train, log and export the network with averaged weights.

    training, test: of `load_split`. out: the file that is written.
    """
    rng = random.Random(run.seed)
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=1e-3)
    average = EMAModel(network.parameters(), decay=0.998)

    def train_step(progress: float) -> dict:
        set_learning_rate(optimizer, LEARNING_RATE, progress)
        images, edges = random_batch(training, rng)
        x = rearrange(images.to(run.device), "n h w c -> n c h w")
        target = rearrange(edges.to(run.device), "n h w -> n 1 h w")
        with torch.autocast(x.device.type, torch.bfloat16):
            sides = network.side_logits(x)
        loss = deep_loss(sides, target)
        optimizer_step(loss, optimizer)
        average.step(network.parameters())
        return {"loss": loss.item()}

    def measure() -> dict:
        return {"quick_f": quick_f(export(averaged(network, average), out), test[::10])}

    parts = {"network": network, "optimizer": optimizer, "average": average}
    run.loop(train_step, parts, {250: measure})
    final = export(averaged(network, average), out)
    print(f"quick F on the test split: {quick_f(final, test):.3f}")


def main(argv: list[str] | None = None) -> None:
    """Train, log, export."""
    flags = parser(__doc__, "runs/tiny/edges", 1200)
    flags.add_argument("--data", type=Path, required=True, help="folder of BSDS500")
    flags.add_argument("--out", type=Path, default=HED_TINY, help="file of the network")
    args = flags.parse_args(argv)
    run = Run(args.run, args.seconds, args.seed, args.device)
    training = load_split(args.data / "train") + load_split(args.data / "val")
    test = load_split(args.data / "test")
    train(run, make_network(args.device), training, test, args.out)


if __name__ == "__main__":
    main()

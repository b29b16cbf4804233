"""Train `hed-tiny`, the bundled edge network, on human boundaries (BSDS500).

    python -m tiny.train_edges --data DIR/bsds500 --seconds 1200

DIR/bsds500/{train,val,test} hold ID.jpg and ID_edges.png (255 = every annotator drew this boundary). Trains on
train and val with scaling, turning, flipping and colour changes; batch normalisation is folded into the
convolutions afterwards, so that the exported network is a plain, narrow HED.
"""

import random
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from annotator.hed import HED, TINY
from tiny.training import Average, Run, cosine, descend, parser, set_rate

OUT = Path(__file__).parent.parent / "annotator" / "hed_tiny.safetensors"
CROP, BATCH, RATE = 256, 8, 2e-3


def load_split(folder: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Read the (photo HxWx3 RGB, boundaries HxW) pairs of a split."""
    pairs = []
    for path in sorted(folder.glob("*.jpg")):
        edges = cv2.imread(str(path.with_name(path.stem + "_edges.png")), cv2.IMREAD_GRAYSCALE)
        pairs.append((cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB), edges))
    return pairs


def augment(photo: np.ndarray, edges: np.ndarray, rng: random.Random) -> tuple[np.ndarray, np.ndarray]:
    """Cut a randomly scaled, turned and flipped square of `CROP` pixels, and change its colours a little."""
    height, width = edges.shape
    turn = cv2.getRotationMatrix2D(
        (rng.uniform(0.3, 0.7) * width, rng.uniform(0.3, 0.7) * height),
        rng.uniform(-20, 20),
        rng.uniform(0.7, 1.5),
    )
    turn[:, 2] += CROP / 2 - np.array([width, height]) / 2
    flip = rng.random() < 0.5

    def warp(picture: np.ndarray) -> np.ndarray:
        moved = cv2.warpAffine(picture, turn, (CROP, CROP), borderMode=cv2.BORDER_REFLECT_101)
        return moved[:, ::-1] if flip else moved

    photo = warp(photo).astype(np.float32)
    photo = photo * np.array([rng.uniform(0.8, 1.2) for _ in range(3)]) * rng.uniform(0.7, 1.3) + rng.uniform(-20, 20)
    if rng.random() < 0.2:
        photo[:] = photo.mean(2, keepdims=True)
    return photo.clip(0, 255).astype(np.float32), warp(edges).astype(np.float32) / 255


def balanced_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Class-balanced cross entropy (HED, equation 2): boundaries few annotators drew count for neither side."""
    positive = (target > 0.3).float()
    negative = (target < 0.05).float()
    share = positive.sum() / (positive.sum() + negative.sum())
    weight = positive * (1 - share) + negative * share * 1.1
    return F.binary_cross_entropy_with_logits(logits, positive, weight, reduction="sum") / weight.sum()


def add_batch_norm(network: HED) -> None:
    """Put batch normalisation behind every convolution of the blocks, for training."""
    for name, block in network.named_children():
        if name.startswith("block"):
            for i, conv in enumerate(block.convs):
                nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
                block.convs[i] = nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels))


def export(shadow: dict, path: Path) -> HED:
    """Fold the batch normalisation of the averaged weights and write a plain HED in half precision."""
    network = HED(TINY)
    add_batch_norm(network)
    network.load_state_dict(shadow)
    network.eval()
    for name, block in network.named_children():
        if name.startswith("block"):
            for i, (conv, norm) in enumerate(block.convs):
                block.convs[i] = fuse_conv_bn_eval(conv, norm)
    save_file({k: v.half().contiguous() for k, v in network.state_dict().items()}, path)
    return network


@torch.no_grad()
def quick_f(network: HED, pairs: list) -> float:
    """Best F over thresholds with a 3-pixel tolerance and no thinning: a trend to watch, not the ODS figure."""
    kernel, counts = np.ones((7, 7), np.uint8), np.zeros((9, 4))
    for photo, edges in pairs:
        logits = network(torch.from_numpy(photo).permute(2, 0, 1)[None].float())
        soft, truth = torch.sigmoid(logits)[0, 0].numpy(), (edges > 76).astype(np.uint8)
        for i in range(9):
            drawn = (soft > (i + 1) / 10).astype(np.uint8)
            hit = (drawn & cv2.dilate(truth, kernel)).sum(), (truth & cv2.dilate(drawn, kernel)).sum()
            counts[i] += hit[0], drawn.sum(), hit[1], truth.sum()
    precision, recall = counts[:, 0] / (counts[:, 1] + 1), counts[:, 2] / (counts[:, 3] + 1)
    return float((2 * precision * recall / (precision + recall + 1e-9)).max())


def main(argv: list[str] | None = None) -> None:
    """Train, log, export."""
    flags = parser(__doc__, "runs/tiny/edges", 1200)
    flags.add_argument("--data", type=Path, required=True)
    flags.add_argument("--out", type=Path, default=OUT)
    args = flags.parse_args(argv)

    run, rng = Run(args.run, args.seconds, args.seed), random.Random(args.seed)
    training, test = (
        load_split(args.data / "train") + load_split(args.data / "val"),
        load_split(args.data / "test"),
    )
    network = HED(TINY)
    add_batch_norm(network)
    torch.nn.init.constant_(network.norm, 120.0)
    network = network.to(args.device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=1e-3)
    average = Average(network, 0.998)

    def train_step(progress: float) -> dict:
        set_rate(optimizer, RATE * cosine(progress))
        photos, edges = zip(*(augment(*rng.choice(training), rng) for _ in range(BATCH)), strict=True)
        x = torch.from_numpy(np.stack(photos)).to(args.device).permute(0, 3, 1, 2)  # (8, 3, 256, 256)
        target = torch.from_numpy(np.stack(edges)).to(args.device)[:, None]
        with torch.autocast(args.device.type, torch.bfloat16):
            sides = network.side_logits(x)
        fused = torch.stack([side.float() for side in sides]).mean(0)
        loss = balanced_loss(fused, target) + 0.3 * sum(balanced_loss(s.float(), target) for s in sides) / len(sides)
        descend(loss, optimizer)
        average.update()
        return {"loss": loss.item()}

    def measure() -> dict:
        return {"quick_f": quick_f(export(average.shadow, args.out), test[::10])}

    parts = {"network": network, "optimizer": optimizer, "average": average}
    run.loop(train_step, parts, {250: measure})
    print(f"quick F on the test split: {quick_f(export(average.shadow, args.out), test):.3f}")


if __name__ == "__main__":
    main()

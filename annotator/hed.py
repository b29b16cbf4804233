"""Holistically-nested edge detection: one soft edge map from the side outputs of five scales.

    logits = HED(FULL)(images)

Xie and Tu, "Holistically-Nested Edge Detection", ICCV 2015, in the form of ControlNet's annotator
(`ControlNetHED.pth` of `lllyasviel/Annotators`, Apache-2.0), whose state-dict keys are kept. The
bundled `hed-tiny` is the same class with narrower blocks.
"""

import re
from collections import Counter
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FULL = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # (channels, convolutions) of each block
TINY = ((16, 2), (32, 2), (64, 3), (96, 3), (96, 3))


def blocks_of(weights: dict[str, Tensor]) -> tuple[tuple[int, int], ...]:
    """Return (channels, convolutions) of each block of a HED's weights; () for other networks."""
    counts = Counter()
    for name in weights:
        if re.fullmatch(r"block\d\.convs\.\d\.weight", name):
            counts[name.partition(".")[0]] += 1
    blocks = []
    for block in sorted(counts):
        blocks.append((weights[f"{block}.convs.0.weight"].shape[0], counts[block]))
    return tuple(blocks)


class Block(nn.Module):
    """Convolutions of one scale, and the projection to that scale's edge logits."""

    def __init__(self, inputs: int, channels: int, convolutions: int):
        super().__init__()
        widths = [inputs] + [channels] * convolutions
        self.convs = nn.Sequential(*(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths)))
        self.projection = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features (N, channels, H, W) and their edge logits (N, 1, H, W)."""
        for conv in self.convs:
            x = F.relu(conv(x))
        return x, self.projection(x)


class HED(nn.Module):
    """Images (N, 3, H, W), float RGB in 0..255 -> edge logits (N, 1, H, W).

    The sigmoid of the logits is in 0..1, 1 = edge.
    """

    def __init__(self, blocks: tuple[tuple[int, int], ...] = FULL):
        super().__init__()
        self.norm = nn.Parameter(torch.zeros(1, 3, 1, 1))
        inputs = 3
        for number, (channels, convolutions) in enumerate(blocks, start=1):
            self.add_module(f"block{number}", Block(inputs, channels, convolutions))
            inputs = channels
        self.scales = len(blocks)

    def side_logits(self, x: Tensor) -> list[Tensor]:
        """Return the logits of each scale, enlarged to the image: `scales` tensors (N, 1, H, W)."""
        size = x.shape[-2:]
        sides = []
        x = x - self.norm
        for number in range(1, self.scales + 1):
            if number > 1:
                x = F.max_pool2d(x, 2)
            x, side = getattr(self, f"block{number}")(x)
            sides.append(F.interpolate(side, size, mode="bilinear", align_corners=False))
        return sides

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean of all scales' logits."""
        return torch.stack(self.side_logits(x)).mean(0)


class OriginalHED(nn.Module):
    """HED's published network for BSDS500: images (N, 3, H, W), BGR in 0..255 -> edges in 0..1.

    A learned 1x1 convolution joins the side outputs of five scales. State-dict keys are those of
    `network-bsds500.pth` (sniklaus/pytorch-hed, from Xie and Tu's Caffe model). ControlNet's first
    annotator (March 2023) used it: the paper's ControlNet and sketch codecs saw its maps.
    """

    MEANS = (104.00698793, 116.66876762, 122.67891434)  # of blue, green and red
    SCALES = ("One", "Two", "Thr", "Fou", "Fiv")

    def __init__(self):
        super().__init__()
        inputs = 3
        for scale, (channels, convolutions) in zip(self.SCALES, FULL, strict=True):
            layers: list[nn.Module] = [] if scale == "One" else [nn.MaxPool2d(2)]
            for _ in range(convolutions):
                layers += [nn.Conv2d(inputs, channels, 3, padding=1), nn.ReLU()]
                inputs = channels
            self.add_module(f"moduleVgg{scale}", nn.Sequential(*layers))
            self.add_module(f"moduleScore{scale}", nn.Conv2d(channels, 1, 1))
        self.moduleCombine = nn.Sequential(nn.Conv2d(len(self.SCALES), 1, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """Return the edges (N, 1, H, W)."""
        size = x.shape[-2:]
        sides = []
        x = x - x.new_tensor(self.MEANS).view(1, 3, 1, 1)
        for scale in self.SCALES:
            x = getattr(self, f"moduleVgg{scale}")(x)
            side = getattr(self, f"moduleScore{scale}")(x)
            sides.append(F.interpolate(side, size, mode="bilinear", align_corners=False))
        return self.moduleCombine(torch.cat(sides, 1))

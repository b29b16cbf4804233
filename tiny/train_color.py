"""Train the networks that code color maps: `color_codec/tables.json`.

    python -m tiny.train_color --photos runs/tiny/photos

Color maps are quantized at random steps, first by rounding, then twice by the encoder with the
tables so far. For the bundled file, the last line on stdout is JSON: for each budget, the mean
bytes of 100 held-out images and the mean squared error of their enlarged maps.
"""

import argparse
import itertools
import json
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

import color_codec
from color_codec import model, transform
from color_codec.model import (
    ESCAPE,
    KINDS,
    MORE,
    NEGATIVE,
    OFFSET_MORE,
    OFFSET_ONE,
    RADII,
    RADII_TOTAL,
    STEPS,
)
from color_codec.search import MapEncoder, Trial
from color_codec.symbols import step_size
from common.files import write
from tiny.data import Photos

HIDDEN = (32, 24)  # widths of the networks' layers
ROUNDS = (0.2, 0.3, 0.5)  # fractions of the batches
PLANES = (0.5, 0.25, 0.25)  # fractions of a round's batches
ERROR_BITS = 6.0  # bits that a squared error of one step is worth
STEP_RANGE = (1, 24)
LAMBDA_RANGE = (0.05, 0.25)
BATCH = 4096
LEARNING_RATE = 3e-3
UPSIDE_DOWN = 0.05  # probability of a vertical flip
MIRRORED = 0.5  # probability of a horizontal flip
DEAD_ZONE = 0.3  # added before rounding down, in the first round
FEWEST = 24  # of 2**PROBABILITY_BITS, for either outcome of a decision
WEIGHT_UNIT = 256  # integers of the tables for 1.0, see color_codec.model
INPUT_UNIT = 128
BUDGETS = (40, 60, 80, 100, 120, 150)  # bytes


class Analyzed(NamedTuple):
    """An image cut to multiples of 64."""

    coefficients: np.ndarray  # float32 (3, vertical, horizontal)
    height: int
    width: int


# ---- examples


def analyzed(photos: Photos, indices: list[int]) -> list[Analyzed]:
    """Return the coefficients of the middle of images."""
    found = []
    for i in indices:
        height, width = cut_size(photos[i])
        top = (photos[i].shape[0] - height) // 2
        left = (photos[i].shape[1] - width) // 2
        image = photos[i][top : top + height, left : left + width]
        found.append(Analyzed(transform.analyze(image).astype(np.float32), height, width))
    return found


def cut_size(image: np.ndarray) -> tuple[int, int]:
    """Return height and width of an image, cut to multiples of 64."""
    height, width, _ = image.shape
    return height - height % 64, width - width % 64


def examples(
    images: list[Analyzed], tables: model.Tables | None, rng: np.random.Generator
) -> tuple[list[tuple], np.ndarray]:
    """Return the examples of each plane, see `of_plane`, and counts of the radii.

    The counts are (2, STEPS, len(RADII)).

    tables: the encoder quantizes with them; None: it is done by rounding.
    """
    planes = [[], [], []]
    radii = np.zeros((2, STEPS, len(RADII)))
    for image in images:
        coefficients = flipped(image.coefficients, rng)
        encoder = MapEncoder(coefficients, image.height, image.width, tables)
        step = int(rng.integers(*STEP_RANGE))
        weight = math.exp(rng.uniform(*np.log(LAMBDA_RANGE)))
        trial = encoder.trial(step, weight) if tables else rounded(encoder, step)
        radii[np.arange(2), step, trial.radii] += 1
        for plane in range(3):
            planes[plane].append(of_plane(encoder, trial, plane))
    data = []
    for parts in planes:
        columns = zip(*parts, strict=True)
        data.append(tuple(map(np.concatenate, columns)))
    return data, radii


def flipped(coefficients: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the coefficients of a randomly flipped image."""
    flipped = coefficients.copy()
    upside_down, mirrored = rng.random(2) < (UPSIDE_DOWN, MIRRORED)
    if upside_down:
        flipped[:, 1::2] *= -1
    if mirrored:
        flipped[:, :, 1::2] *= -1
    return flipped


def of_plane(encoder: MapEncoder, trial: Trial, plane: int) -> tuple:
    """Return features int16 (n, FEATURES), values int16 (n,) and exact magnitudes float32 (n,).

    n: positions of the plane that the network codes. Magnitudes are in steps.
    """
    context = model.Context(trial.planes, plane, encoder.scan, trial.step, trial.radii)
    sent = context.network_positions()
    inputs = model.features(context, sent)
    values = trial.planes[plane][encoder.index][sent]
    exact = np.abs(encoder.coefficients[plane, sent]) * transform.UNIT / step_size(trial.step)
    return inputs.astype(np.int16), values.astype(np.int16), exact.astype(np.float32)


def rounded(encoder: MapEncoder, step: int) -> Trial:
    """Return the plain quantization with a dead zone, and the radii of what is not 0."""
    planes = model.empty(*encoder.size)
    reach = [0, 0]
    for plane in range(3):
        scaled = encoder.coefficients[plane] * transform.UNIT / step_size(step)
        magnitudes = np.floor(np.abs(scaled) + DEAD_ZONE)
        magnitudes = np.minimum(magnitudes, model.MAX_MAGNITUDE)
        values = (np.sign(scaled) * magnitudes).astype(np.int64)
        planes[plane][encoder.index] = values
        farthest = int(encoder.scan.radius[values != 0].max(initial=0))
        reach[KINDS[plane]] = max(reach[KINDS[plane]], farthest)
    radii = tuple(np.searchsorted(RADII, reach).tolist())
    return Trial(planes, step, radii, math.nan, math.nan)


# ---- training


def loss_of(out, value, exact):
    """Return the bits of a batch of values, plus what their errors are worth in bits.

    out: outputs of the network (n, HEADS). value: int64 (n,). exact: magnitudes float32 (n,).
    """
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits, softplus

    size = value.abs()
    total = 0
    for head, least in ((0, 0), (1, 1), (2, 2), (NEGATIVE, 1)):
        asked = size >= least
        outcome = value < 0 if head == NEGATIVE else size > least
        yes = outcome[asked].float()
        total = total + binary_cross_entropy_with_logits(out[asked, head], yes, reduction="sum")
    large = size[size >= 3].clamp(max=ESCAPE)
    more = out[size >= 3, MORE]
    total = total + ((large - 3) * softplus(-more) + (large < ESCAPE) * softplus(more)).sum()
    offset = torch.where(size == 1, out[:, OFFSET_ONE], out[:, OFFSET_MORE])[size > 0]
    missed = exact[size > 0] - size[size > 0] - offset.clamp(-0.375, 0.375)
    return total / math.log(2) + ERROR_BITS * missed.clamp(-2, 2).square().sum()


def train(data: tuple, network, batches: int, rng: np.random.Generator) -> float:
    """Train one plane's network; return the mean loss per position of the last tenth of batches."""
    import torch

    inputs, values, exact = data
    optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE)
    losses = []
    for batch in range(batches):
        optimizer.param_groups[0]["lr"] = learning_rate(batch / batches)
        pick = rng.integers(0, len(values), BATCH)
        x = torch.from_numpy(inputs[pick]).float() / INPUT_UNIT
        value = torch.from_numpy(values[pick].astype(np.int64))
        loss = loss_of(network(x), value, torch.from_numpy(exact[pick])) / BATCH
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return float(np.mean(losses[-len(losses) // 10 :]))


def learning_rate(progress: float) -> float:
    """Return the learning rate at a progress of 0..1: a short rise, then a fall to 1e-5."""
    return LEARNING_RATE * min(1, 50 * progress + 0.02) * (1 - progress) ** 1.5 + 1e-5


def network_of_plane():
    """Return an untrained network."""
    from torch import nn

    layers = []
    for inputs, outputs in itertools.pairwise((model.FEATURES, *HIDDEN, model.HEADS)):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


# ---- tables


def tables_of(networks: list, radii: np.ndarray) -> dict:
    """Return the content of tables.json: integers, in the units of `color_codec.model`.

    radii: counts of `examples`.
    """
    total = 1 << model.PROBABILITY_BITS
    logits = np.arange(-model.LOGITS, model.LOGITS + 1) / 32
    probabilities = np.round(total / (1 + np.exp(-logits))).clip(FEWEST, total - FEWEST)
    return {
        "probabilities": probabilities.astype(int).tolist(),
        "radii": radii_probabilities(radii).tolist(),
        "networks": [layers_of(network) for network in networks],
    }


def layers_of(network) -> list[dict]:
    """Return weights and biases of a network as integers."""
    layers = []
    for layer in network:
        if hasattr(layer, "weight"):
            weights = (layer.weight.T * WEIGHT_UNIT).round().int()
            bias = (layer.bias * WEIGHT_UNIT * INPUT_UNIT).round().int()
            layers.append({"weights": weights.tolist(), "bias": bias.tolist()})
    return layers


def radii_probabilities(counts: np.ndarray) -> np.ndarray:
    """Return probabilities of the radii, int (2, STEPS, radii), each at least 1, sum RADII_TOTAL.

    counts: float, of the same shape; they are smoothed over the steps.
    """
    steps = np.clip(np.arange(STEPS), STEP_RANGE[0], STEP_RANGE[1] - 1)
    smooth = 0
    for shift, weight in ((-1, 1), (0, 2), (1, 1)):
        smooth = smooth + counts[:, np.clip(steps + shift, 0, STEPS - 1)] * weight
    smooth = smooth + 0.5
    parts = smooth / smooth.sum(2, keepdims=True) * (RADII_TOTAL - len(RADII))
    found = np.maximum(1, np.floor(parts)).astype(int)
    # The most probable radius gets what is missing.
    best = found.argmax(2)[..., None]
    filled = found.max(2) + RADII_TOTAL - found.sum(2)
    np.put_along_axis(found, best, filled[..., None], 2)
    return found


# ---- results


def measured(photos: Photos, indices: list[int], budgets: tuple) -> dict[str, list]:
    """Return for each budget the images' mean bytes and mean squared error of the enlarged map."""
    found = {}
    for budget in budgets:
        figures = []
        for i in indices:
            height, width = cut_size(photos[i])
            image = photos[i][:height, :width]
            payload = color_codec.encode(image, budget)
            back = color_codec.enlarge(color_codec.decode(payload, height, width), height, width)
            figures.append((len(payload), np.mean((image.astype(float) - back) ** 2)))
        found[str(budget)] = np.mean(figures, 0).round(2).tolist()
    return found


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = flags.add_argument
    photos = Path("runs/tiny/photos")
    add("--photos", type=Path, default=photos, help="folder written by tiny.data")
    add("--out", type=Path, default=model.TABLES, help="file of the tables")
    add("--batches", type=int, default=30000, help="number of batches")
    add("--most", type=int, default=2500, help="maximum number of images")
    add("--seed", type=int, default=0, help="random seed")
    return flags.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Train, write the tables, and print the results on held-out images."""
    args = parse_args(argv)
    import torch

    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    photos = Photos(args.photos)
    images = analyzed(photos, rng.permutation(photos.training)[: args.most].tolist())
    networks = [network_of_plane() for _ in PLANES]
    content = None
    for fraction in ROUNDS:
        tables = model.parse_tables(content) if content else None
        data, radii = examples(images, tables, rng)
        losses = []
        for plane, network in enumerate(networks):
            batches = int(args.batches * fraction * PLANES[plane])
            losses.append(train(data[plane], network, batches, rng))
        positions = [len(values) for _, values, _ in data]
        print(json.dumps({"positions": positions, "loss": losses}), flush=True)
        content = tables_of(networks, radii)
    write(args.out, (json.dumps(content, separators=(",", ":")) + "\n").encode())
    if args.out.samefile(model.TABLES):
        model.load.cache_clear()
        figures = measured(photos, photos.validation[:100], BUDGETS)
        size = args.out.stat().st_size
        print(json.dumps({"file": size, "budget: mean bytes, mean squared error": figures}))


if __name__ == "__main__":
    main()

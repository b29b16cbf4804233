"""Train the networks that code colour maps: `colour_codec/tables.json`, from the prepared photographs.

    python -m tiny.train_colour --photos runs/tiny/photos

Photographs are quantised at random steps, first by rounding, then twice as the encoder does it with the tables so far.
For the bundled file the last line on stdout says, as JSON, what 100 held-out photographs take in bytes, and the mean
squared error of their enlarged maps.
"""

import argparse
import itertools
import json
import math
from pathlib import Path

import numpy as np

import colour_codec
from colour_codec import model, transform
from colour_codec.model import ESCAPE, MORE, NEGATIVE, PLACE_MORE, PLACE_ONE, RADII, RADII_TOTAL, STEPS
from colour_codec.search import Picture, Trial
from colour_codec.symbols import step_size
from tiny.data import Photos

HIDDEN = (32, 24)
ROUNDS = (0.2, 0.3, 0.5)  # shares of the batches
PLANES = (0.5, 0.25, 0.25)
ERROR_BITS = 6.0  # what a squared error of one step is worth
STEP_RANGE, LAMBDA_RANGE = (1, 24), (0.05, 0.25)
BATCH = 4096
UPSIDE_DOWN = 0.05  # of the photographs; half are mirrored


def analysed(photos: Photos, indices: list[int]) -> list[tuple]:
    """(coefficients float32, height, width) of photographs, cut to multiples of 64."""
    found = []
    for i in indices:
        height, width = (side - side % 64 for side in photos[i].shape[:2])
        top, left = (photos[i].shape[0] - height) // 2, (photos[i].shape[1] - width) // 2
        image = photos[i][top : top + height, left : left + width]
        found.append((transform.analyse(image).astype(np.float32), height, width))
    return found


def examples(pictures: list[tuple], tables: model.Model | None, rng: np.random.Generator) -> tuple[list, np.ndarray]:
    """For each plane: features, values and exact sizes in steps, of all positions sent; and counts of radii.

    Quantised by the encoder with these tables, or by rounding.
    """
    rows, radii = [[], [], []], np.zeros((2, STEPS, len(RADII)))
    for coefficients, height, width in pictures:
        upside_down, mirrored = rng.random(2) < (UPSIDE_DOWN, 0.5)
        flipped = coefficients.copy()
        flipped[:, 1::2] *= 1 - 2 * upside_down
        flipped[:, :, 1::2] *= 1 - 2 * mirrored
        picture, step = Picture(flipped, height, width, tables), int(rng.integers(*STEP_RANGE))
        weight = math.exp(rng.uniform(*np.log(LAMBDA_RANGE)))
        trial = picture.trial(step, weight) if tables else rounded(picture, step)
        radii[np.arange(2), step, trial.radii] += 1
        for plane in range(3):
            rows[plane].append(of_plane(picture, trial, plane))
    return [tuple(np.concatenate(parts) for parts in zip(*plane, strict=True)) for plane in rows], radii


def of_plane(picture: Picture, trial: Trial, plane: int) -> tuple:
    """Features, values and exact sizes of the positions of a plane."""
    sent = np.flatnonzero(picture.at.radius <= RADII[trial.radii[min(plane, 1)]])[int(plane == 0) :]
    inputs = model.features(trial.planes, plane, picture.at, sent, trial.step, trial.radii)
    values = trial.planes[plane][picture.index][sent]
    exact = np.abs(picture.coefficients[plane, sent]) * transform.UNIT / step_size(trial.step)
    return inputs.astype(np.int16), values.astype(np.int16), exact.astype(np.float32)


def rounded(picture: Picture, step: int) -> Trial:
    """Plain quantisation with a dead zone, and the radii that hold all that is not 0."""
    planes, reach = model.empty(*picture.size), [0, 0]
    for plane in range(3):
        scaled = picture.coefficients[plane] * transform.UNIT / step_size(step)
        values = (np.sign(scaled) * np.minimum(np.floor(np.abs(scaled) + 0.3), model.MOST)).astype(np.int64)
        planes[plane][picture.index] = values
        reach[plane > 0] = max(reach[plane > 0], int(picture.at.radius[values != 0].max(initial=0)))
    return Trial(planes, step, tuple(int(np.searchsorted(RADII, far)) for far in reach), math.nan, math.nan)


def loss_of(out, value, exact):
    """Bits of a batch of values, and what their errors are worth."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits, softplus

    size = value.abs()
    total = 0
    for head, least in ((0, 0), (1, 1), (2, 2), (NEGATIVE, 1)):
        asked = size >= least
        yes = (value < 0 if head == NEGATIVE else size > least)[asked].float()
        total = total + binary_cross_entropy_with_logits(out[asked, head], yes, reduction="sum")
    large, more = size[size >= 3].clamp(max=ESCAPE), out[size >= 3, MORE]
    total = total + ((large - 3) * softplus(-more) + (large < ESCAPE) * softplus(more)).sum()
    place = torch.where(size == 1, out[:, PLACE_ONE], out[:, PLACE_MORE])[size > 0].clamp(-0.375, 0.375)
    missed = (exact[size > 0] - size[size > 0] - place).clamp(-2, 2)
    return total / math.log(2) + ERROR_BITS * missed.square().sum()


def train(data: tuple, network, batches: int, rng: np.random.Generator) -> float:
    """Train one plane's network; returns the mean loss of the last tenth of the batches, per position."""
    import torch

    inputs, values, exact = data
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    losses = []
    for batch in range(batches):
        spent = batch / batches
        optimiser.param_groups[0]["lr"] = 3e-3 * min(1, 50 * spent + 0.02) * (1 - spent) ** 1.5 + 1e-5
        pick = rng.integers(0, len(values), BATCH)
        x, value = torch.from_numpy(inputs[pick]).float() / 128, torch.from_numpy(values[pick].astype(np.int64))
        loss = loss_of(network(x), value, torch.from_numpy(exact[pick])) / BATCH
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return float(np.mean(losses[-len(losses) // 10 :]))


def network_of_plane():
    """An untrained network."""
    from torch import nn

    sizes = (model.FEATURES, *HIDDEN, len(model.HEADS))
    layers = [(nn.Linear(a, b), nn.ReLU()) for a, b in itertools.pairwise(sizes)]
    return nn.Sequential(*[part for pair in layers for part in pair][:-1])


def tables_of(networks: list, radii: np.ndarray) -> dict:
    """The content of tables.json: whole numbers, in the units of `colour_codec.model`."""
    total = 1 << model.PROBABILITY_BITS
    logits = np.arange(-model.LOGITS, model.LOGITS + 1) / 32
    return {
        "probabilities": np.clip(np.round(total / (1 + np.exp(-logits))), 24, total - 24).astype(int).tolist(),
        "radii": radii_shares(radii).tolist(),
        "networks": [
            [
                {
                    "weights": (layer.weight.T * 256).round().int().tolist(),
                    "bias": (layer.bias * 256 * 128).round().int().tolist(),
                }
                for layer in network
                if hasattr(layer, "weight")
            ]
            for network in networks
        ],
    }


def radii_shares(counts: np.ndarray) -> np.ndarray:
    """Counts (2, steps, radii) -> shares that sum up to RADII_TOTAL, each at least 1, smooth over steps."""
    steps = np.clip(np.arange(STEPS), STEP_RANGE[0], STEP_RANGE[1] - 1)
    smooth = sum(counts[:, np.clip(steps + shift, 0, STEPS - 1)] * part for shift, part in ((-1, 1), (0, 2), (1, 1)))
    smooth = smooth + 0.5
    shares = np.maximum(1, np.floor(smooth / smooth.sum(2, keepdims=True) * (RADII_TOTAL - len(RADII)))).astype(int)
    np.put_along_axis(
        shares, shares.argmax(2)[..., None], shares.max(2)[..., None] + RADII_TOTAL - shares.sum(2)[..., None], 2
    )
    return shares


def measured(photos: Photos, indices: list[int], budgets: tuple) -> dict[str, list]:
    """For each budget the mean bytes of photographs, and the mean squared error of the enlarged map."""
    found = {}
    for budget in budgets:
        figures = []
        for i in indices:
            height, width = (side - side % 64 for side in photos[i].shape[:2])
            image = photos[i][:height, :width]
            payload = colour_codec.encode(image, budget)
            back = colour_codec.enlarge(colour_codec.decode(payload, height, width), height, width)
            figures.append((len(payload), np.mean((image.astype(float) - back) ** 2)))
        found[str(budget)] = np.mean(figures, 0).round(2).tolist()
    return found


def main(argv: list[str] | None = None) -> None:
    """Train, write the tables, and print what held-out photographs take."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--photos", type=Path, default=Path("runs/tiny/photos"), help="folder written by tiny.data")
    flags.add_argument("--out", type=Path, default=model.TABLES)
    flags.add_argument("--batches", type=int, default=30000)
    flags.add_argument("--most", type=int, default=2500, help="photographs")
    flags.add_argument("--seed", type=int, default=0)
    args = flags.parse_args(argv)
    import torch

    torch.manual_seed(args.seed)
    rng, photos = np.random.default_rng(args.seed), Photos(args.photos)
    pictures = analysed(photos, rng.permutation(photos.training)[: args.most].tolist())
    networks, tables = [network_of_plane() for _ in PLANES], None
    for share in ROUNDS:
        data, radii = examples(pictures, tables and model.model_of(tables), rng)
        batches = [int(args.batches * share * part) for part in PLANES]
        losses = [train(*each, rng) for each in zip(data, networks, batches, strict=True)]
        print(json.dumps({"positions": [len(part[1]) for part in data], "loss": losses}), flush=True)
        tables = tables_of(networks, radii)
    args.out.write_text(json.dumps(tables, separators=(",", ":")) + "\n", encoding="utf-8")
    if args.out.samefile(model.TABLES):
        model.load.cache_clear()
        figures = measured(photos, photos.validation[:100], (40, 60, 80, 100, 120, 150))
        print(json.dumps({"file": args.out.stat().st_size, "budget: mean bytes, mean squared error": figures}))


if __name__ == "__main__":
    main()

"""Train the networks that code colour maps: `colour_codec/tables.json`, from the prepared photographs.

    python -m tiny.train_colour --photos runs/tiny/photos

Photographs are quantised at random steps, first by rounding, then as the encoder does it with the networks of the
round before. The last line on stdout says, as JSON, what 100 held-out photographs take in bits, and their error.
"""

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np

from colour_codec import Picture, model, step_size, transform
from colour_codec.model import MORE, NEGATIVE, PAD, PLACE_MORE, PLACE_ONE, RADII, STEPS
from tiny.data import Photos

HIDDEN = (32, 24)
ROUND_SECONDS = (0.25, 0.35, 0.4)  # shares of the time
ERROR_BITS = 6.0  # what a squared error of one step is worth
STEP_RANGE = (4, 24)
BATCH = 4096


def analysed(photos: Photos, indices: list[int]) -> list[tuple]:
    """(coefficients float32, height, width) of photographs, cut to multiples of 64."""
    found = []
    for i in indices:
        height, width = (side - side % 64 for side in photos[i].shape[:2])
        top, left = (photos[i].shape[0] - height) // 2, (photos[i].shape[1] - width) // 2
        image = photos[i][top : top + height, left : left + width]
        found.append((transform.analyse(image).astype(np.float32), height, width))
    return found


def examples(pictures: list[tuple], rng: np.random.Generator, rounding: bool) -> list[tuple]:
    """For each plane: features, values and exact sizes in steps, of every position sent of all pictures."""
    rows = [[], [], []]
    for coefficients, height, width in pictures:
        flips = rng.choice([-1, 1], 2)
        signs = flips[0] ** np.arange(coefficients.shape[1])[:, None] * flips[1] ** np.arange(coefficients.shape[2])
        if rng.random() < 0.9:  # upside down is rare
            signs = np.abs(flips[0]) * flips[1] ** np.arange(coefficients.shape[2])[None] * np.ones_like(signs)
        picture = Picture(coefficients * signs, height, width)
        step = int(rng.integers(*STEP_RANGE))
        trial = rounded(picture, step) if rounding else picture.trial(step, math.exp(rng.uniform(-2.8, -1.2)), rounds=2)
        planes, radii = trial if rounding else (trial.planes, trial.radii)
        at = picture.at
        for plane in range(3):
            sent = np.flatnonzero(at.radius <= RADII[radii[min(plane, 1)]])
            inputs = model.features(planes, plane, at, sent, step, radii)
            values = planes[plane, at.ky[sent] + PAD, at.kx[sent] + PAD]
            exact = np.abs(picture.coefficients[plane, sent]) * transform.UNIT / step_size(step, plane)
            rows[plane].append((inputs.astype(np.int16), values.astype(np.int16), exact.astype(np.float32)))
    return [tuple(np.concatenate(parts) for parts in zip(*of_plane, strict=True)) for of_plane in rows]


def rounded(picture: Picture, step: int) -> tuple[np.ndarray, tuple]:
    """Plain quantisation with a dead zone, and the radii that hold all that is not 0."""
    planes, at = model.empty(*picture.size), picture.at
    reach = [0, 0]
    for plane in range(3):
        scaled = picture.coefficients[plane] * transform.UNIT / step_size(step, plane)
        values = (np.sign(scaled) * np.minimum(np.floor(np.abs(scaled) + 0.3), model.MOST)).astype(np.int64)
        planes[plane, at.ky + PAD, at.kx + PAD] = values
        reach[min(plane, 1)] = max(reach[min(plane, 1)], int(at.radius[values != 0].max(initial=0)))
    return planes, tuple(int(np.searchsorted(RADII, far)) for far in reach)


def train(data: tuple, network, seconds: float, rng: np.random.Generator) -> float:
    """Train one plane's network by the clock; returns the mean loss of the last tenth, bits per position."""
    import torch
    from torch.nn import functional

    inputs, values, exact = data
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    start, losses = time.monotonic(), []
    while (spent := (time.monotonic() - start) / seconds) < 1:
        for group in optimiser.param_groups:
            group["lr"] = 3e-3 * min(1, 50 * spent + 0.02) * (1 - spent) ** 1.5 + 1e-5
        pick = rng.integers(0, len(values), BATCH)
        x, value = torch.from_numpy(inputs[pick]).float() / 128, torch.from_numpy(values[pick].astype(np.int64))
        out, size = network(x), value.abs()
        loss = functional.binary_cross_entropy_with_logits(out[:, 0], (size > 0).float(), reduction="sum")
        for head, least in ((1, 1), (2, 2), (NEGATIVE, 1)):
            there = size >= least
            yes = (value < 0) if head == NEGATIVE else (size > least)
            loss = loss + functional.binary_cross_entropy_with_logits(
                out[there, head], yes[there].float(), reduction="sum"
            )
        large = size >= 3
        steps, more = (size[large] - 3).float(), out[large, MORE]
        loss = loss + (steps * functional.softplus(-more) + functional.softplus(more)).sum()
        there = size >= 1
        place = torch.where(size == 1, out[:, PLACE_ONE], out[:, PLACE_MORE])[there].clamp(-0.375, 0.375)
        loss = loss / math.log(2)
        missed = (torch.from_numpy(exact[pick])[there] - size[there] - place).clamp(-2, 2)
        loss = (loss + ERROR_BITS * missed.square().sum()) / BATCH
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return float(np.mean(losses[-len(losses) // 10 :]))


def exported(networks: list) -> dict:
    """The tables: whole numbers, in the units of `colour_codec.model`."""
    rows = []
    for network in networks:
        layers = [layer for layer in network if hasattr(layer, "weight")]
        rows.append(
            [
                {
                    "weights": (layer.weight.T * 256).round().int().tolist(),
                    "bias": (layer.bias * 256 * 128).round().int().tolist(),
                }
                for layer in layers
            ]
        )
    total = 1 << model.PROBABILITY_BITS
    grid = np.arange(-model.LOGITS, model.LOGITS + 1) / 32
    shares = np.clip(np.round(total / (1 + np.exp(-grid))), 24, total - 24).astype(int).tolist()
    return {"probabilities": shares, "networks": rows}


def measured(pictures: list[tuple], steps: range) -> dict[str, list]:
    """Mean bits and squared error of pictures at some steps."""
    found = {}
    for step in steps:
        trials = [Picture(*picture).trial(step, 0.13) for picture in pictures]
        means = np.mean([(len(trial.payload()), trial.error) for trial in trials], 0)
        found[str(step)] = [round(float(value), 2) for value in means]
    return found


def main(argv: list[str] | None = None) -> None:
    """Train, write the tables, and print what held-out photographs take."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--photos", type=Path, default=Path("runs/tiny/photos"), help="folder written by tiny.data")
    flags.add_argument("--out", type=Path, default=model.TABLES)
    flags.add_argument("--seconds", type=float, default=400, help="of training")
    flags.add_argument("--most", type=int, default=6000, help="photographs")
    flags.add_argument("--seed", type=int, default=0)
    args = flags.parse_args(argv)
    import torch
    from torch import nn

    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    photos = Photos(args.photos)
    chosen = rng.permutation(photos.training)[: args.most].tolist()
    pictures = analysed(photos, chosen)
    networks = [
        nn.Sequential(
            nn.Linear(model.FEATURES, HIDDEN[0]),
            nn.ReLU(),
            nn.Linear(HIDDEN[0], HIDDEN[1]),
            nn.ReLU(),
            nn.Linear(HIDDEN[1], len(model.HEADS)),
        )
        for _ in range(3)
    ]
    for turn, share in enumerate(ROUND_SECONDS):
        data = examples(pictures, rng, rounding=turn == 0)
        losses = [train(data[p], networks[p], args.seconds * share * (0.5, 0.25, 0.25)[p], rng) for p in range(3)]
        print(json.dumps({"round": turn, "positions": [len(part[1]) for part in data], "loss": losses}), flush=True)
        args.out.write_text(json.dumps(exported(networks), separators=(",", ":")), encoding="utf-8")
        model.load.cache_clear()
    held_out = analysed(photos, photos.validation[:100])
    print(json.dumps({"file": args.out.stat().st_size, "step: bytes, error": measured(held_out, range(10, 20, 2))}))


if __name__ == "__main__":
    main()

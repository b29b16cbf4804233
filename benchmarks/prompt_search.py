"""Compare the prompt search with the published one: seconds a step, cosine, bytes.

    python benchmarks/prompt_search.py --data_root KODAK --output /tmp/prompt_search
    python benchmarks/prompt_search.py --shapes tiny ViT-B/32 --batches 1 8 --quick

Three measurements: seconds a step against the published loop (benchmarks/published_search.py), with
text towers of random weights; cosine against work and seconds; bytes of the text layer against
cosine. Both searches run in turns, so that other work on the machine slows both; times are the
least of the repeats. Cosines are of the bundled CLIP. Plots are written to --output; the last line
on stdout is JSON.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import numpy as np

# So that `python benchmarks/prompt_search.py` finds the project.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.rows import column, distinct, rows_with

SHAPES = ("tiny", "ViT-B/32", "ViT-L/14", "ViT-H/14")  # those of benchmarks/published_search.py
PUBLISHED_STEPS = 3000
TIMED_STEPS = 20  # of the published loop, to know its seconds a step


class Way(NamedTuple):
    """A way of writing a prompt."""

    bits: int | None  # the tokens are of a subset of 2**bits; None: of all tokens
    ascending: bool  # whether the token ids are in ascending order


WAYS = {  # numbers of tokens that are measured
    Way(None, False): (8, 11, 14, 16),
    Way(None, True): (10, 13, 16),
    Way(10, True): (14, 18),
    Way(8, False): (10, 13, 16),
    Way(8, True): (14, 20, 26),
    Way(7, True): (12, 16, 20, 26),
    Way(6, True): (12, 18, 24, 30),
}
QUICK_EVERY = 4  # with --quick, one of so many rates is measured


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    help_shapes = "text towers to time, or none (default: all)"
    add("--shapes", nargs="*", choices=SHAPES, default=list(SHAPES), help=help_shapes)
    help_batches = "numbers of images at a time (default: 1 8 32)"
    add("--batches", nargs="+", type=int, default=[1, 8, 32], help=help_batches)
    add("--repeats", type=int, default=3, help="number of timings, of which the least counts")
    help_root = "images for the cosines (default: sample images of scikit-image and -learn)"
    add("--data_root", help=help_root)
    help_steps = "number of steps of the published search, for the cosines"
    add("--published_steps", type=int, default=PUBLISHED_STEPS, help=help_steps)
    add("--output", type=Path, help="folder of the plots (default: no plots)")
    add("--threads", type=int, help="number of torch's threads (default: torch's own)")
    add("--device", default="cpu", help="cpu, cuda or cuda:N")
    help_quick = "a test that it runs: the first shape, three images, few steps"
    add("--quick", action="store_true", help=help_quick)
    args = parser.parse_args(argv)
    if args.quick:
        args.shapes = args.shapes[:1]
        args.batches = [1, 2]
        args.repeats = 2
        args.published_steps = min(args.published_steps, 30)
    return args


def print_row(row: dict, digits: str) -> None:
    """Print names and values on one line. digits: format of the floats."""
    parts = []
    for name, value in row.items():
        text = format(value, digits) if isinstance(value, float) else str(value)
        parts.append(f"{name} {text}")
    print(" ".join(parts))


# ---- seconds a step


def step_times(args: argparse.Namespace) -> list[dict]:
    """Return a row for each shape and batch: seconds of a step for an image, published and ours."""
    from benchmarks.published_search import random_clip

    rows = []
    for shape in args.shapes:
        clip = random_clip(shape, args.device)
        for batch in args.batches:
            row = {"shape": shape, "batch": batch, **compare_steps(clip, batch, args.repeats)}
            print_row(row, ".4g")
            rows.append(row)
    return rows


def compare_steps(clip, batch: int, repeats: int) -> dict:
    """Return seconds of a step for an image, published and ours, and whether the ids agree."""
    import torch
    import torch.nn.functional as F

    from benchmarks.published_search import PublishedLoop, timed_steps
    from prompt_inversion.search import PromptConfig, search

    generator = torch.Generator().manual_seed(1)
    features = torch.randn(batch, clip.model.config.projection_dim, generator=generator)
    targets = F.normalize(features, dim=-1).to(clip.model.device)
    steps = repeats + 1
    seconds, found = timed_steps(PublishedLoop(targets[:1], clip), steps)
    published = min(seconds[1:])
    best_ids, _ = max(found, key=lambda each: each[1])
    config = PromptConfig(steps=steps, descent=steps, progress=False)
    prompt = search(targets, clip, config)[0]
    ours = min(step_seconds(prompt.history)) / batch
    return {
        "published_s": published,
        "ours_s": ours,
        "times_faster": published / ours,
        "same_ids": prompt.ids == tuple(best_ids),
        "published_per_minute": 60 / (PUBLISHED_STEPS * published),
        "ours_per_minute": 60 / (PromptConfig.steps * ours),
    }


def step_seconds(history: Sequence[tuple[float, float, float]]) -> list[float]:
    """Return the seconds of each step but the first, of a prompt's history."""
    moments = np.array(history)[:, 1]
    return np.diff(moments).tolist()


# ---- cosine against work and seconds


def mean_curve(prompts) -> list[tuple[float, float, float]]:
    """Return (work in steps, seconds of the whole batch, mean best cosine) after each move."""
    histories = [prompt.history for prompt in prompts]
    curve = []
    for moves in zip(*histories, strict=True):
        work, seconds, _ = moves[0]
        _, _, cosines = zip(*moves, strict=True)
        curve.append((work, seconds, fmean(cosines)))
    return curve


def cosines(args: argparse.Namespace, clip, targets) -> dict:
    """Return both searches' curves, and the work at which ours passes the other's final cosine."""
    from benchmarks.published_search import PublishedLoop, timed_steps
    from prompt_inversion.search import PromptConfig, search

    step = min(timed_steps(PublishedLoop(targets[:1], clip), TIMED_STEPS)[0])
    steps = args.published_steps
    # The descent alone finds the published loop's ids; it searches all images together, so that
    # 3,000 steps take a minute.
    published = mean_curve(search(targets, clip, PromptConfig(steps=steps, descent=steps)))
    ours = mean_curve(search(targets, clip, PromptConfig()))
    goal = published[-1][2]
    count = len(targets)
    work_to_goal = seconds_to_goal = None
    for work, seconds, cosine in ours:
        if cosine >= goal:
            work_to_goal = work
            seconds_to_goal = seconds / count
            break
    return {
        "images": count,
        "published_cosine": goal,
        "published_steps": steps,
        "published_s_per_photograph": steps * step,
        "ours_cosine": ours[-1][2],
        "ours_steps_to_published": work_to_goal,
        "ours_s_per_photograph_to_published": seconds_to_goal,
        "ours_s_per_photograph": ours[-1][1] / count,
        "curves": {
            "published": [(work, work * step, cosine) for work, _, cosine in published],
            "ours": [(work, seconds / count, cosine) for work, seconds, cosine in ours],
        },
    }


# ---- bytes against cosine


def rates(args: argparse.Namespace, clip, targets) -> list[dict]:
    """Return a row for each way of writing a prompt: bytes of the text layer, and mean cosine."""
    settings = []
    for way, lengths in WAYS.items():
        settings += product([way], lengths)
    if args.quick:
        settings = settings[::QUICK_EVERY]
    rows = []
    for way, length in settings:
        row = rate_row(clip, targets, way, length)
        print_row(row, ".4f")
        rows.append(row)
    return rows


def rate_row(clip, targets, way: Way, length: int) -> dict:
    """Return mean bytes and mean cosine of prompts of `length` tokens."""
    import text_codec
    from prompt_inversion.search import PromptConfig, search
    from text_codec.vocabulary import token_subset

    allowed = None
    if way.bits is not None:
        allowed = tuple(token_subset(clip.tokenizer, way.bits))
    config = PromptConfig(length=length, ascending=way.ascending, allowed=allowed)
    sizes, found_cosines = [], []
    for prompt in search(targets, clip, config):
        payload = text_codec.encode(prompt.ids, clip.vocab_size, allowed)
        sizes.append(len(payload))
        found_cosines.append(prompt.cosine)
    return {
        "bits": way.bits,
        "ascending": way.ascending,
        "tokens": length,
        "bytes": fmean(sizes),
        "cosine": fmean(found_cosines),
    }


def load_targets(args: argparse.Namespace):
    """Return the bundled CLIP and the features of the images at its preset's short side."""
    from dataloaders import load_samples
    from presets import get_preset
    from prompt_inversion.clip import load_clip

    preset = get_preset("tiny")
    samples = load_samples(args.data_root, None, preset.short_side)
    if args.quick:
        samples = samples[:3]
    clip = load_clip(preset.clip, args.device)
    return clip, clip.image_features([sample.image for sample in samples])


# ---- plots


def plot_all(folder: Path, times: list[dict], cosine: dict, rate: list[dict]) -> None:
    """Write step_time.png, cosine.png and bytes.png."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    style = {"axes.grid": True, "grid.alpha": 0.3, "figure.constrained_layout.use": True}
    plt.rcParams.update(style)
    if times:
        plot_times(folder / "step_time.png", times)
    plot_cosines(folder / "cosine.png", cosine)
    plot_rates(folder / "bytes.png", rate)


def plot_times(file: Path, times: list[dict]) -> None:
    """Plot how many times faster ours is, against the batch."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4))
    for shape in distinct(times, "shape"):
        own = rows_with(times, {"shape": shape})
        axes.plot(column(own, "batch"), column(own, "times_faster"), "o-", label=shape)
    axes.set(xscale="log", xlabel="images at a time", ylim=0)
    axes.set(ylabel="times faster than the published loop")
    batches = sorted(distinct(times, "batch"))
    axes.set_xticks(batches, labels=batches)
    axes.minorticks_off()
    axes.legend()
    figure.savefig(file, dpi=120)


def plot_cosines(file: Path, cosine: dict) -> None:
    """Plot both curves against work and against seconds."""
    from matplotlib import pyplot as plt

    figure, sides = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
    labels = ("work, steps", "seconds an image")
    for measure, (axes, label) in enumerate(zip(sides, labels, strict=True)):
        for name, curve in cosine["curves"].items():
            points = np.array(curve)
            axes.plot(points[:, measure], points[:, 2], label=name)
        axes.axhline(cosine["published_cosine"], color="gray", lw=0.8, ls="--")
        axes.set(xscale="log", xlabel=label)
    end = max(cosine["published_cosine"], cosine["ours_cosine"])
    sides[0].set(ylabel="mean best cosine", ylim=(end - 0.06, end + 0.005))
    sides[0].legend()
    figure.savefig(file, dpi=120)


def plot_rates(file: Path, rate: list[dict]) -> None:
    """Plot the cosine against bytes, a line for each way of writing a prompt."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4))
    for way in WAYS:
        own = rows_with(rate, way._asdict())
        if own:
            tokens = "all tokens" if way.bits is None else f"{1 << way.bits} tokens"
            order = "ascending" if way.ascending else "in order"
            label = f"{tokens}, {order}"
            axes.plot(column(own, "bytes"), column(own, "cosine"), "o-", label=label)
    axes.set(xlabel="bytes of the text layer", ylabel="mean cosine")
    axes.legend()
    figure.savefig(file, dpi=120)


def main(argv: list[str] | None = None) -> int:
    """Print rows as they are measured, and everything but the curves as JSON."""
    args = parse_args(argv)
    import torch

    torch.set_num_threads(args.threads or torch.get_num_threads())
    times = step_times(args)
    clip, targets = load_targets(args)
    cosine = cosines(args, clip, targets)
    print(f"cosine {cosine['published_cosine']:.4f} published, {cosine['ours_cosine']:.4f} ours")
    rate = rates(args, clip, targets)
    if args.output:
        plot_all(args.output, times, cosine, rate)
    cosine.pop("curves")
    summary = {
        "threads": torch.get_num_threads(),
        "step_times": times,
        "cosine": cosine,
        "rates": rate,
    }
    print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())

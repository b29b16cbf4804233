"""Measure how the bytes of a file are best split, and write a preset's table of allocations.

    python benchmarks/allocation.py --data_root BSDS500/images/val       # 12 images, tiny

Each image is encoded for every budget by every allocation of a grid: a maximum of the prompt, a
lambda of the sketch or none, and the colors get what is left. One candidate is generated, as the
encoder does with `--bytes`, and measured by

    structure   1 - MS-SSIM, and the mean difference of the two images averaged 2x2, 0 to 1
    clip        1 - similarity of the encoder's CLIP

A budget's row is the allocation with the least mean over the images. What is measured of an image
is kept in the file of points: started again, a stopped run goes on, and does again what other
models, another grid or another criterion have measured. The images are JPEG files that no test is
done on. The last line on stdout is JSON.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

# So that `python benchmarks/allocation.py` finds the project.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from allocation.config import BudgetConfig
from allocation.table import FOLDER, LEAST_BYTES, Allocation
from common.files import ROOT, write
from evaluation.flags import preset

if TYPE_CHECKING:
    from allocation.encoder import BudgetEncoder
    from dataloaders import Sample

CRITERIA = ("structure", "clip")
BUDGETS = (LEAST_BYTES, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1000)  # bytes
PROMPTS = (0, 12)  # bytes
LAMBDAS = (None, 0.02, 0.05, 0.1, 0.2, 0.5)  # None: no sketch
Measure = Callable[[np.ndarray, np.ndarray], float]  # (original, reconstruction), lower is better
Key = tuple[int, int, float | None]  # budget, bytes of the prompt, lambda


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data_root", type=Path, required=True, help="folder of JPEG files")
    add("--count", type=int, default=12, help="number of images, evenly spread over the folder")
    add("--preset", type=preset, default="tiny", help="preset of the models")
    add("--criterion", choices=CRITERIA, default="structure", help="what the best split is best in")
    add("--budgets", type=int, nargs="+", default=BUDGETS, help="bytes of whole files, from 24 on")
    add("--prompts", type=int, nargs="+", default=PROMPTS, help="maxima of the prompt, bytes")
    add("--lambdas", type=rate_or_none, nargs="+", default=LAMBDAS, help="of the sketch, or none")
    add("--device", default="cpu", help="cpu, cuda or cuda:N")
    add("--points", type=Path, help="file of what was measured (default: in recon_examples/)")
    add("--output", type=Path, help="the table to write (default: the preset's)")
    return parser.parse_args(argv)


def rate_or_none(text: str) -> float | None:
    """Parse a lambda, or "none"."""
    return None if text == "none" else float(text)


def structure(original: np.ndarray, recon: np.ndarray) -> float:
    """Return the criterion `structure` of two images, uint8 (H, W, 3)."""
    from metrics import ms_ssim

    difference = np.abs(half(original) - half(recon)).mean() / 255
    return 1 - ms_ssim(original, recon) + float(difference)


def half(image: np.ndarray) -> np.ndarray:
    """Return an image, uint8 (H, W, 3) of even sides, averaged 2x2, float64 (H / 2, W / 2, 3)."""
    height, width = image.shape[:2]
    return image.reshape(height // 2, 2, width // 2, 2, 3).mean(axis=(1, 3))


def criterion_of(name: str, encoder: "BudgetEncoder") -> Measure:
    """Return a criterion."""
    if name == "structure":
        return structure
    return lambda original, recon: 1 - encoder.clip.similarity(original, [recon])[0]


def measure(
    encoder: "BudgetEncoder", sample: "Sample", budgets: Sequence[int], criterion: Measure
) -> dict[Key, float]:
    """Return what the criterion says of an image for each budget and allocation of the encoder."""
    image = sample.image
    parts = encoder.begin(image)
    prompt = encoder.prompter.find([image])[0]
    source = sample.source_height, sample.source_width
    points = {}
    for budget in budgets:
        encoder.given = replace(encoder.given, budget=budget)
        material = encoder.material(image, source, prompt, *parts)
        for allocation, value in of_budget(encoder, material, criterion).items():
            points[budget, allocation.prompt_bytes, allocation.lam_sketch] = value
    return points


def of_budget(encoder: "BudgetEncoder", material, criterion: Measure) -> dict[Allocation, float]:
    """Return what the criterion says of an image for each allocation that gives some layer."""
    from diffusion.candidates import Job

    jobs, owners = {}, {}
    for allocation in encoder.allocations:
        if allocation.prompt_bytes < material.budget:
            layers = material.layers(allocation)
            payloads = layers.payloads()
            if any(payloads):
                owners[allocation] = payloads
                conditions = encoder.conditions(layers)
                jobs[payloads] = Job(conditions, 0, *material.image.shape[:2])
    generated = encoder.chooser.generate_all(list(jobs.values()))
    values = {}
    for payloads, recon in zip(jobs, generated, strict=True):
        values[payloads] = round(criterion(material.image, recon), 6)
    return {allocation: values[payloads] for allocation, payloads in owners.items()}


def best_rows(points: Sequence[dict[Key, float]], budgets: Sequence[int]) -> list[dict]:
    """Return the rows of the table: of each budget, the allocation with the least mean.

    points: of each image. Only what all images have counts. Of allocations that are equally good
    the one with the smaller prompt, then with the coarser sketch, is taken.
    """
    common = set(points[0])
    common.intersection_update(*points)
    rows = []
    for budget in budgets:
        means = {}
        for key in sorted(common, key=lambda key: (key[1], key[2] or 0)):
            if key[0] == budget:
                means[key[1:]] = fmean(each[key] for each in points)
        prompt_bytes, lam = min(means, key=means.__getitem__)
        rows.append({"bytes": budget, "prompt_bytes": prompt_bytes, "lam_sketch": lam})
    return rows


def table_file(rows: Sequence[dict], made: dict) -> bytes:
    """Return a table as a file, a row a line."""
    lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    return f'{{"made": {json.dumps(made)},\n "rows": [\n{lines}\n ]}}\n'.encode()


def read_points(path: Path, settings: dict) -> dict[str, dict[Key, float]]:
    """Return {image: its points} of a file of points, those that these settings measured."""
    found = {}
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for line in lines:
        entry = json.loads(line)
        if entry["settings"] == settings:
            found[entry["image"]] = {tuple(key): value for *key, value in entry["points"]}
    return found


def append_points(path: Path, settings: dict, image: str, points: dict[Key, float]) -> None:
    """Add a line with an image's points to their file."""
    entry = {"image": image, "settings": settings}
    entry["points"] = [[*key, value] for key, value in points.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def spread(paths: Sequence[Path], count: int) -> list[Path]:
    """Return `count` of the paths, evenly spread; all, if there are fewer."""
    count = min(count, len(paths))
    return [paths[index * len(paths) // count] for index in range(count)]


def load_encoder(args: argparse.Namespace) -> "BudgetEncoder":
    """Load an encoder that tries all allocations of the grid. Raises as `BudgetEncoder`."""
    from allocation.encoder import BudgetEncoder

    grid = [Allocation(size, lam) for size in args.prompts for lam in args.lambdas]
    config = BudgetConfig(budget=max(args.budgets), candidates=1, allocations=len(grid))
    return BudgetEncoder(args.preset, config, args.device, tried=grid)


def points_of(
    args: argparse.Namespace, encoder: "BudgetEncoder", paths: Sequence[Path], settings: dict
) -> list[dict[Key, float]]:
    """Return the points of each image, of which those that were kept are not measured again."""
    from tqdm import tqdm

    from dataloaders import load_sample

    file = args.points or ROOT / "recon_examples" / f"allocation_{args.preset.name}.jsonl"
    points = read_points(file, settings)
    criterion = criterion_of(args.criterion, encoder)
    for path in tqdm(paths):
        if path.name not in points:
            sample = load_sample(path, args.preset.short_side)
            points[path.name] = measure(encoder, sample, settings["budgets"], criterion)
            append_points(file, settings, path.name, points[path.name])
    return [points[path.name] for path in paths]


def main(argv: list[str] | None = None) -> int:
    """Measure, write the table and print it as JSON; return 2 if there are no images, else 0."""
    args = parse_args(argv)
    paths = spread(sorted(args.data_root.glob("*.jpg")), args.count)
    if not paths or min(args.budgets) != LEAST_BYTES:
        error = f"{len(paths)} JPEG files in {args.data_root}, budgets from {min(args.budgets)} on"
        print(f"error: {error}: some are needed, and {LEAST_BYTES}", file=sys.stderr)
        return 2
    encoder = load_encoder(args)
    settings = {
        "models": encoder.fingerprint,
        "criterion": args.criterion,
        "budgets": sorted(set(args.budgets)),
        "prompts": [*args.prompts],
        "lambdas": [*args.lambdas],
    }
    rows = best_rows(points_of(args, encoder, paths, settings), settings["budgets"])
    made = {"criterion": args.criterion, "images": len(paths), "models": encoder.fingerprint}
    write(args.output or FOLDER / f"{args.preset.name}.json", table_file(rows, made))
    print(json.dumps({**made, "rows": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

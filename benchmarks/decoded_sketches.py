"""Train a ControlNet on clean sketches, as the paper did, or on decoded ones, which it will get?

    python benchmarks/decoded_sketches.py --bundle tiny/bundle --seconds 2400

Two ControlNets start from the same weights and are trained for the bundle's UNet, which stays as it
is, on the same images, crops, prompts and noise: one with clean sketches, one with sketches decoded
at random rates (tiny/conditions.py prepares both; colors are left out). Then both generate the same
held-out images from clean sketches and from sketches decoded at three lambdas. Measured are the
agreement (F1, 3 pixels) of the reconstruction's edges with the image's own, and the error of the
clean latents at noise level 0.7.

The training is resumed if there is a state in --out, and stops by the clock. Writes
decoded_sketches.json, decoded_sketches.png (the plot) and sheet.png (reconstructions) into --out;
the last line on stdout is the JSON.
"""

import argparse
import json
import sys
from copy import deepcopy
from pathlib import Path
from statistics import fmean

import numpy as np

# So that `python benchmarks/decoded_sketches.py` finds the project.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.rows import column, distinct, rows_with
from common.files import ROOT, write

LAMBDAS = (0.02, 0.2, 1.0)
TRAINED_ON = {"clean": 1.0, "decoded": 0.0}  # fraction of clean sketches
SIDE = 256  # pixels of the images that are generated
LEVEL = 0.7  # of the noise, where a sketch tells most (tiny/train_generator.py)
SHEET_ROWS = 8


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    runs = Path("runs/tiny")
    help_bundle = "folder with UNet, decoder, CLIP and latents"
    add("--bundle", type=Path, default=ROOT / "tiny" / "bundle", help=help_bundle)
    add("--photos", type=Path, default=runs / "photos", help="folder written by tiny.data")
    help_conditions = "folder written by tiny.conditions"
    add("--conditions", type=Path, default=runs / "conditions", help=help_conditions)
    out = runs / "decoded_sketches"
    add("--out", type=Path, default=out, help="folder of the results and the state to resume")
    help_seconds = "time of training of both in seconds, earlier runs included"
    add("--seconds", type=float, default=2400, help=help_seconds)
    add("--count", type=int, default=48, help="number of held-out images to generate")
    add("--seed", type=int, default=0, help="random seed")
    return parser.parse_args(argv)


# ---- training


def make_denoisers(bundle: Path) -> dict:
    """Return a Denoiser for each way of training.

    They have the bundle's UNet, which is not trained, and equal new ControlNets.
    """
    from diffusers import UNet2DConditionModel

    from tiny.denoiser import Denoiser

    denoiser = Denoiser()
    weights = UNet2DConditionModel.from_pretrained(bundle / "generator" / "unet").state_dict()
    denoiser.unet.load_state_dict(weights)
    denoiser.unet.requires_grad_(False)
    return {name: deepcopy(denoiser) for name in TRAINED_ON}


def make_batches(args: argparse.Namespace, photos, encoder) -> dict:
    """Return the `Batches` of each way of training; they differ only in the sketches."""
    from tiny.conditions import Conditions
    from tiny.train_generator import Batches

    batches = {}
    for name, fraction in TRAINED_ON.items():
        conditions = Conditions(args.conditions, photos, fraction)
        batches[name] = Batches(photos, conditions, encoder, args.bundle, args.seed, drop_color=1)
    return batches


def train(run, denoisers: dict, batches: dict) -> None:
    """Train both ControlNets on the same samples until the time of the `Run` is spent."""
    import torch

    from tiny.denoiser import flow_loss, noise_levels
    from tiny.train_generator import BATCH, LEARNING_RATE
    from tiny.training import optimizer_step, set_learning_rate

    optimizers = {}
    for name, denoiser in denoisers.items():
        weights = denoiser.controlnet.parameters()
        optimizers[name] = torch.optim.AdamW(weights, LEARNING_RATE, weight_decay=1e-2)

    def train_step(progress: float) -> dict:
        samples = {name: own.sample() for name, own in batches.items()}
        level = noise_levels(BATCH)
        noise = torch.randn_like(samples["clean"][0])
        losses = {}
        for name, denoiser in denoisers.items():
            set_learning_rate(optimizers[name], LEARNING_RATE, progress)
            loss = flow_loss(denoiser, samples[name], level, noise)
            optimizer_step(loss, optimizers[name])
            losses[name] = loss.item()
        return losses

    parts = {}
    for name, denoiser in denoisers.items():
        parts[name] = denoiser.controlnet
        parts[f"{name} optimizer"] = optimizers[name]
    run.loop(train_step, parts, {500: dict})


# ---- measuring


def sketches_of(batches, chosen: list[int]) -> dict[str, tuple[list[np.ndarray], float | None]]:
    """Return {"clean" or lambda: (sketches of the upper left squares, their mean bytes)}.

    The sketches are uint8 (SIDE, SIDE).
    """
    from models_ntc import load_sketch_codec

    conditions = batches.conditions
    clean = []
    for i in chosen:
        square = conditions.plane(conditions.clean, i)[:SIDE, :SIDE]
        clean.append(np.ascontiguousarray(square))
    found = {"clean": (clean, None)}
    for lmbda in LAMBDAS:
        codec = load_sketch_codec(lmbda)
        payloads, decoded = zip(*map(codec.encode_and_decode, clean), strict=True)
        found[str(lmbda)] = (list(decoded), fmean(map(len, payloads)))
    return found


def measure(denoisers: dict, batches, vae, chosen: list[int]) -> tuple[list[dict], np.ndarray]:
    """Return a row for each image, sketch and way of training, and a sheet, uint8 (H, W, 3)."""
    from tqdm import tqdm

    from annotator import load_annotator

    annotate = load_annotator("hed-tiny")
    sketches = sketches_of(batches, chosen)
    rows, sheet = [], []
    for number, i in enumerate(tqdm(chosen, desc="generating", file=sys.stderr)):
        own = {}
        for source, (drawn, size) in sketches.items():
            own[source] = (drawn[number], size)
        found, tiles = measure_image(denoisers, batches, vae, annotate, i, own)
        rows += found
        sheet.append(np.concatenate(tiles, 1))
    return rows, np.concatenate(sheet[:SHEET_ROWS])


def measure_image(
    denoisers: dict, batches, vae, annotate, i: int, sketches: dict
) -> tuple[list[dict], list[np.ndarray]]:
    """Return the rows of image i and the tiles of its row in the sheet.

    sketches: {"clean" or lambda: (sketch, mean bytes)}.
    """
    import torch

    from diffusion.control import control_tensor
    from metrics import edge_f1
    from tiny.denoiser import CONTROL, euler, latents_error
    from tiny.latents import to_pixels

    image = batches.photos[i][:SIDE, :SIDE]
    latents = batches.encoder.encode(to_pixels([image]))
    text = batches.encode_text([batches.conditions.prompt(i)])
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(i))
    clean, _ = sketches["clean"]
    rows, tiles = [], [image]
    for source, (sketch, size) in sketches.items():
        control = control_tensor(sketch, CONTROL, None)
        tiles.append(np.repeat(sketch[..., None], 3, 2))
        for name, denoiser in denoisers.items():
            recon = to_image(vae.decode(euler(denoiser, noise, text, control)).sample)
            tiles.append(recon)
            row = {"trained on": name, "drawn from": source, "bytes": size}
            row["f1"] = edge_f1(annotate(recon), clean, tolerance_px=3).f1
            row["error"] = latents_error(denoiser, latents, noise, LEVEL, text, control)
            rows.append(row)
    return rows, tiles


def to_image(pixels) -> np.ndarray:
    """Return uint8 (H, W, 3) of a tensor (1, 3, H, W) in -1..1."""
    from einops import rearrange

    levels = ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte()
    return rearrange(levels, "1 c h w -> h w c").numpy()


def summary(rows: list[dict]) -> list[dict]:
    """Return the means, a row for each sketch and way of training.

    "gain in f1", in the rows of "decoded", is the gain over "clean" with its 95% interval.
    """
    from metrics import mean_interval

    table = []
    for source in distinct(rows, "drawn from"):
        f1 = {}
        for name in TRAINED_ON:
            kind = {"trained on": name, "drawn from": source}
            part = rows_with(rows, kind)
            f1[name] = np.array(column(part, "f1"))
            line = {**kind, "bytes": part[0]["bytes"]}
            line["f1"] = fmean(f1[name])
            line["error"] = fmean(column(part, "error"))
            table.append(line)
        table[-1]["gain in f1"] = mean_interval((f1["decoded"] - f1["clean"]).tolist())
    return table


# ---- results


def plot(table: list[dict], path: Path) -> None:
    """Write a plot of both measures over the bytes of a sketch; dashed: clean sketches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    titles = {
        "f1": "edges of reconstruction and image, F1",
        "error": f"error of clean latents at level {LEVEL}",
    }
    for axes, (key, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        for number, name in enumerate(TRAINED_ON):
            clean, *coded = rows_with(table, {"trained on": name})
            label = f"trained on {name}"
            axes.plot(column(coded, "bytes"), column(coded, key), "o-", label=label)
            axes.axhline(clean[key], color=f"C{number}", linestyle="--", linewidth=0.8)
        axes.set(xlabel="bytes of the sketch (256 x 256 pixels)", ylabel=title)
        axes.legend()
    figure.savefig(path, dpi=110)


def load_decoder(bundle: Path):
    """Return the latent decoder of a bundle, in float32 and without gradients."""
    from diffusers import AutoencoderTiny

    vae = AutoencoderTiny.from_pretrained(bundle / "generator" / "vae")
    return vae.float().eval().requires_grad_(False)


def main(argv: list[str] | None = None) -> int:
    """Train, measure, print and write."""
    args = parse_args(argv)
    from PIL import Image

    from tiny.data import Photos
    from tiny.latents import Latents
    from tiny.training import Run

    run = Run(args.out, args.seconds, args.seed)  # the seed is also that of the ControlNets
    photos = Photos(args.photos)
    encoder = Latents.load(args.bundle / "latents.safetensors")
    batches = make_batches(args, photos, encoder)
    denoisers = make_denoisers(args.bundle)
    train(run, denoisers, batches)
    chosen = photos.validation[: args.count]
    rows, sheet = measure(denoisers, batches["clean"], load_decoder(args.bundle), chosen)
    result = {
        "steps": run.step,
        "seconds": args.seconds,
        "images": args.count,
        "means": summary(rows),
    }
    write(args.out / "decoded_sketches.json", json.dumps(result, indent=1).encode())
    plot(result["means"], args.out / "decoded_sketches.png")
    Image.fromarray(sheet).save(args.out / "sheet.png")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())

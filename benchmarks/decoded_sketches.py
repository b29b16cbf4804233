"""Should a ControlNet be trained on clean sketches, as the paper's was, or on decoded ones, which are what it is given?

    python benchmarks/decoded_sketches.py --bundle tiny/bundle --seconds 2400 --out runs/tiny/decoded_sketches

Two ControlNets start from the same weights and are trained beside one another for the bundle's UNet, which stays as it
is: on the same photographs, crops, prompts and noise, one with clean sketches, one with sketches that the codec
decoded at random rates (tiny/conditions.py prepares both; colours are left out). Then both draw the same held-out
photographs from sketches decoded at three lambdas, and from clean ones. Measured: the agreement (F1, 3 pixels) of the
drawing's edges with the photograph's own, and the error of the clean latents at noise level 0.7. Training resumes and
stops by the clock. Writes decoded_sketches.json, decoded_sketches.png (the plot) and sheet.png (drawings) into --out;
the last line on stdout is the JSON.
"""

import argparse
import json
import sys
from copy import deepcopy
from pathlib import Path
from statistics import fmean

import numpy as np

ROOT = Path(__file__).parent.parent
LAMBDAS = (0.02, 0.2, 1.0)
TRAINED_ON = {"clean": 1.0, "decoded": 0.0}  # share of clean sketches
SIDE = 256  # pixels of the crops that are drawn
LEVEL = 0.7  # of the noise, where a sketch tells most (tiny/train_generator.py)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=ROOT / "tiny" / "bundle", help="UNet, decoder, CLIP and latents")
    parser.add_argument("--photos", type=Path, default=Path("runs/tiny/photos"))
    parser.add_argument("--conditions", type=Path, default=Path("runs/tiny/conditions"))
    parser.add_argument("--out", type=Path, default=Path("runs/tiny/decoded_sketches"), help="also the state to resume")
    parser.add_argument("--seconds", type=float, default=2400, help="of training both, earlier runs included")
    parser.add_argument("--count", type=int, default=48, help="held-out photographs to draw")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def make_drawers(bundle: Path) -> dict:
    """Return a `Drawer` for each way of training: the bundle's UNet, frozen, and a new ControlNet, equal at first."""
    from diffusers import UNet2DConditionModel

    from tiny.train_generator import Drawer

    drawer = Drawer()
    weights = UNet2DConditionModel.from_pretrained(bundle / "generator" / "unet").state_dict()
    drawer.unet.load_state_dict(weights)
    drawer.unet.requires_grad_(False)
    return {name: deepcopy(drawer) for name in TRAINED_ON}


def train(run, drawers: dict, batches: dict) -> None:
    """Train both ControlNets on the same samples until the time of the `Run` is spent."""
    import torch

    from tiny.train_generator import BATCH, RATE, flow_loss, noise_levels
    from tiny.training import cosine, descend, set_rate

    optimizers = {
        name: torch.optim.AdamW(drawer.controlnet.parameters(), RATE, weight_decay=1e-2)
        for name, drawer in drawers.items()
    }

    def train_step(progress: float) -> dict:
        samples, losses = {name: own.draw() for name, own in batches.items()}, {}
        level, noise = noise_levels(BATCH), torch.randn_like(samples["clean"][0])
        for name, drawer in drawers.items():
            set_rate(optimizers[name], RATE * cosine(progress))
            loss = flow_loss(drawer, samples[name], level, noise)
            descend(loss, optimizers[name])
            losses[name] = loss.item()
        return losses

    parts = {name: drawer.controlnet for name, drawer in drawers.items()}
    parts |= {f"{name} optimizer": optimizer for name, optimizer in optimizers.items()}
    run.loop(train_step, parts, {500: dict})


def sketches_of(batches, chosen: list[int]) -> dict[str, tuple[list[np.ndarray], float | None]]:
    """Return, for clean and each lambda, the upper left squares' sketches, uint8 (SIDE, SIDE), and their mean bytes."""
    from models_ntc import load_sketch_codec

    clean = [np.ascontiguousarray(batches.conditions.plane(batches.conditions.clean, i)[:SIDE, :SIDE]) for i in chosen]
    found = {"clean": (clean, None)}
    for lmbda in LAMBDAS:
        codec = load_sketch_codec(lmbda)
        coded = [codec.compress_and_draw(sketch) for sketch in clean]
        found[str(lmbda)] = [sketch for _, sketch in coded], fmean(len(payload) for payload, _ in coded)
    return found


def measure(drawers: dict, batches, vae, chosen: list[int]) -> tuple[list[dict], np.ndarray]:
    """Return a row for each way of training, sketch and photograph, and a sheet of drawings, uint8 (H, W, 3)."""
    import torch
    from tqdm import tqdm

    from annotator import load_annotator
    from diffusion.control import control_tensor
    from metrics import edge_f1
    from tiny.latents import to_pixels
    from tiny.train_generator import CONTROL, euler, latents_error

    annotate, sketches, rows, sheet = load_annotator("hed-tiny"), sketches_of(batches, chosen), [], []
    for number, i in enumerate(tqdm(chosen, desc="drawing", file=sys.stderr)):
        photo = batches.photos[i][:SIDE, :SIDE]
        latents = batches.encoder.encode(to_pixels([photo]))
        text = batches.encode_text([batches.conditions.prompt(i)])
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(i))
        tiles, own = [photo], sketches["clean"][0][number]
        for source, (drawn_sketches, size) in sketches.items():
            control = control_tensor(drawn_sketches[number], CONTROL, None)
            tiles.append(np.repeat(drawn_sketches[number][..., None], 3, 2))
            for name, drawer in drawers.items():
                picture = to_picture(vae.decode(euler(drawer, noise, text, control)).sample)
                tiles.append(picture)
                f1 = edge_f1(annotate(picture), own, tolerance_px=3).f1
                error = latents_error(drawer, latents, noise, LEVEL, text, control)
                rows.append({"trained on": name, "drawn from": source, "bytes": size, "f1": f1, "error": error})
        sheet.append(np.concatenate(tiles, 1))
    return rows, np.concatenate(sheet[:8])


def to_picture(pixels) -> np.ndarray:
    """(1, 3, H, W) in -1..1 -> uint8 (H, W, 3)."""
    return ((pixels[0].clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()


def summary(rows: list[dict]) -> list[dict]:
    """Return the means, one row for each way of training and sketch; `gain` is decoded's over clean's, with its 95%."""
    from metrics import mean_interval

    table = []
    for source in dict.fromkeys(row["drawn from"] for row in rows):
        own = [row for row in rows if row["drawn from"] == source]
        by = {name: [row for row in own if row["trained on"] == name] for name in TRAINED_ON}
        for name, part in by.items():
            figures = {key: fmean(row[key] for row in part) for key in ("f1", "error")}
            table.append({"trained on": name, "drawn from": source, "bytes": part[0]["bytes"]} | figures)
        gains = [b["f1"] - a["f1"] for a, b in zip(by["clean"], by["decoded"], strict=True)]
        table[-1]["gain in f1"] = mean_interval(gains)
    return table


def draw(table: list[dict], path: Path) -> None:
    """Write a plot of both figures over the sketch's bytes; the dashed lines are for clean sketches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    labels = {"f1": "edges of drawing and photograph, F1", "error": f"error of clean latents at level {LEVEL}"}
    for axes, (key, label) in zip(figure.subplots(1, 2), labels.items(), strict=True):
        for number, name in enumerate(TRAINED_ON):
            own = [row for row in table if row["trained on"] == name]
            coded = [row for row in own if row["drawn from"] != "clean"]
            axes.plot(*zip(*((row["bytes"], row[key]) for row in coded), strict=True), "o-", label=f"trained on {name}")
            axes.axhline(own[0][key], color=f"C{number}", linestyle="--", linewidth=0.8)
        axes.set(xlabel="bytes of the sketch (256 x 256 pixels)", ylabel=label)
        axes.legend()
    figure.savefig(path, dpi=110)


def main(argv: list[str] | None = None) -> int:
    """Train, measure, print and write."""
    args = parse_args(argv)
    sys.path.insert(0, str(ROOT))
    from diffusers import AutoencoderTiny
    from PIL import Image

    from tiny.conditions import Conditions
    from tiny.data import Photos
    from tiny.latents import Latents
    from tiny.train_generator import Batches
    from tiny.training import Run

    run = Run(args.out, args.seconds, args.seed)  # seeds the ControlNets, too
    photos, encoder = Photos(args.photos), Latents.load(args.bundle / "latents.safetensors")
    batches = {}
    for name, share in TRAINED_ON.items():
        conditions = Conditions(args.conditions, photos, share)
        batches[name] = Batches(photos, conditions, encoder, args.bundle, args.seed, drop_colour=1)
    drawers = make_drawers(args.bundle)
    train(run, drawers, batches)
    vae = AutoencoderTiny.from_pretrained(args.bundle / "generator" / "vae").float().eval().requires_grad_(False)
    rows, sheet = measure(drawers, batches["clean"], vae, photos.validation[: args.count])
    result = {"steps": run.step, "seconds": args.seconds, "photographs": args.count, "means": summary(rows)}
    (args.out / "decoded_sketches.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    draw(result["means"], args.out / "decoded_sketches.png")
    Image.fromarray(sheet).save(args.out / "sheet.png")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())

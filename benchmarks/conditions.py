"""Do reconstructions follow the sketch and the prompt that were sent? Measured on a PICS run.

    python eval_PICS.py --data_root KODAK
    python benchmarks/conditions.py recon_examples/PICS_tiny_KODAK

For each image:

    f1                      agreement (F1, 3 pixels) of the sketch with the reconstruction's edges
    f1_other_drawing        the same with the edges of the next image's reconstruction

and with images generated from prompt and sketch, without colors, once with the image's own prompt
and once with the next image's prompt:

    levels_other_prompt     mean difference of the two, in levels
    color, ..._other_prompt mean CIEDE2000 to the original, at 8 x 8 pixels
    clip, ..._other_prompt  CLIP similarity to the original

The last line on stdout is JSON with the means.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import fmean

import numpy as np

# So that `python benchmarks/conditions.py` finds the project.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.rows import column
from common.files import load_image


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of a PICS run")
    parser.add_argument("--preset", default="tiny", help="the run's preset")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    return parser.parse_args(argv)


def measure(run: Path, preset: str, device: str) -> list[dict]:
    """Return a row for each image of a run."""
    import yaml
    from tqdm import tqdm

    from annotator import load_annotator
    from codec import Decoder
    from presets import get_preset
    from prompt_inversion.clip import load_clip
    from reporting.rows import RECORD

    models = get_preset(preset)
    decoder = Decoder(models, device)
    clip = load_clip(models.clip, device)
    annotator = load_annotator(models.annotator, device)
    records, edges = [], []
    for path in sorted(run.glob(f"*{RECORD}")):
        record = yaml.safe_load(path.read_text())
        records.append(record)
        edges.append(annotator(load_image(run / f"{record['name']}_recon.png")))
    rows = []
    for i, record in enumerate(tqdm(records)):
        other = (i + 1) % len(records)
        decoded = decoder.decode((run / f"{record['name']}.pics").read_bytes())
        row = {"name": record["name"]}
        row |= compare_sketch(decoded.conditions.sketch, edges[i], edges[other])
        original = load_image(run / f"{record['name']}_original.png")
        images = generate_both(decoder, decoded, records[other]["ids"])
        row |= compare_prompts(clip, original, *images)
        rows.append(row)
    return rows


def compare_sketch(sketch: np.ndarray, own: np.ndarray, other: np.ndarray) -> dict:
    """Return the agreement of a sketch with the edges of two reconstructions, uint8 (H, W)."""
    from PIL import Image

    from metrics import edge_f1

    height, width = sketch.shape
    resized = np.asarray(Image.fromarray(other).resize((width, height)))
    return {
        "f1": edge_f1(own, sketch, tolerance_px=3).f1,
        "f1_other_drawing": edge_f1(resized, sketch, tolerance_px=3).f1,
    }


def generate_both(decoder, decoded, other_ids: list[int]) -> list[np.ndarray]:
    """Return images of a stream's sketch and seed, with its own prompt and with other token ids."""
    sketch = decoded.conditions.sketch
    own = decoded.conditions._replace(color=None)
    other = own._replace(prompt=own.prompt._replace(ids=tuple(other_ids)))
    seeds = [decoded.stream.seed, decoded.stream.seed]
    return decoder.generate([own, other], seeds, *sketch.shape)


def compare_prompts(clip, original: np.ndarray, own: np.ndarray, other: np.ndarray) -> dict:
    """Return how two images differ, and how near they are to the original."""
    own_clip, other_clip = clip.similarity(original, [own, other])
    return {
        "levels_other_prompt": float(np.abs(other.astype(float) - own).mean()),
        "color": regional_distance(original, own),
        "color_other_prompt": regional_distance(original, other),
        "clip": own_clip,
        "clip_other_prompt": other_clip,
    }


def regional_distance(one: np.ndarray, other: np.ndarray) -> float:
    """Return the mean CIEDE2000 of two images' colors, uint8 (H, W, 3), at 8 x 8 pixels."""
    import cv2
    from skimage.color import deltaE_ciede2000, rgb2lab

    small = [cv2.resize(image, (8, 8), interpolation=cv2.INTER_AREA) for image in (one, other)]
    return float(deltaE_ciede2000(*map(rgb2lab, small)).mean())


def main(argv: list[str] | None = None) -> int:
    """Print a line for each image and the means as JSON.

    Return 1 if reconstructions do not follow the sketch or the prompt, else 0.
    """
    args = parse_args(argv)
    rows = measure(args.run, args.preset, args.device)
    means = {}
    for name in list(rows[0])[1:]:
        means[name] = round(fmean(column(rows, name)), 4)
    for row in rows:
        print(row["name"], *(f"{name} {row[name]:.3f}" for name in means))
    print(json.dumps(means))
    follows_sketch = means["f1"] > means["f1_other_drawing"]
    follows_prompt = means["color"] < means["color_other_prompt"]
    return 0 if follows_sketch and follows_prompt else 1


if __name__ == "__main__":
    sys.exit(main())

"""Do drawings follow the sketch that was sent, and the prompt? Figures over a finished PICS run.

    python eval_PICS.py --data_root KODAK
    python benchmarks/conditions.py recon_examples/PICS_tiny_KODAK

For each photograph: agreement (F1, 3 pixels) of the sketch sent with the edges of its own drawing and, for comparison,
with those of the next photograph's drawing; then what the prompt does, drawn from prompt and sketch without colours:
the mean difference, in levels, between the drawing and one of the same sketch and seed with the next photograph's
prompt, and of both drawings their distance in colour from the original (mean CIEDE2000 at 8 x 8 pixels) and their CLIP
similarity to it. The last line on stdout is JSON.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import fmean

import numpy as np
import yaml


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a PICS run")
    parser.add_argument("--preset", default="tiny", help="the run's preset")
    parser.add_argument("--device", default="cpu")
    return parser.parse_args(argv)


def measure(run: Path, preset: str, device: str) -> list[dict]:
    """Return a row for each photograph of a run."""
    from PIL import Image
    from tqdm import tqdm

    from annotator import load_annotator
    from codec import Conditions, Decoder
    from metrics import edge_f1
    from presets import get_preset
    from prompt_inversion import load_clip

    row = get_preset(preset)
    decoder, clip = Decoder(row, device), load_clip(row.clip, device)
    annotator = load_annotator(row.annotator, device)
    captions = [yaml.safe_load(path.read_text()) for path in sorted(run.glob("*_caption.yaml"))]
    edges = [annotator(np.asarray(Image.open(run / f"{caption['name']}_recon.png"))) for caption in captions]
    rows = []
    for i, caption in enumerate(tqdm(captions)):
        other = (i + 1) % len(captions)
        decoded = decoder.decode((run / f"{caption['name']}.pics").read_bytes())
        original = np.asarray(Image.open(run / f"{caption['name']}_original.png"))
        prompts = (decoded.prompt, tuple(captions[other]["ids"]))
        each = [Conditions(prompt, decoded.sketch, None) for prompt in prompts]
        own, swapped = decoder.draw(each, [caption["seed"]] * 2, *decoded.sketch.shape)
        like = clip.similarity(original, [own, swapped])
        strange = np.asarray(Image.fromarray(edges[other]).resize(decoded.sketch.shape[::-1]))
        rows.append(
            {
                "name": caption["name"],
                "f1": edge_f1(edges[i], decoded.sketch, tolerance_px=3).f1,
                "f1_other_drawing": edge_f1(strange, decoded.sketch, tolerance_px=3).f1,
                "levels_other_prompt": float(np.abs(swapped.astype(float) - own).mean()),
                "colour": regional_distance(original, own),
                "colour_other_prompt": regional_distance(original, swapped),
                "clip": like[0],
                "clip_other_prompt": like[1],
            }
        )
    return rows


def regional_distance(one: np.ndarray, other: np.ndarray) -> float:
    """Return the mean CIEDE2000 of two pictures' colours, uint8 (H, W, 3), at 8 x 8 pixels."""
    import cv2
    from skimage.color import deltaE_ciede2000, rgb2lab

    small = [rgb2lab(cv2.resize(picture, (8, 8), interpolation=cv2.INTER_AREA)) for picture in (one, other)]
    return float(deltaE_ciede2000(*small).mean())


def main(argv: list[str] | None = None) -> int:
    """Print a line for each photograph and the means as JSON; status 1 where sketch or prompt is not followed."""
    args = parse_args(argv)
    sys.path.insert(0, str(Path(__file__).parent.parent))
    rows = measure(args.run, args.preset, args.device)
    for row in rows:
        print(" ".join(f"{k} {v:.3f}" if isinstance(v, float) else str(v) for k, v in row.items()))
    means = {name: round(fmean(row[name] for row in rows), 4) for name in rows[0] if name != "name"}
    print(json.dumps(means))
    follows = means["f1"] > means["f1_other_drawing"] and means["colour"] < means["colour_other_prompt"]
    return 0 if follows else 1


if __name__ == "__main__":
    sys.exit(main())

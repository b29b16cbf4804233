"""Do drawings follow the sketch that was sent, and the prompt? Figures over a finished PICS run.

    python eval_PICS.py --data_root KODAK
    python benchmarks/conditions.py recon_examples/PICS_tiny_KODAK

For each photograph: agreement (F1, 3 pixels) of the sketch sent with the edges of its own drawing and, for comparison,
with those of the next photograph's drawing; then the mean difference, in levels, between the drawing and one of the
same sketch and seed with the next photograph's prompt. The last line on stdout is JSON.
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
    from codec import Decoder
    from metrics import edge_f1
    from presets import get_preset

    row = get_preset(preset)
    decoder, annotator = Decoder(row, device), load_annotator(row.annotator, device)
    captions = [yaml.safe_load(path.read_text()) for path in sorted(run.glob("*_caption.yaml"))]
    edges = [annotator(np.asarray(Image.open(run / f"{caption['name']}_recon.png"))) for caption in captions]
    rows = []
    for i, caption in enumerate(tqdm(captions)):
        other = (i + 1) % len(captions)
        decoded = decoder.decode((run / f"{caption['name']}.pics").read_bytes())
        swapped = decoder.draw(captions[other]["ids"], [caption["seed"]], *decoded.sketch.shape, decoded.sketch)[0]
        strange = np.asarray(Image.fromarray(edges[other]).resize(decoded.sketch.shape[::-1]))
        rows.append(
            {
                "name": caption["name"],
                "f1": edge_f1(edges[i], decoded.sketch, tolerance_px=3).f1,
                "f1_other_drawing": edge_f1(strange, decoded.sketch, tolerance_px=3).f1,
                "levels_other_prompt": float(np.abs(swapped.astype(float) - decoded.image).mean()),
            }
        )
    return rows


def main(argv: list[str] | None = None) -> int:
    """Print a line for each photograph and the means as JSON; status 1 where drawings do not follow their sketch."""
    args = parse_args(argv)
    sys.path.insert(0, str(Path(__file__).parent.parent))
    rows = measure(args.run, args.preset, args.device)
    for row in rows:
        print(" ".join(f"{k} {v:.3f}" if isinstance(v, float) else str(v) for k, v in row.items()))
    means = {name: round(fmean(row[name] for row in rows), 4) for name in rows[0] if name != "name"}
    print(json.dumps(means))
    return 0 if means["f1"] > means["f1_other_drawing"] else 1


if __name__ == "__main__":
    sys.exit(main())

"""The rate-distortion row of a sketch codec, measured on real payloads.

python -c "from models_ntc.measurement import *; print(rate_distortion_row('FILE', Path('DIR')))"
"""

import sys
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common.files import load_gray
from metrics import MS_SSIM_MIN_SIDE, edge_f1, ms_ssim
from models_ntc.codec import SketchCodec, load_sketch_codec
from models_ntc.training_data import images_under, padded

MOST_MEASURED = 64  # test sketches


def rate_distortion_row(name: str, folder: Path) -> dict:
    """Measure a codec, FILE or FILE@LAMBDA, on the first MOST_MEASURED sketches under `folder`.

    Return {"codec", "model", "lambda", "metric", "sketches", "bytes", "bpp", "ms_ssim", "edge_f1",
    "encode_seconds", "decode_seconds"}. From "bytes" on, these are means over the sketches, each
    cut to multiples of 64 pixels. MS-SSIM is None if all have a side below MS_SSIM_MIN_SIDE.
    """
    codec = load_sketch_codec(name)
    files = images_under(folder)[:MOST_MEASURED]
    rows = [measure(codec, file) for file in tqdm(files, desc="measuring", file=sys.stderr)]
    means = {}
    for key in rows[0]:
        values = [row[key] for row in rows if row[key] is not None]
        means[key] = float(np.mean(values)) if values else None
    named = {key: codec.config[key] for key in ("model", "lambda", "metric")}
    return {"codec": name, **named, "sketches": len(rows), **means}


def measure(codec: SketchCodec, file: Path) -> dict:
    """Return the row of one sketch, see `rate_distortion_row`."""
    sketch = cut_to_blocks(load_gray(file))
    started = time.monotonic()
    payload = codec.encode(sketch)
    encoded = time.monotonic()
    decoded = codec.decode(payload)
    finished = time.monotonic()
    is_large = min(sketch.shape) >= MS_SSIM_MIN_SIDE
    return {
        "bytes": len(payload),
        "bpp": 8 * len(payload) / sketch.size,
        "ms_ssim": ms_ssim(decoded, sketch) if is_large else None,
        "edge_f1": edge_f1(decoded, sketch).f1,
        "encode_seconds": encoded - started,
        "decode_seconds": finished - encoded,
    }


def cut_to_blocks(sketch: np.ndarray) -> np.ndarray:
    """Return a sketch (H, W) cut to multiples of 64 pixels; shorter sides are padded with 0."""
    height = max(64, sketch.shape[0] // 64 * 64)
    width = max(64, sketch.shape[1] // 64 * 64)
    return padded(sketch[:height, :width], height, width)

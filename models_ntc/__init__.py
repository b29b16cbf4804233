"""Sketch <-> bytes: the trained sketch codecs and the door to them.

python -c "from models_ntc import load_sketch_codec; print(load_sketch_codec(1.0).name)"
"""

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models_ntc.codec import SketchCodec


FOLDER = Path(__file__).parent


def lambda_range(family: str = "sketch") -> tuple[float, float]:
    """Lowest and highest lambda of the bundled codec models_ntc/<family>.safetensors."""
    from safetensors import safe_open

    with safe_open(FOLDER / f"{family}.safetensors", "numpy") as file:
        low, high = json.loads(file.metadata()["config"])["sizes"]["lambda_range"]
    return low, high


def load_sketch_codec(lam_or_file: float | str | Path, device: str = "cpu", family: str = "sketch") -> "SketchCodec":
    """Load a sketch codec.

    Args:
        lam_or_file: a lambda within `lambda_range`, for models_ntc/<family>.safetensors; or a codec file
            written by train_compressai.py, FILE@LAMBDA where it has a range of them (else the geometric middle
            is taken); or a .pt/.pth/.pth.tar of a one-channel network of CompressAI's, in its keys.
        device: where the paper's network analyses and draws; the bundled one, and all that both ends must
            agree on, runs on the CPU.
        family: which bundled file a lambda is of.

    Returns:
        SketchCodec with `.compress(sketch uint8 (H, W)) -> bytes`, `.decompress(bytes) -> sketch`, `.digest`
        (32 bytes that name the weights), `.name` and `.config`.

    Raises:
        ValueError: there is no such lambda or file, or the file is another network's.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # compressai's way of compiling is going out of fashion
        from models_ntc.codec import load_sketch_codec as load

    return load(lam_or_file, device, family)

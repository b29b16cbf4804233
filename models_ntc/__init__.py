"""Sketch <-> bytes: the trained sketch codecs and the door to them.

python -c "from models_ntc import load_sketch_codec; print(load_sketch_codec(1.0).name)"
"""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models_ntc.codec import SketchCodec


FOLDER = Path(__file__).parent


def bundled_lambdas(family: str = "sketch") -> list[float]:
    """Lambdas of the codecs models_ntc/<family>_lmbda<lambda>.safetensors, ascending."""
    return sorted(float(p.stem.partition("_lmbda")[2]) for p in FOLDER.glob(f"{family}_lmbda*.safetensors"))


def load_sketch_codec(lam_or_file: float | str | Path, device: str = "cpu", family: str = "sketch") -> "SketchCodec":
    """Load a sketch codec.

    Args:
        lam_or_file: a lambda (1.0, 0.5), for models_ntc/<family>_lmbda<lambda>.safetensors; or a codec
            file written by train_compressai.py; or a .pt/.pth/.pth.tar of Cheng2020Attention in
            CompressAI's keys.
        device: where the paper's network analyses and draws; the bundled one, and all that both ends must
            agree on, runs on the CPU.
        family: which bundled files a lambda names.

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

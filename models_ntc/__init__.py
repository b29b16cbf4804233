"""Sketch <-> bytes: the trained sketch codecs. `load_sketch_codec` is the entry point.

python -c "from models_ntc import load_sketch_codec; print(load_sketch_codec(1.0).name)"
"""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from models_ntc.bundled import FOLDER, lambda_range

if TYPE_CHECKING:
    from models_ntc.codec import SketchCodec

__all__ = ["FOLDER", "lambda_range", "load_sketch_codec"]


def load_sketch_codec(
    lam_or_file: float | str | Path, device: str = "cpu", family: str = "sketch"
) -> "SketchCodec":
    """Load a sketch codec: `encode(sketch) -> bytes` and `decode(bytes) -> sketch`.

    lam_or_file: a lambda within `lambda_range`, for models_ntc/<family>.safetensors; or a codec
        file written by train_compressai.py, FILE@LAMBDA if it has a range of lambdas (without
        @LAMBDA, the geometric middle of the range); or a .pt, .pth or .pth.tar file of a network
        with one channel, in CompressAI's keys.
    device: where the transforms of CompressAI's networks run, such as "cuda". The bundled network,
        and all that encoder and decoder must agree on, runs on the CPU.
    family: the bundled file that a lambda refers to.

    Raises ValueError if there is no such lambda or file, or if the file holds another network.
    """
    with warnings.catch_warnings():
        # CompressAI uses a deprecated function of torch.
        warnings.simplefilter("ignore", FutureWarning)
        from models_ntc.codec import load_sketch_codec as load

    return load(lam_or_file, device, family)

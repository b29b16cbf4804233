"""Sketch <-> bytes, base layer <-> bytes: the trained codecs.

`load_sketch_codec` and `load_base_codec` are the entry points.

python -c "from models_ntc import load_sketch_codec; print(load_sketch_codec(1.0).name)"
"""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from models_ntc.bundled import FOLDER, lambda_range

if TYPE_CHECKING:
    from models_ntc.base_codec import BaseCodec
    from models_ntc.codec import SketchCodec

__all__ = ["FOLDER", "lambda_range", "load_base_codec", "load_sketch_codec"]


def load_sketch_codec(
    lam_or_file: float | str | Path, device: str = "cpu", family: str = "sketch"
) -> "SketchCodec":
    """Load a sketch codec: `encode(sketch) -> bytes` and `decode(bytes) -> sketch`.

    lam_or_file: a lambda within `lambda_range`, for the bundled codec; or a codec file written by
        train_compressai.py, FILE@LAMBDA if it has a range of lambdas (without @LAMBDA, the
        geometric middle of the range); or a .pt, .pth or .pth.tar file of a network with one
        channel, in CompressAI's keys.
    device: where the transforms of CompressAI's networks run, such as "cuda". The bundled network,
        and all that encoder and decoder must agree on, runs on the CPU.
    family: the bundled codec that a lambda refers to: models_ntc/<family>.safetensors, or its
        second network (`bundled.SECOND`) at lambdas which that does not have. It reads both.

    Raises ValueError if there is no such lambda or file, or if the file holds another network.
    """
    with warnings.catch_warnings():
        # CompressAI uses a deprecated function of torch.
        warnings.simplefilter("ignore", FutureWarning)
        from models_ntc.codec import load_sketch_codec as load

    return load(lam_or_file, device, family)


def load_base_codec() -> "BaseCodec":
    """Load the codec of base layers: `fit(image, budget)` and `decode(bytes, height, width)`."""
    from models_ntc.base_codec import load_base_codec as load

    return load()

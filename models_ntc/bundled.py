"""The weight files that come with the project, and which of them a stream needs.

python -c "from models_ntc.bundled import lambda_range; print(lambda_range())"
"""

import json
from pathlib import Path
from typing import NamedTuple

from bitstream import Stream

FOLDER = Path(__file__).parent
# Second networks of the families of sketch codecs: they write at the lambdas that the first ones,
# models_ntc/<family>.safetensors, do not have.
SECOND = {"sketch": "sketch2"}
# Bytes from which on a budget for colors is spent on a base layer, if one fits, not on a color map.
# 24 test photographs of BSDS500, drawn by `tiny`, color map against base, whole files: at 60 bytes
# 19.09 and 18.52 dB, MS-SSIM .503 and .510, LPIPS at half size .453 and .479; at 100 bytes 19.64
# and 19.43 dB, .561 and .579, .416 and .419; at 150 bytes 19.97 and 20.05 dB, .602 and .631, .384
# and .387.
BASE_FROM = 80
BASE_MOST = 2000  # no budget is larger: the finest base of 384x256 pixels has about as many
SECOND_RATES = 32  # the first rate of the second network in a sketch's payload


class StreamLayers(NamedTuple):
    """The layers of a stream, as far as its models depend on them."""

    sketch: int = 0  # the network that wrote it, 1 or 2; 0: there is none
    color: bool = False
    base: bool = False


def layers_of(stream: Stream) -> StreamLayers:
    """Return the layers of a stream."""
    sketch = 0 if stream.sketch is None else sketch_network(stream.sketch)
    return StreamLayers(sketch, stream.color is not None, stream.base is not None)


def sketch_network(payload: bytes) -> int:
    """Return which network of the bundled codec wrote a sketch, 1 or 2, by its rate.

    Of other codecs' payloads the answer says nothing.
    """
    start = 3 if payload[:1] == b"\0" else 1
    return 2 if payload[start : start + 1] >= bytes([SECOND_RATES]) else 1


def lambda_range(family: str = "sketch") -> tuple[float, float]:
    """Return the lowest and highest lambda of a family of sketch codecs."""
    ranges = [_range_of(family)]
    if family in SECOND:
        ranges.append(_range_of(SECOND[family]))
    return min(low for low, _ in ranges), max(high for _, high in ranges)


def writer_file(family: str, lmbda: float) -> Path:
    """Return the weight file of a family that writes at a lambda: the first, if it has it.

    At equal MS-SSIM on the sketches of hed-tiny (12 test photographs of BSDS500, short sides 256
    and 512) the second network takes 3 to 8% more bytes than the first, at every lambda of both.
    (At equal PSNR it takes 14 to 26% fewer, and on thinned sketches fewer by either; 6 of them.)
    """
    name = family
    if family in SECOND:
        low, high = _range_of(family)
        if not low <= lmbda <= high:
            name = SECOND[family]
    return FOLDER / f"{name}.safetensors"


def _range_of(name: str) -> tuple[float, float]:
    """Return the lowest and highest lambda of a weight file."""
    from safetensors import safe_open

    with safe_open(FOLDER / f"{name}.safetensors", "numpy") as file:
        config = json.loads(file.metadata()["config"])
    low, high = config["sizes"]["lambda_range"]
    return low, high

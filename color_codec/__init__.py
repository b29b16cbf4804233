"""Color map codec: which colors go where in an image <-> some 20 to 400 bytes.

    python -c "import color_codec as c, numpy as n; print(c.encode(n.ones((64, 64, 3), 'u1'), 9))"

The map is made of the lowest cosine coefficients of the whole image (`transform.py`), fewer for
chroma than for luma, quantized with one step and coded by an arithmetic coder (`symbols.py`) with
the probabilities of small networks (`model.py`). The encoder looks for the cheapest form
(`search.py`). From the bytes to the map all arithmetic is on integers, so every machine gets the
same map. The payload is self-contained but for the size of the image, which is in the stream's
header.
"""

from collections.abc import Iterator
from functools import cache

import numpy as np

from color_codec import model, transform
from color_codec.model import CHROMA, LUMA, PAD, STEPS, Context
from color_codec.search import MAX_BYTES, MIN_BYTES, MapEncoder
from color_codec.symbols import Echo, levels, step_size, take_value
from common.arithmetic_coder import Reader, Writer

__all__ = ["MAX_BYTES", "MIN_BYTES", "ColorError", "decode", "encode", "enlarge", "identity"]


class ColorError(ValueError):
    """Bytes that are no color map."""


def encode(image: np.ndarray, budget_bytes: int) -> bytes:
    """Return the best color map found of at most `budget_bytes` bytes.

    image: uint8 RGB (height, width, 3), sides multiples of 64 from 64 to 4096. Budgets above
    MAX_BYTES count as MAX_BYTES. Raises ValueError for another size, or a budget below MIN_BYTES.
    """
    height, width = image.shape[:2]
    _check_size(height, width)
    if budget_bytes < MIN_BYTES:
        raise ValueError(f"{budget_bytes} bytes: a color map takes at least {MIN_BYTES}")
    encoder = MapEncoder(transform.analyze(image), height, width)
    return encoder.fit(min(budget_bytes, MAX_BYTES))


def decode(payload: bytes, height: int, width: int) -> np.ndarray:
    """Return the color map, uint8 RGB (height / 8, width / 8, 3), the same on every machine.

    Raises ColorError for bytes that `encode` never writes, ValueError for a size that it refuses.
    """
    _check_size(height, width)
    if len(payload) > MAX_BYTES:
        raise ColorError(f"{len(payload)} bytes: a color map has at most {MAX_BYTES}")
    coder = Echo(Reader(payload), Writer())
    coefficients = _read_coefficients(coder, height, width)
    if coder.writer.bytes() != payload:
        raise ColorError(
            f"these {len(payload)} bytes hold a color map in a form that is never written"
        )
    return transform.synthesize(coefficients, height, width)


def enlarge(color: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return a map, uint8 RGB (h, w, 3), as a smooth image, uint8 RGB (height, width, 3)."""
    from PIL import Image  # here, so that `pics.py info` does not wait for it

    return np.asarray(Image.fromarray(color).resize((width, height), Image.Resampling.LANCZOS))


@cache
def identity() -> bytes:
    """Return the bytes that name the tables, for the stream's fingerprint.

    They are the file's with the line ends of Unix, which Git may have changed.
    """
    return model.TABLES.read_bytes().replace(b"\r\n", b"\n")


def _check_size(height: int, width: int) -> None:
    if not (64 <= height <= 4096 and 64 <= width <= 4096) or height % 64 or width % 64:
        raise ValueError(f"{width}x{height} pixels: sides must be multiples of 64 from 64 to 4096")


def _read_coefficients(coder: Echo, height: int, width: int) -> np.ndarray:
    """Read all coefficients, int64 (3, vertical, horizontal) in 1 / UNIT."""
    tables = model.load()
    scan = model.scan(height, width)
    planes = model.empty(height, width)
    coefficients = np.zeros_like(planes)
    step = coder.choice(STEPS)
    luma_radius = coder.symbol(tables.radii[LUMA, step])
    chroma_radius = coder.symbol(tables.radii[CHROMA, step])
    lightness = coder.choice(levels(step))  # the mean; it has no sign and no network
    planes[0, PAD, PAD] = lightness
    coefficients[0, PAD, PAD] = lightness * step_size(step)
    for plane in range(3):
        context = Context(planes, plane, scan, step, (luma_radius, chroma_radius))
        for positions in _diagonals(context):
            outputs = model.logits(tables, plane, model.features(context, positions))
            values = _read_values(coder, model.probabilities(tables, outputs))
            points = model.reconstruction_points(np.abs(values), outputs)
            index = (plane, scan.ky[positions] + PAD, scan.kx[positions] + PAD)
            planes[index] = values
            coefficients[index] = np.sign(values) * (points * step_size(step) >> 7)
    return coefficients[:, PAD:-PAD, PAD:-PAD]


def _diagonals(context: Context) -> Iterator[np.ndarray]:
    """Yield the positions that the network codes, diagonal by diagonal."""
    positions = context.network_positions()
    starts = np.flatnonzero(np.diff(context.scan.diagonal[positions])) + 1
    for diagonal in np.split(positions, starts):
        if len(diagonal):
            yield diagonal


def _read_values(coder: Echo, probabilities: np.ndarray) -> np.ndarray:
    return np.array([take_value(coder, each) for each in probabilities.tolist()])

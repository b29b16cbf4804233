"""A small colour map <-> bytes: which colours go where in a photograph, in some 20 to 400 bytes.

    python -c "import colour_codec as c, numpy; print(c.encode(numpy.zeros((256, 384, 3), numpy.uint8), 60).hex())"

The lowest cosine coefficients of the whole picture (`transform.py`), of chroma fewer than of luma, quantised with one
step and coded with an arithmetic coder (`symbols.py`) and the shares of small networks (`model.py`). The encoder looks
for the cheapest form (`search.py`). From the bytes to the map all is whole numbers, so every machine gets the same map.
The payload is self-contained but for the size of the picture, which is in the stream's header.
"""

import numpy as np
from PIL import Image

from text_codec.intervals import Reader, Writer

from . import model, transform
from .model import PAD, RADII, STEPS
from .search import MAX_BYTES, MIN_BYTES, Picture
from .symbols import Echo, levels, step_size, take_value

__all__ = ["MAX_BYTES", "MIN_BYTES", "ColourError", "decode", "encode", "enlarge"]


class ColourError(ValueError):
    """Bytes that are no colour map."""


def encode(image: np.ndarray, budget_bytes: int) -> bytes:
    """uint8 RGB (H, W, 3), sides multiples of 64 from 64 to 4096 -> the best map found of at most `budget_bytes` bytes.

    What more than MAX_BYTES could hold is not looked for. Raises ValueError for another size, or a budget below
    MIN_BYTES.
    """
    height, width = image.shape[:2]
    _check_size(height, width)
    if budget_bytes < MIN_BYTES:
        raise ValueError(f"{budget_bytes} bytes: a colour map takes at least {MIN_BYTES}")
    return Picture(transform.analyse(image), height, width).fit(min(budget_bytes, MAX_BYTES))


def decode(payload: bytes, height: int, width: int) -> np.ndarray:
    """The inverse of `encode`: the map, uint8 RGB (height / 8, width / 8, 3), the same on every machine.

    Raises ColourError for bytes that `encode` never writes, ValueError for a size that it refuses.
    """
    _check_size(height, width)
    if len(payload) > MAX_BYTES:
        raise ColourError(f"{len(payload)} bytes: a colour map has at most {MAX_BYTES}")
    coder = Echo(Reader(payload), Writer())
    coefficients = _coefficients(coder, height, width)
    if coder.writer.bytes() != payload:
        raise ColourError(f"these {len(payload)} bytes hold a colour map in a form that is never written")
    return transform.synthesise(coefficients, height, width)


def enlarge(colour: np.ndarray, height: int, width: int) -> np.ndarray:
    """A map uint8 RGB (h, w, 3) as a smooth picture, uint8 RGB (height, width, 3)."""
    return np.asarray(Image.fromarray(colour).resize((width, height), Image.Resampling.LANCZOS))


def _check_size(height: int, width: int) -> None:
    if not (64 <= height <= 4096 and 64 <= width <= 4096) or height % 64 or width % 64:
        raise ValueError(f"{width}x{height} pixels: sides must be multiples of 64 from 64 to 4096")


def _coefficients(coder: Echo, height: int, width: int) -> np.ndarray:
    """Read all coefficients, in 1 / UNIT."""
    tables, at, planes = model.load(), model.scan(height, width), model.empty(height, width)
    step = coder.choice(STEPS)
    radii = tuple(coder.share(tables.radii[kind, step]) for kind in (0, 1))
    coefficients = np.zeros_like(planes)
    for plane in range(3):
        inside = np.flatnonzero(at.radius <= RADII[radii[min(plane, 1)]])
        for rows in np.split(inside, np.flatnonzero(np.diff(at.diagonal[inside])) + 1):
            places = plane, at.ky[rows] + PAD, at.kx[rows] + PAD
            if plane == rows[0] == 0:  # the mean lightness has no sign
                planes[places] = coder.choice(levels(step))
                coefficients[places] = planes[places] * step_size(step)
                continue
            outputs = model.logits(tables, plane, model.features(planes, plane, at, rows, step, radii))
            values = np.array([take_value(coder, share) for share in model.shares(tables, outputs).tolist()])
            planes[places] = values
            sizes = model.sizes(np.abs(values), outputs) * step_size(step) >> 7
            coefficients[places] = np.sign(values) * sizes
    return coefficients[:, PAD:-PAD, PAD:-PAD]

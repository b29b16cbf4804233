"""Photographs and files -> what the page shows of them.

shown = Workbench(Models(get_preset("tiny"), "cpu")).compress("photo.jpg", 150, LAYERS)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import bitstream
from allocation import BudgetConfig
from codec import Decoded, Edit, edit
from common.files import ImageError
from dataloaders import load_sample
from demonstration.models import CANDIDATES, Models
from metrics.baselines import BudgetError, compress, load_codec
from prompt_inversion.options import PromptOptions

LAYERS = ("text", "sketch", "color")  # that may be sent
MAX_UPLOAD_BYTES = 20_000_000  # of a photograph


@dataclass(frozen=True, eq=False)
class Shown:
    """A file and what it decodes to."""

    data: bytes  # the .pics file
    image: np.ndarray  # uint8 (H, W, 3), the reconstruction
    prompt: str
    seed: int
    sizes: dict[str, int]  # bytes of each layer
    sketch: np.ndarray | None  # uint8 (H, W), 255 = edge
    color: np.ndarray | None  # uint8 (H, W, 3), or (H / 8, W / 8, 3)
    original: np.ndarray | None = None  # uint8 (H, W, 3), if it was compressed here
    webp: np.ndarray | None = None  # uint8 (H, W, 3); None: no WebP file is so small
    webp_bytes: int = 0


class Workbench:
    """What a visitor may do; every call waits for the models."""

    def __init__(self, models: Models):
        self.models = models

    def compress(self, photo: str | Path, budget: int, layers: Sequence[str]) -> Shown:
        """Compress a photograph into at most `budget` bytes.

        layers: of LAYERS, those that may be sent. Raises ImageError, and ValueError for a budget
        that nothing fits into, or no layer.
        """
        if Path(photo).is_file() and Path(photo).stat().st_size > MAX_UPLOAD_BYTES:
            most = MAX_UPLOAD_BYTES // 1_000_000
            raise ImageError(f"the photograph's file is larger than {most} MB")
        sample = load_sample(photo, self.models.preset.short_side)
        encoder = self.models.encoder().at(budget_config(budget, layers))
        source = sample.source_height, sample.source_width
        data = encoder.encode([sample.image], [source])[0]
        return shown(self.models.decoder().decode(data), data, sample.image)

    def open(self, file: str | Path) -> Shown:
        """Decode a .pics file. Raises OSError, and as `Decoder.decode`."""
        with Path(file).open("rb") as opened:
            data = opened.read(bitstream.MAX_FILE_BYTES + 1)  # one too many shows that it is none
        return shown(self.models.decoder().decode(data), data)

    def change(self, before: Shown, asked: Edit) -> Shown:
        """Edit a file and decode it again; the original stays. Raises as `codec.edit`."""
        decoder = self.models.decoder()
        data = edit(decoder, before.data, asked)
        return shown(decoder.decode(data), data, before.original)


def budget_config(budget: int, layers: Sequence[str]) -> BudgetConfig:
    """Return the settings of an encoder that may send these of LAYERS. Raises ValueError."""
    if not layers:
        raise ValueError(f"nothing would be sent: choose one of {', '.join(LAYERS)}")
    return BudgetConfig(
        budget=budget,
        candidates=CANDIDATES,
        sketch="sketch" in layers,
        color_bytes=None if "color" in layers else 0,
        prompt=PromptOptions(sent="text" in layers),
    )


def shown(decoded: Decoded, data: bytes, original: np.ndarray | None = None) -> Shown:
    """Return what the page shows of a file; with its original, WebP in as many bytes beside it."""
    prompt, sketch, color = decoded.conditions
    parts = decoded.image, prompt.text, decoded.stream.seed, bitstream.layer_sizes(decoded.stream)
    if original is None:
        return Shown(data, *parts, sketch, color)
    try:
        webp = compress(original, load_codec("webp"), len(data))
    except BudgetError:
        return Shown(data, *parts, sketch, color, original)
    return Shown(data, *parts, sketch, color, original, webp.image, len(webp.data))


def asked_edit(
    before: Shown, prompt: str, seed: int, sketch: np.ndarray | None, colors: np.ndarray | None
) -> Edit:
    """Return what a visitor changed: words, seed and sketch that differ from those of the file.

    colors: uint8 (H, W, 3), an image whose colors are to be taken; None: the file's.
    """
    words = prompt if prompt != before.prompt else None
    drawn = sketch
    if sketch is not None:
        old = np.zeros_like(sketch) if before.sketch is None else before.sketch
        drawn = None if np.array_equal(sketch, old) else sketch
    number = seed if seed != before.seed else None
    return Edit(words, drawn, colors, number)

"""Photographs and files -> what the page shows of them.

shown = Workbench(Models(get_preset("tiny"), "cpu")).compress("photo.jpg", 150, LAYERS)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

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

    @property
    def enlarged_color(self) -> np.ndarray | None:
        """The colors sent at the reconstruction's size, each of a map as a square."""
        if self.color is None:
            return None
        scale = self.image.shape[0] // self.color.shape[0]
        return self.color.repeat(scale, 0).repeat(scale, 1)

    @property
    def drawable_sketch(self) -> np.ndarray:
        """The sketch, or a black one: what new lines are drawn on."""
        return np.zeros(self.image.shape[:2], np.uint8) if self.sketch is None else self.sketch

    @property
    def paintable_color(self) -> np.ndarray:
        """The colors sent, or those of the reconstruction: what others are painted on."""
        return self.image if self.color is None else self.enlarged_color


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


def painted(canvas: dict | None) -> np.ndarray | None:
    """Return the picture on a canvas, uint8 (H, W, 3), if something was painted there.

    canvas: "layers" that were painted and the "composite" of all, each uint8 (H, W, 4), RGBA.
    """
    layers = canvas["layers"] if canvas else []
    if not any(layer[..., 3].any() for layer in layers):
        return None
    return canvas["composite"][..., :3]


def to_gray(picture: np.ndarray) -> np.ndarray:
    """Return a picture, uint8 (H, W, 3), in shades of gray, uint8 (H, W)."""
    return np.asarray(Image.fromarray(picture).convert("L"))

"""The layers of one image within a budget of bytes, by one allocation after another.

material = Material(budget, frame, image, sketch, colors, decoder, fills=True)
material.prompts = {12: prompt}
layers = material.layers(Allocation(prompt_bytes=12, lam_sketch=0.05))
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

import color_codec
from allocation.table import Allocation
from bitstream import MAX_LAYER_BYTES, Stream, pack
from codec import Coded, Decoder, Layers, code_colors

if TYPE_CHECKING:
    from prompt_inversion.prompter import FoundPrompt

LEAST_TEXT = 3  # bytes: a token of the largest vocabulary
ROUNDING = 1 + 1e-6  # of lambdas


class AllocationError(ValueError):
    """The layers of an image do not fit into the budget; the message says how many bytes do."""

    def __init__(self, least: int, budget: int):
        super().__init__(
            f"its file takes {least} bytes or more, the budget is {budget}: "
            f"allow {least} or more with --bytes, or leave a layer open or out"
        )


class Frame(NamedTuple):
    """What a file holds beside its layers."""

    source: tuple[int, int]  # height, width, pixels
    coded: tuple[int, int]  # height, width, pixels
    seed: int  # the largest that may be sent

    def size(self, text: int, sketch: int, color: int) -> int:
        """Return the bytes of a file whose layers have these lengths, one of them above 0."""
        layers = [bytes(count) or None for count in (text, sketch, color)]
        return len(pack(Stream(0, *self.source[::-1], *self.coded[::-1], self.seed, *layers)))


def length(payload: bytes | None) -> int:
    """Return the length of a payload; 0 if there is none."""
    return len(payload or b"")


def room(size_of: Callable[[int], int], budget: int) -> int:
    """Return how long a layer may be; size_of: the bytes of the file by the layer's length."""
    count = min(budget - size_of(1) + 1, MAX_LAYER_BYTES)
    while count > 0 and size_of(count) > budget:  # a longer layer has a longer length field
        count -= 1
    return max(count, 0)


class Material:
    """What the layers of one image are made of.

    image: uint8 (H, W, 3). sketch: before coding, with a payload if that is fixed. colors: map and
    base, with a payload if that is fixed. decoder: its codecs are used. fills: whether the colors
    get what is left.
    `prompts` are {size: prompt of at most as many bytes}, set by the encoder.
    """

    def __init__(
        self,
        budget: int,
        frame: Frame,
        image: np.ndarray,
        sketch: Coded,
        colors: tuple[Coded, Coded],
        decoder: Decoder,
        fills: bool,
    ):
        self.budget, self.frame, self.image = budget, frame, image
        self.sketch, self.colors, self.decoder, self.fills = sketch, colors, decoder, fills
        self.prompts: dict[int, FoundPrompt] = {}
        self._sketches: dict[float | None, Coded] = {}
        self._found: dict[int, tuple[Coded, Coded]] = {}

    def fixed_colors(self) -> int:
        """Return the length of the color or base layer, if it is fixed."""
        return sum(length(coded.payload) for coded in self.colors)

    def text_room(self) -> int:
        """Return how many bytes a prompt may take beside what is fixed."""
        others = length(self.sketch.payload), self.fixed_colors()
        return room(lambda count: self.frame.size(count, *others), self.budget)

    def layers(self, allocation: Allocation) -> Layers:
        """Return the layers by an allocation; what does not fit is left out, but for what is fixed.

        Raises AllocationError if that does not fit.
        """
        prompt = self.prompts[allocation.prompt_bytes]
        text = length(prompt.payload)
        lam, sketch = self._sketch(allocation.lam_sketch, text)
        color, base = self._colors_left(text, length(sketch.payload))
        lengths = text, length(sketch.payload), length(base.payload or color.payload)
        if any(lengths) and self.frame.size(*lengths) > self.budget:
            raise AllocationError(self.frame.size(*lengths), self.budget)
        record = {"budget": self.budget, "lam_sketch": lam}
        return Layers(prompt, sketch, color, base, record)

    def least(self) -> int:
        """Return the bytes of the smallest file with a single one of the layers, if none fits."""
        sizes = []
        if any(self.prompts):
            sizes.append(self.frame.size(LEAST_TEXT, 0, 0))
        if self.fills:
            sizes.append(self.frame.size(0, 0, color_codec.MIN_BYTES))
        if self.sketch.sketch is not None:
            coarsest = self._coded(min(self.decoder.sketch_codec.lambdas, default=None))
            sizes.append(self.frame.size(0, length(coarsest.payload), 0))
        return min(sizes)

    def _sketch(self, lam: float | None, text: int) -> tuple[float | None, Coded]:
        """Return the sketch at a lambda, or more coarsely if it does not fit, and its lambda."""
        if self.sketch.payload is not None:
            return self.decoder.sketch_codec.config["lambda"], self.sketch
        if lam is None:
            return None, Coded()
        least_color = color_codec.MIN_BYTES if self.fills else self.fixed_colors()
        lambdas = self.decoder.sketch_codec.lambdas
        rates = [rate for rate in lambdas if rate <= lam * ROUNDING] or lambdas[:1] or [None]
        found: tuple[float | None, Coded] = None, Coded()
        low, high, probe = 0, len(rates), len(rates) - 1
        while low < high:  # of the rates, those below `low` fit, and those from `high` on do not
            coded = self._coded(rates[probe])
            if self.frame.size(text, length(coded.payload), least_color) <= self.budget:
                found, low = (rates[probe], coded), probe + 1
            else:
                high = probe
            probe = (low + high) // 2
        return found

    def _coded(self, rate: float | None) -> Coded:
        """Return the sketch at one of the codec's rates; None: the only one."""
        if rate not in self._sketches:
            codec = self.decoder.sketch_codec
            codec = codec if rate is None else codec.at(rate)
            edges = self.sketch.sketch
            self._sketches[rate] = Coded(edges, *codec.encode_and_decode(edges))
        return self._sketches[rate]

    def _colors_left(self, text: int, sketch: int) -> tuple[Coded, Coded]:
        """Return color map and base, one of them, in all that is left."""
        if not self.fills:
            return self.colors
        left = room(lambda count: self.frame.size(text, sketch, count), self.budget)
        if left < color_codec.MIN_BYTES:
            return Coded(), Coded()
        if left not in self._found:
            self._found[left] = code_colors(self.decoder, self.image, left)
        return self._found[left]

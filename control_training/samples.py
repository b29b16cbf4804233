"""Random crops of photographs with their conditions, by number: sample n is always the same.

    crops = Crops(samples, names, conditions, base, options)
    crops[17]["pixels"]

What is drawn for sample n depends on the seed and n alone. So a training that is resumed, or shared
by several processes, sees the samples of one that was never stopped, in one process.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from torch.utils.data import Dataset, Sampler

from control_training.conditions import Conditions
from dataloaders import Samples
from diffusion.control import COLOR_SCALE, control_tensor, takes_color

DROP_COLOR = 0.4  # of the samples have no color map, as in the training of `tiny`
DROP_SKETCH = 0.1  # of the samples with a color map have no sketch: a file may lose the layer


@dataclass(frozen=True)
class Options:
    """How samples are drawn."""

    side: int  # of the crops, pixels
    clean: float  # probability of the sketch before coding
    drop_prompt: float  # probability of no prompt
    seed: int


class Crops(Dataset):
    """Sample n: crop n modulo the number of photographs of an order drawn for each epoch.

    row: ids of a prompt -> input of the text encoder. latents: channels, and pixels to one latent.
    """

    def __init__(
        self,
        samples: Samples,
        indices: Sequence[int],
        conditions: Conditions,
        row,
        latents: tuple[int, int],
        control: str,
        options: Options,
    ):
        self.samples = samples
        self.indices = list(indices)
        self.conditions = conditions
        self.row = row
        self.channels, self.scale = latents
        self.control = control
        self.options = options
        self.epoch = -1  # whose order is kept
        self.order: list[int] = []

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        """Return sample `number`: pixels, control, ids, noise and place (see `models.Noising`)."""
        rng = random.Random(f"{self.options.seed} {number}")
        index = self._photograph(number)
        given = self.conditions[self.samples.names[index]]
        image = self.samples[index].image
        window = self._window(image.shape, rng)
        flip = rng.choice((1, -1))
        ids = None if rng.random() < self.options.drop_prompt else given.ids
        sketch = given.clean if rng.random() < self.options.clean else given.decoded
        color = given.color
        if color is not None and rng.random() < DROP_COLOR:
            color = None
        if color is not None and rng.random() < DROP_SKETCH:
            sketch = None
        control = control_of(sketch, color, window, flip, self.control)
        return self._sample(cut(image, window, flip), control, ids, rng)

    def held_out(
        self, index: int, place: float, clean: bool = False, color: bool = False
    ) -> dict[str, torch.Tensor]:
        """Return the middle of a photograph: with its prompt, the noise always the same."""
        given = self.conditions[self.samples.names[index]]
        image = self.samples[index].image
        window = middle(image.shape, self.options.side)
        sketch = given.clean if clean else given.decoded
        control = control_of(sketch, given.color if color else None, window, 1, self.control)
        sample = self._sample(cut(image, window, 1), control, given.ids, random.Random(index))
        return sample | {"place": torch.tensor(place)}

    def sketch_of(self, index: int) -> np.ndarray:
        """Return the decoded sketch of what `held_out` returns: uint8 (side, side)."""
        decoded = self.conditions[self.samples.names[index]].decoded
        return cut(decoded, middle(decoded.shape, self.options.side), 1)

    def _sample(
        self,
        image: np.ndarray,
        control: torch.Tensor,
        ids: Sequence[int] | None,
        rng: random.Random,
    ) -> dict[str, torch.Tensor]:
        scaled = torch.from_numpy(image.astype(np.float32) / 127.5 - 1)
        side = self.options.side // self.scale
        generator = torch.Generator().manual_seed(rng.getrandbits(62))
        return {
            "pixels": rearrange(scaled, "h w c -> c h w"),
            "control": control[0],
            "ids": torch.tensor(self.row(ids)),
            "noise": torch.randn(self.channels, side, side, generator=generator),
            "place": torch.tensor(rng.random()),
        }

    def _photograph(self, number: int) -> int:
        """Return the photograph of sample `number`: each once in every epoch."""
        epoch, position = divmod(number, len(self.indices))
        if epoch != self.epoch:
            self.order = list(self.indices)
            random.Random(f"{self.options.seed} epoch {epoch}").shuffle(self.order)
            self.epoch = epoch
        return self.order[position]

    def _window(self, shape: tuple[int, ...], rng: random.Random) -> tuple[slice, slice]:
        """Return a random square window, in steps of the color map's pixels."""
        side = self.options.side
        window = []
        for length in shape[:2]:
            start = COLOR_SCALE * rng.randint(0, (length - side) // COLOR_SCALE)
            window.append(slice(start, start + side))
        return tuple(window)


def middle(shape: tuple[int, ...], side: int) -> tuple[slice, slice]:
    """Return the middle square of an image, in steps of the color map's pixels."""
    window = []
    for length in shape[:2]:
        start = COLOR_SCALE * ((length - side) // (2 * COLOR_SCALE))
        window.append(slice(start, start + side))
    return tuple(window)


def cut(image: np.ndarray, window: tuple[slice, slice], flip: int) -> np.ndarray:
    """Return a window of an image. flip: 1 or -1, the step of the columns."""
    return image[window][:, ::flip]


def control_of(
    sketch: np.ndarray | None,
    color: np.ndarray | None,
    window: tuple[slice, slice],
    flip: int,
    control: str,
) -> torch.Tensor:
    """Return the control image (1, C, h, w) of a window. Raises as `control_tensor`."""
    if sketch is not None:
        sketch = np.ascontiguousarray(cut(sketch, window, flip))
    if color is not None and takes_color(control):
        rows, columns = (
            slice(part.start // COLOR_SCALE, part.stop // COLOR_SCALE) for part in window
        )
        color = np.ascontiguousarray(color[rows, columns][:, ::flip])
        return control_tensor(sketch, control, color)
    return control_tensor(sketch, control)


class Numbers(Sampler):
    """The numbers of a process's samples, a list for each of its micro-batches.

    start, stop: steps. batch: samples in a step, over all processes. micro: samples in one
    micro-batch. rank, world: of the processes.
    """

    def __init__(self, start: int, stop: int, batch: int, micro: int, rank: int, world: int):
        self.steps = range(start, stop)
        self.batch, self.micro = batch, micro
        self.rank, self.world = rank, world

    def __len__(self) -> int:
        return len(self.steps) * self.batch // (self.micro * self.world)

    def __iter__(self) -> Iterator[list[int]]:
        part = self.batch // self.world
        for step in self.steps:
            first = step * self.batch + self.rank * part
            for offset in range(0, part, self.micro):
                yield list(range(first + offset, first + offset + self.micro))

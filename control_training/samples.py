"""Random crops of photographs with their conditions, by number: sample n is always the same.

    crops = Crops(samples, indices, conditions, options)
    batch = together([crops[17], crops[18]])

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

from control_training.conditions import Conditions, Given
from control_training.models import Batch
from dataloaders import Samples
from diffusion.control import COLOR_SCALE, control_tensor

DROP_COLOR = 0.4  # of the samples have no color map, as in the training of `tiny`
DROP_SKETCH = 0.1  # of the samples with a color map have no sketch: a file may lose the layer


@dataclass(frozen=True)
class Options:
    """How samples are drawn."""

    side: int  # of the crops, pixels
    latents: tuple[int, int, int]  # channels, height and width of a crop's
    prompts: str  # what the model is given of a prompt: its "ids" or its "text"
    control: str  # of the preset
    signed: bool  # of the family: whether control pictures are -1..1
    clean: float  # probability of the sketch before coding
    drop_prompt: float  # probability of no prompt
    seed: int


class Crops(Dataset):
    """Sample n: crop n modulo the number of photographs of an order drawn for each epoch."""

    def __init__(
        self, samples: Samples, indices: Sequence[int], conditions: Conditions, options: Options
    ):
        self.samples = samples
        self.indices = list(indices)
        self.conditions = conditions
        self.options = options
        self.epoch = -1  # whose order is kept
        self.order: list[int] = []

    def __getitem__(self, number: int) -> Batch:
        """Return sample `number` as a batch of one."""
        rng = random.Random(f"{self.options.seed} {number}")
        index = self._photograph(number)
        image = self.samples[index].image
        window = self._window(image.shape, rng)
        flip = rng.choice((1, -1))
        given = self.conditions[self.samples.names[index]]
        prompt = None if rng.random() < self.options.drop_prompt else self._prompt(given)
        sketch = given.clean if rng.random() < self.options.clean else given.decoded
        color = given.color
        if color is not None and rng.random() < DROP_COLOR:
            color = None
        if color is not None and rng.random() < DROP_SKETCH:
            sketch = None
        control = self._control(sketch, color, window, flip)
        return self._sample(cut(image, window, flip), control, prompt, rng, rng.random())

    def held_out(self, index: int, place: float, clean: bool = False) -> Batch:
        """Return the middle of a photograph, as a file's decoder has it; its noise is fixed.

        clean: with the sketch before coding.
        """
        given = self.conditions[self.samples.names[index]]
        image = self.samples[index].image
        window = middle(image.shape, self.options.side)
        sketch = given.clean if clean else given.decoded
        control = self._control(sketch, given.color, window, 1)
        rng = random.Random(index)
        return self._sample(cut(image, window, 1), control, self._prompt(given), rng, place)

    def shown(self, index: int) -> tuple:
        """Return prompt, image, sketch and color map of the middle of a photograph."""
        given = self.conditions[self.samples.names[index]]
        image = self.samples[index].image
        window = middle(image.shape, self.options.side)
        color = None if given.color is None else cut(given.color, small(window), 1)
        return self._prompt(given), cut(image, window, 1), cut(given.decoded, window, 1), color

    def _prompt(self, given: Given):
        return given.ids if self.options.prompts == "ids" else given.text

    def _control(self, sketch, color, window, flip: int) -> torch.Tensor:
        """Return the control image (1, C, h, w) of a window of sketch and color map, or None."""
        if sketch is not None:
            sketch = cut(sketch, window, flip)
        if color is not None:
            color = cut(color, small(window), flip)
        return control_tensor(sketch, self.options.control, color, self.options.signed)

    def _sample(
        self, image: np.ndarray, control: torch.Tensor, prompt, rng: random.Random, place: float
    ) -> Batch:
        scaled = torch.from_numpy(image.astype(np.float32) / 127.5 - 1)
        pixels = rearrange(scaled, "h w c -> 1 c h w")
        generator = torch.Generator().manual_seed(rng.getrandbits(62))
        noise = torch.randn(1, *self.options.latents, generator=generator)
        return Batch(pixels, control, [prompt], noise, torch.tensor([place]))

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


def together(samples: Sequence[Batch]) -> Batch:
    """Return samples as one batch."""
    pixels, control, prompts, noise, places = zip(*samples, strict=True)
    flat = [prompt for (prompt,) in prompts]
    tensors = [torch.cat(each) for each in (pixels, control, noise, places)]
    return Batch(tensors[0], tensors[1], flat, *tensors[2:])


def middle(shape: tuple[int, ...], side: int) -> tuple[slice, slice]:
    """Return the middle square of an image, in steps of the color map's pixels."""
    window = []
    for length in shape[:2]:
        start = COLOR_SCALE * ((length - side) // (2 * COLOR_SCALE))
        window.append(slice(start, start + side))
    return tuple(window)


def small(window: tuple[slice, slice]) -> tuple[slice, slice]:
    """Return a window of the color map."""
    return tuple(slice(part.start // COLOR_SCALE, part.stop // COLOR_SCALE) for part in window)


def cut(image: np.ndarray, window: tuple[slice, slice], flip: int) -> np.ndarray:
    """Return a window of an image. flip: 1 or -1, the step of the columns."""
    return np.ascontiguousarray(image[window][:, ::flip])


class Numbers(Sampler):
    """The numbers of a process's samples, one list for each step.

    start, stop: steps. batch: samples in a step, over all processes. rank, world: of them.
    """

    def __init__(self, start: int, stop: int, batch: int, rank: int, world: int):
        self.steps = range(start, stop)
        self.batch, self.rank, self.world = batch, rank, world

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[int]]:
        part = self.batch // self.world
        for step in self.steps:
            first = step * self.batch + self.rank * part
            yield list(range(first, first + part))

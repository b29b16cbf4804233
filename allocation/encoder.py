"""The encoder that keeps whole files within a budget of bytes.

    encoder = BudgetEncoder(get_preset("tiny"), BudgetConfig(budget=240), "cpu")
    encoded = encoder.encode_all([image])[0]
    len(encoded.data), encoded.allocation       # at most 240, and how they were split

Layers take their bytes in this order: what the user fixed, the prompt, the sketch, which is coded
more coarsely until it fits, and the colors, which get all that is left. What does not fit is left
out. A few allocations are tried on each image: each is generated once, with the first seed, the
loss chooses among them, and then among the seeds of the best one. Prompts are searched once, for
the largest allocation, and shortened for the others.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from dataclasses import replace

import numpy as np

from allocation.config import BudgetConfig
from allocation.layers import AllocationError, Frame, Material
from allocation.table import Allocation, allocations, load_table
from codec import Coded, Encoder, Layers
from diffusion.candidates import Choice, Job
from models_ntc.bundled import StreamLayers
from presets import Preset
from prompt_inversion.options import PromptOptions
from prompt_inversion.prompter import NOT_SENT, FoundPrompt, Prompter


class BudgetEncoder(Encoder):
    """Images -> streams of at most `config.budget` bytes.

    config, device, timer: as `Encoder` has them, and what it raises. tried: the allocations to try;
    None: those of the preset's table. Encoding raises AllocationError, a ValueError, for an image
    whose layers do not fit.
    Attributes beside those of `Encoder`: `allocations`, which are tried in this order, and `given`,
    the configuration.
    """

    def __init__(
        self,
        preset: Preset,
        config: BudgetConfig,
        device: str = "cpu",
        timer: Callable[[str], AbstractContextManager] = nullcontext,
        tried: Sequence[Allocation] | None = None,
    ):
        source = config.prompt.source or preset.prompt_from
        config = replace(config, prompt=replace(config.prompt, source=source))
        self.given = config
        if tried is None:
            tried = allocations(load_table(preset.name), config.budget)
        self.allocations = open_parts(tried, config)
        super().__init__(preset, replace(config, prompt=self._prompt_options()), device, timer)
        self.fingerprint = self._fingerprint()

    def at(self, config: BudgetConfig) -> "BudgetEncoder":
        """Return an encoder with the same models, for another budget or fewer layers.

        config: differs in `budget`, `sketch`, `color_bytes` and `prompt` only; a sketch needs an
        encoder that was loaded with one.
        """
        other = copy(self)
        tried = allocations(load_table(self.preset.name), config.budget)
        other.given, other.allocations = config, open_parts(tried, config)
        other.config = replace(config, prompt=other._prompt_options())
        found = other.config.prompt, self.preset, self.clip, self.decoder.prompt_codec
        other.prompter = Prompter(*found)
        other.fingerprint = other._fingerprint()
        if not config.sketch:
            other.annotator = None
        return other

    def find(self, images, source_sizes) -> tuple[list[Layers], list[Choice]]:
        """Return the layers of each image by its best allocation, and the candidate chosen."""
        begun = self.map(self.begin, images)
        with self.timer("prompt"):
            found = self.prompter.find(images)
        materials = []
        for image, source, prompt, parts in zip(images, source_sizes, found, begun, strict=True):
            materials.append(self.material(image, source, prompt, *parts))
        tried = list(self.map(self.layers, materials))
        with self.timer("candidates"):
            best = self._best(images, tried)
        return best, self.choose(images, best)

    def _fingerprint(self) -> int:
        """Return that of the files with all layers that may be sent."""
        network = self.decoder.sketch_codec.network if self.given.sketch else 0
        base = self.given.color_bytes != 0
        return self.decoder.fingerprint(StreamLayers(network, base=base))

    def _prompt_options(self) -> PromptOptions:
        """Return the options of prompts, which are searched for the largest part of the budget."""
        options = self.given.prompt
        if self.given.fixes_prompt or not options.sent:
            return options
        size = max(allocation.prompt_bytes for allocation in self.allocations)
        return replace(options, size=size) if size else replace(options, sent=False)

    def begin(self, image: np.ndarray) -> tuple[Coded, tuple[Coded, Coded]]:
        """Return an image's sketch, coded if its rate is fixed, and its colors if they are."""
        sketch, colors = Coded(), (Coded(), Coded())
        if self.given.lam_sketch is not None:
            sketch = self._sketch(image)
        elif self.annotator and any(each.lam_sketch is not None for each in self.allocations):
            with self.timer("sketch"):
                sketch = Coded(self.annotator(image))
        if self.given.color_bytes:
            colors = self._colors(image)
        return sketch, colors

    def material(
        self,
        image: np.ndarray,
        source: tuple[int, int],
        prompt: FoundPrompt,
        sketch: Coded,
        colors: tuple[Coded, Coded],
    ) -> Material:
        """Return what an image's layers are made of, with its prompt in all sizes needed."""
        given = self.given
        height, width = image.shape[:2]
        frame = Frame(source, (height, width), self.candidates - 1)
        fills = given.color_bytes is None
        material = Material(given.budget, frame, image, sketch, colors, self.decoder, fills)
        with self.timer("prompt"):
            for allocation in self.allocations:
                most = allocation.prompt_bytes
                size = min(most, material.text_room())
                shorter = prompt if given.fixes_prompt else self._shortened(prompt, image, size)
                material.prompts[most] = shorter
        return material

    def _shortened(self, prompt: FoundPrompt, image: np.ndarray, size: int) -> FoundPrompt:
        """Return an image's prompt in at most `size` bytes; none if no token fits."""
        found = self.prompter.shortened(prompt, image, size) if size else None
        return found or NOT_SENT

    def layers(self, material: Material) -> list[Layers]:
        """Return an image's layers by each allocation that gives some, all different."""
        with self.timer("coding"):
            found: dict[tuple, Layers] = {}
            for allocation in self.allocations:
                layers = material.layers(allocation)
                if any(layers.payloads()):
                    found.setdefault(layers.payloads(), layers)
            if not found:
                raise AllocationError(material.least(), self.given.budget)
            return list(found.values())

    def _best(self, images: Sequence[np.ndarray], tried: Sequence[list[Layers]]) -> list[Layers]:
        """Return each image's best layers of those tried, by the loss of the first candidate."""
        jobs = []
        for image, choices in zip(images, tried, strict=True):
            jobs.append([Job(self.conditions(layers), 0, *image.shape[:2]) for layers in choices])
        best = []
        for choices, choice in zip(tried, self.chooser.best(images, jobs), strict=True):
            chosen = choices[choice.seed]
            record = {**(chosen.allocation or {}), "tried": len(choices)}
            best.append(chosen._replace(allocation=record))
        return best


def open_parts(found: Sequence[Allocation], config: BudgetConfig) -> list[Allocation]:
    """Return allocations of what the user leaves open, all different, as many as are tried.

    Without colors, or if their size is fixed, the sketch gets all that is left; without an open
    sketch, the prompt does.
    """
    prompt_open = config.prompt.sent and not config.fixes_prompt
    sketch_open = config.sketch and config.lam_sketch is None
    color_open = config.color_bytes is None
    limited = []
    for prompt_bytes, lam in [(each.prompt_bytes, each.lam_sketch) for each in found]:
        most = math.inf if sketch_open and not color_open else lam
        size = prompt_bytes if color_open or sketch_open else config.budget
        limited.append(Allocation(size if prompt_open else 0, most if sketch_open else None))
    return list(dict.fromkeys(limited))[: config.allocations]

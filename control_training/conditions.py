"""What a decoder gets of each photograph: made once, cached on disk, made further after a stop.

    conditions = Conditions(Path("runs/controlnet/conditions"), settings)
    conditions.write_sketches(samples, todo, workers=2)

A photograph's sketches are NAME.npz, its prompt is NAME.json:

    clean      uint8 (H, W), the annotator's sketch at the coded size
    decoded    uint8 (H, W), the same after coding at `lmbda`
    color      uint8 (H/8, W/8, 3), the decoded color map; only for a ControlNet that takes colors
    lmbda      the rate's lambda: drawn once for each photograph, geometrically over the range
    size       bytes of the sketch's payload

Rates are drawn, not chosen, because none wins everywhere: a ControlNet trained on decoded sketches
is better at 50 bytes, one trained on clean ones from 191 up (docs/experiments.md).
"""

import dataclasses
import io
import json
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from common import files
from dataloaders import ImageError, Samples
from presets import Preset
from text_codec.prompt import NO_PROMPT, Prompt, PromptCodec

if TYPE_CHECKING:
    from diffusion.generator import Generator

RATES = 12  # lambdas, geometrically over the range
COLOR_BYTES = (40, 60, 80, 110, 150)  # of the color maps, in the training of `tiny` too
TOGETHER = 16  # prompts searched in one batch


@dataclasses.dataclass(frozen=True)
class Settings:
    """What decides the conditions of a folder."""

    data_root: str
    short_side: int  # of the coded size, pixels
    annotator: str
    sketch_codec: str
    lambda_range: tuple[float, float]
    colors: bool  # whether color maps are made
    prompt: str  # "search", "caption" or "none"
    prompt_steps: int
    seed: int


class Given(NamedTuple):
    """The conditions of one photograph."""

    ids: list[int]  # of the prompt, without the preset's suffix
    text: str  # the same prompt
    clean: np.ndarray
    decoded: np.ndarray
    color: np.ndarray | None


class Conditions:
    """The cached conditions of a folder of photographs.

    Raises ValueError if the folder holds conditions of other settings.
    """

    def __init__(self, folder: Path, settings: Settings):
        self.folder = folder
        self.settings = settings
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "settings.json"
        now = json.loads(json.dumps(dataclasses.asdict(settings)))
        before = files.read_json(file, now)
        differing = [name for name in now if before.get(name) != now[name]]
        if differing:
            raise ValueError(
                f"{files.printable(folder)} holds conditions of other settings "
                f"({', '.join(differing)}): choose another --work"
            )
        files.write(file, json.dumps(now, indent=1).encode())

    def __getitem__(self, name: str) -> Given:
        """Return the conditions of a photograph. Raises OSError or ValueError for broken files."""
        with np.load(self._file(name, ".npz"), allow_pickle=False) as held:
            color = held["color"] if "color" in held.files else None
            planes = held["clean"], held["decoded"], color
        prompt = files.read_json(self._file(name, ".json"))
        return Given(prompt["ids"], prompt["text"], *planes)

    def lacking(self, names: Sequence[str], ending: str) -> list[int]:
        """Return the indices of the photographs without a file of this ending."""
        return [i for i, name in enumerate(names) if not self._file(name, ending).exists()]

    def sizes(self, names: Sequence[str]) -> list[int]:
        """Return the bytes of the sketches' payloads."""
        found = []
        for name in names:
            with np.load(self._file(name, ".npz"), allow_pickle=False) as held:
                found.append(int(held["size"]))
        return found

    def write_sketches(
        self, samples: Samples, todo: Sequence[int], workers: int
    ) -> Iterator[tuple[str, str]]:
        """Write the sketches of some photographs; yield (name, what is wrong with it or "")."""
        work = partial(write_one, self.folder, self.settings, samples)
        if workers < 2:
            yield from map(work, todo)
            return
        with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
            futures = [pool.submit(work, index) for index in todo]
            try:
                for future in as_completed(futures):
                    yield future.result()
            finally:
                pool.shutdown(cancel_futures=True)

    def write_prompts(
        self,
        samples: Samples,
        todo: Sequence[int],
        find: Callable[[list[np.ndarray]], list[Prompt]],
    ) -> Iterator[str]:
        """Write the prompts of some photographs; yield their names.

        find: images -> their prompts.
        """
        for start in range(0, len(todo), TOGETHER):
            readable = {}
            for index in todo[start : start + TOGETHER]:
                try:
                    readable[samples.names[index]] = samples[index].image
                except ImageError:  # `write_sketches` has told it
                    continue
            found = find(list(readable.values()))
            for name, prompt in zip(readable, found, strict=True):
                content = {"ids": list(map(int, prompt.ids)), "text": prompt.text}
                files.write(self._file(name, ".json"), json.dumps(content).encode())
                yield name

    def _file(self, name: str, ending: str) -> Path:
        return self.folder / f"{name}{ending}"


# ---- one photograph, in a worker process. What it needs is loaded once in each process.


@cache
def load_single_threaded_annotator(name: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return an annotator; torch uses one thread from now on."""
    import torch

    from annotator import load_annotator

    torch.set_num_threads(1)
    return load_annotator(name, "cpu")


@cache
def load_codec(lmbda: float, family: str):
    """Return the sketch codec that writes at a lambda."""
    from models_ntc import load_sketch_codec

    return load_sketch_codec(lmbda, "cpu", family)


def lambdas(settings: Settings) -> list[float]:
    """Return the lambdas that are drawn from."""
    low, high = settings.lambda_range
    steps = np.geomspace(low, high, RATES).clip(low, high)
    return sorted(set(map(float, steps)))


def write_one(folder: Path, settings: Settings, samples: Samples, index: int) -> tuple[str, str]:
    """Write NAME.npz of a photograph; return its name and what is wrong with it, or ""."""
    name = samples.names[index]
    try:
        image = samples[index].image
    except ImageError as error:
        return name, str(error)
    rng = random.Random(f"{settings.seed} {name}")
    lmbda = rng.choice(lambdas(settings))
    clean = load_single_threaded_annotator(settings.annotator)(image)
    payload, decoded = load_codec(lmbda, settings.sketch_codec).encode_and_decode(clean)
    planes = {"clean": clean, "decoded": decoded, "lmbda": lmbda, "size": len(payload)}
    if settings.colors:
        planes["color"] = decoded_colors(image, rng.choice(COLOR_BYTES))
    content = io.BytesIO()
    np.savez_compressed(content, **planes)
    files.write(folder / f"{name}.npz", content.getvalue())
    return name, ""


def decoded_colors(image: np.ndarray, budget: int) -> np.ndarray:
    """Return the color map of an image as decoded from `budget` bytes: uint8 (H/8, W/8, 3)."""
    import color_codec

    return color_codec.decode(color_codec.encode(image, budget), *image.shape[:2])


# ---- prompts


def load_finder(
    preset: Preset, settings: Settings, generator: "Generator"
) -> Callable[[list[np.ndarray]], list[Prompt]]:
    """Return images -> prompts, as a file's decoder reads them.

    Raises UnavailableError if CLIP or captioner cannot be had.
    """
    if settings.prompt == "none":
        return lambda images: [NO_PROMPT] * len(images)
    from prompt_inversion.clip import load_clip
    from prompt_inversion.options import PromptOptions
    from prompt_inversion.prompter import Prompter

    clip = load_clip(preset.clip, str(generator.device))
    options = PromptOptions(source=settings.prompt, steps=settings.prompt_steps, seed=settings.seed)
    codec = PromptCodec(generator.tokenizer, generator.longest_prompt)
    prompter = Prompter(options, preset, clip, codec)
    prompter.search = dataclasses.replace(prompter.search, progress=False)
    return lambda images: [codec.decode(found.payload) for found in prompter.find(images)]

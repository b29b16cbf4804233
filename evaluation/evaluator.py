"""What is done with each image of a run: encode, decode, measure, make its files."""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import Empty, SimpleQueue

import numpy as np

import bitstream
import color_codec
from codec import Conditions, Decoded, Encoded, Encoder
from common.files import png, printable, reason_of, write
from dataloaders import ImageError, Sample, Samples
from diffusion.candidates import layers_of
from evaluation.timing import Stopwatch, peak_memory, reset_peak_memory
from metrics import MetricSet
from metrics.baselines import BudgetError, Codec, compress
from reporting.log import line_of, place_of
from reporting.records import SCHEMA, record_file
from reporting.rows import RECORD

# Of one image; a full disk is none of these.
FAILURES = (ValueError, RuntimeError, ArithmeticError, MemoryError)
PICTURES = ("all", "baselines")  # values of --keep with which pictures stay
MOST_REASON = 10_000  # characters of why an image failed


@dataclass(eq=False)
class Work:
    """An image on its way from its file to its record."""

    sample: Sample
    encoded: Encoded
    seconds: dict[str, float]  # of its stages until now
    memory: dict[str, int] = field(default_factory=dict)  # peak until it was reconstructed
    timer: Stopwatch = field(default_factory=Stopwatch)  # of its own stages from now on
    # What its file says; None: not unpacked, or broken.
    stream: bitstream.Stream | None = None
    conditions: Conditions | None = None

    def is_like(self, other: "Work") -> bool:
        """Return whether both can be generated in one batch."""
        if self.sample.image.shape != other.sample.image.shape:
            return False
        return layers_of(self.conditions or ()) == layers_of(other.conditions or ())


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of an image."""

    index: int  # in the data set
    name: str
    line: bytes  # its line of the log
    failure: str = ""  # why it could not be done
    files: dict[str, bytes] = field(default_factory=dict)  # what stays, by the endings of names


Store = Callable[[Outcome], Outcome]  # takes what is to be written


@dataclass(frozen=True, eq=False)
class Evaluator:
    """Does the images of one process: `do`, or its steps by `evaluation.overlap`.

    Each step notes the images that fail in it and leaves them out of what it returns; `outcomes`
    gives these and those that are done.
    """

    encoder: Encoder
    metrics: MetricSet
    codecs: dict[str, Codec]  # the baselines
    timer: Stopwatch  # of the encoder's stages
    device: str
    together: int = 1  # reconstructions that are generated in one batch
    keep: str = "all"  # as --keep says (flags.py)
    store: Store = lambda outcome: outcome  # of each image that is done, in any thread
    _ended: SimpleQueue = field(default_factory=SimpleQueue)

    def apart(self) -> "Evaluator":
        """Return one with the same models whose outcomes are its own."""
        return replace(self, _ended=SimpleQueue())

    def outcomes(self) -> list[Outcome]:
        """Return what became of the images that ended since the last call."""
        ended = []
        while True:
            try:
                ended.append(self._ended.get_nowait())
            except Empty:
                return ended

    def do(self, indices: Sequence[int], samples: Samples) -> list[Outcome]:
        """Do some of the images together and return what became of them."""
        return self.do_samples(self.read(indices, samples))

    def do_samples(self, samples: Sequence[Sample]) -> list[Outcome]:
        """Do images that have been read."""
        works = self.encode(samples)
        for work in works:
            self.unpack(work)
        for group in self.groups(works):
            for work, decoded in self.generate(group):
                self.finish(work, decoded)
        return self.outcomes()

    def read(self, indices: Sequence[int], samples: Samples) -> list[Sample]:
        """Read images."""
        batch = []
        for index in indices:
            try:
                batch.append(samples[index])
            except ImageError as error:
                self.fail(index, samples.names[index], error)
        return batch

    def encode(self, batch: Sequence[Sample]) -> list[Work]:
        """Encode images, which share prompt search and generation."""
        if not batch:
            return []
        reset_peak_memory(self.device)
        sizes = [(sample.source_height, sample.source_width) for sample in batch]
        try:
            encoded = self.encoder.encode_all([sample.image for sample in batch], sizes)
        except FAILURES as error:
            self.timer.read()
            return self._one_by_one(batch, batch, self.encode, error)
        seconds = {stage: spent / len(batch) for stage, spent in self.timer.read().items()}
        return [Work(*each, dict(seconds)) for each in zip(batch, encoded, strict=True)]

    def _one_by_one(
        self,
        batch: Sequence,
        samples: Sequence[Sample],
        do: Callable[[list], list],
        error: Exception,
    ) -> list:
        """Note an error of one image; of several, do each alone to find out whose it was."""
        if len(batch) == 1:
            self.fail(samples[0].index, samples[0].name, error)
            return []
        done = []
        for one in batch:
            done += do([one])
        return done

    def fail(self, index: int, name: str, error: Exception) -> None:
        """Note why an image could not be done."""
        reason = printable(reason_of(error, (ImageError,)))
        line = line_of({"name": name, "failed": reason[:MOST_REASON], "index": index})
        self._ended.put(Outcome(index, name, line, reason))

    def groups(self, works: Sequence[Work]) -> list[list[Work]]:
        """Return the unpacked images in groups of one size and with the same layers, `together` at
        most, to be generated together.
        """
        groups: list[list[Work]] = []
        for work in works:
            last = groups[-1] if groups else []
            if last and last[0].is_like(work) and len(last) < self.together:
                last.append(work)
            else:
                groups.append([work])
        return groups

    def unpack(self, work: Work) -> None:
        """Decode the layers of a file, on the CPU."""
        try:
            with work.timer("decoding"):
                work.stream = bitstream.unpack(work.encoded.data)
                work.conditions = self.encoder.decoder.conditions(work.stream)
        except FAILURES as error:
            self.fail(work.sample.index, work.sample.name, error)

    def generate(self, group: Sequence[Work]) -> list[tuple[Work, Decoded]]:
        """Generate the reconstructions of a group's files as one batch."""
        group = [work for work in group if work.conditions is not None]
        if not group:
            return []
        height, width = group[0].sample.image.shape[:2]
        timer = Stopwatch()
        try:
            with timer("decoding"):
                images = self.encoder.decoder.generate(
                    [work.conditions for work in group],
                    [work.stream.seed for work in group],
                    height,
                    width,
                )
        except FAILURES as error:
            samples = [work.sample for work in group]
            return self._one_by_one(group, samples, self.generate, error)
        spent = timer.read()["decoding"] / len(group)
        for work in group:
            work.seconds["decoding"] = work.timer.read()["decoding"] + spent
            work.memory = peak_memory(self.device)
        done = []
        for work, image in zip(group, images, strict=True):
            done.append((work, Decoded(image, work.conditions, work.stream)))
        return done

    def finish(self, work: Work, decoded: Decoded) -> None:
        """Measure a reconstruction, make everything that belongs to it, and store it."""
        try:
            outcome = self._finish(work, decoded)
        except FAILURES as error:
            self.fail(work.sample.index, work.sample.name, error)
            return
        self._ended.put(self.store(outcome))

    def _finish(self, work: Work, decoded: Decoded) -> Outcome:
        sample, encoded = work.sample, work.encoded
        with work.timer("metrics"):
            values = self.metrics.measure(sample.image, decoded.image, encoded.sketch)
        files = self._images(sample, encoded, decoded) if self.keep in PICTURES else {}
        beside = {}
        for name, codec in self.codecs.items():
            beside[name], picture = self._baseline(work, codec, len(encoded.data))
            if self.keep == "baselines" and picture is not None:
                files[f"_{name}.png"] = png(picture)
        if self.keep != "none":
            files[".pics"] = encoded.data
        record = describe(sample, encoded, decoded, values)
        if encoded.allocation:
            record["allocation"] = encoded.allocation
        if beside:
            record["baselines"] = beside
        record["seconds"] = {}
        for stage, spent in (work.seconds | work.timer.read()).items():
            record["seconds"][stage] = round(spent, 4)
        record["memory"] = larger(work.memory, peak_memory(self.device))
        SCHEMA(record)
        if self.keep in PICTURES:
            files[RECORD] = record_file(record)
        line = line_of({**record, "index": sample.index})
        return Outcome(sample.index, sample.name, line, files=files)

    def _images(self, sample: Sample, encoded: Encoded, decoded: Decoded) -> dict[str, bytes]:
        """Return the pictures that stay, as PNG files, by the endings of their names."""
        images = {
            "_original.png": sample.image,
            "_recon.png": decoded.image,
            "_sketch.png": encoded.sketch,
            "_sketch_recon.png": decoded.conditions.sketch,
        }
        color = decoded.conditions.color
        if color is not None:
            images["_color.png"] = color_codec.enlarge(color, *sample.image.shape[:2])
        return {ending: png(image) for ending, image in images.items() if image is not None}

    def _baseline(self, work: Work, codec: Codec, budget: int) -> tuple[dict, np.ndarray | None]:
        """Return the results of an image format within the budget of bytes and its picture, or why
        it has none.
        """
        sample = work.sample
        try:
            with work.timer("baselines"):
                found = compress(sample.image, codec, budget)
        except BudgetError as error:
            return {"why": str(error)}, None
        with work.timer("metrics"):
            values = self.metrics.measure(sample.image, found.image)
        height, width = sample.image.shape[:2]
        results = {
            "bytes": len(found.data),
            "bpp": bitstream.bits_per_pixel(found.data, height, width),
            "scale": float(found.scale),
            "quality": int(found.quality),
            **values,
        }
        return results, found.image


def store_in(folder: Path, outcome: Outcome) -> Outcome:
    """Write what stays of an image to its place in a run's folder; return the rest of it.

    Raises OSError.
    """
    place = place_of(folder, outcome.index)
    if outcome.files and place != folder:
        place.mkdir(exist_ok=True)
    for ending, content in outcome.files.items():
        write(place / f"{outcome.name}{ending}", content)
    return replace(outcome, files={})


def larger(peak: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    """Return the larger of two peaks of memory, kind by kind."""
    return {kind: max(size, peak.get(kind, 0)) for kind, size in other.items()}


def describe(sample: Sample, encoded: Encoded, decoded: Decoded, values: dict) -> dict:
    """Return the record of one image's file; every rate is 8 * bytes / coded pixels."""
    height, width = sample.image.shape[:2]
    sizes = bitstream.layer_sizes(decoded.stream)
    rates = {layer: 8 * count / (height * width) for layer, count in sizes.items()}
    if decoded.stream.text is not None:
        values = {**values, "prompt_cosine": _rounded(encoded.cosine, 5)}
    return {
        "name": sample.name,
        "prompt": decoded.conditions.prompt.text,
        "ids": list(decoded.conditions.prompt.ids),
        "seed": decoded.stream.seed,
        "source_size": [sample.source_width, sample.source_height],
        "coded_size": [width, height],
        "bytes": {**sizes, "total": len(encoded.data)},
        "bpp": {**rates, "total": bitstream.bits_per_pixel(encoded.data, height, width)},
        "sha256": hashlib.sha256(encoded.data).hexdigest(),
        "metrics": values,
        "scores": [_rounded(score, 4) for score in encoded.scores],
    }


def _rounded(value: float, digits: int) -> float | None:
    """Return a number as a record has it; None if it is not finite."""
    return round(value, digits) if math.isfinite(value) else None

"""What is done with each image of a run: encode, decode, measure, write its files."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import bitstream
import color_codec
from codec import Decoded, Encoded, Encoder
from common.files import png, write
from dataloaders import ImageError, Sample, Samples
from evaluation.timing import Stopwatch, peak_memory, reset_peak_memory
from metrics import MetricSet
from metrics.baselines import BudgetError, Codec, compress
from reporting.records import record_file
from reporting.rows import FAILED, RECORD

FAILURES = (
    ValueError,
    RuntimeError,
    ArithmeticError,
    MemoryError,
)  # of one image; a full disk is none of these


@dataclass(frozen=True, eq=False)
class Evaluator:
    """Does the images of one process."""

    folder: Path  # of the run
    encoder: Encoder
    metrics: MetricSet
    codecs: dict[str, Codec]  # the baselines
    timer: Stopwatch  # of the encoder's stages too
    device: str

    def do(self, indices: Sequence[int], samples: Samples) -> None:
        """Do some of the images together; record those that cannot be read or done."""
        batch = []
        for index in indices:
            try:
                batch.append(samples[index])
            except ImageError as error:
                self._fail(samples.names[index], error)
        if batch:
            self._encode(batch)

    def _encode(self, batch: Sequence[Sample]) -> None:
        """Encode images, which share prompt search and generation, and finish each."""
        reset_peak_memory(self.device)
        sizes = [(sample.source_height, sample.source_width) for sample in batch]
        try:
            encoded = self.encoder.encode_all([sample.image for sample in batch], sizes)
        except FAILURES as error:
            self.timer.read()
            self._find_failure(batch, error)
            return
        seconds = {stage: spent / len(batch) for stage, spent in self.timer.read().items()}
        for sample, own in zip(batch, encoded, strict=True):
            try:
                self._finish(sample, own, seconds)
            except FAILURES as error:
                self._fail(sample.name, error)

    def _find_failure(self, batch: Sequence[Sample], error: Exception) -> None:
        """Record an error of one image; of several, find out whose it was, one by one."""
        if len(batch) == 1:
            self._fail(batch[0].name, error)
            return
        for sample in batch:
            self._encode([sample])

    def _fail(self, name: str, error: Exception) -> None:
        """Record why an image could not be done."""
        reason = " ".join(str(error).split()) or "no message"
        if not isinstance(error, ImageError):
            reason = f"{type(error).__name__}: {reason}"
        write(self.folder / f"{name}{FAILED}", f"{reason}\n".encode())

    def _finish(self, sample: Sample, encoded: Encoded, seconds: dict[str, float]) -> None:
        """Decode a file and write everything that belongs to it, the record last."""
        with self.timer("decoding"):
            decoded = self.encoder.decoder.decode(encoded.data)
        with self.timer("metrics"):
            values = self.metrics.measure(sample.image, decoded.image, encoded.sketch)
        beside = {}
        for name, codec in self.codecs.items():
            beside[name] = self._baseline(sample, codec, len(encoded.data))
        self._write_pictures(sample, encoded, decoded)
        write(self.folder / f"{sample.name}.pics", encoded.data)
        record = describe(sample, encoded, decoded, values)
        if beside:
            record["baselines"] = beside
        record["seconds"] = {}
        for stage, spent in (seconds | self.timer.read()).items():
            record["seconds"][stage] = round(spent, 4)
        record["memory"] = peak_memory(self.device)
        write(self.folder / f"{sample.name}{RECORD}", record_file(record))

    def _write_pictures(self, sample: Sample, encoded: Encoded, decoded: Decoded) -> None:
        pictures = {
            "_original.png": sample.image,
            "_recon.png": decoded.image,
            "_sketch.png": encoded.sketch,
            "_sketch_recon.png": decoded.conditions.sketch,
        }
        color = decoded.conditions.color
        if color is not None:
            pictures["_color.png"] = color_codec.enlarge(color, *sample.image.shape[:2])
        for ending, picture in pictures.items():
            if picture is not None:
                write(self.folder / f"{sample.name}{ending}", png(picture))

    def _baseline(self, sample: Sample, codec: Codec, budget: int) -> dict:
        """Return the results of an image format within the budget of bytes, or why it has none."""
        try:
            with self.timer("baselines"):
                found = compress(sample.image, codec, budget)
        except BudgetError as error:
            return {"why": str(error)}
        with self.timer("metrics"):
            values = self.metrics.measure(sample.image, found.image)
        height, width = sample.image.shape[:2]
        return {
            "bytes": len(found.data),
            "bpp": bitstream.bits_per_pixel(found.data, height, width),
            "scale": float(found.scale),
            "quality": int(found.quality),
            **values,
        }


def describe(sample: Sample, encoded: Encoded, decoded: Decoded, values: dict) -> dict:
    """Return the record of one image's file; every rate is 8 * bytes / coded pixels."""
    height, width = sample.image.shape[:2]
    sizes = bitstream.layer_sizes(decoded.stream)
    rates = {layer: 8 * count / (height * width) for layer, count in sizes.items()}
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
        "metrics": {**values, "prompt_cosine": _rounded(encoded.cosine, 5)},
        "scores": [_rounded(score, 4) for score in encoded.scores],
    }


def _rounded(value: float, digits: int) -> float | None:
    """Return a number as a record has it; None if it is not finite."""
    return round(value, digits) if math.isfinite(value) else None

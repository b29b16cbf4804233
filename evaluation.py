"""The loop that eval_PIC.py and eval_PICS.py share: every photograph of a folder -> files, pictures, results.

    python eval_PICS.py --data_root PHOTOS
    accelerate launch --multi_gpu --num_processes 4 eval_PICS.py --data_root PHOTOS     # see docs/scaling.md

For each photograph, in `recon_examples/<PIC|PICS>_<preset>_<dataset>/`:

    <name>.pics               the file; its length is the rate
    <name>_original.png       the photograph at the coded size
    <name>_recon.png          what was drawn from the file
    <name>_sketch.png         the sketch, and
    <name>_sketch_recon.png   the sketch that the file holds (PICS)
    <name>_colour.png         the colour map that the file holds, enlarged (where it holds one)
    <name>_caption.yaml       prompt, seed, bytes and bpp of each layer, metrics, baselines, seconds, memory
    <name>_failed.txt         in place of all these: why the photograph could not be done

and for the run results.csv, results.jsonl, baselines.csv, summary.json, overview.jpg and index.html. Every file is
written whole or not at all, the caption last: a photograph that has one is not done again, and a run that was killed
ends, started again, with the results that it would have had. Two runs differ in `seconds` and `memory` alone:

    seconds_<stage>           prompt (search), sketch (annotator), candidates (drawing and choosing), coding (sketch
                              and colour codec, file), decoding (the file, drawn once more), metrics, baselines; what
                              photographs of a batch share is divided equally
    memory_process            most bytes resident since the batch began, in the process that did the photograph (Linux);
                              the processes of a run share a part of them
    memory_gpu                most bytes of tensors on the GPU since then
"""

import argparse
import contextlib
import dataclasses
import json
import math
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import yaml

import bitstream
import colour_codec
from codec import LOSSES, PROMPTS_FROM, Encoder, EncoderConfig
from dataloaders import DATASETS, ImageError, Sample, Samples, load_image, load_samples
from presets import PRESETS, Preset, PresetError, get_preset
from processes import Team, cores, is_leader, join, parts_done
from report import append_results, png, read_captions, read_json, write, write_report

if TYPE_CHECKING:
    from baselines import Codec
    from metrics import MetricSet, SetValue

PRESET_HELP = f"{', '.join(PRESETS)}, or a folder with preset.json (default: tiny)"
OUTPUT = Path(__file__).parent / "recon_examples"
PICTURES = ("_original.png", "_recon.png", "_sketch.png", "_sketch_recon.png", "_colour.png")
CAPTION, FAILED = "_caption.yaml", "_failed.txt"
FAILURES = (ValueError, RuntimeError, ArithmeticError, MemoryError)  # of one photograph; a full disk is none of these
SMALL = 100_000_000  # parameters; the UNet of `tiny` has 9 million, of Stable Diffusion 866
WATCH_S = 0.5  # seconds between two looks at what the other processes have done


def parser(description: str) -> argparse.ArgumentParser:
    """Return the flags of both scripts; those of the paper's scripts keep their names."""
    flags = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--data_root", help="folder of photographs (default: samples of scikit-image and -learn)")
    flags.add_argument("--dataset", choices=sorted(DATASETS), help="a known layout below --data_root")
    flags.add_argument("--preset", type=preset, default="tiny", help=PRESET_HELP)
    add_encoding_flags(flags)
    flags.add_argument("--metrics", type=metric_names, default="fast", help="fast, all, or names with commas between")
    flags.add_argument("--judge", help="CLIP of the metric clip_judge: folder or hub id (default: the preset's)")
    flags.add_argument("--reference", metavar="DIR", help="pictures that fid_folder and kid_folder compare with")
    flags.add_argument(
        "--baselines",
        type=baseline_names,
        default="",
        help="codecs given each file's length as their budget: avif,webp",
    )
    flags.add_argument(
        "--batch_size", type=positive, default=8, help="photographs that share prompt search and drawing"
    )
    flags.add_argument("--output", type=Path, default=OUTPUT, help="where the run's folder is made")
    flags.add_argument("--overwrite", action="store_true", help="do photographs again that are done")
    flags.add_argument("--device", help="cpu, cuda, cuda:1 (default: a GPU where there is one)")
    return flags


def add_encoding_flags(flags: argparse.ArgumentParser) -> None:
    """Add the flags of prompt and candidates; `encoder_config` reads them."""
    flags.add_argument("--N", type=positive, help="candidates drawn; the best one's seed is sent")
    flags.add_argument(
        "--color_bytes", type=whole, help="of the colour layer, at most; 0: none (default: PICS the preset's, PIC 0)"
    )
    flags.add_argument("--loss", default="clip", choices=LOSSES, help="what chooses the candidate")
    prompt = flags.add_mutually_exclusive_group()
    prompt.add_argument("--prompt", help="a text of your own, for every photograph")
    prompt.add_argument("--prompt_from", default="search", choices=PROMPTS_FROM, help="what finds a prompt otherwise")
    length = flags.add_mutually_exclusive_group()
    length.add_argument("--prompt_len", type=positive, help="tokens of a searched prompt (default: the preset's)")
    length.add_argument("--prompt_bytes", type=positive, help="bytes of a searched prompt, at most")
    flags.add_argument(
        "--prompt_bits", type=whole, help="search 2^K useful words only, at K bits each: 5 to 16; 0: all words"
    )
    flags.add_argument("--prompt_ascending", action="store_true", help="search ids in ascending order: fewer bytes")
    flags.add_argument("--prompt_steps", type=positive, help="of the prompt search (default: the preset's)")
    flags.add_argument("--prompt_seconds", type=seconds, help="of the prompt search, for photographs searched together")
    flags.add_argument("--prompt_patience", type=positive, help="steps without a better cosine that end the search")
    flags.add_argument(
        "--prompt_restarts", type=positive, default=1, help="searches from different words, side by side"
    )
    flags.add_argument("--seed", type=int, default=0, help="of the prompt search")


def encoder_config(args: argparse.Namespace, sketch: bool) -> EncoderConfig:
    """Return what the flags say about encoding."""
    return EncoderConfig(
        sketch=sketch,
        lam_sketch=getattr(args, "lam_sketch", None),
        color_bytes=args.color_bytes,
        candidates=args.N,
        loss=args.loss,
        seed=args.seed,
        **prompt_flags(args),
    )


def prompt_flags(args: argparse.Namespace) -> dict:
    """Return the flags of the prompt, which are EncoderConfig's fields of the same names."""
    names = [field.name for field in dataclasses.fields(EncoderConfig) if field.name.startswith("prompt")]
    return {name: getattr(args, name) for name in names}


def whole(text: str) -> int:
    """Parse a whole number from 0 up."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 up")
    return int(text)


def positive(text: str) -> int:
    """Parse a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def seconds(text: str) -> float:
    """Parse a time above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a time in seconds above 0")
    return value


def metric_names(text: str) -> tuple[str, ...]:
    """Parse `--metrics`."""
    from metrics import choose_metrics

    try:
        return choose_metrics(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def baseline_names(text: str) -> tuple[str, ...]:
    """Parse `--baselines`."""
    from baselines import CODECS

    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if unknown := [name for name in names if name not in CODECS]:
        raise argparse.ArgumentTypeError(f"unknown {', '.join(unknown)}: choose of {', '.join(CODECS)}")
    return names


def preset(text: str) -> Preset:
    """Parse `--preset`."""
    try:
        return get_preset(text)
    except PresetError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def rate(text: str) -> float | str:
    """Parse `--lam_sketch`: a lambda or a codec file."""
    try:
        return float(text)
    except ValueError:
        return text


@dataclass(frozen=True, eq=False)
class Run:
    """One run as one of its processes sees it."""

    method: str
    folder: Path
    samples: Samples
    todo: list[int]  # photographs that are not done, the same list in all processes
    team: Team
    evaluator: "Evaluator | None"  # None where nothing is left for this process
    metrics: "MetricSet"  # of photographs where some are left, of sets in the leading process
    processes: int  # that do photographs side by side; 0: this one does them
    before: dict  # summary.json of an earlier start, where nothing is left


def evaluate(args: argparse.Namespace, method: str) -> int:
    """Run `method` ("PIC" or "PICS") over the photographs of `args` and return the exit status."""
    try:
        run = prepare(args, method)
    except (PresetError, OSError) as error:
        return complain(error, 1)
    except ValueError as error:
        return complain(error, 2)
    except KeyboardInterrupt:
        return complain("stopped before the first photograph", 130)
    try:
        work(run, args.batch_size)
        return finish(run) if run.team.leads else 0
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # launchers send it twice, and the report is to be whole
        return finish(run, stopped=True) if run.team.leads else 130
    except OSError as error:
        return complain(error, 1)
    except BrokenProcessPool:
        return complain("a process was killed, perhaps for its memory: go on with a smaller --batch_size", 1)


def prepare(args: argparse.Namespace, method: str) -> Run:
    """Check the arguments, load the models, take the run's folder. Raises ValueError, PresetError, OSError."""
    samples = load_samples(args.data_root, args.dataset, args.preset.short_side)
    check_names(samples.names)
    folder = args.output / f"{method}_{args.preset.name}_{samples.name}"
    settings = settings_of(args, method)
    if not args.overwrite:
        compare_settings(folder, settings)
    captions = [folder / f"{name}{CAPTION}" for name in samples.names]
    todo = [i for i, caption in enumerate(captions) if args.overwrite or not caption.exists()]
    team, watch = join(args.device), Stopwatch()
    encoder = load_encoder(args, method, team.device, watch) if team.share(todo) else None
    processes = side_by_side(encoder, team.device, args.batch_size) if encoder else 0
    if encoder and (processes or not team.alone):  # one bar, the leader's, for all processes
        encoder.search = dataclasses.replace(encoder.search, progress=False)
    metrics = load_metrics(args, encoder, team)
    evaluator = Evaluator(folder, encoder, metrics, load_baselines(args, team), watch, team.device) if encoder else None
    before = {} if todo else read_json(folder / "summary.json", missing={})
    if team.leads:
        claim(folder, settings, args.overwrite)
    team.meet(folder)
    return Run(method, folder, samples, todo, team, evaluator, metrics, processes, before)


def complain(error: object, status: int) -> int:
    """Say once, whatever the number of processes, what is wrong; return the exit status."""
    if is_leader():
        print(f"error: {error}", file=sys.stderr)
    return status


def finish(run: Run, stopped: bool = False) -> int:
    """Write the report of what is done and return the exit status; a run that was stopped measures no sets."""
    failures = read_failures(run.folder, run.samples.names)
    set_values = {} if stopped else set_metrics(run)
    missing = run.before.get("not_available", {}) | run.metrics.unavailable
    summary = write_report(run.folder, run.samples, run.method, failures, set_values, missing)
    for name, reason in failures.items():
        print(f"failed: {name}: {reason}", file=sys.stderr)
    for name, reason in missing.items():
        print(f"not available: {name}: {reason}", file=sys.stderr)
    if stopped:
        done = f"{summary['photographs']} of {len(run.samples)} photographs are done"
        print(f"stopped: {done}; start it again to go on", file=sys.stderr)
    print(json.dumps(summary))
    return 130 if stopped else 1 if failures else 0


def set_metrics(run: Run) -> dict[str, "SetValue"]:
    """Measure the metrics of sets; what an earlier start measured of the same pictures is kept."""
    from metrics import SetValue

    done = [name for name in run.samples.names if (run.folder / f"{name}{CAPTION}").exists()]
    earlier = {name: SetValue(**value) for name, value in run.before.get("set", {}).items()}
    try:
        return earlier | run.metrics.over_set(pairs(run.folder, done))
    except ImageError as error:  # a broken picture in the reference
        sets = [row.name for row in run.metrics.rows if not per_photograph([row.name])]
        run.metrics.unavailable.update(dict.fromkeys(sets, str(error)))
        return earlier


# ---- what is done before the first photograph


def check_names(names: Sequence[str]) -> None:
    """Raise ValueError where two photographs would write one file: only `x_sketch` beside `x` would."""
    stems = {name.casefold() for name in names}
    for name in names:
        stem = name.casefold().removesuffix("_sketch")
        if stem != name.casefold() and stem in stems:
            raise ValueError(
                f"photographs {name[: len(stem)]!r} and {name!r} would both write {name}_recon.png: rename one of them"
            )


def settings_of(args: argparse.Namespace, method: str) -> dict:
    """Return what decides the results of a run, for settings.json; metrics of sets may come later."""
    settings = {"method": method, "preset": args.preset.name, "N": args.N, "loss": args.loss}
    settings["color_bytes"] = args.color_bytes
    settings |= prompt_flags(args) | {"seed": args.seed}
    if method == "PICS":
        settings["lam_sketch"] = args.lam_sketch
    chosen = ",".join(per_photograph(args.metrics))
    return settings | {"metrics": chosen, "judge": args.judge, "baselines": ",".join(args.baselines) or None}


def per_photograph(names: Sequence[str]) -> list[str]:
    """Return those of some metrics that each photograph has a value of."""
    from metrics import METRICS
    from metrics.table import PictureMetric

    return [name for name in names if isinstance(METRICS[name], PictureMetric)]


def compare_settings(folder: Path, settings: dict) -> None:
    """Raise ValueError where `folder` holds a run with other settings."""
    path = folder / "settings.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else settings
    differing = [
        f"{name} {before.get(name)} -> {value}" for name, value in settings.items() if before.get(name) != value
    ]
    if differing:
        raise ValueError(
            f"{folder} holds a run with other settings ({'; '.join(differing)}): "
            "add --overwrite to do it again, or --output for another place"
        )


def claim(folder: Path, settings: dict, overwrite: bool) -> None:
    """Make the run's folder, or go on with it: what failed is tried again; `overwrite` forgets what is done."""
    folder.mkdir(parents=True, exist_ok=True)
    for pattern in (f"*{FAILED}", ".*.tmp", *[f"*{CAPTION}"][: int(overwrite)]):
        for path in folder.glob(pattern):
            path.unlink()
    write(folder / "settings.json", json.dumps(settings, indent=1).encode())


def load_encoder(args: argparse.Namespace, method: str, device: str, watch: "Stopwatch") -> Encoder:
    """Load the encoder that the arguments describe. Raises PresetError, ValueError."""
    return TimedEncoder(args.preset, encoder_config(args, method == "PICS"), device, watch)


def side_by_side(encoder: Encoder, device: str, batch_size: int) -> int:
    """Return how many processes to fork, for a photograph each; 0: this one does the batch, on all cores or a GPU.

    A large model fills the cores by itself, and several drawings of it at a time would fill the memory.
    """
    small = encoder.decoder.generator.parameters <= SMALL
    return min(cores(device), batch_size) if small and batch_size > 1 else 0


def load_baselines(args: argparse.Namespace, team: Team) -> dict[str, "Codec"]:
    """Load the codecs to compare with. Raises PresetError where one cannot be had."""
    from baselines import CodecError, load_codec

    try:
        return {name: load_codec(name, team.device) for name in args.baselines}
    except CodecError as error:
        raise PresetError(str(error)) from error


def load_metrics(args: argparse.Namespace, encoder: Encoder | None, team: Team) -> "MetricSet":
    """Load metrics: of photographs where there is an encoder, of sets in the leading process, which measures them."""
    from annotator import load_annotator
    from metrics import MetricSet, Tools
    from prompt_inversion import load_clip

    each = per_photograph(args.metrics)
    names = [name for name in args.metrics if (encoder if name in each else team.leads)]
    tools = {"device": team.device}
    if encoder:
        tools["clip"] = likeness(encoder.clip)
    if "clip_judge" in names and (sources := judge_of(args)):
        tools["judge"] = or_reason(lambda: likeness(load_clip(sources, team.device)))
    if "edges" in names:
        tools["annotator"] = or_reason(lambda: load_annotator(args.preset.annotator, team.device))
    if args.reference:
        reference = load_samples(args.reference, None, args.preset.short_side)
        tools["reference"] = (sample.image for sample in reference)
    return MetricSet(names, Tools(**tools))


def judge_of(args: argparse.Namespace) -> tuple[str, ...]:
    """Return the sources of the judge's CLIP. Raises ValueError for the encoder's own."""
    sources = (args.judge,) if args.judge else args.preset.judge
    if own := set(sources) & set(args.preset.clip):
        raise ValueError(f"the judge {own.pop()} is the encoder's own CLIP, which flatters: name another with --judge")
    return sources


def likeness(clip) -> Callable[[np.ndarray, np.ndarray], float]:
    """Return the similarity of two pictures by a CLIP."""
    return lambda original, recon: clip.similarity(original, [recon])[0]


def or_reason(load: Callable[[], Callable]) -> Callable | str:
    """Return what `load` gives, or in one line why it cannot be had."""
    try:
        return load()
    except PresetError as error:
        return " ".join(str(error).split())


# ---- the photographs


class Board:
    """What the leading process shows and writes of the whole run while it goes on."""

    def __init__(self, folder: Path, names: Sequence[str]):
        from tqdm import tqdm

        self.folder, self.waiting = folder, dict.fromkeys(names)  # a dict keeps the order
        for file in ("results.csv", "results.jsonl"):
            (folder / file).unlink(missing_ok=True)
        self.bar = tqdm(total=len(names), unit="photo")
        self.refresh()
        self.bar.initial = self.bar.n  # what was done before says nothing of the speed

    def refresh(self) -> None:
        """Take in the photographs that any process has done or failed since the last look."""
        there = {entry.name for entry in os.scandir(self.folder)}
        done = tuple(name for name in self.waiting if f"{name}{CAPTION}" in there)
        failed = [name for name in self.waiting if f"{name}{FAILED}" in there]
        if done:
            append_results(self.folder, read_captions(self.folder, done))
        for name in (*done, *failed):
            self.waiting.pop(name, None)
        self.bar.update(len(done) + len(failed))

    def watch(self) -> None:
        """Wait until the other processes are through."""
        while self.waiting:
            time.sleep(WATCH_S)
            self.refresh()


def work(run: Run, batch_size: int) -> None:
    """Do this process's part of the photographs, a batch at a time, and in the leading one wait for the others."""
    parts = split(run.team.share(run.todo), batch_size, run.processes)
    with parts_done(lambda part: run.evaluator.do(part, run.samples), parts, run.processes) as done:
        if not run.team.leads:
            for _ in done:
                pass
            return
        board = Board(run.folder, run.samples.names)
        with contextlib.closing(board.bar):
            for _ in done:
                board.refresh()
            board.watch()


def split(photographs: Sequence[int], batch_size: int, processes: int) -> list[Sequence[int]]:
    """Split photographs into batches; those of several processes are a batch together, and smaller towards the end."""
    if not processes:
        return [photographs[start : start + batch_size] for start in range(0, len(photographs), batch_size)]
    most, parts, rest = max(1, batch_size // processes), [], photographs
    while rest:
        size = min(most, math.ceil(len(rest) / (2 * processes)))  # so that all are busy to the end
        parts, rest = [*parts, rest[:size]], rest[size:]
    return parts


# ---- one batch


class Stopwatch:
    """Seconds of stages, each without those of the stages inside it.

    with watch("coding"): ...
    """

    def __init__(self):
        self.seconds = Counter()

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Count the time of the block to a stage."""
        inside, begun = sum(self.seconds.values()), time.perf_counter()
        try:
            yield
        finally:
            inside = sum(self.seconds.values()) - inside
            self.seconds[stage] += time.perf_counter() - begun - inside

    def read(self) -> dict[str, float]:
        """Return the seconds of each stage since the last reading."""
        seconds, self.seconds = self.seconds, Counter()
        return dict(seconds)


class TimedEncoder(Encoder):
    """An Encoder whose stages are timed."""

    def __init__(self, preset: Preset, config: EncoderConfig, device: str, watch: Stopwatch):
        super().__init__(preset, config, device)
        self._watch, self._annotate, self.annotator = watch, self.annotator, self._timed_annotator

    def _timed_annotator(self, image):
        with self._watch("sketch"):
            return self._annotate(image)

    def _word(self, images):
        with self._watch("prompt"):
            return super()._word(images)

    def _sketch(self, image):
        with self._watch("coding"):
            return super()._sketch(image)

    def _choose(self, *arguments):
        with self._watch("candidates"):
            return super()._choose(*arguments)

    def _colour(self, image):
        with self._watch("coding"):
            return super()._colour(image)

    def _pack(self, *arguments):
        with self._watch("coding"):
            return super()._pack(*arguments)


@dataclass(frozen=True, eq=False)
class Evaluator:
    """Does photographs: encodes, decodes, measures, writes."""

    folder: Path
    encoder: Encoder
    metrics: "MetricSet"
    codecs: dict[str, "Codec"]  # the baselines
    watch: Stopwatch
    device: str = "cpu"

    def do(self, indices: Sequence[int], samples: Samples) -> None:
        """Do some of the photographs together; record those that cannot be read or done."""
        batch = []
        for i in indices:
            try:
                batch.append(samples[i])
            except ImageError as error:
                self._fail(samples.names[i], error)
        if batch:
            self._encode(batch)

    def _encode(self, batch: Sequence[Sample]) -> None:
        """Encode photographs, which share prompt search and drawing, and finish each."""
        forget_peak_memory(self.device)
        sizes = [(sample.source_height, sample.source_width) for sample in batch]
        try:
            encoded = self.encoder.encode_all([sample.image for sample in batch], sizes)
        except FAILURES as error:
            self.watch.read()
            self._blame(batch, error)
            return
        shares = {stage: seconds / len(batch) for stage, seconds in self.watch.read().items()}
        for sample, own in zip(batch, encoded, strict=True):
            try:
                self._finish(sample, own, shares)
            except FAILURES as error:
                self._fail(sample.name, error)

    def _blame(self, batch: Sequence[Sample], error: Exception) -> None:
        """Record an error of one photograph; of several, whose it was shows when each is done alone."""
        if len(batch) == 1:
            self._fail(batch[0].name, error)
            return
        for sample in batch:
            self._encode([sample])

    def _fail(self, name: str, error: Exception) -> None:
        """Record why a photograph could not be done."""
        reason = " ".join(str(error).split()) or "no message"
        kind = "" if isinstance(error, ImageError) else f"{type(error).__name__}: "
        write(self.folder / f"{name}{FAILED}", f"{kind}{reason}\n".encode())

    def _finish(self, sample: Sample, encoded, shares: dict[str, float]) -> None:
        """Decode a file and write everything that belongs to it, the caption last."""
        with self.watch("decoding"):
            decoded = self.encoder.decoder.decode(encoded.data)
        with self.watch("metrics"):
            values = self.metrics.measure(sample.image, decoded.image, encoded.sketch)
        beside = {name: self._baseline(sample, codec, len(encoded.data)) for name, codec in self.codecs.items()}
        colour = enlarged(decoded.colour, sample.image.shape)
        pictures = (sample.image, decoded.image, encoded.sketch, decoded.sketch, colour)
        for ending, picture in zip(PICTURES, pictures, strict=True):
            if picture is not None:
                write(self.folder / f"{sample.name}{ending}", png(picture))
        write(self.folder / f"{sample.name}.pics", encoded.data)
        seconds = {stage: round(spent, 4) for stage, spent in (shares | self.watch.read()).items()}
        caption = describe(sample, encoded, decoded, values)
        caption |= {"baselines": beside} if beside else {}
        caption |= {"seconds": seconds, "memory": peak_memory(self.device)}
        text = yaml.safe_dump(caption, sort_keys=False, allow_unicode=True, default_flow_style=None)
        write(self.folder / f"{sample.name}{CAPTION}", text.encode())

    def _baseline(self, sample: Sample, codec: "Codec", budget: int) -> dict:
        """Return the results of a codec within the budget of bytes, or why it has none."""
        from baselines import BudgetError, compress

        try:
            with self.watch("baselines"):
                found = compress(sample.image, codec, budget)
        except BudgetError as error:
            return {"why": str(error)}
        with self.watch("metrics"):
            values = self.metrics.measure(sample.image, found.image)
        height, width = sample.image.shape[:2]
        rate = {"bytes": len(found.data), "bpp": bitstream.bits_per_pixel(found.data, height, width)}
        choice = {"scale": float(found.scale), "quality": int(found.quality)}
        return rate | choice | values


def describe(sample: Sample, encoded, decoded, values: dict) -> dict:
    """Return what <name>_caption.yaml says of one photograph's file; every rate is 8 * bytes / coded pixels."""
    height, width = sample.image.shape[:2]
    sizes = bitstream.layer_sizes(decoded.stream)
    return {
        "name": sample.name,
        "prompt": decoded.text,
        "ids": list(decoded.prompt),
        "seed": decoded.stream.seed,
        "source_size": [sample.source_width, sample.source_height],
        "coded_size": [width, height],
        "bytes": {**sizes, "total": len(encoded.data)},
        "bpp": {
            **{layer: 8 * count / (height * width) for layer, count in sizes.items()},
            "total": bitstream.bits_per_pixel(encoded.data, height, width),
        },
        "metrics": {**values, "prompt_cosine": round(encoded.cosine, 5)},
        "scores": [round(score, 4) for score in encoded.scores],
    }


def enlarged(colour: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray | None:
    """Return a colour map at the size of its picture."""
    return None if colour is None else colour_codec.enlarge(colour, *shape[:2])


def forget_peak_memory(device: str) -> None:
    """Begin a new count of the most memory."""
    with contextlib.suppress(OSError):  # Linux alone can: proc(5)
        Path("/proc/self/clear_refs").write_text("5")
    if device != "cpu":
        import torch

        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: str) -> dict[str, int]:
    """Return the most bytes resident in this process (Linux) and allocated on its GPU since the count began."""
    peak = {}
    with contextlib.suppress(FileNotFoundError):
        lines = Path("/proc/self/status").read_text().splitlines()
        peak["process"] = next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    if device != "cpu":
        import torch

        peak["gpu"] = torch.cuda.max_memory_allocated(device)
    return peak


# ---- what is done after the last photograph


def read_failures(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """Return {name: reason} of the photographs that failed."""
    paths = {name: folder / f"{name}{FAILED}" for name in names}
    return {name: path.read_text(encoding="utf-8").strip() for name, path in paths.items() if path.exists()}


def pairs(folder: Path, names: Sequence[str]) -> Iterator[tuple]:
    """Yield (original, reconstruction) of the photographs that are done, one by one."""
    for name in names:
        yield load_image(folder / f"{name}{PICTURES[0]}"), load_image(folder / f"{name}{PICTURES[1]}")

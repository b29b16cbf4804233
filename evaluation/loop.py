"""The loop of eval_PIC.py and eval_PICS.py: every image of a data set -> files and results.

    python eval_PICS.py --data_root PHOTOS
    accelerate launch --multi_gpu --num_processes 4 eval_PICS.py --data_root PHOTOS

For each image, in `recon_examples/<PIC|PICS>_<preset>_<dataset>/`:

    <name>.pics               the file; its length is the rate
    <name>_original.png       the image at the coded size
    <name>_recon.png          the reconstruction, from the file alone
    <name>_sketch.png         the sketch, and
    <name>_sketch_recon.png   the sketch that the file holds (PICS)
    <name>_color.png          the color map that the file holds, enlarged (if it holds one)
    <name>_caption.yaml       the record: prompt, seed, bytes and bpp of each layer, metrics,
                              baselines, seconds, memory
    <name>_failed.txt         in place of all these: why the image could not be done

and for the run results.csv, results.jsonl, baselines.csv, summary.json and index.html. Every file
is written whole or not at all, the record last: an image that has one is not done again, and a run
that was killed ends, started again, with the results that it would have had. Two runs differ in
`seconds` and `memory` alone:

    seconds_<stage>           prompt (search), sketch (annotator), candidates (generating and
                              choosing), coding (sketch and color codec, file), decoding (of the
                              file), metrics, baselines; what the images of a batch share is divided
                              equally
    memory_process            peak resident bytes since the batch began, of the process that did the
                              image (Linux); the processes of a run share a part of them
    memory_gpu                peak bytes of tensors on the GPU since then
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
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from codec import Encoder
from common.files import read_json, write
from common.weights import UnavailableError
from dataloaders import ImageError, Samples, load_image, load_samples
from evaluation.evaluator import Evaluator
from evaluation.flags import encoder_config
from evaluation.processes import ProcessGroup, imap_forked, is_rank_0, join, worker_count
from evaluation.timing import Stopwatch
from metrics import MetricSet, SetValue, Tools, Unavailable, is_per_image
from metrics.baselines import Codec, load_codec
from presets import PresetError
from prompt_inversion.clip import Clip, load_clip
from reporting.rows import FAILED, RECORD, append_results, read_records
from reporting.write import write_report

SMALL = 100_000_000  # parameters; the UNet of `tiny` has 9 million, that of Stable Diffusion 866
WATCH_SECONDS = 0.5  # between two looks at what the other processes have done


@dataclass(frozen=True, eq=False)
class Run:
    """One run as one of its processes sees it."""

    method: str  # "PIC" or "PICS"
    folder: Path
    samples: Samples
    todo: list[int]  # images that are not done, the same list in all processes
    group: ProcessGroup
    evaluator: Evaluator | None  # None if nothing is left for this process
    metrics: MetricSet  # of images if some are left, of sets in rank 0
    workers: int  # that do images side by side; 0: this process does them
    before: dict  # summary.json of an earlier start, if nothing is left


def evaluate(args: argparse.Namespace, method: str) -> int:
    """Run `method` ("PIC" or "PICS") over the images of `args` and return the exit status."""
    try:
        run = prepare(args, method)
    except (PresetError, UnavailableError, OSError) as error:
        return complain(error, 1)
    except ValueError as error:
        return complain(error, 2)
    except KeyboardInterrupt:
        return complain("stopped before the first image", 130)
    try:
        work(run, args.batch_size)
        return finish(run) if run.group.is_rank_0 else 0
    except KeyboardInterrupt:
        signal.signal(
            signal.SIGINT, signal.SIG_IGN
        )  # launchers send it twice, and the report is to be whole
        return finish(run, stopped=True) if run.group.is_rank_0 else 130
    except OSError as error:
        return complain(error, 1)
    except BrokenProcessPool:
        return complain("a worker was killed; out of memory? resume with a smaller --batch_size", 1)


def prepare(args: argparse.Namespace, method: str) -> Run:
    """Check the arguments, load the models, take the run's folder.

    Raises ValueError, PresetError, UnavailableError, OSError.
    """
    samples = load_samples(args.data_root, args.dataset, args.preset.short_side)
    check_names(samples.names)
    folder = args.output / f"{method}_{args.preset.name}_{samples.name}"
    settings = settings_of(args, method)
    if not args.overwrite:
        compare_settings(folder, settings)
    todo = list(range(len(samples)))
    if not args.overwrite:
        todo = [i for i in todo if not (folder / f"{samples.names[i]}{RECORD}").exists()]
    group, timer = join(args.device), Stopwatch()
    encoder, workers = None, 0
    if group.own(todo):
        encoder = Encoder(args.preset, encoder_config(args, method == "PICS"), group.device, timer)
        workers = workers_for(encoder, group.device, args.batch_size)
        if workers or not group.is_single:  # one bar, that of rank 0, for all processes
            prompter = encoder.prompter
            prompter.search = dataclasses.replace(prompter.search, progress=False)
    metrics = load_metrics(args, encoder, group)
    evaluator = None
    if encoder:
        evaluator = Evaluator(
            folder, encoder, metrics, load_baselines(args, group), timer, group.device
        )
    before = {} if todo else read_json(folder / "summary.json", missing={})
    if group.is_rank_0:
        claim(folder, settings, args.overwrite)
    group.barrier(folder)
    return Run(method, folder, samples, todo, group, evaluator, metrics, workers, before)


def complain(error: object, status: int) -> int:
    """Print an error once, whatever the number of processes; return the exit status."""
    if is_rank_0():
        print(f"error: {error}", file=sys.stderr)
    return status


# ---- before the first image


def check_names(names: Sequence[str]) -> None:
    """Raise ValueError if two images would write one file: only `x_sketch` beside `x` would."""
    stems = {name.casefold() for name in names}
    for name in names:
        stem = name.casefold().removesuffix("_sketch")
        if stem != name.casefold() and stem in stems:
            raise ValueError(
                f"images {name[: len(stem)]!r} and {name!r} would both write {name}_recon.png: "
                "rename one of them"
            )


def settings_of(args: argparse.Namespace, method: str) -> dict:
    """Return what decides the results of a run; metrics of sets may come later."""
    settings = {"method": method, "preset": args.preset.name}
    names = [
        "N",
        "loss",
        "color_bytes",
        "prompt",
        "prompt_from",
        "prompt_len",
        "prompt_bytes",
        "prompt_bits",
    ]
    names += ["prompt_ascending", "prompt_steps", "prompt_seconds", "seed"]
    if method == "PICS":
        names += ["lam_sketch"]
    settings |= {name: getattr(args, name) for name in names}
    chosen = [name for name in args.metrics if is_per_image(name)]
    return settings | {
        "metrics": ",".join(chosen),
        "judge": args.judge,
        "baselines": ",".join(args.baselines) or None,
    }


def compare_settings(folder: Path, settings: dict) -> None:
    """Raise ValueError if `folder` holds a run with other settings."""
    before = read_json(folder / "settings.json", missing=settings)
    differing = []
    for name, value in settings.items():
        if before.get(name) != value:
            differing.append(f"{name} {before.get(name)} -> {value}")
    if differing:
        raise ValueError(
            f"{folder} holds a run with other settings ({'; '.join(differing)}): "
            "add --overwrite to do it again, or --output for another place"
        )


def claim(folder: Path, settings: dict, overwrite: bool) -> None:
    """Make the run's folder, or resume it: what failed is tried again; `overwrite` forgets what is
    done.
    """
    folder.mkdir(parents=True, exist_ok=True)
    outdated = [*folder.glob(f"*{FAILED}"), *folder.glob(".*.tmp")]
    if overwrite:
        outdated += folder.glob(f"*{RECORD}")
    for path in outdated:
        path.unlink()
    write(folder / "settings.json", json.dumps(settings, indent=1).encode())


def workers_for(encoder: Encoder, device: str, batch_size: int) -> int:
    """Return how many workers to fork, for an image each; 0: this process does the batch, on all
    cores or a GPU.

    A large model keeps all cores busy by itself, and several generations of it at a time would fill
    the memory.
    """
    if batch_size == 1 or encoder.decoder.generator.parameters > SMALL:
        return 0
    return min(worker_count(device), batch_size)


def load_baselines(args: argparse.Namespace, group: ProcessGroup) -> dict[str, Codec]:
    """Load the image formats to compare with. Raises UnavailableError if one cannot be had."""
    return {name: load_codec(name, group.device) for name in args.baselines}


def load_metrics(
    args: argparse.Namespace, encoder: Encoder | None, group: ProcessGroup
) -> MetricSet:
    """Load metrics: of images if there is an encoder, of sets in rank 0, which measures them."""
    from annotator import load_annotator

    names = []
    for name in args.metrics:
        if encoder if is_per_image(name) else group.is_rank_0:
            names.append(name)
    tools = {"device": group.device}
    if encoder:
        tools["clip"] = similarity(encoder.clip)
        tools["captioner"] = lambda: encoder.prompter.load_captioner().describe
    sources = judge_of(args)
    if "clip_judge" in names and sources:
        tools["judge"] = or_unavailable(lambda: similarity(load_clip(sources, group.device)))
    if "edges" in names:
        tools["annotator"] = or_unavailable(
            lambda: load_annotator(args.preset.annotator, group.device)
        )
    if args.reference:
        reference = load_samples(args.reference, None, args.preset.short_side)
        tools["reference"] = (sample.image for sample in reference)
    return MetricSet(names, Tools(**tools))


def judge_of(args: argparse.Namespace) -> tuple[str, ...]:
    """Return the sources of the judge's CLIP. Raises ValueError for the encoder's own."""
    sources = (args.judge,) if args.judge else args.preset.judge
    own = set(sources) & set(args.preset.clip)
    if own:
        raise ValueError(
            f"the judge {own.pop()} is the encoder's own CLIP, which flatters: "
            "name another with --judge"
        )
    return sources


def similarity(clip: Clip) -> Callable[[np.ndarray, np.ndarray], float]:
    """Return the similarity of two images by a CLIP."""
    return lambda original, recon: clip.similarity(original, [recon])[0]


def or_unavailable(load: Callable[[], Callable]) -> Callable | Unavailable:
    """Return what `load` gives, or why it cannot be had."""
    try:
        return load()
    except UnavailableError as error:
        return Unavailable(" ".join(str(error).split()))


# ---- the images


class ProgressMonitor:
    """What rank 0 shows and writes of the whole run while it goes on."""

    def __init__(self, folder: Path, names: Sequence[str]):
        from tqdm import tqdm

        self.folder, self.waiting = folder, dict.fromkeys(names)  # a dict keeps the order
        for file in ("results.csv", "results.jsonl"):
            (folder / file).unlink(missing_ok=True)
        self.bar = tqdm(total=len(names), unit="image")
        self.refresh()
        self.bar.initial = self.bar.n  # what was done before says nothing about the speed

    def refresh(self) -> None:
        """Count the images that any process has done or failed since the last look."""
        files = {entry.name for entry in os.scandir(self.folder)}
        done = tuple(name for name in self.waiting if f"{name}{RECORD}" in files)
        failed = [name for name in self.waiting if f"{name}{FAILED}" in files]
        if done:
            append_results(self.folder, read_records(self.folder, done))
        for name in (*done, *failed):
            self.waiting.pop(name, None)
        self.bar.update(len(done) + len(failed))

    def watch(self) -> None:
        """Wait until the other processes are through."""
        while self.waiting:
            time.sleep(WATCH_SECONDS)
            self.refresh()


def work(run: Run, batch_size: int) -> None:
    """Do this process's part of the images, and in rank 0 wait for the other processes."""
    parts = split(run.group.own(run.todo), batch_size, run.workers)
    with imap_forked(lambda part: run.evaluator.do(part, run.samples), parts, run.workers) as done:
        if not run.group.is_rank_0:
            for _ in done:
                pass
            return
        monitor = ProgressMonitor(run.folder, run.samples.names)
        with contextlib.closing(monitor.bar):
            for _ in done:
                monitor.refresh()
            monitor.watch()


def split(images: Sequence[int], batch_size: int, workers: int) -> list[Sequence[int]]:
    """Split images into batches; those of all workers together make a batch, and get smaller
    towards the end.
    """
    if not workers:
        return [images[start : start + batch_size] for start in range(0, len(images), batch_size)]
    parts, start = [], 0
    while start < len(images):
        rest = len(images) - start
        size = min(
            batch_size // workers, math.ceil(rest / (2 * workers))
        )  # so that all are busy to the end
        parts.append(images[start : start + size])
        start += size
    return parts


# ---- after the last image


def finish(run: Run, stopped: bool = False) -> int:
    """Write the report of what is done and return the exit status; a run that was stopped measures
    no sets.
    """
    failures = read_failures(run.folder, run.samples.names)
    set_values = {} if stopped else set_metrics(run)
    missing = run.before.get("not_available", {}) | run.metrics.unavailable
    summary = write_report(run.folder, run.samples, run.method, failures, set_values, missing)
    for name, reason in failures.items():
        print(f"failed: {name}: {reason}", file=sys.stderr)
    for name, reason in missing.items():
        print(f"not available: {name}: {reason}", file=sys.stderr)
    if stopped:
        done = f"{summary['images']} of {len(run.samples)} images are done"
        print(f"stopped: {done}; start it again to resume", file=sys.stderr)
    print(json.dumps(summary))
    if stopped:
        return 130
    return 1 if failures else 0


def set_metrics(run: Run) -> dict[str, SetValue]:
    """Measure the metrics of sets; what an earlier start measured of the same images is kept."""
    done = [name for name in run.samples.names if (run.folder / f"{name}{RECORD}").exists()]
    earlier = {name: SetValue(**value) for name, value in run.before.get("set", {}).items()}
    try:
        return earlier | run.metrics.over_set(pairs(run.folder, done))
    except ImageError as error:  # a broken image in the reference
        sets = [row.name for row in run.metrics.rows if not is_per_image(row.name)]
        run.metrics.unavailable.update(dict.fromkeys(sets, str(error)))
        return earlier


def read_failures(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """Return {name: reason} of the images that failed."""
    paths = {name: folder / f"{name}{FAILED}" for name in names}
    return {
        name: path.read_text(encoding="utf-8").strip()
        for name, path in paths.items()
        if path.exists()
    }


def pairs(folder: Path, names: Sequence[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (original, reconstruction) of the images that are done, one by one."""
    for name in names:
        yield load_image(folder / f"{name}_original.png"), load_image(folder / f"{name}_recon.png")

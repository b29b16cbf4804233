"""The loop of eval_PIC.py and eval_PICS.py: every image of a data set -> files and results.

    python eval_PICS.py --data_root PHOTOS
    accelerate launch --multi_gpu --num_processes 4 eval_PICS.py --data_root PHOTOS

For each image, in `recon_examples/<PIC|PICS>_<preset>_<dataset>/`:

    <name>.pics               the file; its length is the rate
    <name>_original.png       the image at the coded size
    <name>_recon.png          the reconstruction, from the file alone
    <name>_sketch.png         the sketch, and
    <name>_sketch_recon.png   the sketch that the file holds (PICS)
    <name>_color.png          the color map that the file holds, enlarged, or its base layer
    <name>_caption.yaml       the record: prompt, seed, bytes and bpp of each layer, the SHA-256 of
                              the file, metrics, baselines, seconds, memory
    <name>_failed.txt         in place of all these: why the image could not be done

and for the run results.csv, results.jsonl, baselines.csv, summary.json and index.html. Every file
is written whole or not at all, the record last: an image whose record holds is not done again, and
a run that was killed ends, started again, with the results that it would have had. While a run is
at work, `.lock` keeps others out of its folder (`lock.py`). Two runs differ in `seconds` and
`memory` alone:

    seconds_<stage>           prompt (search), sketch (annotator), candidates (generating and
                              choosing), coding (sketch and color codec, file), decoding (of the
                              file), metrics, baselines; what the images of a batch share is divided
                              equally
    memory_process            peak resident bytes since the batch began, of the process that did the
                              image (Linux); the processes of a run share a part of them
    memory_gpu                peak bytes of tensors on the GPU since then

On a GPU the CPU's work of a batch goes on beside the GPU's work of the next (`overlap.py`): stages
overlap then, and the memory is that of both batches.
"""

import argparse
import contextlib
import json
import math
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np

from common.files import complain, printable, say
from common.weights import UnavailableError
from dataloaders import ImageError, load_image
from evaluation.overlap import imap_overlapped
from evaluation.processes import imap_forked, is_rank_0, pace
from evaluation.setup import Run, prepare
from metrics import SetValue, is_per_image
from presets import PresetError
from reporting.paper import beside_paper
from reporting.reading import NoRunError
from reporting.records import read_records
from reporting.rows import FAILED, RECORD
from reporting.tables import append_results
from reporting.write import write_report

WATCH_SECONDS = 0.5  # between two looks at what the other processes have done


def evaluate(args: argparse.Namespace, method: str) -> int:
    """Run `method` ("PIC" or "PICS") over the images of `args`.

    Return 0 if all images are done, 1 if some work failed or another run has the folder, 2 for
    wrong usage and other settings than the folder's, 130 after Ctrl-C.
    """
    with contextlib.ExitStack() as held:  # the lock of the run's folder
        try:
            run = prepare(args, method, held)
        except (PresetError, UnavailableError, OSError) as error:
            return give_up(error, 1)
        except ValueError as error:
            return give_up(error, 2)
        except KeyboardInterrupt:
            return give_up("stopped before the first image", 130)
        try:
            return work_and_finish(run, args.batch_size)
        except (OSError, NoRunError) as error:
            return give_up(error, 1)
        except BrokenProcessPool:
            cure = "out of memory? resume with a smaller --batch_size"
            return give_up(f"a worker was killed; {cure}", 1)


def give_up(error: object, status: int) -> int:
    """Print an error once, whatever the number of processes; return the exit status."""
    if is_rank_0():
        complain(f"error: {error}")
    return status


def work_and_finish(run: Run, batch_size: int) -> int:
    """Do the images and, in rank 0, write the report; return the exit status."""
    try:
        work(run, batch_size)
        return finish(run) if run.group.is_rank_0 else 0
    except KeyboardInterrupt:
        # Launchers send it twice, and the report is to be whole.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return finish(run, stopped=True) if run.group.is_rank_0 else 130


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

    def tell_pace(self, seconds: float, images: int) -> None:
        """Say how long an image takes, as measured on the first batch."""
        with self.bar.external_write_mode(sys.stderr):
            complain(pace(seconds, images))

    def watch(self) -> None:
        """Wait until the other processes are through."""
        while self.waiting:
            time.sleep(WATCH_SECONDS)
            self.refresh()


def work(run: Run, batch_size: int) -> None:
    """Do this process's part of the images, and in rank 0 wait for the other processes."""
    parts = split(run.group.own(run.todo), batch_size, run.workers)
    with imap_parts(run, parts) as done:
        if not run.group.is_rank_0:
            for _ in done:
                pass
            return
        monitor = ProgressMonitor(run.folder, run.samples.names)
        begun = time.perf_counter()
        with contextlib.closing(monitor.bar):
            for number, _ in enumerate(done):
                monitor.refresh()
                if run.slow and number == 0:
                    monitor.tell_pace(time.perf_counter() - begun, len(parts[0]))
            monitor.watch()


def imap_parts(
    run: Run, parts: Sequence[Sequence[int]]
) -> contextlib.AbstractContextManager[Iterator[None]]:
    """Do batches: with a GPU the CPU's work beside it, on a CPU in forked workers or here."""
    if run.threads and parts:
        return imap_overlapped(run.evaluator, parts, run.samples, run.threads)
    return imap_forked(lambda part: run.evaluator.do(part, run.samples), parts, run.workers)


def split(images: Sequence[int], batch_size: int, workers: int) -> list[Sequence[int]]:
    """Split images into batches; those of all workers together make a batch, and get smaller
    towards the end.
    """
    if not workers:
        return [images[start : start + batch_size] for start in range(0, len(images), batch_size)]
    parts, start = [], 0
    while start < len(images):
        rest = len(images) - start
        # Not more than half of what is left, so that all are busy to the end.
        size = min(batch_size // workers, math.ceil(rest / (2 * workers)))
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
        complain(f"failed: {printable(name)}: {reason}")
    for name, reason in missing.items():
        complain(f"not available: {printable(name)}: {reason}")
    if stopped:
        done = f"{summary['images']} of {len(run.samples)} images are done"
        complain(f"stopped: {done}; start it again to resume")
    for line in beside_paper(run.method, run.samples.name, run.samples.short_side, summary):
        complain(line)
    say(json.dumps(summary))
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
    failures = {}
    for name in names:
        path = folder / f"{name}{FAILED}"
        if path.exists():
            failures[name] = path.read_text(encoding="utf-8").strip()
    return failures


def pairs(folder: Path, names: Sequence[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (original, reconstruction) of the images that are done, one by one."""
    for name in names:
        yield load_image(folder / f"{name}_original.png"), load_image(folder / f"{name}_recon.png")

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
    <name>_webp.png           that of --baselines webp, and so on (--keep baselines)
    <name>_caption.yaml       the record: prompt, seed, bytes and bpp of each layer, the SHA-256 of
                              the file, metrics, baselines, seconds, memory

of which --keep says what stays. The first thousand images have their files in the run's folder,
each later thousand in one below it, 000001/ and so on. For the run there are results.csv,
results.jsonl, baselines.csv, summary.json and index.html.

The records are the lines of results.jsonl (`reporting/log.py`), and so is why an image could not be
done. While a run is at work each process appends to results-<start>-<rank>.jsonl, after the files
of its images, a batch at a time; what is there is on the disk. Nothing that is done with a batch
depends on how many images there are. An image whose record and file hold is not done again, and a
run that was killed ends, started again, with the results that it would have had. Every few minutes,
and at the end, tables, averages and page are made of the records. `.lock` keeps others out of the
folder meanwhile (`lock.py`). Two runs differ in `seconds` and `memory` alone:

    seconds_<stage>           prompt (search), sketch (annotator), candidates (generating and
                              choosing), coding (sketch and color codec, file), decoding (of the
                              file), metrics, baselines; what the images of a batch share is divided
                              equally
    memory_process            peak resident bytes since the batch began, of the process that did the
                              image (Linux); the processes of a run share a part of them
    memory_gpu                peak bytes of tensors on the GPU since then

On a GPU the CPU's work of a batch goes on beside the GPU's work of the next (`overlap.py`): stages
overlap then, and the memory is that of both batches. On a CPU the files of the next batches are
read ahead in threads (`ahead.py`).
"""

import argparse
import contextlib
import json
import math
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool

import numpy as np

from common.files import complain, printable, say
from common.weights import UnavailableError
from dataloaders import ImageError, load_image
from evaluation.ahead import read_ahead
from evaluation.evaluator import Outcome
from evaluation.overlap import imap_overlapped
from evaluation.processes import imap_forked, is_rank_0
from evaluation.progress import Progress, Reports
from evaluation.setup import Run, prepare
from metrics import SetValue, is_per_image
from presets import PresetError
from reporting.log import DONE, Entries, LogFollower, LogWriter, log_path, merge, scan
from reporting.paper import beside_paper
from reporting.reading import NoRunError
from reporting.write import write_report


def evaluate(args: argparse.Namespace, method: str) -> int:
    """Run `method` ("PIC" or "PICS") over the images of `args`.

    Return 0 if all images are done, 1 if some work failed or another run has the folder, 2 for
    wrong usage and other settings than the folder's, 130 after Ctrl-C.
    """
    if args.engine == "ray":
        from evaluation import cluster_run

        return cluster_run.evaluate(args, method)
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


def work(run: Run, batch_size: int) -> None:
    """Do this process's part of the images, and in rank 0 wait for the other processes."""
    parts = split(run.group.own(run.todo), batch_size, run.workers)
    with (
        LogWriter(log_path(run.folder, run.start, run.group.rank)) as log,
        contextlib.closing(ended(run, parts, log)) as batches,
    ):
        if run.group.is_rank_0:
            show(run, batches, parts)
        for _ in batches:
            pass


def show(run: Run, batches: Iterator[int], parts: Sequence[Sequence[int]]) -> None:
    """Show and report what is done, until all processes are through."""
    others = [log_path(run.folder, run.start, rank) for rank in range(1, run.group.size)]
    reports = Reports(report_command(run))
    begun = time.perf_counter()
    with Progress(len(run.samples), len(run.todo), LogFollower(others), reports) as progress:
        for number, images in enumerate(batches):
            progress.take(images)
            if run.slow and number == 0:
                progress.tell_pace(time.perf_counter() - begun, len(parts[0]))
        progress.watch()


def ended(run: Run, parts: Sequence[Sequence[int]], log: LogWriter) -> Iterator[int]:
    """Do batches; yield how many images ended since the last time, which are in the log.

    After an error or Ctrl-C, what had ended by then is in the log.
    """
    try:
        with imap_parts(run, parts) as done:
            for outcomes in done:
                log.append([outcome.line for outcome in outcomes])
                yield len(outcomes)
    finally:
        if run.evaluator:
            log.append([outcome.line for outcome in run.evaluator.outcomes()])


def imap_parts(
    run: Run, parts: Sequence[Sequence[int]]
) -> contextlib.AbstractContextManager[Iterator[list[Outcome]]]:
    """Do batches: with a GPU the CPU's work beside it, on a CPU in forked workers or here."""
    if run.threads and parts:
        return imap_overlapped(run.evaluator, parts, run.samples, run.threads)
    ahead = read_ahead(parts, run.samples)
    workers = min(run.workers, len(parts))
    return imap_forked(lambda part: run.evaluator.do(part, run.samples), ahead, workers)


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


def report_command(run: Run) -> list[str]:
    """Return the command that writes the report of what is done by then."""
    command = [sys.executable, "-m", "reporting.so_far", str(run.folder.absolute())]
    return [*command, run.samples.name, run.method, *sys.argv]


def finish(run: Run, stopped: bool = False) -> int:
    """Write the report of what is done and return the exit status; a run that was stopped measures
    no sets.
    """
    entries = scan(run.folder, run.samples.names)
    set_values = {} if stopped else set_metrics(run, entries)
    missing = run.before.get("not_available", {}) | run.metrics.unavailable
    summary = write_report(entries, run.samples.name, run.method, set_values, missing)
    if run.group.is_single or not stopped:  # no other process is writing
        merge(entries)
    for name, reason in summary["reasons"].items():
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
    return 1 if summary["failed"] else 0


def set_metrics(run: Run, entries: Entries) -> dict[str, SetValue]:
    """Measure the metrics of sets; what an earlier start measured of the same images is kept."""
    earlier = {name: SetValue(**value) for name, value in run.before.get("set", {}).items()}
    try:
        return earlier | run.metrics.over_set(pairs(entries))
    except ImageError as error:  # a broken image in the reference
        sets = [row.name for row in run.metrics.rows if not is_per_image(row.name)]
        run.metrics.unavailable.update(dict.fromkeys(sets, str(error)))
        return earlier


def pairs(entries: Entries) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (original, reconstruction) of the images that are done, one by one."""
    for number in np.flatnonzero(entries.state == DONE):
        stem = entries.place(number) / entries.names[number]
        yield load_image(f"{stem}_original.png"), load_image(f"{stem}_recon.png")

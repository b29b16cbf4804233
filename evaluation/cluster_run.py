"""Runs with `--engine ray`: the evaluator as actors of Ray Data, here or on a cluster.

    python eval_PICS.py --data_root PHOTOS --engine ray
    python eval_PICS.py --data_root SHARED/PHOTOS --output SHARED/RUNS --engine ray --address auto
    python eval_PICS.py --data_root SHARED/PHOTOS --output s3://BUCKET/RUNS --engine ray ...
    python report.py SHARED/RUNS/PICS_tiny_PHOTOS

The run's folder and the images lie where all machines see them. The folder, or what a URI names in
its place (`reporting/output.py`), holds

    data/*.parquet      what became of each image (`reporting/cluster.py`), some hundred in a file
    settings.json       as of every run; what was done with others is not gone on with

and, when the run or report.py has ended, tables, averages, page, and the files of the images that
the page shows; of a URI's run these lie in recon_examples/ of this machine. An image that cannot be
done is a row with its reason, and so is one that killed its worker MOST_TRIES times. Started again,
a run does what has no row, and what failed.
"""

import argparse
import asyncio
import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allocation import load_encoder
from common.device import choose_device
from common.files import complain, printable, say
from common.weights import UnavailableError
from dataloaders import ImageError, Sample, Samples, load_sample, load_samples
from diffusion.execution import check
from evaluation.cluster import (
    MOST_TRIES,
    attempt,
    connected,
    has_gpus,
    killed,
    processes_here,
    through_actors,
    tries,
)
from evaluation.evaluator import Evaluator, Outcome
from evaluation.flags import encoder_config, row_of
from evaluation.folder import refuse_others
from evaluation.lock import locked
from evaluation.overlap import do_in_turns, overlap_pool
from evaluation.processes import ProcessGroup, one_thread
from evaluation.setup import (
    check_kept,
    draws_together,
    load_baselines,
    load_metrics,
    settings_of,
    threads_for,
)
from evaluation.timing import Stopwatch
from metrics import is_per_image
from presets import PresetError
from reporting.cluster import clear, collect, columns_kept, finished, remove_rows
from reporting.output import DATA, Output, open_output
from reporting.reading import NoRunError
from shards import Member

if TYPE_CHECKING:
    import pyarrow

# Batches that an actor with a GPU has at a time: one is read, one generated, one finished. So many
# times as many are a block, at whose end it waits for all of them.
AT_ONCE, IN_BLOCK = 3, 5
MOST_ROWS = {"all": 100, "streams": 1000, "none": 1000}  # in a file, by --keep
Load = Callable[[argparse.Namespace, str, str], Evaluator]


# ---- in an actor


def load_evaluator(args: argparse.Namespace, method: str, device: str) -> Evaluator:
    """Return what does images with the models of a run's arguments. Raises as `setup.prepare`."""
    timer, config = Stopwatch(), encoder_config(args, method == "PICS")
    check(config.execution, device)
    group = ProcessGroup(device)
    with one_thread(device == "cpu"):
        encoder = load_encoder(row_of(args, args.preset), config, device, timer)
    encoder.prompter.search = replace(encoder.prompter.search, progress=False)
    metrics = load_metrics(args, encoder, group, None)
    together = config.together if draws_together(args.draw, device) else 1
    baselines = load_baselines(args, group)
    return Evaluator(encoder, metrics, baselines, timer, device, together, args.keep)


class Worker:
    """Does batches of images with models that it loads once.

    counter: from `cluster.tries`.
    """

    def __init__(self, load: Load, args: argparse.Namespace, method: str, counter: Any):
        import torch

        device = choose_device(args.device)
        if device == "cpu":
            torch.set_num_threads(1)
        self.evaluator, self.counter = load(args, method, device), counter
        self.short_side, self.keep = args.preset.short_side, args.keep

    def __call__(self, images: "pyarrow.Table") -> "pyarrow.Table":
        """Return the rows of a batch of images; `images` is from `image_table`."""
        rows = images.to_pylist()
        outcomes: list[Outcome] = []
        with attempt(self.counter, tuple(row["name"] for row in rows)) as before:
            if not before:
                outcomes = self.do(rows)
            else:  # one of them killed a worker
                for row in rows:
                    outcomes += self.do_alone(row)
        return outcome_table(outcomes, self.keep)

    def do_alone(self, row: dict) -> list[Outcome]:
        """Do one image of a batch that killed a worker, which was the first time."""
        with attempt(self.counter, row["name"]) as before:
            if before < MOST_TRIES - 1:
                return self.do([row])
            evaluator = self.evaluator.apart()
            evaluator.fail(row["index"], row["name"], killed())
            return evaluator.outcomes()

    def do(self, rows: Sequence[dict]) -> list[Outcome]:
        """Read images and do them together."""
        evaluator, samples = self.evaluator.apart(), []
        for row in rows:
            source = row["path"]
            if row["size"] is not None:
                source = Member(source, row["offset"], row["size"])
            try:
                samples.append(load_sample(source, self.short_side, row["name"], row["index"]))
            except ImageError as error:
                evaluator.fail(row["index"], row["name"], error)
        return self.do_samples(evaluator, samples)

    def do_samples(self, evaluator: Evaluator, samples: Sequence[Sample]) -> list[Outcome]:
        """Do images that have been read."""
        return evaluator.do_samples(samples)


class GpuWorker(Worker):
    """Has several batches at a time: one is at work on the GPU, beside the CPU's work of others.

    Calling it is a coroutine, so that Ray Data calls it so often.
    """

    def __init__(self, load: Load, args: argparse.Namespace, method: str, counter: Any):
        super().__init__(load, args, method, counter)
        execution = encoder_config(args, method == "PICS").execution
        threads = threads_for(self.evaluator.device, execution, processes_here())
        self.gpu, self.held = threading.Lock(), contextlib.ExitStack()  # until the actor ends
        self.pool = None
        if threads:
            self.pool = self.held.enter_context(overlap_pool(self.evaluator, threads))
        self.calls = ThreadPoolExecutor(AT_ONCE)

    async def __call__(self, images: "pyarrow.Table") -> "pyarrow.Table":  # type: ignore[override]
        """Return the rows of a batch of images; `images` is from `image_table`."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.calls, super().__call__, images)

    def do_samples(self, evaluator: Evaluator, samples: Sequence[Sample]) -> list[Outcome]:
        """Do images that have been read."""
        if self.pool:
            return do_in_turns(evaluator, samples, self.gpu, self.pool)
        with self.gpu:
            return evaluator.do_samples(samples)


# ---- tables


def image_table(samples: Samples, todo: Sequence[int]) -> "pyarrow.Table":
    """Return where images are: name, index, path, and of members of a shard offset and size."""
    rows = []
    for index in todo:
        source = samples.paths[index]
        if not isinstance(source, Member):
            source = Member(source, None, None)
        path = str(Path(source.path).absolute())
        place = {"path": path, "offset": source.offset, "size": source.size}
        rows.append({"name": samples.names[index], "index": index, **place})
    fields = [("name", "string"), ("index", "int64"), ("path", "string")]
    fields += [("offset", "int64"), ("size", "int64")]
    return _table(rows, fields)


def outcome_table(outcomes: Sequence[Outcome], keep: str) -> "pyarrow.Table":
    """Return what became of images: name, index, failure, line of the log, and what stays."""
    rows = []
    for outcome in outcomes:
        row = {"name": outcome.name, "index": outcome.index, "failure": outcome.failure}
        rows.append({**row, "line": outcome.line, **outcome.files})
    fields = [("name", "string"), ("index", "int64"), ("failure", "string"), ("line", "binary")]
    fields += [(kind, "binary") for kind in columns_kept(keep)]
    return _table(rows, fields)


def _table(rows: list[dict], fields: Sequence[tuple[str, str]]) -> "pyarrow.Table":
    import pyarrow

    return pyarrow.Table.from_pylist(rows, pyarrow.schema(fields))


# ---- in the driver


def evaluate(args: argparse.Namespace, method: str, load: Load = load_evaluator) -> int:
    """Run `method` ("PIC" or "PICS") with Ray; return the exit status, as `loop.evaluate`."""
    try:
        return run(args, method, load)
    except (PresetError, UnavailableError, OSError, NoRunError) as error:
        complain(f"error: {error}")
        return 1
    except ValueError as error:
        complain(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        complain("stopped: what was written is there; start it again to go on")
        return 130


def run(args: argparse.Namespace, method: str, load: Load) -> int:
    """Do the images that are not done, and report. Raises ValueError, OSError, NoRunError."""
    samples = load_samples(args.data_root, args.dataset, args.preset.short_side)
    check_arguments(args, samples)
    encoder_config(args, method == "PICS")  # what contradicts is refused before Ray starts
    output = open_output(args.output, f"{method}_{args.preset.name}_{samples.name}")
    with locked(output.folder):
        todo = prepare(args, method, samples, output)
        if todo:
            with connected(args.address):
                work(args, method, load, image_table(samples, todo), output)
        return finish(output, samples.name, method)


def check_arguments(args: argparse.Namespace, samples: Samples) -> None:
    """Raise ValueError for what the loop alone can do."""
    check_kept(args, samples.names)
    sets = [name for name in args.metrics if not is_per_image(name)]
    if sets:
        raise ValueError(f"--engine ray measures no metrics of sets: leave out {','.join(sets)}")
    if args.keep not in MOST_ROWS:
        raise ValueError(f"--engine ray has no --keep {args.keep}: choose {', '.join(MOST_ROWS)}")
    if samples.is_stream:
        raise ValueError("--engine ray reads folders and tar shards, no data set of the hub")


def prepare(args: argparse.Namespace, method: str, samples: Samples, output: Output) -> list[int]:
    """Make the output ready; return the images that are to be done. Raises ValueError if it holds a
    run with other settings.
    """
    settings = settings_of(args, method) | {"keep": args.keep}
    if args.overwrite:
        output.check_folder(None)
        remove_rows(output)
    else:
        before = output.settings()
        if before is not None:
            refuse_others(output.name, before, settings)
        output.check_folder(settings)
    clear(output)
    output.write_settings(settings)
    done = finished(output)
    return [index for index, name in enumerate(samples.names) if name not in done]


def work(
    args: argparse.Namespace, method: str, load: Load, images: "pyarrow.Table", output: Output
) -> None:
    """Do images and write their rows. Raises RayError."""
    import ray

    gpu = has_gpus(args.device)
    rows = ray.data.from_arrow(list(blocks_of(images, args.batch_size, gpu)))
    arguments = (load, args, method, tries())
    rows = through_actors(rows, GpuWorker if gpu else Worker, arguments, gpu, args.batch_size)
    size = min(MOST_ROWS[args.keep], max(args.batch_size, len(images) // 100))
    rows.write_parquet(
        DATA,
        filesystem=output.files,
        try_create_dir=False,  # it is there, or needs not be
        min_rows_per_file=size,
        ray_remote_args={"num_cpus": 0},
    )


def blocks_of(
    images: "pyarrow.Table", batch_size: int, gpu: bool = False
) -> Iterator["pyarrow.Table"]:
    """Yield what an actor does at a time: a batch, or with a GPU several."""
    size = batch_size * (AT_ONCE * IN_BLOCK if gpu else 1)
    for first in range(0, len(images), size):
        yield images.slice(first, size)


def finish(output: Output, dataset: str, method: str) -> int:
    """Write the report of what is done; return the exit status."""
    summary = collect(output, dataset, method)
    for name, reason in summary["reasons"].items():
        complain(f"failed: {printable(name)}: {reason}")
    if output.is_apart:
        say(f"report of {output.name}: {output.folder / 'index.html'}")
    say(json.dumps(summary))
    return 1 if summary["failed"] else 0

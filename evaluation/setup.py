"""What a run does before its first image: check the arguments, load the models, take its folder."""

import argparse
import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from allocation import load_encoder
from codec import Encoder
from common.files import complain, printable, without_secrets
from common.weights import UnavailableError
from dataloaders import Samples, load_samples
from diffusion.execution import Execution, check
from evaluation.evaluator import PICTURES, Evaluator, store_in
from evaluation.flags import KID_SUBSETS, encoder_config, row_of, utf8
from evaluation.folder import claim, earlier_summary, take
from evaluation.overlap import overlap_threads
from evaluation.processes import ProcessGroup, is_slow, join, one_thread, worker_count
from evaluation.timing import Stopwatch
from metrics import MetricSet, Tools, Unavailable, is_per_image
from metrics.baselines import Codec, load_codec
from metrics.tools import PAPER_KID_SUBSET
from prompt_inversion.clip import Clip, load_clip


@dataclass(frozen=True, eq=False)
class Run:
    """One run as one of its processes sees it."""

    method: str  # "PIC" or "PICS"
    folder: Path
    samples: Samples
    todo: Sequence[int]  # images that are not done, the same ones in all processes
    group: ProcessGroup
    evaluator: Evaluator | None  # None if nothing is left for this process
    metrics: MetricSet  # of images if some are left, of sets in rank 0
    workers: int  # that do images side by side; 0: this process does them
    before: dict  # summary.json of an earlier start, if nothing is left
    threads: int = 0  # that do the CPU's work beside a GPU's; 0: none
    slow: bool = False  # an image takes minutes
    start: int = 1  # how often the run has been started


def prepare(args: argparse.Namespace, method: str, held: contextlib.ExitStack) -> Run:
    """Check the arguments, take the run's folder until `held` is closed, load the models.

    Raises ValueError, PresetError, UnavailableError, OSError (LockError: another run has the
    folder).
    """
    if isinstance(args.output, str):
        where = printable(without_secrets(args.output))
        raise ValueError(f"--output {where}: a URI needs --engine ray; name a folder")
    samples = load_samples(args.data_root, args.dataset, args.preset.short_side)
    check_kept(args, samples.names)
    reference = load_reference(args, len(samples))
    folder = args.output / f"{method}_{args.preset.name}_{samples.name}"
    settings = settings_of(args, method)
    group, timer = join(args.device), Stopwatch()
    config = encoder_config(args, method == "PICS")
    check(config.execution, group.device)
    taken = take(held, folder, settings, samples.names, args.keep, args.overwrite, group)
    todo = taken.todo
    encoder, workers = None, 0
    if group.own(todo):
        with one_thread(group.device == "cpu"):
            encoder = load_encoder(row_of(args, args.preset), config, group.device, timer)
        if not samples.is_stream:
            workers = workers_for(encoder, group.device, args.batch_size)
        if workers or not group.is_single:  # one bar, that of rank 0, for all processes
            prompter = encoder.prompter
            prompter.search = dataclasses.replace(prompter.search, progress=False)
    metrics = load_metrics(args, encoder, group, reference)
    evaluator = None
    if encoder:
        baselines = load_baselines(args, group)
        together = config.together if draws_together(args.draw, group.device) else 1
        store = partial(store_in, folder)
        parts = encoder, metrics, baselines, timer, group.device, together, args.keep, store
        evaluator = Evaluator(*parts)
    before = {}
    if group.is_rank_0:
        before = {} if todo else earlier_summary(folder)
        claim(folder, settings, samples.names, taken, args.overwrite)
    group.barrier()
    threads = threads_for(group.device, config.execution)
    slow = encoder is not None and is_slow(group.device, encoder.decoder.generator.parameters)
    if slow and group.is_rank_0:
        complain(f"{args.preset.name} on a CPU: minutes an image, said after the first batch")
    rest = group, evaluator, metrics, workers, before, threads, slow, taken.start
    return Run(method, folder, samples, todo, *rest)


def check_kept(args: argparse.Namespace, names: Sequence[str]) -> None:
    """Raise ValueError if two images would write one file, or metrics of sets have no pictures."""
    if args.keep in PICTURES:
        check_names(names)
        return
    sets = [name for name in args.metrics if not is_per_image(name)]
    if sets:
        raise ValueError(
            f"--metrics {','.join(sets)} compares the pictures of a run, and --keep {args.keep} "
            "keeps none: leave one of them out"
        )


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
        "bytes",
        "allocations",
        "color_bytes",
        "prompt",
        "prompt_len",
        "prompt_bytes",
        "prompt_bits",
    ]
    names += ["prompt_ascending", "prompt_steps", "prompt_seconds", "seed"]
    if method == "PICS":
        names += ["lam_sketch"]
    for name in names:
        value = getattr(args, name)
        settings[name] = utf8(value) if isinstance(value, str) else value
    chosen = [name for name in args.metrics if is_per_image(name)]
    # As in the folders of runs that knew no other search.
    search = None if args.prompt_search == "fast" else args.prompt_search
    return settings | {
        "prompt_from": args.prompt_from or args.preset.prompt_from,
        "layers": ",".join(args.layers) if args.layers else None,
        "prompt_search": search,
        "consistency": None if args.consistency == "on" else args.consistency,
        "metrics": ",".join(chosen),
        "judge": utf8(args.judge) if args.judge else args.judge,
        "baselines": ",".join(args.baselines) or None,
        "engine": None if args.engine == "loop" else args.engine,
    }


def workers_for(encoder: Encoder, device: str, batch_size: int) -> int:
    """Return how many workers to fork, for an image each; 0: this process does the batch, on all
    cores or a GPU.
    """
    if batch_size == 1:
        return 0
    return min(worker_count(device, encoder.decoder.generator.parameters), batch_size)


def threads_for(device: str, execution: Execution, processes: int = 0) -> int:
    """Return how many threads do the CPU's work beside the GPU's; 0: without a GPU, or if one
    thread at a time may use the models there. processes: as of `overlap_threads`.
    """
    return 0 if device == "cpu" or execution.memory != "all" else overlap_threads(processes)


def draws_together(draw: str | None, device: str) -> bool:
    """Return whether the reconstructions of a batch are generated together: by default on a GPU."""
    return draw == "together" or (draw is None and device != "cpu")


def load_baselines(args: argparse.Namespace, group: ProcessGroup) -> dict[str, Codec]:
    """Load the image formats to compare with. Raises UnavailableError if one cannot be had."""
    return {name: load_codec(name, group.device) for name in args.baselines}


def load_reference(args: argparse.Namespace, images: int) -> Samples | None:
    """Return the images of `--reference`; None without it.

    images: how many are to be measured. Raises ValueError if KID's subsets have more than these, or
    than the reference.
    """
    if not args.reference:
        return None
    reference = load_samples(args.reference, None, args.preset.short_side)
    size = kid_subset_size(args)
    if "kid_folder" in args.metrics and min(images, len(reference)) < size:
        raise ValueError(
            f"kid_folder compares subsets of {size}, of {images} images and {len(reference)} of "
            "the reference: name fewer with --kid_subset_size"
        )
    return reference


def kid_subset_size(args: argparse.Namespace) -> int:
    """Return the size of KID's subsets: that of the flag, or the paper's for the data set."""
    return args.kid_subset_size or KID_SUBSETS.get(args.dataset, PAPER_KID_SUBSET)


def load_metrics(
    args: argparse.Namespace,
    encoder: Encoder | None,
    group: ProcessGroup,
    reference: Samples | None,
) -> MetricSet:
    """Load metrics: of images if there is an encoder, of sets in rank 0, which measures them."""
    from annotator import load_annotator

    names = []
    for name in args.metrics:
        if encoder if is_per_image(name) else group.is_rank_0:
            names.append(name)
    tools = {"device": group.device, "kid_subset_size": kid_subset_size(args)}
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
    if reference:
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

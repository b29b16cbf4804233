"""Draw the sketches of a folder of images, in the layout that train_compressai.py reads.

    python generate_sketches.py --data_root IMAGES --out runs/sketches --short_side 256 512

Writes OUT/train/NAME.png and OUT/test/NAME.png, and with --valid OUT/valid/NAME.png: gray, 255 =
edge, at the coded size. With several short sides the names are NAME_256.png and NAME_512.png. An
image's split depends only on the hash of its name, a sketch only on its image and the annotator,
not on the number of workers. Existing sketches are skipped, so a stopped run can be resumed, and it
ends with the same files. OUT/settings.json prevents a mix of different settings, OUT/.lock a second
run at the same time. The last line on stdout is a JSON summary.
"""

import argparse
import hashlib
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from annotator import split_name, table
from common import files
from common.files import complain, printable, say
from common.weights import UnavailableError
from evaluation.lock import locked, remove_temporary

SPLITS = ("train", "valid", "test")
SETTINGS = ("dataset", "sketch_type", "short_side", "valid", "test")  # what decides the files
MOST_WORKERS = 4  # by default
MAX_SETTINGS_BYTES = 1 << 20
IMAGES_PER_WORKER = 32  # at least; a worker takes seconds to start


class Job(NamedTuple):
    """An image and the sketches that it lacks: short side -> file."""

    name: str
    path: str
    missing: dict[int, Path]


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows the defaults of the flags, and keeps the lines of the table of annotators."""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the parsed flags; wrong ones end the program with status 2."""
    epilog = f"annotators (NAME:PATH takes weights from this machine):\n{table()}"
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], epilog=epilog, formatter_class=HelpFormatter
    )
    add_flags(parser)
    args = parser.parse_args(argv)
    if not (args.test > 0 and args.valid >= 0 and args.test + args.valid < 1):
        parser.error(
            f"--test {args.test} --valid {args.valid}: fractions must be positive "
            "and leave some for train/"
        )
    if args.workers < 0:
        parser.error(f"--workers {args.workers}: must not be negative")
    args.short_side = sorted(set(args.short_side))
    return args


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add all flags."""
    add = parser.add_argument
    add("--data_root", required=True, metavar="DIR", help="images, in class folders or not")
    help_dataset = "one of the paper's layouts under --data_root: CLIC2020, CLIC2021, DIV2K, Kodak"
    add("--dataset", help=help_dataset)
    add("--out", required=True, metavar="DIR", help="folder of the results")
    default = "hed-tiny"
    help_type = "annotator, see the table below"
    add("--sketch_type", type=sketch_type, default=default, metavar="NAME", help=help_type)
    help_side = "short side of the sketches, multiples of 64"
    add("--short_side", type=int, nargs="+", default=[256], metavar="PIXELS", help=help_side)
    help_test = "fraction of the images in test/; at least one image"
    add("--test", type=float, default=0.03, metavar="FRACTION", help=help_test)
    help_valid = "fraction of the images in valid/ (0: no valid/)"
    add("--valid", type=float, default=0.0, metavar="FRACTION", help=help_valid)
    help_workers = f"number of worker processes (0: up to {MOST_WORKERS}, by cores and images)"
    add("--workers", type=int, default=0, help=help_workers)
    add("--cuda", action="store_true", help="use the first GPU")


def sketch_type(text: str) -> str:
    """Parse `--sketch_type`."""
    try:
        split_name(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


# ---- which sketches are to be drawn


def hash_fraction(name: str) -> float:
    """Return 0..1 from the hash of a name: the lowest are test images, the next ones valid."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


def splits(names: Sequence[str], test: float, valid: float = 0.0) -> dict[str, str]:
    """Return {name: "test", "valid" or "train"}.

    test, valid: fractions of the names. A split whose fraction is above 0 has at least one name, if
    there are enough names.
    """
    ranked = sorted(names, key=hash_fraction)
    fractions = [hash_fraction(name) for name in ranked]
    tests = max(1, sum(fraction <= test for fraction in fractions))
    valids = 0
    if valid:
        valids = max(1, sum(fraction <= test + valid for fraction in fractions) - tests)
    chosen = ["test"] * tests + ["valid"] * valids + ["train"] * len(names)
    return dict(zip(ranked, chosen, strict=False))


def claim(out: Path, args: argparse.Namespace) -> None:
    """Make the folders, or resume in them; this process has the lock.

    Raises ValueError if they hold sketches of other settings.
    """
    from reporting.reading import read_object
    from reporting.schema import anything, table

    settings = {"data_root": str(Path(args.data_root).resolve())}
    for name in SETTINGS:
        settings[name] = getattr(args, name)
    file = out / "settings.json"
    if os.path.lexists(file):
        before = read_object(file, table(anything), MAX_SETTINGS_BYTES)
        compare_settings(before, settings, out)
    elif any(any((out / split).glob("*")) for split in SPLITS):
        raise ValueError(
            f"{printable(out)} holds pictures that no settings.json speaks of: choose another --out"
        )
    for split in SPLITS:
        if split != "valid" or args.valid:
            (out / split).mkdir(parents=True, exist_ok=True)
        if (out / split).is_dir():
            remove_temporary(out / split)  # a training would read it
    files.write(file, json.dumps(settings, indent=1).encode())


def compare_settings(before: dict, settings: dict, out: Path) -> None:
    """Raise ValueError if the settings of an earlier run in `out` are different."""
    differing = []
    for name, value in settings.items():
        if before.get(name) != value:
            differing.append(f"{name} {before.get(name)} -> {value}")
    if differing:
        differences = printable("; ".join(differing))[:1000]
        raise ValueError(
            f"{printable(out)} holds sketches of other settings ({differences}): "
            "choose another --out"
        )


def missing_sketches(
    names: Sequence[str], paths: Sequence[str], out: Path, args: argparse.Namespace
) -> list[Job]:
    """Return the images that lack a sketch."""
    split_of = splits(names, args.test, args.valid)
    existing = set()
    for split in SPLITS:
        existing.update(path.name for path in (out / split).glob("*.png"))
    jobs = []
    for name, path in zip(names, paths, strict=True):
        missing = {}
        for side in args.short_side:
            file = f"{name}_{side}.png" if len(args.short_side) > 1 else f"{name}.png"
            if file not in existing:
                missing[side] = out / split_of[name] / file
        if missing:
            jobs.append(Job(name, path, missing))
    return jobs


# ---- drawing


class Drawing:
    """A dataset for torch's DataLoader, whose workers draw: `drawing[i]` does jobs[i].

    It writes the job's sketches and returns the image's name and what is wrong with it, or "".
    """

    def __init__(self, jobs: Sequence[Job], sketch_type: str, device: str):
        self.jobs = jobs
        self.sketch_type = sketch_type
        self.device = device

    def __len__(self) -> int:
        return len(self.jobs)

    @cached_property
    def annotator(self):
        """The annotator, loaded by the process that draws.

        It runs on one thread, so that no sum depends on the number of cores.
        """
        import torch

        from annotator import load_annotator

        torch.set_num_threads(1)
        return load_annotator(self.sketch_type, self.device)

    def __getitem__(self, index: int) -> tuple[str, str]:
        from dataloaders import ImageError, load_image, resize

        job = self.jobs[index]
        try:
            image = load_image(job.path)
            resized = {side: resize(image, side) for side in job.missing}
        except ImageError as error:
            return job.name, str(error)
        for side, file in job.missing.items():
            files.write(file, files.png(self.annotator(resized[side])))
        return job.name, ""


def useful_workers(images: int) -> int:
    """Return how many worker processes save more time than they take to start."""
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    return min(MOST_WORKERS, cores, 1 + images // IMAGES_PER_WORKER)


def draw_all(drawing: Drawing, workers: int) -> Iterator[tuple[str, str]]:
    """Do all jobs in this number of processes; yield what each of them returns."""
    if workers == 1:
        yield from map(drawing.__getitem__, range(len(drawing)))
        return
    from torch.utils.data import DataLoader

    options = {"multiprocessing_context": "spawn", "worker_init_fn": quiet_worker}
    loader = DataLoader(drawing, batch_size=None, num_workers=workers, **options)
    # The workers inherit this: only the main process reacts to Ctrl-C.
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        results = iter(loader)
    finally:
        signal.signal(signal.SIGINT, handler)
    yield from results


def quiet_worker(number: int) -> None:
    """Keep other progress bars and warnings off the terminal."""
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"


def prepare(args: argparse.Namespace, held: ExitStack) -> tuple[int, Drawing]:
    """Lock the folder until `held` is closed; return the number of images, and the jobs left.

    Raises ValueError for wrong usage, UnavailableError if the annotator cannot be loaded, OSError
    (LockError: another run has the folder).
    """
    from annotator import load_annotator
    from common.device import choose_device
    from dataloaders import check_short_side, load_samples

    for side in args.short_side:
        check_short_side(side)
    samples = load_samples(args.data_root, args.dataset, args.short_side[0])
    out = Path(args.out)
    device = choose_device("cuda" if args.cuda else "cpu")
    held.enter_context(locked(out))
    claim(out, args)
    jobs = missing_sketches(samples.names, samples.paths, out, args)
    if jobs:
        # Loaded here first: weights are downloaded once, and an error is one line.
        load_annotator(args.sketch_type, device)
    return len(samples), Drawing(jobs, args.sketch_type, device)


def run(drawing: Drawing, images: int, workers: int) -> tuple[dict[str, str], str]:
    """Do all jobs. Return {name: what is wrong with the image}, and what ended the run early or "".

    images: number of all images, for the progress bar.
    """
    from tqdm import tqdm

    failed = {}
    done = images - len(drawing)
    with tqdm(total=images, initial=done, desc="sketches", unit="image") as bar:
        try:
            for name, wrong in draw_all(drawing, workers):
                bar.update()
                if wrong:
                    failed[name] = wrong
        except KeyboardInterrupt:
            return failed, "stopped"
        except (OSError, RuntimeError) as error:  # a full disk, a worker that was killed
            return failed, str(error).strip().splitlines()[-1]
    return failed, ""


def main(argv: list[str] | None = None) -> int:
    """Draw all sketches that are missing.

    Return 0 when every image has its sketches, 1 when some work failed, 2 for wrong usage, 130
    after Ctrl-C.
    """
    args = parse_args(argv)
    with ExitStack() as held:  # the lock of the folder
        try:
            images, drawing = prepare(args, held)
        except ValueError as error:
            complain(f"generate_sketches.py: {error}")
            return 2
        except (UnavailableError, OSError) as error:
            complain(f"generate_sketches.py: {error}")
            return 1
        except KeyboardInterrupt:
            return 130
        failed, ended = run(drawing, images, args.workers or useful_workers(len(drawing)))
        print_summary(args.out, images, drawing.jobs, failed, ended)
    if ended == "stopped":
        return 130
    return 1 if ended or failed else 0


def print_summary(
    out: str, images: int, jobs: Sequence[Job], failed: dict[str, str], ended: str
) -> None:
    """Print what went wrong on stderr, and the summary on stdout."""
    for name, wrong in failed.items():
        complain(f"failed: {printable(name)}: {wrong}")
    if ended:
        complain(f"{ended}: start it again to go on")
    left = 0
    for job in jobs:
        left += sum(not file.exists() for file in job.missing.values())
    summary = {
        "out": out,
        "images": images,
        "sketches_left": left,
        "failed": sorted(failed),
    }
    say(json.dumps(summary))


if __name__ == "__main__":
    sys.exit(main())

"""Draw the sketches of a folder of photographs, in the layout that train_compressai.py reads.

    python generate_sketches.py --data_root PHOTOGRAPHS --out runs/sketches --short_side 256 512

Writes OUT/train/NAME.png and OUT/test/NAME.png, with --valid OUT/valid/NAME.png too: gray, 255 = edge, the coded
size. Several short sides give NAME_256.png and NAME_512.png. A photograph's split depends on the hash of its name
alone, a sketch on its photograph and the filter alone, not on the number of workers. Sketches that exist are
skipped, so a stopped run goes on where it was and ends with the same files; OUT/settings.json keeps other settings
out. The last stdout line is a JSON summary.
"""

import argparse
import hashlib
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from annotator import split_name, table

SPLITS = ("train", "valid", "test")
SETTINGS = ("data_root", "dataset", "sketch_type", "short_side", "valid", "test")  # what decides the files


class Job(NamedTuple):
    """A photograph and the sketches that it lacks: short side -> file."""

    name: str
    path: str
    missing: dict[int, Path]


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults behind the flags; the table of filters as it is."""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Flags; wrong ones end the program with status 2."""
    epilog = f"filters; NAME:PATH takes weights from this machine:\n{table()}"
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], epilog=epilog, formatter_class=HelpFormatter
    )
    add = parser.add_argument
    add("--data_root", required=True, metavar="DIR", help="photographs, in class folders or not")
    add("--dataset", help="one of the paper's layouts under --data_root: CLIC2020, CLIC2021, DIV2K, Kodak")
    add("--out", required=True, metavar="DIR", help="gets train/ and test/")
    add("--sketch_type", type=sketch_type, default="hed-tiny", metavar="FILTER", help="see the table below")
    add("--short_side", type=int, nargs="+", default=[256], metavar="PIXELS", help="multiples of 64")
    add("--test", type=float, default=0.03, metavar="SHARE", help="of the photographs; at least one")
    add("--valid", type=float, default=0.0, metavar="SHARE", help="of the photographs; 0: no valid/")
    add("--workers", type=int, default=0, help="processes; 0: up to 4, by cores and photographs")
    add("--cuda", action="store_true", help="draw on the first GPU")
    args = parser.parse_args(argv)
    if not (args.test > 0 and args.valid >= 0 and args.test + args.valid < 1):
        parser.error(f"--test {args.test} --valid {args.valid}: shares must be positive and leave some for train/")
    if args.workers < 0:
        parser.error(f"--workers {args.workers}: must not be negative")
    args.short_side = sorted(set(args.short_side))
    return args


def sketch_type(text: str) -> str:
    """Parse `--sketch_type`."""
    try:
        split_name(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def place(name: str) -> float:
    """0..1, from the hash of a photograph's name: the lowest are test photographs, the next valid ones."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


def splits(names: Sequence[str], test: float, valid: float = 0.0) -> dict[str, str]:
    """Name -> "test", "valid" or "train"; no split whose share is above 0 stays empty while there are names."""
    ranked = sorted(names, key=place)
    tests = max(1, sum(place(name) <= test for name in names))
    valids = max(1, sum(place(name) <= test + valid for name in names) - tests) if valid else 0
    chosen = ["test"] * tests + ["valid"] * valids + ["train"] * len(names)
    return dict(zip(ranked, chosen, strict=False))


def claim(out: Path, args: argparse.Namespace) -> None:
    """Make the folders, or go on with them. Raises ValueError where they hold sketches of other settings.

    One run at a time may write to a folder.
    """
    from report import write

    settings = {name: getattr(args, name) for name in SETTINGS} | {"data_root": str(Path(args.data_root).resolve())}
    file = out / "settings.json"
    if file.exists():
        before = json.loads(file.read_text(encoding="utf-8"))
        differing = [f"{name} {before.get(name)} -> {new}" for name, new in settings.items() if before.get(name) != new]
        if differing:
            raise ValueError(f"{out} holds sketches of other settings ({'; '.join(differing)}): choose another --out")
    elif any(any((out / split).glob("*")) for split in SPLITS):
        raise ValueError(f"{out} holds pictures that no settings.json speaks of: choose another --out")
    for split in SPLITS:
        if split != "valid" or args.valid:
            (out / split).mkdir(parents=True, exist_ok=True)
    for torn in out.glob("*/.*.tmp"):  # of a killed run; a training would read it
        torn.unlink()
    write(file, json.dumps(settings, indent=1).encode())


def jobs(names: Sequence[str], paths: Sequence[str], out: Path, args: argparse.Namespace) -> list[Job]:
    """What is left to draw: the photographs that lack a sketch."""
    split_of = splits(names, args.test, args.valid)
    there = {path.name for split in SPLITS for path in (out / split).glob("*.png")}
    left = []
    for name, path in zip(names, paths, strict=True):
        files = {side: f"{name}_{side}.png" if len(args.short_side) > 1 else f"{name}.png" for side in args.short_side}
        missing = {side: out / split_of[name] / file for side, file in files.items() if file not in there}
        if missing:
            left.append(Job(name, path, missing))
    return left


class Drawing:
    """A dataset of torch's DataLoader, whose workers draw: drawing[i] writes the sketches of jobs[i].

    Returns the photograph's name and what is wrong with it, or "".
    """

    def __init__(self, jobs: Sequence[Job], sketch_type: str, device: str):
        self.jobs, self.sketch_type, self.device = jobs, sketch_type, device

    def __len__(self) -> int:
        return len(self.jobs)

    @cached_property
    def annotator(self):
        """Loaded by the process that draws, on one thread, so that no sum depends on the number of cores."""
        import torch

        from annotator import load_annotator

        torch.set_num_threads(1)
        return load_annotator(self.sketch_type, self.device)

    def __getitem__(self, index: int) -> tuple[str, str]:
        from dataloaders import ImageError, load_image, resize
        from report import png, write

        job = self.jobs[index]
        try:
            image = load_image(job.path)
            pictures = {side: resize(image, side) for side in job.missing}
        except ImageError as error:
            return job.name, str(error)
        for side, picture in pictures.items():
            write(job.missing[side], png(self.annotator(picture)))
        return job.name, ""


def worth(photographs: int) -> int:
    """Return how many processes are worth their start, which takes seconds each."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(4, cores, 1 + photographs // 32)


def draw_all(drawing: Drawing, workers: int) -> Iterator[tuple[str, str]]:
    """Yield what each item of `drawing` returns, drawn by so many processes."""
    if workers == 1:
        yield from map(drawing.__getitem__, range(len(drawing)))
        return
    from torch.utils.data import DataLoader

    options = {"multiprocessing_context": "spawn", "worker_init_fn": quiet_worker}
    loader = DataLoader(drawing, batch_size=None, num_workers=workers, **options)
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # workers inherit it: Ctrl-C is for this process to take
    try:
        results = iter(loader)
    finally:
        signal.signal(signal.SIGINT, handler)
    yield from results


def quiet_worker(number: int) -> None:
    """Leave the terminal to the one progress bar."""
    os.environ |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}


def prepare(args: argparse.Namespace) -> tuple[int, Drawing]:
    """Return how many photographs there are, and what is left to draw. Raises ValueError and PresetError."""
    from annotator import load_annotator
    from dataloaders import check_short_side, load_samples

    for side in args.short_side:
        check_short_side(side)
    samples = load_samples(args.data_root, args.dataset, args.short_side[0])
    out, device = Path(args.out), choose_device(args.cuda)
    claim(out, args)
    drawing = Drawing(jobs(samples.names, samples.paths, out, args), args.sketch_type, device)
    if drawing.jobs:
        load_annotator(args.sketch_type, device)  # here first: weights are fetched once, and an error is one line
    return len(samples), drawing


def choose_device(cuda: bool) -> str:
    """Return torch's name of the device. Raises ValueError for a GPU that is not there."""
    if not cuda:
        return "cpu"
    import torch

    if not torch.cuda.is_available():
        raise ValueError("--cuda: PyTorch finds no GPU on this machine")
    return "cuda"


def run(drawing: Drawing, photographs: int, workers: int) -> tuple[dict[str, str], str]:
    """Draw what is left; return what is wrong with which photographs, and what ended the run early, or ""."""
    from tqdm import tqdm

    failed = {}
    with tqdm(total=photographs, initial=photographs - len(drawing), desc="sketches", unit="photo") as bar:
        try:
            for name, wrong in draw_all(drawing, workers):
                bar.update()
                failed |= {name: wrong} if wrong else {}
        except KeyboardInterrupt:
            return failed, "stopped"
        except (OSError, RuntimeError) as error:  # a full disk, a worker that was killed
            return failed, str(error).strip().splitlines()[-1]
    return failed, ""


def main(argv: list[str] | None = None) -> int:
    """Draw; 0 when every photograph has its sketches, 1 when some work failed, 2 for wrong usage, 130 on Ctrl-C."""
    args = parse_args(argv)
    from presets import PresetError

    try:
        photographs, drawing = prepare(args)
    except ValueError as error:
        print(f"generate_sketches.py: {error}", file=sys.stderr)
        return 2
    except (PresetError, OSError) as error:
        print(f"generate_sketches.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    failed, ended = run(drawing, photographs, args.workers or worth(len(drawing)))
    for name, wrong in failed.items():
        print(f"failed: {name}: {wrong}", file=sys.stderr)
    if ended:
        print(f"{ended}: start it again to go on", file=sys.stderr)
    left = sum(not file.exists() for job in drawing.jobs for file in job.missing.values())
    print(json.dumps({"out": args.out, "photographs": photographs, "sketches_left": left, "failed": sorted(failed)}))
    if ended == "stopped":
        return 130
    return 1 if ended or failed else 0


if __name__ == "__main__":
    sys.exit(main())

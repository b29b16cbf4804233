"""Two runs started at once in one folder: who works, what the other says, what is left.

stub(monkeypatch.setattr, pause_s=0.02)
expected = files_by_seed(photos, tmp_path, SEEDS)
assert race("fresh", photos, tmp_path / "out", expected).wrong == []
"""

import json
import multiprocessing
import os
import socket
import sys
import threading
import time
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from evaluation.folder import check_done
from evaluation.lock import LOCK
from helpers.stub_run import run
from reporting.reading import NoRunError

NAMES = tuple(f"p{i}" for i in range(4))
SEEDS = (1, 2)  # of the two runs, so that their files differ
NO_PROCESS = 99_999_999  # an id that no system gives
KINDS = ("fresh", "left lock", "killed run")
REFUSALS = {1: "is in use by process", 2: "holds a run with other settings"}
FORK = multiprocessing.get_context("fork")


@dataclass
class Outcome:
    """What the runs of a race did."""

    statuses: list[int]
    errors: list[str]  # stderr of each
    wrong: list[str] = field(default_factory=list)  # what must not be


def make_photos(folder: Path) -> Path:
    """Make a folder with a picture for each of NAMES."""
    folder.mkdir()
    for i, name in enumerate(NAMES):
        Image.new("RGB", (64, 64), (40 * i, 20, 30)).save(folder / f"{name}.png")
    return folder


def files_by_seed(photos: Path, output: Path) -> dict[int, list[bytes]]:
    """Return the files of an unbroken run with each of SEEDS."""
    found = {}
    for seed in SEEDS:
        start(photos, output / f"unbroken{seed}", seed).join()
        found[seed] = files_of(output / f"unbroken{seed}")
    return found


def files_of(output: Path) -> list[bytes]:
    return [next(output.glob(f"*/{name}.pics")).read_bytes() for name in NAMES]


def start(photos: Path, output: Path, seed: int, log: str = os.devnull, go=None) -> BaseProcess:
    """Fork a run, which begins when the event `go` is set."""
    process = FORK.Process(target=_run, args=(photos, output, seed, log, go))
    process.start()
    return process


def _run(photos: Path, output: Path, seed: int, log: str, go) -> None:
    tqdm.set_lock(threading.RLock())  # a run that was killed may hold the one that forks share
    with Path(log).open("w") as stream:
        sys.stdout = sys.stderr = stream
        if go:
            go.wait()
        status = run(photos, output, "--batch_size", "1", "--seed", str(seed))
    os._exit(status)


def race(kind: str, photos: Path, output: Path, expected: dict[int, list[bytes]]) -> Outcome:
    """Start two runs at once in a folder of one of KINDS; say how they ended."""
    folder = output / f"PICS_tiny_{photos.name}"
    folder.mkdir(parents=True)
    seeds = SEEDS
    if kind == "left lock":
        (folder / LOCK).write_text(json.dumps([[socket.gethostname(), NO_PROCESS, "1"]]))
    if kind == "killed run":
        seeds = (SEEDS[0], SEEDS[0])
        kill_one(photos, output, seeds[0])
    go = FORK.Event()
    logs = [output / f"{number}.txt" for number in range(2)]
    runs = []
    for seed, log in zip(seeds, logs, strict=True):
        runs.append(start(photos, output, seed, str(log), go))
    go.set()
    for process in runs:
        process.join()
    outcome = Outcome([process.exitcode for process in runs], [log.read_text() for log in logs])
    outcome.wrong += wrong_ends(outcome, kind) + wrong_files(folder, output, expected)
    return outcome


def kill_one(photos: Path, output: Path, seed: int) -> None:
    """Kill a run when its first image is done."""
    process = start(photos, output, seed)
    while process.is_alive() and not list(output.glob("*/*_caption.yaml")):
        time.sleep(0.002)
    process.kill()
    process.join()


def wrong_ends(outcome: Outcome, kind: str) -> list[str]:
    """Return what is wrong with the exit statuses and messages: one works, one says why not."""
    wrong = []
    if 0 not in outcome.statuses:
        wrong.append(f"nobody worked: {outcome.statuses}")
    for status, error in zip(outcome.statuses, outcome.errors, strict=True):
        lines = [line for line in error.splitlines() if line.startswith("error: ")]
        if status and (len(lines) != 1 or REFUSALS.get(status, "?") not in lines[0]):
            wrong.append(f"status {status} with {lines}")
        if "Traceback" in error:
            wrong.append("a traceback")
    took_over = sum(error.count("took over") for error in outcome.errors)
    if took_over != (kind != "fresh"):
        wrong.append(f"the lock was taken over {took_over} times")
    return wrong


def wrong_files(folder: Path, output: Path, expected: dict[int, list[bytes]]) -> list[str]:
    """Return what is wrong with a folder: all files are of the run whose settings it has."""
    wrong = []
    seed = json.loads((folder / "settings.json").read_text())["seed"]
    if files_of(output) != expected[seed]:
        wrong.append("files of different runs")
    for name in NAMES:
        try:
            check_done(folder, name)
        except NoRunError as error:
            wrong.append(str(error))
    left = [path.name for path in folder.iterdir() if path.name.startswith(".")]
    return wrong + left

"""A folder of files -> a folder of results: side by side, resumable, with a list of what failed.

    with converting(Path("pictures"), overwrite=False) as conversion:
        todo = conversion.unfinished(jobs, lambda job: file_digest(job.source))
        conversion.work(todo, make, "cpu", parameters)
    return conversion.finish()

`done.jsonl`, in the folder of results, has a line for each of them: its name, its SHA-256 and its
origin, the SHA-256 of all that decides it. A result is kept if file and origin are those of its
line; every other one is made again. So a run that was killed goes on where it stopped, and what is
there is what an unbroken run would have made. While a run is at work, `.lock` keeps others out of
the folder (`lock.py`). A single file is made without all this.
"""

import contextlib
import errno
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import NamedTuple

from common.files import complain, printable, reason_of, say, write
from common.weights import UnavailableError
from evaluation.lock import locked, remove_temporary
from evaluation.processes import imap_forked, is_slow, one_thread, pace, worker_count
from presets import PresetError
from reporting.reading import NoRunError, read_regular

RECORD = "done.jsonl"
MAX_RECORD_BYTES = 1 << 28  # a million results
BLOCK_BYTES = 1 << 20  # read at a time
SPEAKING = (ValueError, OSError, PresetError, UnavailableError)  # errors that need no class name
FAILURES = (*SPEAKING, RuntimeError, ArithmeticError, MemoryError)  # of one file
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # no other result could be written either


class Job(NamedTuple):
    """A file and what is to be made of it."""

    name: str  # for messages
    source: Path
    target: Path  # the result


class Made(NamedTuple):
    """A result."""

    content: bytes
    origin: str  # SHA-256 of all that decides the content; "" if that is not known
    line: str  # about it, for stdout


class Outcome(NamedTuple):
    """What became of a job."""

    job: Job
    line: str = ""  # about the result
    sha256: str = ""  # of the result
    origin: str = ""
    failure: str = ""  # why there is none


class Entry(NamedTuple):
    """A line of the record."""

    file: str
    sha256: str
    origin: str


def do(job: Job, make: Callable[[Job], Made]) -> Outcome:
    """Make a result and write it whole. Raises OSError only if the disk takes no results."""
    try:
        made = make(job)
        write(job.target, made.content)
    except FAILURES as error:
        if getattr(error, "errno", None) in FULL:
            raise
        return Outcome(job, failure=reason_of(error, SPEAKING))
    digest = hashlib.sha256(made.content).hexdigest()
    return Outcome(job, made.line, digest, made.origin)


class Conversion:
    """One run; `converting` makes it.

    folder: of the results; None for a single file.
    """

    def __init__(self, folder: Path | None, entries: dict[str, Entry]):
        self.folder, self.entries = folder, entries
        self.made, self.kept = 0, 0
        self.failed: dict[str, str] = {}  # name: why
        self.bar = None

    def unfinished(self, jobs: Sequence[Job], origin: Callable[[Job], str]) -> list[Job]:
        """Return the jobs that have no result of this origin, and begin the progress bar.

        origin: gives the SHA-256 of all that decides a job's result, "" if that is not known.
        """
        from tqdm import tqdm

        todo = [job for job in jobs if not self._is_done(job, origin)]
        self.kept = len(jobs) - len(todo)
        # None: only on a terminal, so that stderr is otherwise the list of what failed
        disable = None if self.folder else True
        self.bar = tqdm(total=len(jobs), initial=self.kept, unit="file", disable=disable)
        return todo

    def work(
        self, jobs: Sequence[Job], make: Callable[[Job], Made], device: str, parameters: int
    ) -> None:
        """Do jobs, those of a folder side by side if `worker_count` says so.

        With a large model on a CPU, say that, and after the first job how long one takes. A single
        file is done on one core by a small model. Raises OSError if the disk is full or a worker
        was killed.
        """
        workers = min(worker_count(device, parameters), len(jobs))
        alone = workers > 0 and not self.folder
        if alone:
            workers = 0
        slow = is_slow(device, parameters) and bool(jobs)
        if slow:
            complain("this model on a CPU: minutes an image, said after the first")
        begun = time.perf_counter()
        try:
            with (
                one_thread(alone),
                imap_forked(partial(do, make=make), jobs, workers) as outcomes,
            ):
                for number, outcome in enumerate(outcomes):
                    self._take(outcome)
                    if slow and number == 0 and not outcome.failure:
                        self._tell_pace(time.perf_counter() - begun)
        except BrokenProcessPool:
            cure = "out of memory? set OMP_NUM_THREADS to fewer and start it again to go on"
            raise OSError(f"a worker was killed; {cure}") from None

    def work_on_cluster(
        self, jobs: Sequence[Job], load: Callable[[], Callable[[Job], Made]], device: str | None
    ) -> None:
        """Do jobs by actors of the Ray that is connected. load: gives `make`, in an actor; device:
        as --device says.
        """
        from evaluation import cluster, cluster_conversion

        if jobs:
            gpu = cluster.has_gpus(device)
            for outcome in cluster_conversion.outcomes(jobs, load, gpu):
                self._take(outcome)

    def fail(self, jobs: Sequence[Job], error: Exception) -> None:
        """Note that jobs cannot be done."""
        reason = reason_of(error, SPEAKING)
        self.failed |= dict.fromkeys([job.name for job in jobs], reason)
        self.bar.update(len(jobs))

    def end(self) -> None:
        """End the progress bar and list what failed, a line each on stderr."""
        if self.bar is not None:
            self.bar.close()
        for name, why in sorted(self.failed.items()):
            complain(f"failed: {printable(name)}: {why}")

    def finish(self) -> int:
        """Print a summary of a folder, JSON on one line; return the exit status."""
        if self.folder:
            summary = {"made": self.made, "kept": self.kept, "failed": sorted(self.failed)}
            say(json.dumps({"folder": str(self.folder), **summary}))
        return 1 if self.failed else 0

    def _is_done(self, job: Job, origin: Callable[[Job], str]) -> bool:
        entry = self.entries.get(job.target.name)
        if entry is None or file_digest(job.target) != entry.sha256:
            return False
        return origin(job) == entry.origin

    def _tell_pace(self, seconds: float) -> None:
        with self.bar.external_write_mode(sys.stderr):
            complain(pace(seconds, 1))

    def _take(self, outcome: Outcome) -> None:
        if outcome.failure:
            self.failed[outcome.job.name] = outcome.failure
        else:
            self.made += 1
            self._record(outcome)
            with self.bar.external_write_mode():
                say(f"{printable(outcome.job.target)}: {outcome.line}")
        self.bar.update()

    def _record(self, outcome: Outcome) -> None:
        """Note a result; one whose origin is not known is made again next time."""
        if self.folder and outcome.origin:
            entry = Entry(outcome.job.target.name, outcome.sha256, outcome.origin)
            with (self.folder / RECORD).open("a", encoding="utf-8") as file:
                file.write(line_of(entry))


@contextlib.contextmanager
def converting(
    folder: Path | None, overwrite: bool, engine: str = "loop", address: str | None = None
) -> Iterator[Conversion]:
    """Give the run that fills a folder of results, or None: the one that makes a single file.

    The folder is made if there is none, and locked for the block. At the end it holds no half
    files, and what failed is listed on stderr. overwrite: forget what was done before. engine,
    address: as the flags say; with "ray", Ray is connected for the block. Raises LockError if
    another run has the folder, ValueError for a single file with Ray, OSError.
    """
    with contextlib.ExitStack() as held:
        if engine == "ray":
            held.enter_context(cluster_for(folder, address))
        entries = {}
        if folder:
            held.enter_context(locked(folder))
            remove_temporary(folder)
            held.callback(remove_temporary, folder)  # of workers that were ended
            entries = begin_record(folder / RECORD, overwrite)
        conversion = Conversion(folder, entries)
        held.callback(conversion.end)
        yield conversion


def cluster_for(folder: Path | None, address: str | None) -> contextlib.AbstractContextManager:
    """Return a connection to Ray for a folder of results."""
    if folder is None:
        raise ValueError("--engine ray does folders: leave it out for a single file")
    from evaluation.cluster import connected

    return connected(address)


def begin_record(path: Path, overwrite: bool) -> dict[str, Entry]:
    """Return the entries of a record that still count, and leave no others in it."""
    entries = {} if overwrite else read_record(path)
    if entries:
        write(path, "".join(map(line_of, entries.values())).encode())
    else:
        path.unlink(missing_ok=True)
    return entries


def line_of(entry: Entry) -> str:
    """Return a line of the record."""
    return json.dumps(entry._asdict()) + "\n"


def read_record(path: Path) -> dict[str, Entry]:
    """Return {file: its last entry}; {} if there is no record, or none that can be read.

    A line that is no entry, such as the half one of a killed run, is passed over. Raises OSError.
    """
    try:
        content = read_regular(path, MAX_RECORD_BYTES)
    except FileNotFoundError:
        return {}
    except NoRunError as error:
        complain(f"again: {error}")
        return {}
    entries = {}
    for line in content.splitlines():
        with contextlib.suppress(ValueError, TypeError, RecursionError):
            entry = Entry(**json.loads(line))
            if all(entry):
                entries[entry.file] = entry
    return entries


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file; "" if there is none, or none that can be read to its end."""
    digest = hashlib.sha256()
    try:
        if not path.is_file():  # to read a pipe might take for ever
            return ""
        with path.open("rb") as file:
            for block in iter(partial(file.read, BLOCK_BYTES), b""):
                digest.update(block)
    except OSError:
        return ""
    return digest.hexdigest()

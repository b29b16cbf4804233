"""Several processes: those that a launcher started, which share a run, and workers that a process
forks.

    group = join("cpu")                 # of `accelerate launch`, or this process alone
    with imap_forked(do, parts, worker_count(group.device, parameters)) as done:
        for result in done: ...         # one more part is done

One image is too small for several cores, at least with the bundled models, and threads of one
Python process wait for its interpreter. So on a CPU images are done side by side in forked workers
of one thread each: they share the memory of the models, and the results do not depend on the number
of cores.
"""

import contextlib
import gc
import multiprocessing
import os
import signal
import sys
import threading
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    Future,
    ProcessPoolExecutor,
    as_completed,
    wait,
)
from dataclasses import dataclass
from datetime import timedelta
from typing import NoReturn, TypeVar

from common.device import choose_device, tell_device, usable_gpus

LONGEST_WAIT = timedelta(days=30)  # of a process for the others to load their models
WAITING = 4  # parts for each worker that are on their way at a time
SMALL = 100_000_000  # parameters; the UNet of `tiny` has 9 million, that of Stable Diffusion 866

T = TypeVar("T")
Part = TypeVar("Part")
Result = TypeVar("Result")
_do: Callable  # what a forked worker does with a part


def is_rank_0() -> bool:
    """Whether this is the first of the processes that a launcher started, or the only one."""
    return int(os.environ.get("RANK", "0")) == 0


@dataclass(frozen=True, eq=False)
class ProcessGroup:
    """The processes that share a run, as seen from one of them."""

    device: str  # of this process
    state: object = None  # accelerate's PartialState, None for a single process

    @property
    def is_single(self) -> bool:
        """Whether this process is the only one."""
        return self.state is None

    @property
    def rank(self) -> int:
        """The number of this process."""
        return 0 if self.is_single else self.state.process_index

    @property
    def size(self) -> int:
        """The number of processes."""
        return 1 if self.is_single else self.state.num_processes

    @property
    def is_rank_0(self) -> bool:
        """Whether this process shows the progress bar and writes the report."""
        return self.rank == 0

    def own(self, items: Sequence[int]) -> Sequence[int]:
        """Return this process's part of items that all processes have."""
        if self.is_single:
            return items
        with self.state.split_between_processes(list(items)) as part:
            return array("q", part)  # as `items`: see `common.compact`

    def gather(self, value: T) -> list[T]:
        """Return the values that all processes give, by rank; each waits for the others."""
        if self.is_single:
            return [value]
        from accelerate.utils import gather_object

        return gather_object([value])

    def barrier(self) -> None:
        """Wait for all processes."""
        if not self.is_single:
            self.state.wait_for_everyone()


def join(device: str | None) -> ProcessGroup:
    """Return the processes that `accelerate launch` or torchrun started, or this process alone.

    Raises ValueError for a device that is not available or that several processes cannot share.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        if "MASTER_ADDR" in os.environ and "RANK" not in os.environ:
            print(
                "warning: `accelerate launch --cpu` started one process; see docs/scaling.md",
                file=sys.stderr,
            )
        return ProcessGroup(choose_device(device))
    from accelerate import PartialState

    if device not in (None, "cpu"):
        raise ValueError(
            f"--device {device} with several processes: each takes its own GPU, so leave it out"
        )
    check_one_host()
    gpus, reason = ([], "") if device == "cpu" else usable_gpus()
    wanted = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if gpus and wanted > len(gpus):
        raise ValueError(
            f"{wanted} processes for {len(gpus)} GPUs: start one per GPU, or add --device cpu"
        )
    if reason and is_rank_0():
        tell_device(reason)
    cpu = not gpus
    state = PartialState(cpu=cpu, timeout=LONGEST_WAIT)
    return ProcessGroup("cpu" if cpu else str(state.device), state)


def check_one_host() -> None:
    """Raise ValueError if a launcher started processes on several hosts."""
    processes, own = int(os.environ["WORLD_SIZE"]), os.environ.get("LOCAL_WORLD_SIZE")
    if own and int(own) != processes:
        raise ValueError(
            f"{own} of {processes} processes on this host: a launcher starts those of one host; "
            "give each host shards, and an --output, of its own"
        )


def leave(status: int) -> NoReturn:
    """End this process at once, with an exit status.

    To take PyTorch's libraries down in order takes half a second and touches more than 100 MB.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # its reader has gone
            stream.flush()
    os._exit(status)


@contextlib.contextmanager
def one_thread(when: bool) -> Iterator[None]:
    """Let PyTorch use one core in the block, if `when`.

    On a CPU, threads cost more than they help to load models, or to generate with small ones: they
    wait for one another, and use the processor while they do.
    """
    import torch

    threads = torch.get_num_threads()
    if when:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def is_slow(device: str, parameters: int) -> bool:
    """Return whether a photograph takes minutes: a model as large as Stable Diffusion on a CPU."""
    return device == "cpu" and parameters > SMALL


def pace(seconds: float, images: int) -> str:
    """Return a line that says how long an image takes on a CPU, as measured on the first ones."""
    minutes = seconds / images / 60
    return f"on this CPU: {minutes:.2g} minutes an image, measured on the first {images}"


def worker_count(device: str, parameters: int) -> int:
    """Return how many workers to fork: one for each thread of PyTorch; 0 if one process is better
    or necessary.

    parameters: number of weights of the network that runs at every step.

    One process is better with a GPU, with a single thread, and with a large model, which keeps all
    cores busy by itself and of which several generations at a time would fill the memory. It is
    necessary where forking is not safe: everywhere but on Linux.
    """
    import torch

    threads = torch.get_num_threads()
    if device != "cpu" or parameters > SMALL or threads == 1 or sys.platform != "linux":
        return 0
    return threads


@contextlib.contextmanager
def imap_forked(
    do: Callable[[Part], Result], parts: Iterable[Part], workers: int
) -> Iterator[Iterator[Result]]:
    """Run `do` on every part; the iterator this gives returns its results in the order in which
    they finish. It takes parts as they are needed.

    workers: forked from this process, with all that it has loaded, of one thread each; 0: run here,
    while iterating. Leaving the block terminates them. The iterator raises the errors of `do`, and
    BrokenProcessPool (of concurrent.futures.process) if a worker was killed.
    """
    if not workers:
        yield map(do, parts)
        return
    fork = multiprocessing.get_context("fork")
    gc.freeze()  # a collection would write to, and so copy, all the memory that is shared
    with ProcessPoolExecutor(workers, fork, _begin, (do,)) as pool:
        try:
            yield _completed(pool, parts, WAITING * workers)
        except BaseException:
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def _completed(pool: ProcessPoolExecutor, parts: Iterable[Part], most: int) -> Iterator[Result]:
    """Yield results as they come, with at most so many parts on their way."""
    waiting: set[Future] = set()
    for part in parts:
        if len(waiting) >= most:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
        waiting.add(pool.submit(_do_part, part))
    yield from (future.result() for future in as_completed(waiting))


def _begin(do: Callable[[Part], object]) -> None:
    """Prepare a forked worker: Ctrl-C is the parent's to answer, and without the parent there is
    nothing to do.
    """
    import torch
    from threadpoolctl import threadpool_limits

    global _do
    _do = do
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    threadpool_limits(1)  # numpy's threads
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _do_part(part: Part) -> object:
    return _do(part)

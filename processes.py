"""Several processes: those that a launcher started, which share a run, and one for each core that a process forks.

    team = join("cpu")                                  # of `accelerate launch`, or this process alone
    with parts_done(do, parts, cores(team.device)) as done:
        for _ in done: ...                              # one more part is done

One photograph is too small for several cores, at least with the bundled models, and threads of one Python process wait
for its interpreter. So on a CPU photographs are done side by side in forked processes of one thread each: they share
the memory of the models, and what comes out does not depend on the number of cores.
"""

import contextlib
import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

LONGEST_WAIT = timedelta(days=30)  # of a process for the others to load their models

Part = TypeVar("Part")
_do: Callable  # what a forked process does with a part


def choose_device(name: str | None) -> str:
    """Return the device asked for, else a GPU where there is one. Raises ValueError for one that is not there."""
    import torch

    gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    there = ["cpu", *["cuda"][: len(gpus)], *gpus]
    if name is None:
        return "cuda" if gpus else "cpu"
    if name not in there:
        raise ValueError(f"device {name!r} is not there: this machine has {', '.join(there)}")
    return name


def is_leader() -> bool:
    """Whether this is the process that speaks: the first of those that a launcher started, or the only one."""
    return int(os.environ.get("RANK", 0)) == 0


@dataclass(frozen=True, eq=False)
class Team:
    """The processes that share a run, as seen from one of them."""

    device: str  # of this process
    state: object = None  # accelerate's PartialState, None for a single process

    @property
    def alone(self) -> bool:
        """Whether there are no others."""
        return self.state is None

    @property
    def leads(self) -> bool:
        """Whether this process shows the bar and writes the report."""
        return self.alone or self.state.is_main_process

    def share(self, items: list[int]) -> list[int]:
        """Return this process's part of a list that all processes hold."""
        if self.alone:
            return items
        with self.state.split_between_processes(items) as own:
            return own

    def meet(self, folder: Path) -> None:
        """Wait for all processes. Raises OSError where this one does not see the run's folder."""
        if self.alone:
            return
        self.state.wait_for_everyone()
        if not (folder / "settings.json").exists():
            raise OSError(f"{folder} is not seen from every host: --output must lie on a file system that they share")


def join(device: str | None) -> Team:
    """Return the team that `accelerate launch` or torchrun made, or this process alone.

    Raises ValueError for a device that is not there or that several processes cannot share.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        if "MASTER_ADDR" in os.environ and "RANK" not in os.environ:
            print("warning: `accelerate launch --cpu` started one process; see docs/scaling.md", file=sys.stderr)
        return Team(choose_device(device))
    import torch
    from accelerate import PartialState

    if device not in (None, "cpu"):
        raise ValueError(f"--device {device} with several processes: each takes a GPU of its own, so leave it out")
    cpu = device == "cpu" or not torch.cuda.is_available()
    there, wanted = torch.cuda.device_count(), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if not cpu and wanted > there:
        raise ValueError(f"{wanted} processes for {there} GPUs: start as many as there are, or add --device cpu")
    state = PartialState(cpu=cpu, timeout=LONGEST_WAIT)
    return Team("cpu" if cpu else str(state.device), state)


def cores(device: str) -> int:
    """How many processes `parts_done` may fork: one a thread of PyTorch's; 0 where one process does best or must do.

    That is with a GPU, with a single thread, and where forking is not safe: everywhere but on Linux.
    """
    import torch

    threads = torch.get_num_threads()
    return threads if device == "cpu" and threads > 1 and sys.platform == "linux" else 0


@contextlib.contextmanager
def parts_done(do: Callable[[Part], None], parts: Sequence[Part], processes: int) -> Iterator[Iterator[None]]:
    """Begin to do every part; the iterator this gives returns None after each, in the order in which they are done.

    processes: forked from this one, with all that it has loaded, and of one thread each; 0: done here, as one iterates.
    What ends the block ends them at once, whatever they do. Errors of `do` are raised by the iterator, and
    concurrent.futures.process.BrokenProcessPool where a process was killed.
    """
    if not processes or not parts:
        yield map(do, parts)
        return
    fork = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(min(processes, len(parts)), fork, _begin, (do,)) as pool:
        futures = [pool.submit(_do_part, part) for part in parts]
        try:
            yield (future.result() for future in as_completed(futures))
        except BaseException:
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def _begin(do: Callable[[Part], None]) -> None:
    """Make a forked process ready: Ctrl-C is the parent's to answer, and without it there is nothing to do."""
    import torch
    from threadpoolctl import threadpool_limits

    global _do
    _do = do
    gc.freeze()  # else a collection would touch, and so copy, all the memory that is shared
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    threadpool_limits(1)  # numpy's threads
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _do_part(part: Part) -> None:
    _do(part)

"""The CPU's work of one batch beside the GPU's work of the next.

    with imap_overlapped(evaluator, parts, samples, threads=4) as done:
        for outcomes in done: ...       # of the images that ended meanwhile

The calling thread searches prompts and generates; a pool of threads reads the next batch, codes
sketches beside the prompt search and, beside the next batch, decodes files, measures and writes.
Python's threads suffice, since most of that time is spent in libraries that release the
interpreter. The rest would stop the calling thread at each of its thousands of small operations a
second, for 5 ms each time: so threads take shorter turns here.

    calling thread            encode 0 | encode 1        | generate 0 | encode 2            | ...
    pool              read 0 | read 1  | unpack 0, read 2             | unpack 1, finish 0 | ...

Where batches come from several calling threads, they take turns at the GPU (`do_in_turns`).
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock

from dataloaders import Sample, Samples
from evaluation.evaluator import Evaluator, Outcome, Work

MOST_THREADS = 8
# Parts whose images are being finished while the next are generated: they bound the memory.
WAITING = 2
TURN_SECONDS = 1e-5  # of a thread, if another waits for the interpreter


def overlap_threads(processes: int = 0) -> int:
    """Return the number of threads beside the calling one: a part of the cores for each of the
    processes on this machine that share them; 0: those that a launcher started here.
    """
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    processes = processes or int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(MOST_THREADS, cores // processes - 1))


@contextlib.contextmanager
def imap_overlapped(
    evaluator: Evaluator, parts: Sequence[Sequence[int]], samples: Samples, threads: int
) -> Iterator[Iterator[list[Outcome]]]:
    """Do all parts; the iterator this gives returns what became of images after each, in order.

    Leaving the block waits for the images that were generated, also after an error or Ctrl-C;
    the others are left out then. The iterator raises the errors of any thread.
    """
    with overlap_pool(evaluator, threads) as pool:
        try:
            yield _Overlap(evaluator, pool).run(parts, samples)
        except KeyboardInterrupt:
            # Launchers send it twice, and what is generated is to be written.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            raise


@contextlib.contextmanager
def overlap_pool(evaluator: Evaluator, threads: int) -> Iterator[ThreadPoolExecutor]:
    """Give the pool for the CPU's work, which codes the evaluator's sketches too in the block."""
    with _short_turns(), ThreadPoolExecutor(threads, "finish", _one_thread) as pool:
        evaluator.encoder.map = pool.map
        try:
            yield pool
        finally:
            evaluator.encoder.map = map


def do_in_turns(
    evaluator: Evaluator, samples: Sequence[Sample], gpu: Lock, pool: ThreadPoolExecutor
) -> list[Outcome]:
    """Do images that have been read, as `Evaluator.do_samples`, in one of several threads.

    evaluator: this thread's own. gpu: held while the GPU is at work for them; what the pool does
    goes on beside the other threads' turns. pool: of `overlap_pool`.
    """
    with gpu:
        works = evaluator.encode(samples)
    drawn = []
    list(pool.map(evaluator.unpack, works))
    with gpu:
        for group in evaluator.groups(works):
            drawn += evaluator.generate(group)
    list(pool.map(lambda one: evaluator.finish(*one), drawn))
    return evaluator.outcomes()


@contextlib.contextmanager
def _short_turns() -> Iterator[None]:
    """Let no thread wait for long for the interpreter, within the block."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(TURN_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _one_thread() -> None:
    """Let a thread of the pool use one core: the pool itself keeps the others busy."""
    import torch

    torch.set_num_threads(1)


class _Overlap:
    def __init__(self, evaluator: Evaluator, pool: ThreadPoolExecutor):
        self.evaluator, self.pool = evaluator, pool

    def run(self, parts: Sequence[Sequence[int]], samples: Samples) -> Iterator[list[Outcome]]:
        """Yield what ended after each part, up to WAITING parts after it is generated."""
        previous, finishing = None, []
        for batch in self._read(parts, samples):
            works = self.evaluator.encode(batch)
            unpacking = [self.pool.submit(self.evaluator.unpack, work) for work in works]
            if previous:
                finishing.append(self._generate(*previous))
            previous = works, unpacking
            if len(finishing) > WAITING - 1:
                self._wait(finishing.pop(0))
                yield self.evaluator.outcomes()
        if previous:
            finishing.append(self._generate(*previous))
        for futures in finishing:
            self._wait(futures)
            yield self.evaluator.outcomes()

    def _read(self, parts: Sequence[Sequence[int]], samples: Samples) -> Iterator[Sequence[Sample]]:
        """Yield the images of each part, while those of the next are read."""
        reading: list[Future] = []
        for part in parts:
            reading.append(self.pool.submit(self.evaluator.read, part, samples))
            if len(reading) > 1:
                yield reading.pop(0).result()
        for future in reading:
            yield future.result()

    def _generate(self, works: Sequence[Work], unpacking: Sequence[Future]) -> list[Future]:
        """Generate a part; return what finishes its images."""
        self._wait(unpacking)
        futures = []
        for group in self.evaluator.groups(works):
            for work, decoded in self.evaluator.generate(group):
                futures.append(self.pool.submit(self.evaluator.finish, work, decoded))
        return futures

    def _wait(self, futures: Sequence[Future]) -> None:
        for future in futures:
            future.result()

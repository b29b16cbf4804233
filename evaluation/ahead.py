"""The files of the next batches, read in threads while others are worked on.

for part in read_ahead(parts, samples): ...

The threads read the files into the system's cache, which forked workers share, and keep nothing.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from dataloaders import Samples
from shards import read_into_cache

THREADS = 4
AHEAD = 8  # batches


def read_ahead(parts: Iterable[Sequence[int]], samples: Samples) -> Iterator[Sequence[int]]:
    """Yield the parts, the files of those that come next being read meanwhile."""
    parts = iter(parts)
    yield from _first(parts)  # before there are threads: workers are forked for it
    waiting: deque[Sequence[int]] = deque()
    with ThreadPoolExecutor(THREADS, "read") as pool:
        for part in parts:
            for number in part:
                pool.submit(read_into_cache, samples.paths[number])
            waiting.append(part)
            if len(waiting) > AHEAD:
                yield waiting.popleft()
        yield from waiting


def _first(parts: Iterator[Sequence[int]]) -> Iterator[Sequence[int]]:
    """Yield the first part, if there is one."""
    for part in parts:
        yield part
        return

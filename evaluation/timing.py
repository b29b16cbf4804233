"""Time of stages, and peak memory, of one process.

timer = Stopwatch()
with timer("coding"):
    ...
timer.read()        # {"coding": 0.2}
"""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path


class Stopwatch:
    """Seconds of stages; a stage inside another counts only for itself.

    Threads may share it: what they do at the same time is added up.
    """

    def __init__(self):
        self.seconds: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._thread = threading.local()  # .inside: seconds of the stages inside the current one

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Count the time of the block for a stage."""
        beside = getattr(self._thread, "inside", 0.0)
        self._thread.inside = 0.0
        begun = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - begun
            with self._lock:
                self.seconds[stage] += spent - self._thread.inside
            self._thread.inside = beside + spent

    def read(self) -> dict[str, float]:
        """Return the seconds of each stage since the last reading."""
        with self._lock:
            seconds, self.seconds = self.seconds, Counter()
        return dict(seconds)


def reset_peak_memory(device: str) -> None:
    """Begin a new measurement of peak memory."""
    with contextlib.suppress(OSError):  # only Linux can: proc(5)
        Path("/proc/self/clear_refs").write_text("5")
    if device != "cpu":
        import torch

        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: str) -> dict[str, int]:
    """Return the most bytes resident in this process (Linux) and allocated on its GPU since the
    last reset.
    """
    peak = {}
    with contextlib.suppress(FileNotFoundError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                peak["process"] = 1024 * int(line.split()[1])
    if device != "cpu":
        import torch

        peak["gpu"] = torch.cuda.max_memory_allocated(device)
    return peak

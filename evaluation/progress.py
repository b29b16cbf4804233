"""What rank 0 shows and writes of a whole run while it goes on: a bar, and reports.

with Progress(images, todo, LogFollower(logs_of_the_others), Reports(command)) as progress:
    progress.take(3)            # images that this process has just ended
    progress.watch()            # wait for the other processes
"""

import subprocess
import sys
import time
from collections.abc import Sequence

from common.files import ROOT, complain
from evaluation.processes import pace
from reporting.log import LogFollower

WATCH_SECONDS = 0.5  # between two looks at what the other processes have done
REPORT_SECONDS = 300  # between two reports at least
# A report of many images takes long: between two reports this many times as long.
REPORT_TIMES = 20


class Reports:
    """Starts a report now and then, by a process beside the run.

    command: which makes one.
    """

    def __init__(self, command: Sequence[str]):
        self.command = command
        self.process: subprocess.Popen | None = None
        self.begun, self.next = 0.0, time.monotonic() + REPORT_SECONDS

    def look(self) -> None:
        """Start a report if it is time for one."""
        now = time.monotonic()
        if self.process and self.process.poll() is not None:
            self.process = None
            self.next = now + max(REPORT_SECONDS, REPORT_TIMES * (now - self.begun))
        if self.process is None and now >= self.next:
            self.begun = now
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            self.process = subprocess.Popen(self.command, cwd=ROOT, **quiet)

    def end(self) -> None:
        """Wait for the report that is being made."""
        if self.process:
            self.process.wait()


class Progress:
    """Counts the images of all processes."""

    def __init__(self, images: int, todo: int, others: LogFollower, reports: Reports):
        from tqdm import tqdm

        self.waiting, self.others, self.reports = todo, others, reports
        self.bar = tqdm(total=images, initial=images - todo, unit="image")

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()
        self.reports.end()

    def take(self, ended: int) -> None:
        """Count images that ended here, and those that did elsewhere; report now and then."""
        ended += self.others.count()
        self.waiting -= ended
        self.bar.update(ended)
        self.reports.look()

    def tell_pace(self, seconds: float, images: int) -> None:
        """Say how long an image takes, as measured on the first batch."""
        with self.bar.external_write_mode(sys.stderr):
            complain(pace(seconds, images))

    def watch(self) -> None:
        """Wait until the other processes are through."""
        while self.waiting > 0:
            time.sleep(WATCH_SECONDS)
            self.take(0)

"""What rank 0 shows and writes of a whole run while it goes on: a bar, and reports.

progress = Progress(names, todo, LogFollower(logs_of_the_others), report)
progress.take(3)                # images that this process has just ended
progress.watch()                # wait for the other processes
"""

import sys
import time
from collections.abc import Callable

from common.files import complain
from evaluation.processes import pace
from reporting.log import LogFollower

WATCH_SECONDS = 0.5  # between two looks at what the other processes have done
REPORT_SECONDS = 300  # between two reports at least
# A report of many images takes long: between two reports this many times as long.
REPORT_TIMES = 20


class Progress:
    """Counts the images of all processes."""

    def __init__(self, images: int, todo: int, others: LogFollower, report: Callable[[], object]):
        from tqdm import tqdm

        self.waiting, self.others, self.report = todo, others, report
        self.bar = tqdm(total=images, initial=images - todo, unit="image")
        self.next_report = time.monotonic() + REPORT_SECONDS

    def take(self, ended: int) -> None:
        """Count images that ended here, and those that did elsewhere; report now and then."""
        ended += self.others.count()
        self.waiting -= ended
        self.bar.update(ended)
        begun = time.monotonic()
        if begun >= self.next_report:
            self.report()
            now = time.monotonic()
            self.next_report = now + max(REPORT_SECONDS, REPORT_TIMES * (now - begun))

    def tell_pace(self, seconds: float, images: int) -> None:
        """Say how long an image takes, as measured on the first batch."""
        with self.bar.external_write_mode(sys.stderr):
            complain(pace(seconds, images))

    def watch(self) -> None:
        """Wait until the other processes are through."""
        while self.waiting > 0:
            time.sleep(WATCH_SECONDS)
            self.take(0)

"""The report of a run that is at work, made beside it by a process of its own.

    python -m reporting.so_far FOLDER DATASET METHOD COMMAND...

The run neither waits for it nor grows by it. It takes what the logs say by now, without the metrics
of sets. COMMAND: the run's, for the page.
"""

import sys
from pathlib import Path

from reporting.log import names_in, scan
from reporting.write import write_report


def main(argv: list[str]) -> None:
    """Write tables, averages and page."""
    folder, dataset, method, *sys.argv = argv
    write_report(scan(Path(folder), names_in(Path(folder))), dataset, method)


if __name__ == "__main__":
    main(sys.argv[1:])

"""Page of one run, or a comparison of several.

    python report.py recon_examples/PICS_tiny_kodak     # write its page again
    python report.py RUN RUN ...                        # compare runs
    python report.py RUN                                # tables and page of one with --engine ray
    python report.py s3://bucket/runs/RUN               # the same in recon_examples/RUN

One run: index.html in its folder, self-contained. Several: a folder (--output) with a page that
shows the same images side by side, a rate-distortion curve for each metric (PNG for light and dark
pages, PDF) and curves.csv; its pictures stay in the runs' folders. Curves of four rates or more are
compared by BD-rate, a line each on stdout. The last line on stdout is JSON and names the page.

A run may be a stranger's: its files are read only if they are regular files of what a run writes,
and the page loads nothing from elsewhere.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from common.files import complain, folder_or_uri, printable, say, write

if TYPE_CHECKING:
    from reporting.runs import RunResult


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument(
        "runs",
        nargs="+",
        type=folder_or_uri,
        metavar="RUN",
        help="folder of a run of eval_PIC.py or eval_PICS.py, or URI of one with --engine ray, "
        "whose report is made in recon_examples",
    )
    flags.add_argument(
        "--output",
        type=Path,
        help="folder of a comparison (default: comparison/ beside the first run)",
    )
    return flags.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Write the page of one run or the comparison of several.

    Return 0 if it is done, 1 if it cannot be written, 2 for what is no run, 130 after Ctrl-C.
    """
    args = parse_args(argv)
    from reporting.output import OutputError
    from reporting.reading import NoRunError

    try:
        page = write_page([report_folder(run) for run in args.runs], args.output)
    except (NoRunError, OutputError) as error:
        complain(f"error: {error}")
        return 2
    except OSError as error:
        complain(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        complain("stopped")
        return 130
    say(json.dumps({"page": str(page)}))
    return 0


def report_folder(run: Path | str) -> Path:
    """Return the folder of a run's report, which for a run with --engine ray is made.

    Raises NoRunError, OutputError, OSError.
    """
    from reporting.cluster import collect, is_cluster_run
    from reporting.output import open_output

    if isinstance(run, Path) and not is_cluster_run(run):
        return run
    output = open_output(run)
    collect(output)
    return run if isinstance(run, Path) else output.folder


def write_page(folders: list[Path], output: Path | None) -> Path:
    """Write the page and return its path. Raises NoRunError, OSError."""
    from reporting.curves import compare
    from reporting.page import run_page
    from reporting.reading import NoRunError
    from reporting.runs import read_run

    runs = [read_run(folder) for folder in folders]
    if len(runs) == 1:
        page = folders[0] / "index.html"
        write(page, run_page(runs[0]).encode())
        return page
    folder = output or folders[0].resolve().parent / "comparison"
    if output is None and folder.is_symlink():
        raise NoRunError(f"{printable(folder)} is a link: name a folder with --output")
    if (folder / "summary.json").exists():
        raise NoRunError(
            f"--output {printable(folder)} holds a run, whose page would be lost: "
            "name another folder"
        )
    compare(runs, folder)
    say_bd_rates(runs)
    return folder / "index.html"


def say_bd_rates(runs: "list[RunResult]") -> None:
    """Print the BD-rates of the runs' curves, or why there are none."""
    from common.weights import UnavailableError
    from reporting.bd_rates import bd_lines, bd_rates
    from reporting.curves import curve_points

    try:
        lines = bd_lines(bd_rates(curve_points(runs)))
    except UnavailableError as error:
        complain(error)
        return
    for line in lines:
        say(line)


if __name__ == "__main__":
    sys.exit(main())

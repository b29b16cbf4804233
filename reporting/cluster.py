"""Runs of `--engine ray`: from their rows, Parquet files, to a log, tables, averages and page.

    summary = collect(folder)

A row of data/*.parquet is an image: name, index (its place in the data set), failure (why it could
not be done, or ""), line (of the log, `log.py`), and what --keep says, as bytes in columns that are
called as the endings of the files' names. The folder may be a stranger's.
"""

import contextlib
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from common.files import write, write_parts
from reporting.log import MERGED, folder_name, merge, place_of, scan
from reporting.page import run_page
from reporting.reading import NoRunError, no_run
from reporting.rows import RECORD
from reporting.runs import read_run, read_settings
from reporting.write import write_report

if TYPE_CHECKING:
    from pyarrow.dataset import Dataset

DATA = "data"  # the folder of Parquet files in the run's
PICTURES = ("_original.png", "_recon.png", "_sketch.png", "_sketch_recon.png", "_color.png")
KINDS = (".pics", *PICTURES, RECORD)
AT_A_TIME = 64  # rows, some of which hold pictures
NEEDS = "runs of --engine ray need the package pyarrow: pip install pyarrow"


def columns_kept(keep: str) -> Sequence[str]:
    """Return the columns of what stays of an image, by --keep."""
    return {"all": KINDS, "streams": KINDS[:1], "none": ()}[keep]


def is_cluster_run(folder: Path) -> bool:
    """Return whether a folder holds rows of `--engine ray`."""
    return (folder / DATA).is_dir()


def clear(folder: Path) -> None:
    """Remove the files of a run that were not written to their end. Nobody may be writing."""
    whole = set(_whole_files(folder))
    for path in _files(folder):
        if path not in whole:
            path.unlink()


def finished(folder: Path) -> set[str]:
    """Return the names of the images that are done, without those that failed."""
    done = set()
    for batch in _rows(folder, ["name", "failure"], 10_000):
        for name, failure in zip(batch["name"], batch["failure"], strict=True):
            if not failure:
                done.add(name)
    return done


def collect(folder: Path, dataset: str = "", method: str = "") -> dict:
    """Write log, tables, averages and page of what is done, and the files of the images that the
    page shows; return the summary.

    dataset, method: by default, by the folder's name and settings. Raises NoRunError, OSError.
    """
    settings = read_settings(folder)
    method = method or str(settings.get("method", "PICS"))
    dataset = dataset or folder.absolute().name.removeprefix(f"{method}_{settings.get('preset')}_")
    # What failed comes first: the last word counts, and it may have been done since.
    write_parts(folder / MERGED, chain(_lines(folder, True), _lines(folder, False)), sync=True)
    entries = scan(folder, _names(folder))
    summary = write_report(entries, dataset, method)
    merge(entries)
    run = read_run(folder)
    shown = {row["name"] for row in run.rows}  # names that have been checked
    _write_files(folder, shown)
    write(folder / "index.html", run_page(run).encode())
    return summary


def _names(folder: Path) -> list[str]:
    """Return the names of all images, in the order of the data set."""
    found: dict[str, int] = {}
    for batch in _rows(folder, ["name", "index"], 10_000):
        found |= dict(zip(batch["name"], batch["index"], strict=True))
    return sorted(found, key=lambda name: (found[name], name))


def _lines(folder: Path, failed: bool) -> Iterator[bytes]:
    """Yield the lines of images that failed, or of those that did not."""
    for batch in _rows(folder, ["failure", "line"], 10_000):
        for failure, line in zip(batch["failure"], batch["line"], strict=True):
            if bool(failure) == failed:
                yield line


def _write_files(folder: Path, names: set[str]) -> None:
    """Write the files of some images to their places in the run's folder."""
    kinds = [kind for kind in KINDS if kind in _dataset(folder).schema.names] if names else []
    for batch in _rows(folder, ["name", "index", *kinds], AT_A_TIME):
        for number, (name, index) in enumerate(zip(batch["name"], batch["index"], strict=True)):
            if name not in names:
                continue
            place = place_of(folder, index)
            if folder_name(index):
                place.mkdir(exist_ok=True)
            for kind in kinds:
                if batch[kind][number]:
                    write(place / f"{name}{kind}", batch[kind][number])


# ---- Parquet


def _rows(folder: Path, columns: list[str], size: int) -> Iterator[dict[str, list]]:
    """Yield columns of at most `size` rows at a time. Raises NoRunError for other files."""
    if not _whole_files(folder):
        return
    with _refusing(folder / DATA):
        for batch in _dataset(folder).to_batches(
            columns=columns, batch_size=size, batch_readahead=1, fragment_readahead=1
        ):
            yield batch.to_pydict()


def _dataset(folder: Path) -> "Dataset":
    from pyarrow import dataset

    with _refusing(folder / DATA):
        return dataset.dataset([str(path) for path in _whole_files(folder)], format="parquet")


def _whole_files(folder: Path) -> list[Path]:
    """Return the files of rows that were written to their end."""
    if not _files(folder):
        return []
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise NoRunError(NEEDS) from None
    whole = []
    for path in _files(folder):
        with contextlib.suppress(ArrowException):
            parquet.read_metadata(path)
            whole.append(path)
    return whole


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / DATA).glob("*.parquet") if path.is_file())


@contextlib.contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Raise NoRunError for what pyarrow raises in the block."""
    from pyarrow import ArrowException

    try:
        yield
    except (ArrowException, KeyError, TypeError) as error:
        raise no_run(path, error) from None

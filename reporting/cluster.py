"""Runs of `--engine ray`: from their rows, Parquet files, to a log, tables, averages and page.

    summary = collect(open_output(folder))

A row of data/*.parquet is an image: name, index (its place in the data set), failure (why it could
not be done, or ""), line (of the log, `log.py`), and what --keep says, as bytes in columns that are
called as the endings of the files' names. What is read may be a stranger's.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain, compress
from pathlib import Path
from typing import TYPE_CHECKING

from common.files import write, write_parts
from reporting.log import MERGED, folder_name, in_order, merge, place_of, scan
from reporting.output import DATA, Output
from reporting.page import run_page
from reporting.reading import NoRunError
from reporting.rows import RECORD
from reporting.runs import read_run
from reporting.write import write_report

if TYPE_CHECKING:
    from pyarrow.dataset import Dataset

PICTURES = ("_original.png", "_recon.png", "_sketch.png", "_sketch_recon.png", "_color.png")
KINDS = (".pics", *PICTURES, RECORD)
AT_A_TIME = 64  # rows, some of which hold pictures
AT_ONCE = 16  # files whose ends are read: a store of objects takes its time for each


def columns_kept(keep: str) -> Sequence[str]:
    """Return the columns of what stays of an image, by --keep."""
    return {"all": KINDS, "streams": KINDS[:1], "none": ()}[keep]


def is_cluster_run(folder: Path) -> bool:
    """Return whether a folder holds rows of `--engine ray`."""
    return (folder / DATA).is_dir()


def remove_rows(output: Output) -> None:
    """Forget all that is done. Raises OSError."""
    with output.refusing():
        output.files.delete_dir_contents(DATA, missing_dir_ok=True)


def clear(output: Output) -> None:
    """Remove the files of a run that were not written to their end. Nobody may be writing."""
    half = set(_files(output)) - set(_whole_files(output))
    with output.refusing():
        for path in half:
            output.files.delete_file(path)


def finished(output: Output) -> set[str]:
    """Return the names of the images that are done, without those that failed."""
    done = set()
    for batch in Rows(output).batches(["name", "failure"], 10_000):
        for name, failure in zip(batch["name"], batch["failure"], strict=True):
            if not failure:
                done.add(name)
    return done


def collect(output: Output, dataset: str = "", method: str = "") -> dict:
    """Write log, tables, averages and page of what is done, and the files of the images that the
    page shows, to the folder of the report; return the summary.

    dataset, method: by default, by the folder's name and settings. Raises NoRunError, OutputError
    if the folder holds another run, OSError.
    """
    settings = output.settings()
    if settings is None and output.is_apart:
        raise NoRunError(f"{output.name} is no run of --engine ray: it has no settings.json")
    settings = settings or {}
    output.check_folder(settings)
    output.tell_folder(settings)
    rows, folder = Rows(output), output.folder
    method = method or str(settings.get("method", "PICS"))
    dataset = dataset or folder.name.removeprefix(f"{method}_{settings.get('preset')}_")
    # What failed comes first: the last word counts, and it may have been done since.
    write_parts(folder / MERGED, chain(_lines(rows, True), _lines(rows, False)), sync=True)
    entries = scan(folder, _names(rows))
    summary = write_report(entries, dataset, method)
    merge(entries)
    run = read_run(folder)
    shown = {row["name"] for row in run.rows}  # names that have been checked
    _write_files(rows, folder, shown)
    write(folder / "index.html", run_page(run).encode())
    return summary


def _names(rows: "Rows") -> list[str]:
    """Return the names of all images, in the order of the data set."""
    found: dict[str, int] = {}
    for batch in rows.batches(["name", "index"], 10_000):
        found |= dict(zip(batch["name"], batch["index"], strict=True))
    return in_order(found)


def _lines(rows: "Rows", failed: bool) -> Iterator[bytes]:
    """Yield the lines of images that failed, or of those that did not."""
    for batch in rows.batches(["failure", "line"], 10_000):
        for failure, line in zip(batch["failure"], batch["line"], strict=True):
            if bool(failure) == failed:
                yield line


def _write_files(rows: "Rows", folder: Path, names: set[str]) -> None:
    """Write the files of some images to their places in the run's folder."""
    kinds = [kind for kind in KINDS if kind in rows.columns()] if names else []
    for batch in rows.batches(["name", "index", *kinds], AT_A_TIME):
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


class Rows:
    """The rows of a run, of the files that were written to their end when this was made."""

    def __init__(self, output: Output):
        self.output, self.paths = output, _whole_files(output)

    def batches(self, columns: list[str], size: int) -> Iterator[dict[str, list]]:
        """Yield columns of at most `size` rows at a time. Raises NoRunError for other files."""
        if not self.paths:
            return
        with self.output.refusing():
            for batch in self._dataset().to_batches(
                columns=columns, batch_size=size, batch_readahead=1, fragment_readahead=1
            ):
                yield batch.to_pydict()

    def columns(self) -> list[str]:
        """Return the names of all columns. Raises NoRunError."""
        with self.output.refusing():
            return self._dataset().schema.names

    def _dataset(self) -> "Dataset":
        from pyarrow import dataset

        return dataset.dataset(self.paths, format="parquet", filesystem=self.output.files)


def _whole_files(output: Output) -> list[str]:
    """Return the files of rows that were written to their end."""
    files = _files(output)
    with output.refusing(), ThreadPoolExecutor(AT_ONCE) as pool:
        whole = list(pool.map(partial(_is_whole, output), files))
    return list(compress(files, whole))


def _is_whole(output: Output, path: str) -> bool:
    """Return whether a file has its end, where a writer puts what it holds. Raises OSError."""
    from pyarrow import ArrowException, parquet

    try:
        parquet.read_metadata(path, filesystem=output.files)
    except ArrowException:
        return False
    return True


def _files(output: Output) -> list[str]:
    """Return the files of rows."""
    from pyarrow.fs import FileSelector, FileType

    with output.refusing():
        found = output.files.get_file_info(FileSelector(DATA, allow_not_found=True))
    return sorted(
        info.path for info in found if info.type is FileType.File and info.extension == "parquet"
    )

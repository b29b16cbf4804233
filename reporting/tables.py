"""Tables of results: rows as CSV files.

write(folder / "results.csv", csv_file(rows))
for row in read_csv(folder / "results.csv", most=1000): ...

A spreadsheet takes a cell that begins with = + - @, a tab or a line break for a formula. Texts that
begin so are written behind an apostrophe, and so are those that begin with apostrophes and then
one of these; reading takes the apostrophe off again. Numbers are written as they are.
"""

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from common.files import printable
from reporting.reading import no_run, open_regular
from reporting.rows import TEXTS, columns_of, new_spelling
from reporting.schema import (
    LARGEST,
    MAX_COLUMNS,
    Check,
    SchemaError,
    file_name_check,
    integer,
    name_check,
    number,
    optional,
    shown,
    text,
)

MAX_CSV_BYTES = 1 << 30  # a million images with all metrics
MAX_LINE = 1 << 20  # characters
MAX_DIGITS = 40  # of a number, its point and exponent counted
# The last four are = + - @ in full width, which spreadsheets take as well.
FORMULA = re.compile(r"'*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
FOLDER = re.compile(r"([0-9]{6,8})?")  # of an image's files


def folder_check(value: object) -> None:
    """Check the name of a folder of a run's folder."""
    if not isinstance(value, str) or not FOLDER.fullmatch(value):
        raise SchemaError(f"{shown(value)} is no folder of a run")


CHECKS = {
    "name": file_name_check,
    "folder": folder_check,
    "prompt": text(),
    "bytes": integer(1, int(LARGEST)),
    "bpp": number(1e-9, 1e6),
}
LAYER = optional(integer(0, int(LARGEST)))  # bytes of a layer
RESULT = optional(number())  # of every other column


# ---- cells


def as_cell(value: object) -> object:
    """Return a value as a CSV file has it: behind an apostrophe if it looks like a formula."""
    return f"'{value}" if isinstance(value, str) and FORMULA.match(value) else value


def from_cell(cell: str) -> str:
    """Return the text of a cell: the inverse of `as_cell`."""
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell


def number_in(cell: str) -> float | int | None:
    """Return the number in a cell, None for an empty one. Raises SchemaError for a text."""
    if not cell:
        return None
    for kind in (int, float):
        try:
            if len(cell) <= MAX_DIGITS:
                return kind(cell)
        except ValueError:
            continue
    raise SchemaError(f"{shown(cell)} is no number")


# ---- writing


def csv_file(rows: Sequence[dict]) -> bytes:
    """Return rows as a CSV file; a value that a row lacks is left empty."""
    return b"".join(csv_parts(columns_of(rows), rows))


def csv_parts(columns: Sequence[str], rows: Iterable[dict]) -> Iterator[bytes]:
    """Yield the lines of a CSV file with these columns."""
    yield csv_line(columns).encode()
    for row in rows:
        yield csv_line(map(row.get, columns)).encode()


def csv_line(values: Iterable[object]) -> str:
    """Return a line of a CSV file, quoted where needed."""
    line = io.StringIO()
    # With this end, cells with either kind of line break are quoted by every version of Python.
    csv.writer(line, lineterminator="\r\n").writerow(map(as_cell, values))
    return line.getvalue().removesuffix("\r\n") + "\n"


# ---- reading


def read_csv(path: Path, most: int) -> Iterator[dict]:
    """Yield the rows of results.csv of at most `most` images, which summary.json counts.

    Columns have the names of today. Numbers are numbers, empty cells None, names and prompts texts.
    Raises NoRunError, with the line, for anything else; OSError if the file is not there or
    forbidden.
    """
    with (
        open_regular(path, MAX_CSV_BYTES) as binary,
        io.TextIOWrapper(binary, encoding="utf-8", newline="") as file,
    ):
        reader = csv.reader(_lines(file))
        try:
            yield from _rows(reader, most)
        except (ValueError, csv.Error) as error:
            raise no_run(path, f"line {reader.line_num}: {error}") from None


def _lines(file: io.TextIOWrapper) -> Iterator[str]:
    """Yield the lines of a file. Raises SchemaError for a long one."""
    for line in iter(partial(file.readline, MAX_LINE), ""):
        if len(line) == MAX_LINE:
            raise SchemaError(f"over {MAX_LINE:,} characters")
        yield line


def _rows(lines: Iterator[list[str]], most: int) -> Iterator[dict]:
    """Yield the rows of a table, each checked."""
    columns = _columns(next(lines, []))
    readers = [reader_of(column) for column in columns]
    names = set()
    for cells in filter(None, lines):
        if len(cells) != len(columns):
            raise SchemaError(f"{len(cells)} cells, the first line has {len(columns)}")
        row = {}
        for column, cell, read in zip(columns, cells, readers, strict=True):
            row[column] = _read_cell(column, cell, read)
        if row["name"] in names:
            raise SchemaError(f"{shown(row['name'])} twice")
        names.add(row["name"])
        if len(names) > most:
            raise SchemaError(f"more than the {most:,} images that summary.json has")
        yield row


def _columns(cells: Sequence[str]) -> list[str]:
    """Return the names of the columns, from the first line. Raises SchemaError."""
    columns = list(new_spelling(dict.fromkeys(map(from_cell, cells))))
    if len(columns) != len(cells) or len(columns) > MAX_COLUMNS:
        raise SchemaError(
            f"{len(cells)} columns, at most {MAX_COLUMNS} with their own names are read"
        )
    for column in columns:
        name_check(column)
    lacking = [name for name in ("name", "bytes", "bpp") if name not in columns]
    if lacking:
        raise SchemaError(f"no {', '.join(lacking)}")
    return columns


def reader_of(column: str) -> Callable[[str], object]:
    """Return what reads the cells of a column. It raises SchemaError."""
    parse: Callable[[str], object] = from_cell if column in TEXTS else number_in
    check = check_of(column)

    def read(cell: str) -> object:
        value = parse(cell)
        check(value)
        return value

    return read


def check_of(column: str) -> Check:
    """Return the check of the values in a column of results.csv."""
    if column.startswith("bytes_"):
        return LAYER
    return CHECKS.get(column, RESULT)


def _read_cell(column: str, cell: str, read: Callable[[str], object]) -> object:
    try:
        return read(cell)
    except SchemaError as error:
        raise SchemaError(f"{printable(column)}: {error}") from None

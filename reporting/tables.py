"""Tables of results: rows as CSV files, and records as lines of JSON.

write(folder / "results.csv", csv_file(rows))
rows = read_csv(folder / "results.csv", most=1000)

A spreadsheet takes a cell that begins with = + - @, a tab or a line break for a formula. Texts that
begin so are written behind an apostrophe, and so are those that begin with apostrophes and then
one of these; reading takes the apostrophe off again. Numbers are written as they are.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from reporting.reading import no_run, open_regular
from reporting.rows import TEXTS, as_row, columns_of, new_spelling
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

MAX_CSV_BYTES = 256 << 20
MAX_CELLS = 10_000_000  # 250,000 images with all metrics, a million with few; some 600 MB in memory
MAX_LINE = 1 << 20  # characters
MAX_DIGITS = 40  # of a number, its point and exponent counted
FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")


# ---- cells


def as_cell(value: object) -> object:
    """Return a value as a CSV file has it: a text that looks like a formula behind an apostrophe."""
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
    columns = columns_of(rows)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(map(as_cell, columns))
    for row in rows:
        cells = map(row.get, columns)
        writer.writerow(map(as_cell, cells))
    return table.getvalue().encode()


def json_lines(records: Sequence[dict]) -> bytes:
    """Return records as a file of one JSON object a line."""
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()


def append_results(folder: Path, records: Sequence[dict]) -> None:
    """Add images to results.csv and results.jsonl while a run goes on.

    `reporting.write.write_report` writes both anew.
    """
    table = csv_file([as_row(record) for record in records])
    path = folder / "results.csv"
    lines = table if not path.exists() else table.partition(b"\n")[2]
    for file, content in ((path, lines), (folder / "results.jsonl", json_lines(records))):
        with file.open("ab") as stream:
            stream.write(content)


# ---- reading


def read_csv(path: Path, most: int) -> list[dict]:
    """Read results.csv of at most `most` images, with the names that columns have today.

    Numbers are numbers, empty cells None, names and prompts texts. Raises NoRunError, with the
    line, for anything else; OSError if the file is not there or forbidden.
    """
    with (
        open_regular(path, MAX_CSV_BYTES) as binary,
        io.TextIOWrapper(binary, encoding="utf-8", newline="") as file,
    ):
        reader = csv.reader(_lines(file))
        try:
            return list(_rows(reader, most))
        except (ValueError, csv.Error) as error:
            raise no_run(path, f"line {reader.line_num}: {error}") from None


def _lines(file: io.TextIOWrapper) -> Iterator[str]:
    """Yield the lines of a file. Raises SchemaError for a long one."""
    while line := file.readline(MAX_LINE):
        if len(line) == MAX_LINE:
            raise SchemaError(f"over {MAX_LINE:,} characters")
        yield line

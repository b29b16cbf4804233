"""The table of allocations: budgets of a whole file, and what each layer gets of them.

    python -c "from allocation.table import load_table; print(*load_table('tiny'), sep='\n')"

A preset's table is `<preset>.json`, which benchmarks/allocation.py writes; a preset that has none
uses that of `tiny`. It is an object with "rows", in ascending order of "bytes", from LEAST_BYTES:

    bytes           the budget
    prompt_bytes    the most that the prompt may take; 0: no prompt
    lam_sketch      of the sketch codec; null: no sketch

What is left is the color layer's.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from common.files import read_json

FOLDER = Path(__file__).parent
DEFAULT = "tiny"
LEAST_BYTES = 24  # of a budget: any header, and something beside it


@dataclass(frozen=True)
class Allocation:
    """What the layers before the color layer get."""

    prompt_bytes: int  # the most that the prompt may take; 0: no prompt
    lam_sketch: float | None  # the finest rate of the sketch; None: no sketch


@dataclass(frozen=True)
class Row:
    """A row of a table."""

    bytes: int  # the budget
    allocation: Allocation


def load_table(preset: str) -> list[Row]:
    """Return the rows for a preset's name. Raises ValueError for a file that is no table."""
    path = FOLDER / f"{preset}.json"
    if not path.is_file():
        path = FOLDER / f"{DEFAULT}.json"
    return read_table(path)


def read_table(path: Path) -> list[Row]:
    """Return the rows of a file. Raises ValueError if it is no table, OSError."""
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("rows"), list):
        raise ValueError(f'{path}: an allocation table is an object with a list "rows"')
    rows = [_row(path, fields) for fields in content["rows"]]
    budgets = [row.bytes for row in rows]
    if budgets != sorted(set(budgets)) or budgets[:1] != [LEAST_BYTES]:
        raise ValueError(f"{path}: the budgets must ascend from {LEAST_BYTES}, not be {budgets}")
    return rows


def _row(path: Path, fields: object) -> Row:
    """Return a row of a file. Raises ValueError for other fields, or values out of range."""
    if not isinstance(fields, dict) or set(fields) != {"bytes", "prompt_bytes", "lam_sketch"}:
        raise ValueError(f"{path}: a row has bytes, prompt_bytes and lam_sketch, not {fields}")
    budget, prompt, lam = fields["bytes"], fields["prompt_bytes"], fields["lam_sketch"]
    has_rate = lam is None or (type(lam) in (int, float) and 0 < lam < 1000)
    if type(budget) is not int or type(prompt) is not int or not has_rate:
        raise ValueError(f"{path}: {fields} has a value of another type, or out of range")
    if not 0 <= prompt < budget:
        raise ValueError(f"{path}: a prompt of {prompt} bytes in a file of {budget}")
    return Row(budget, Allocation(prompt, lam))


def allocations(rows: Sequence[Row], budget: int) -> list[Allocation]:
    """Return allocations to try for a budget, the table's own first, all different.

    Its own is that of the row nearest below. The others are its neighbors: without the sketch, one
    row up, one row down, and without the prompt.
    """
    index = bisect_right([row.bytes for row in rows], budget) - 1
    own = rows[index].allocation
    found = [own, replace(own, lam_sketch=None)]
    found += [row.allocation for row in rows[index + 1 : index + 2]]
    found += [row.allocation for row in rows[max(index - 1, 0) : index]]
    found.append(replace(own, prompt_bytes=0))
    return list(dict.fromkeys(found))

"""How columns of results are named and written for people."""

import math
from typing import NamedTuple

from metrics import METRICS


class Column(NamedTuple):
    """How a column of results.csv is shown."""

    label: str
    digits: int | None  # behind the point
    better: str = "lower"  # or "higher", or "" if neither is better


COLUMNS = {  # the columns that are no metric
    "bytes": Column("bytes", 0),
    "bpp": Column("bits per pixel", 4),
    "budget": Column("budget, bytes", 0, ""),
    "lam_sketch": Column("lambda of the sketch", 3, ""),
    "prompt_cosine": Column("prompt cosine", 4, "higher"),
}


def column_of(name: str) -> Column:
    """Return how a column is shown; an unknown one by its own name."""
    if name.startswith("bytes_"):
        return Column(f"bytes of {layer_name(name)}", 0)
    if name in METRICS:
        row = METRICS[name]
        return Column(row.title, row.digits, row.better)
    return COLUMNS.get(name, Column(name.replace("_", " "), None, ""))


def layer_name(column: str) -> str:
    """Return the layer whose bytes a column holds."""
    return column.removeprefix("bytes_")


def shown(column: str, value: float | str | None) -> str:
    """Return a value as a reader sees it."""
    if not isinstance(value, float | int):
        return "-"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    digits = column_of(column).digits
    return f"{value:.4g}" if digits is None else f"{value:.{digits}f}"


def setting(value: object) -> str:
    """Return a setting as a reader sees it."""
    return "default" if value is None else str(value)

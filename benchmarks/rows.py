"""Rows of results, dicts with the same names: their columns, and the rows of one kind.

own = rows_with(rows, {"family": "ours"})
axes.plot(column(own, "bpp"), column(own, "ms_ssim"))
"""

from collections.abc import Sequence


def column(rows: Sequence[dict], name: str) -> list:
    """Return the values of one name."""
    return [row[name] for row in rows]


def distinct(rows: Sequence[dict], name: str) -> list:
    """Return the different values of one name, in the order in which they first appear."""
    return list(dict.fromkeys(column(rows, name)))


def rows_with(rows: Sequence[dict], values: dict) -> list[dict]:
    """Return the rows that have these values, {name: value}."""
    return [row for row in rows if values.items() <= row.items()]

"""What the files of a run may hold: types and ranges, checked before anything is made of them.

    COUNTS = table(integer(0, 10))
    COUNTS({"bytes": 11})           # SchemaError: bytes: 11 is no integer from 0 to 10

A check takes a value as JSON has it and returns nothing; it raises SchemaError, one line that
begins with where the value stands.
"""

import re
from collections.abc import Callable

from common.files import printable

MAX_NAME = 255  # characters of the name of an image or a column
MAX_FIELD_NAME = 100  # characters
MAX_COLUMNS = 100  # some 40 are in use
MAX_TEXT = 100_000  # characters of a prompt, a setting or a reason
LARGEST = 1e15  # of all results, seconds and bytes
SURROGATE = re.compile("[\ud800-\udfff]")  # what JSON can write and UTF-8 cannot

Check = Callable[[object], None]


class SchemaError(ValueError):
    """A value is not what it must be; the message is one line that begins with its place."""


def shown(value: object) -> str:
    """Return a value as a message shows it: on one line, and not long."""
    if isinstance(value, dict | list):
        return f"a {'table' if isinstance(value, dict) else 'list'} of {len(value)}"
    return repr(value[:40]) if isinstance(value, str) else str(value)[:40]


def integer(low: int, high: int) -> Check:
    """Return a check of an integer in a range."""

    def check(value: object) -> None:
        if type(value) is not int or not low <= value <= high:
            raise SchemaError(f"{shown(value)} is no integer from {low} to {high}")

    return check


def number(low: float = -LARGEST, high: float = LARGEST) -> Check:
    """Return a check of a finite number in a range."""

    def check(value: object) -> None:
        if type(value) not in (int, float) or not low <= value <= high:  # type: ignore[operator]
            raise SchemaError(f"{shown(value)} is no number from {low:g} to {high:g}")

    return check


def text(longest: int = MAX_TEXT) -> Check:
    """Return a check of a text."""

    def check(value: object) -> None:
        if not isinstance(value, str):
            raise SchemaError(f"{shown(value)} is no text")
        if len(value) > longest:
            raise SchemaError(f"{len(value)} characters, at most {longest} are allowed")
        if SURROGATE.search(value):
            raise SchemaError(f"{shown(value)} is no text of Unicode")

    return check


def field_name_check(value: str) -> None:
    """Check the name of a field: 1 to MAX_FIELD_NAME printable characters."""
    if not 0 < len(value) <= MAX_FIELD_NAME or not value.isprintable():
        raise SchemaError(f"{shown(value)} is no name of a field")


def name_check(value: object) -> None:
    """Check the name of a column: 1 to MAX_NAME printable characters."""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME or not value.isprintable():
        raise SchemaError(f"{shown(value)} is no name")


def file_name_check(value: object) -> None:
    """Check the name of an image, which begins the names of its files."""
    name_check(value)
    if "/" in value or "\\" in value:  # type: ignore[operator]
        raise SchemaError(f"{shown(value)} is no name of a file")


def optional(check: Check) -> Check:
    """Return a check that accepts None as well."""

    def check_optional(value: object) -> None:
        if value is not None:
            check(value)

    return check_optional


def sequence(check: Check, most: int, least: int = 0) -> Check:
    """Return a check of a list whose items pass a check."""

    def check_all(value: object) -> None:
        if not isinstance(value, list):
            raise SchemaError(f"{shown(value)} is no list")
        if not least <= len(value) <= most:
            raise SchemaError(f"{len(value)} items, {least} to {most} are allowed")
        for position, item in enumerate(value):
            _check_part(f"item {position}", item, check)

    return check_all


def table(check: Check, most: int = MAX_COLUMNS) -> Check:
    """Return a check of an object whose values all pass a check."""

    def check_all(value: object) -> None:
        if not isinstance(value, dict):
            raise SchemaError(f"{shown(value)} is no table")
        if len(value) > most:
            raise SchemaError(f"{len(value)} fields, at most {most} are allowed")
        for name, own in value.items():
            field_name_check(name)
            _check_part(name, own, check)

    return check_all


def fields(
    required: dict[str, Check],
    allowed: dict[str, Check],
    others: Check | None = None,
    most: int = MAX_COLUMNS,
) -> Check:
    """Return a check of an object by its fields, of which it may have `most`.

    required: those that it must have. allowed: those that it may have. others: of all other fields;
    None if there may be none.
    """
    known = required | allowed

    def check_fields(value: object) -> None:
        if not isinstance(value, dict):
            raise SchemaError(f"{shown(value)} is no table")
        lacking = [name for name in required if name not in value]
        if lacking:
            raise SchemaError(f"no {', '.join(lacking)}")
        if len(value) > most:
            raise SchemaError(f"{len(value)} fields, at most {most} are allowed")
        for name, own in value.items():
            field_name_check(name)
            check = known.get(name, others)
            if check is None:
                raise SchemaError(f"unknown field {shown(name)}")
            _check_part(name, own, check)

    return check_fields


def anything(value: object) -> None:
    """Accept any value: of a field that is not used."""


def _check_part(place: str, value: object, check: Check) -> None:
    try:
        check(value)
    except SchemaError as error:
        raise SchemaError(f"{printable(place[:40])}: {error}") from None

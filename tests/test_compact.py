"""Strings in arrays.

python -m pytest tests/test_compact.py
"""

import pytest

from common.compact import Strings


def test_strings_come_back():
    given = ["barn", "", "日本", "no utf-8: \udcff", "x" * 300]
    strings = Strings(given)
    assert list(strings) == given and len(strings) == 5
    assert strings[-1] == given[-1] and strings[1:4] == tuple(given[1:4])
    assert strings.index("日本") == 2 and "house" not in strings
    with pytest.raises(IndexError):
        strings[5]
    assert list(Strings([])) == []

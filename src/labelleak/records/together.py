"""Parse many lines of JSON at once, quicker than one by one and exactly as strictly."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

from labelleak.records.reading import MOST_DEPTH, MOST_DIGITS, MOST_LISTS

_LARGEST = 2**53
# Numbers of the contract have ranges of their own, but none has more digits, its sign among them.
_LONGEST = 10 ** (MOST_DIGITS - 1)
# Of one text, which may be one of several parts of a line.
_MOST_LISTS = MOST_LISTS // 8
Columns = dict[str, list[Any]]


def read_columns(
    lines: Sequence[str], names: Iterable[str]
) -> tuple[Columns, Columns, list[dict[str, Any]]] | None:
    """Parse lines that hold one object each; None where `parse_json` might refuse one.

    pydantic's parser is several times quicker and shares equal strings, but keeps the last of
    two values under one name. So the quotation marks are counted: each name and each text has
    two, and a value that was dropped took its name with it.

    Args:
        lines: the lines.
        names: keys that every line must have.

    Returns:
        The values of these keys by name, the others' by name, and the others' by line; None where
        a line lacks a key or may be at fault.

    >>> read_columns(['{"a": 1, "b": "x"}', '{"a": 2}'], ["a"])
    ({'a': [1, 2]}, {'b': ['x']}, [{'b': 'x'}, {}])
    >>> read_columns(['{"a": 1, "a": 2}'], ["a"])
    """
    from pydantic_core import from_json

    if any(len(line) > _MOST_LISTS and _count_lists(line) > _MOST_LISTS for line in lines):
        return None
    escaped = [line for line in lines if "\\" in line]
    if any('\\"' in line or "\\ud" in line.lower() for line in escaped):
        return None
    try:
        rows = [from_json(line, allow_inf_nan=False, cache_strings="all") for line in lines]
        if {type(row) for row in rows} != {dict}:
            return None
        texts = sum(map(len, rows))
        columns = {name: [row.pop(name) for row in rows] for name in names}
        more = dict.fromkeys(name for names in set(map(tuple, rows)) for name in names)
        others = {name: [row[name] for row in rows if name in row] for name in more}
        texts += sum(map(_texts_in, (*columns.values(), *others.values())))
    except (ValueError, KeyError):
        return None
    whole = sum(line.count('"') for line in lines) == 2 * texts
    return (columns, others, rows) if whole else None


def _count_lists(text: str) -> int:
    return text.count("[") + text.count("{")


def _texts_in(values: Sequence[Any], depth: int = 0) -> int:
    """Count the texts and names in values of all depths.

    Raises:
        ValueError: for a number that is too large, or values that are nested too deeply.
    """
    kinds = set(map(type, values))
    if not depth and int in kinds:
        whole = [value for value in values if type(value) is int]
        if max(whole) >= _LONGEST or min(whole) <= -_LONGEST:
            raise ValueError("a number is too long")
    if depth and not kinds.isdisjoint({int, float}):
        numbers = [abs(value) for value in values if isinstance(value, int | float)]
        if not all(n <= _LARGEST if isinstance(n, int) else math.isfinite(n) for n in numbers):
            raise ValueError("a number is too large")
    texts = 0
    if str in kinds:
        texts = len(values) if len(kinds) == 1 else sum(type(value) is str for value in values)
    if kinds.isdisjoint({list, dict}):
        return texts
    if depth + 1 >= MOST_DEPTH:  # a row is a level, too
        raise ValueError("nested too deeply")
    lists = [value for value in values if type(value) is list]
    dicts = [value for value in values if type(value) is dict]
    inner = [*chain.from_iterable(lists), *chain.from_iterable(map(dict.values, dicts))]
    texts += sum(map(len, dicts))
    return texts + _texts_in(inner, depth + 1) if inner else texts


__all__ = ["read_columns"]

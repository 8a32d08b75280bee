"""Lines of JSON for many rows: text that a row shares with the one before is written once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import compress, count
from json.encoder import encode_basestring_ascii as quoted
from math import isfinite
from operator import is_not
from typing import Any

ENCODER = json.JSONEncoder(allow_nan=False)
_CONSTANTS = {None: "null", False: "false", True: "true"}


def to_json_lines(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Write each row as one line, without its newline, as `json` does by default.

    Rows that come one after the other hold most values as the very same objects, and what is the
    same object is the same text.

    Raises:
        ValueError: if a number is NaN or infinite, which JSON cannot say.

    >>> to_json_lines([{"a": "é", "b": 0.5}, {"a": "é", "c": (True, None)}])
    ['{"a": "\\\\u00e9", "b": 0.5}', '{"a": "\\\\u00e9", "c": [true, null]}']
    """
    keys: list[str] = []
    held: list[Any] = []
    texts: list[str] = []
    lines = []
    for row in rows:
        names, values = list(row), list(row.values())
        other: Iterator[int]
        if names == keys:
            other = compress(count(), map(is_not, values, held))
        else:
            keys, texts, other = names, [""] * len(names), iter(range(len(names)))
            if not all(isinstance(name, str) for name in names):
                keys, texts, held = [], [], []
                lines.append(ENCODER.encode(row))  # it says of each key what `json` makes of it
                continue
        for place in other:
            texts[place] = f"{quoted(keys[place])}: {_text(values[place])}"
        held = values
        lines.append("{" + ", ".join(texts) + "}")
    return lines


def _text(value: Any) -> str:
    kind = type(value)
    if kind is str:
        return quoted(value)
    if kind is int or (kind is float and isfinite(value)):
        return repr(value)
    if kind is bool or value is None:
        return _CONSTANTS[value]
    return ENCODER.encode(value)


__all__ = ["ENCODER", "to_json_lines"]

"""Caps on what files may declare, and how their names and errors are shown: one short line."""

from __future__ import annotations

import os
from collections.abc import Iterable

from labelleak.errors import shown

# Largest file that is read unless a caller says otherwise.
LIMIT = 2 * 2**30
# A header (safetensors), directory (zip) or pickle of names and shapes: enough for some ten
# thousand tensors, and small enough that Python's objects for it do not count.
HEADER_LIMIT = 2 * 2**20
# What unpacking may take beyond twice the file's size.
SLACK = 16 * 2**20
LONGEST_NAME = 500
MOST_SIDES = 8


def shown_path(path: str | os.PathLike[str]) -> str:
    """Show a path as it is where that is one printable line, quoted where not."""
    text = os.fsdecode(path)
    return text if text.isprintable() and 0 < len(text) <= 300 else shown(text)


def reason(error: BaseException) -> str:
    """Shorten a library's error to one printable line that names its class.

    >>> reason(ValueError("no\\nmore"))
    'ValueError: no'
    """
    first = (str(error).splitlines() or [""])[0][:160]
    line = "".join(sign if sign.isprintable() else "?" for sign in first)
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def first_repeat(names: Iterable[str]) -> str | None:
    """Return the first name that was there before, in one pass however many there are.

    >>> first_repeat(["a", "b", "a", "b"])
    'a'
    """
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None

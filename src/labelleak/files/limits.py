"""Caps on what files of tensors may declare."""

from __future__ import annotations

from collections.abc import Iterable

# Largest file that is read unless a caller says otherwise.
LIMIT = 2 * 2**30
# A header (safetensors), directory (zip) or pickle of names and shapes: enough for some ten
# thousand tensors, and small enough that Python's objects for it do not count.
HEADER_LIMIT = 2 * 2**20
# What unpacking may take beyond twice the file's size.
SLACK = 16 * 2**20
LONGEST_NAME = 500
MOST_SIDES = 8


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

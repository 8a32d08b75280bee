"""Read class frequencies that an attacker knows from elsewhere: a JSON list of numbers."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from labelleak.errors import BadInput
from labelleak.records.reading import read_json

_LARGEST = 1e15


def read_frequencies(source: str | os.PathLike[str] | Sequence[float]) -> tuple[float, ...]:
    """Return frequencies, shares or counts, one a class in the order of the classes.

    Args:
        source: a list, or the path of a JSON file that holds one, alone or under "frequencies".

    Raises:
        BadInput: if it cannot be read, or holds anything but numbers of at least 0, not all 0.

    >>> read_frequencies([3, 1])
    (3.0, 1.0)
    """
    found: Any = source
    if isinstance(source, str | os.PathLike):
        found = read_json(Path(source))
        found = found.get("frequencies") if isinstance(found, dict) else found
    plain = isinstance(found, Sequence) and not isinstance(found, str | bytes)
    if not plain or not found or not all(map(_fits, found)) or not any(found):
        raise BadInput("the prior must be a list of numbers, one a class, at least 0 and not all 0")
    return tuple(float(one) for one in found)


def _fits(number: Any) -> bool:
    right = isinstance(number, int | float) and not isinstance(number, bool)
    return right and math.isfinite(number) and 0 <= number <= _LARGEST


__all__ = ["read_frequencies"]

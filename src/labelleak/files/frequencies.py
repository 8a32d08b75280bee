"""Read class frequencies that an attacker knows from elsewhere: a JSON list of numbers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

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
    if not plain or not found or not _fit(found):
        raise BadInput("the prior must be a list of numbers, one a class, at least 0 and not all 0")
    return tuple(np.asarray(found, dtype=np.float64).tolist())


def _fit(numbers: Sequence[Any]) -> bool:
    """Return whether all are numbers in range, and one is above 0; a vocabulary has many."""
    kinds = set(map(type, numbers))
    if not all(issubclass(kind, int | float) and kind is not bool for kind in kinds):
        return False
    # What is no number compares as False: as the first it is the largest, else it is seen below.
    if not (0 < max(numbers) <= _LARGEST and min(numbers) >= 0):
        return False
    return not np.isnan(np.asarray(numbers, dtype=np.float64)).any()


__all__ = ["read_frequencies"]

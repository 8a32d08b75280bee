"""A limit on an advantage: a share, so 20 % is 0.2, and one of 1 or more lets everything pass."""

from __future__ import annotations

import math
from numbers import Real

from labelleak.errors import BadInput, shown_value


def read_limit(name: str, value: object, *, open_end: bool = True) -> float:
    """Return a limit on an advantage as a float; the largest advantage is 1.

    Args:
        name: what it is called where it was given.
        value: what was given.
        open_end: whether 1 is refused, too, since no advantage lies above it.

    Raises:
        BadInput: if it is no number from 0 to below 1 (to 1 without ``open_end``).

    >>> read_limit("limit", 0.2)
    0.2
    >>> read_limit("limit", 20)
    Traceback (most recent call last):
    labelleak.errors.BadInput: `limit` 20: must be from 0 to below 1, the largest advantage; for \
20 % give 0.2
    """
    number = isinstance(value, Real) and not isinstance(value, bool)
    found = float(value) if number else math.nan  # type: ignore[arg-type]
    if found >= 0 and (found < 1 or (found == 1 and not open_end)):
        return found
    if math.isnan(found):
        raise BadInput(f"`{name}` must be a number, not {shown_value(value)}")
    most = "from 0 to below 1, the largest advantage" if open_end else "from 0 to 1"
    hint = f"; for {found:g} % give {found / 100:g}" if 1 < found <= 100 else ""
    raise BadInput(f"`{name}` {shown_value(value)}: must be {most}{hint}")


__all__ = ["read_limit"]

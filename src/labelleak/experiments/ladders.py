"""Where on a ladder something first holds, asked as few times as can be."""

from __future__ import annotations

from collections.abc import Callable


def first_holding(rungs: int, holds: Callable[[int], bool]) -> int | None:
    """Find the lowest rung at which something holds, if it holds at all rungs above it too.

    The top is asked first, so that a ladder on which nothing holds costs one question; then the
    rest by bisection, about ``log2(rungs)`` questions. Where the answers do not rise, the rung that
    is found holds, and the one below it does not.

    Args:
        rungs: length of the ladder, at least 1.
        holds: the question; asked at most once of each rung.

    Returns:
        The rung from 0, or None if it does not hold at the top.

    >>> first_holding(8, lambda rung: rung >= 3)
    3
    """
    if not holds(rungs - 1):
        return None
    low, high = -1, rungs - 1  # holds at high, not at low
    while high - low > 1:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle
    return high


def last_holding(rungs: int, holds: Callable[[int], bool]) -> int | None:
    """Find the highest rung at which something holds, if it holds at all rungs below it too.

    >>> last_holding(8, lambda rung: rung <= 3), last_holding(2, lambda rung: False)
    (3, None)
    """
    mirrored = first_holding(rungs, lambda rung: holds(rungs - 1 - rung))
    return None if mirrored is None else rungs - 1 - mirrored


__all__ = ["first_holding", "last_holding"]

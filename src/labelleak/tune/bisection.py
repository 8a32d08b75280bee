"""Where on a ladder something first holds, asked as few times as can be, many ladders at once."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

# A rung of a ladder, both from 0.
Rung = tuple[int, int]
_Asking = Generator[int, bool, int | None]


def first_holding(
    ladders: Sequence[int], hold: Callable[[Sequence[Rung]], Sequence[bool]]
) -> list[int | None]:
    """Find the lowest rung of each ladder at which something holds, if it holds above it too.

    The top is asked first, so that a ladder on which nothing holds costs one question; then the
    rest by bisection, about ``log2(rungs)`` questions. Where the answers do not rise, the rung that
    is found holds, and the one below it does not. One question of every ladder is asked at a time,
    so that they can be answered together.

    Args:
        ladders: length of each ladder, at least 1.
        hold: answers questions, each a ladder and a rung of it; no rung is asked twice.

    Returns:
        The rung of each from 0, or None if it does not hold at the top.

    >>> first_holding([8, 2], lambda asked: [ladder == 0 and rung >= 3 for ladder, rung in asked])
    [3, None]
    """
    return _ask([_bisect(rungs, end_first=True) for rungs in ladders], hold)


def last_holding(
    ladders: Sequence[int], hold: Callable[[Sequence[Rung]], Sequence[bool]]
) -> list[int | None]:
    """Find the highest rung of each ladder at which something holds, if it holds below it too.

    Where `first_holding` asks the top first, the bottom is asked last, and only where nothing
    above it holds: the weakest of all settings is hardly ever what fails.

    >>> last_holding([8, 2], lambda asked: [ladder == 0 and rung <= 3 for ladder, rung in asked])
    [3, None]
    """

    def mirrored(asked: Sequence[Rung]) -> Sequence[bool]:
        return hold([(ladder, ladders[ladder] - 1 - rung) for ladder, rung in asked])

    found = _ask([_bisect(rungs, end_first=False) for rungs in ladders], mirrored)
    return [
        None if rung is None else rungs - 1 - rung
        for rungs, rung in zip(ladders, found, strict=True)
    ]


def _bisect(rungs: int, *, end_first: bool) -> _Asking:
    if end_first and not (yield rungs - 1):
        return None
    low, high = -1, rungs - 1  # holds at high (so it is hoped if that was not asked), not at low
    while high - low > 1:
        middle = (low + high) // 2
        if (yield middle):
            high = middle
        else:
            low = middle
    if not end_first and high == rungs - 1 and not (yield high):
        return None
    return high


def _ask(
    asking: Sequence[_Asking], hold: Callable[[Sequence[Rung]], Sequence[bool]]
) -> list[int | None]:
    found: list[int | None] = [None] * len(asking)
    open_ = {ladder: next(one) for ladder, one in enumerate(asking)}
    while open_:
        for ladder, answer in zip(list(open_), hold(list(open_.items())), strict=True):
            try:
                open_[ladder] = asking[ladder].send(answer)
            except StopIteration as end:
                found[ladder] = end.value
                del open_[ladder]
    return found


__all__ = ["Rung", "first_holding", "last_holding"]

"""Tables in Markdown: the one place that writes them, and how their entries look."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

from labelleak.records.intervals import Interval

Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)
_BARE = re.compile(r"(?<!\\)\|")


def table(heads: Sequence[object], rows: Iterable[Sequence[object]], *, title: str = "") -> str:
    """Write a table; a bar in a cell (a chain of defenses) is escaped.

    Args:
        heads: the first line.
        rows: as many cells each.
        title: stands above it, in bold unless it has bold parts of its own.

    >>> print(table(["defense", "ASR"], [["clip:1|gaussian:1", 0.5]]))
    | defense | ASR |
    |---|---|
    | clip:1\\|gaussian:1 | 0.5 |
    """
    lines = [_line(heads), "|" + "---|" * len(heads), *map(_line, rows)]
    above = [title if "**" in title else f"**{title}**", ""] if title else []
    return "\n".join([*above, *lines])


def _line(cells: Sequence[object]) -> str:
    escaped = (_BARE.sub(r"\|", str(cell)) for cell in cells)
    return f"| {' | '.join(escaped)} |"


def span(interval: Interval, digits: int = 2) -> str:
    """Write a mean with its interval.

    >>> span(Interval(0.5, 0.25, 0.75))
    '0.50 (0.25 to 0.75)'
    """
    mean, low, high = (f"{end:.{digits}f}" for end in (interval.mean, interval.low, interval.high))
    return f"{mean} ({low} to {high})"


def group(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """Put items that share a key together, keys in the order in which they come.

    >>> group([1, 2, 3], lambda number: number % 2)
    {1: [1, 3], 0: [2]}
    """
    found: dict[Key, list[Item]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found


__all__ = ["group", "span", "table"]

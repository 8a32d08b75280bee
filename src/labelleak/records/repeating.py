"""Read records that repeat each other's text: what they share is parsed and checked once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from labelleak.records.together import Columns, read_columns

# A line is cut before these keys, in the order in which records write them. What its trial has of
# its own stands at the start, from the rates on, and at the end; the rest it shares with others.
START = '{"schema": 1, "trial": '
CUTS = tuple(f', "{name}": ' for name in ("seed", "asr", "flags", "presence_accuracy"))
RATES = ("asr", "asr_free", "advantage", "presence_precision", "presence_recall", "seconds")
OWN = ("schema", "trial", *RATES)
LAST = ("flags", "labelleak", "torch", "command")
# Where fewer lines share one text on average, cutting takes longer than it saves.
SHARE = 8


class Repeating(NamedTuple):
    """Lines, as what each has of its own and which of the shared parts is its other half.

    Attributes:
        own: the values of `OWN` by name, and those of other keys by name and by line.
        shared: the values of all other keys of the contract by name, and of others; as `own`.
        place: which of the shared parts belongs to each line.
    """

    own: tuple[Columns, Columns, list[dict[str, Any]]]
    shared: tuple[Columns, Columns, list[dict[str, Any]]]
    place: list[int]


def read_repeating(lines: Sequence[str], names: Sequence[str]) -> Repeating | None:
    """Parse lines that share most of their text; None for others, and where one may be at fault.

    Each part is an object by itself, so by the grammar of JSON a line is the object of all their
    keys: cuts lie before a name, which no text holds unescaped, and none lies inside a list or an
    object, since the start and the rates have none and the shared parts are parsed by themselves.

    Args:
        lines: the lines.
        names: keys of the contract, which every line must have.
    """
    own: list[str] = []
    place: list[int] = []
    numbers: dict[tuple[str, str], int] = {}
    most = max(1, len(lines) // SHARE)
    for line in lines:
        found = _cut(line)
        if found is None or len(numbers) > most:
            return None
        own.append(found[0])
        place.append(numbers.setdefault(found[1], len(numbers)))
    middle = [name for name in names if name not in OWN and name not in LAST]
    read = (
        read_columns(own, OWN),
        read_columns([f"{{{text[2:]}}}" for text, _ in numbers], middle),
        read_columns([f"{{{text[2:]}}}" for _, text in numbers], LAST),
    )
    mine, first, last = read
    if mine is None or first is None or last is None:
        return None
    beside = [*mine[1], *first[1], *last[1]]
    if len({*beside, *names}) != len(beside) + len(names):  # a key stands in two parts
        return None
    extras = [a | b for a, b in zip(first[2], last[2], strict=True)]
    return Repeating(mine, (first[0] | last[0], first[1] | last[1], extras), place)


def _cut(line: str) -> tuple[str, tuple[str, str]] | None:
    """Return the text that a line has of its own, and the two texts that it may share."""
    seed = line.find(CUTS[0])
    asr = line.find(CUTS[1], seed)
    flags = line.find(CUTS[2], asr)
    end = line.find(CUTS[3], flags)
    if not 0 < seed < asr < flags < end:
        return None
    trial, rates = line[len(START) : seed], line[asr:flags]
    plain = trial.isdigit() and line.startswith(START)
    if not plain or "{" in rates or "[" in rates or "}" in rates or "]" in rates:
        return None
    return line[:seed] + rates + line[end:], (line[seed:asr], line[flags:end])


__all__ = ["CUTS", "LAST", "OWN", "RATES", "SHARE", "START", "Repeating", "read_repeating"]

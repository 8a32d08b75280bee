"""Answers that nobody could score, as a Flower server without the labels writes them; no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labelleak.errors import BadInput, shown, shown_path, shown_value
from labelleak.records.reading import parse_json, read_lines
from labelleak.records.record import THREAT_MODELS

_LARGEST = 2**53
_LONGEST_NAME = 500


@dataclass(frozen=True, kw_only=True)
class Unscored:
    """What one attack answered on one client's update, whose true labels are not known.

    Attributes:
        round: the server's round.
        client: whose update it was.
        attack: name of the attack.
        threat_model: what its server holds.
        counts: how often each class is there, as the attack has it.
        flags: what does not hold of what it assumes.
        run: Flower's number of the run; empty where it is not named.

    >>> line = '{"round": 1, "client": "a", "attack": "llg", "threat_model": "update", '
    >>> Unscored.from_json(line + '"counts": [0, 2], "flags": []}').named
    ((1, 2),)
    """

    round: int
    client: str
    attack: str
    threat_model: str
    counts: tuple[int, ...]
    flags: tuple[str, ...]
    run: str = ""

    @property
    def named(self) -> tuple[tuple[int, int], ...]:
        """Each class that is named, with how often, the most frequent first."""
        there = [(label, number) for label, number in enumerate(self.counts) if number]
        return tuple(sorted(there, key=lambda one: (-one[1], one[0])))

    @classmethod
    def from_json(cls, line: str) -> Unscored:
        """Read a line of ``estimates.jsonl``.

        Raises:
            BadInput: for what is none, with a sentence that goes on after "the line ...".
        """
        row = parse_json(line)
        if not isinstance(row, dict) or "asr" in row:
            raise BadInput("is no answer without a score")
        for name, fits in _KEYS.items():
            if name not in row:
                raise BadInput(f"lacks the key {name}")
            if not fits(row[name]):
                raise BadInput(f"has {shown_value(row[name])} under {name!r}")
        run = row.get("run", "")
        if not _name(run):
            raise BadInput(f"has {shown_value(run)} under 'run'")
        return cls(**{name: _frozen(row[name]) for name in _KEYS}, run=run)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST


def _name(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= _LONGEST_NAME


def _each(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(fits, value))


_KEYS: dict[str, Callable[[Any], bool]] = {
    "round": _whole,
    "client": _name,
    "attack": _name,
    "threat_model": lambda value: value in THREAT_MODELS,
    "counts": _each(_whole),
    "flags": _each(_name),
}


def is_unscored(path: Path) -> bool:
    """Return whether the first line of a file is an answer without a score.

    Raises:
        BadInput: if the file cannot be read.
    """
    for _, line in read_lines(path, "records from "):
        try:
            Unscored.from_json(line)
        except BadInput:
            return False
        return True
    return False


def read_unscored(path: Path) -> list[Unscored]:
    """Read a file of answers without a score.

    Raises:
        BadInput: if it cannot be read, or a line of it is something else.
    """
    found = []
    for number, line in read_lines(path, "answers from "):
        try:
            found.append(Unscored.from_json(line))
        except BadInput as error:
            raise BadInput(f"{shown_path(path)}, line {number} {error}") from error
    return found


def last_answers(rows: Sequence[Unscored]) -> list[Unscored]:
    """Return the answers on each client's latest update, by client, baselines left out."""
    latest: dict[str, int] = {}
    for row in rows:
        latest[row.client] = max(latest.get(row.client, 0), row.round)
    kept = [r for r in rows if r.round == latest[r.client] and r.threat_model != "none"]
    return sorted(kept, key=lambda row: (row.client, THREAT_MODELS.index(row.threat_model)))


def say_client(row: Unscored) -> str:
    """Name a client in one printable line."""
    return row.client if row.client.isprintable() and len(row.client) <= 60 else shown(row.client)


__all__ = ["Unscored", "is_unscored", "last_answers", "read_unscored", "say_client"]

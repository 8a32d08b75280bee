"""Follow leakage over the rounds and clients of a federation, from records that carry `round`.

Clients differ in how much data they hold, so cells of one batch size would be few and small.
Here each update counts once, whatever its size, told by an attack that was chosen on other
clients (on other rounds where there is one client only).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from labelleak.records.frame import RecordFrame
from labelleak.records.intervals import Interval, bootstrap_means
from labelleak.records.record import THREAT_MODELS, Record
from labelleak.records.strongest import strongest_of_each


@dataclass(frozen=True)
class Round:
    """One round: the mean advantage, its interval over clients, and how many there were."""

    number: int
    advantage: Interval
    clients: int


@dataclass(frozen=True)
class Client:
    """One client: its mean advantage, its interval over rounds, and how many there were."""

    name: str
    advantage: Interval
    rounds: int


@dataclass(frozen=True)
class OverRounds:
    """What was named over all rounds and clients, with the defense on or off.

    ``free`` is the mean ASR of the guess without the update.
    """

    threat_model: str
    defended: bool
    advantage: Interval
    asr: float
    free: float
    updates: int


@dataclass(frozen=True)
class Course(OverRounds):
    """What one server learned over the rounds; ``clients`` are ordered worst first."""

    attacks: tuple[str, ...]
    rounds: tuple[Round, ...]
    clients: tuple[Client, ...]


def mean_rates(rows: Sequence[Record]) -> tuple[float, float, int]:
    """Return mean ASR, that of the guess without the update, and of how many updates."""
    number = len(rows)
    return sum(r.asr for r in rows) / number, sum(r.asr_free for r in rows) / number, number


def is_federated(row: Record) -> bool:
    """Return whether a record names its round and its advantage has a meaning."""
    return is_round(row.extra.get("round"))


def is_round(number: object) -> bool:
    """Return whether this is the number of a round."""
    return isinstance(number, int) and not isinstance(number, bool)


def federated(records: Iterable[Record]) -> list[Record]:
    """Return the records of a federation's rounds; a frame knows at once where there are none.

    >>> federated([])
    []
    """
    if isinstance(records, RecordFrame) and not records.distinct("round"):
        return []
    return [row for row in records if is_federated(row)]


def outside_rounds(records: Iterable[Record]) -> Sequence[Record]:
    """Return the records of no federation's rounds: all of a frame where nobody names a round.

    >>> outside_rounds([])
    []
    """
    if isinstance(records, RecordFrame) and not records.distinct("round"):
        return records
    return [row for row in records if not is_federated(row)]


def follow_rounds(records: Iterable[Record]) -> list[Course]:
    """Return the course of each threat model with the defense off and on; none without rounds.

    >>> follow_rounds([])
    []
    """
    groups: dict[bool, list[Record]] = defaultdict(list)
    for row in federated(records):
        groups[is_defended(row)].append(row)
    found = []
    for defended, rows in sorted(groups.items()):
        told: dict[str, list[Record]] = defaultdict(list)
        for row in strongest_of_each(RecordFrame(rows), range(len(rows))):
            if row.advantage is not None:
                told[row.threat_model].append(row)
        found += [_course(own, threat_model, defended) for threat_model, own in told.items()]
    return sorted(found, key=lambda course: (_rank(course), course.defended))


def _rank(course: Course) -> int:
    return THREAT_MODELS.index(course.threat_model)


def is_defended(row: Record) -> bool:
    """Return whether a defense was applied to the update that was attacked."""
    return bool(row.extra.get("defended", row.defense != "none"))


def client_of(row: Record) -> str:
    """Name the client; all updates are one client's where none is named."""
    return str(row.extra.get("client", "not named"))


def _course(rows: Sequence[Record], threat_model: str, defended: bool) -> Course:
    rounds: dict[int, list[Record]] = defaultdict(list)
    clients: dict[str, list[Record]] = defaultdict(list)
    for row in sorted(rows, key=lambda r: (r.extra["round"], client_of(r), r.trial, r.asr)):
        rounds[row.extra["round"]].append(row)
        clients[client_of(row)].append(row)
    parts = [list(rows), *rounds.values()]
    spans = bootstrap_means(
        [_column(part, client_of) for part in parts]
        + [_column(part, lambda r: r.extra["round"]) for part in clients.values()]
    )
    over = spans[1 : len(parts)]
    mine = spans[len(parts) :]
    named = [
        Client(name, span, len({r.extra["round"] for r in part}))
        for (name, part), span in zip(clients.items(), mine, strict=True)
    ]
    return Course(
        threat_model,
        defended,
        spans[0],
        *mean_rates(rows),
        tuple(sorted({str(r.extra["chosen"]) for r in rows})),
        tuple(
            Round(number, span, len({client_of(r) for r in part}))
            for (number, part), span in zip(rounds.items(), over, strict=True)
        ),
        tuple(sorted(named, key=lambda c: (-c.advantage.mean, c.name))),
    )


def _column(rows: Sequence[Record], group: Any) -> tuple[list[float], list[Any]]:
    pairs = [(r.advantage, group(r)) for r in rows if r.advantage is not None]
    return [value for value, _ in pairs], [name for _, name in pairs]

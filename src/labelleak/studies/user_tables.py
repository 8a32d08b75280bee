"""The table of users: how far guesses of their label distributions are, and from when on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from labelleak.records.intervals import Interval, bootstrap_mean
from labelleak.records.record import Record
from labelleak.report.markdown import group, span, table


def make_users_table(rows: Sequence[Record]) -> str:
    """Write each federation's last round: how far every attack is from what users hold.

    Intervals are over users. *Half by* is the first round shown after which the mean L1 distance is
    at most half the population guess's, and *until* the last one of which that holds.
    """
    parts = []
    for (partition, epochs), own in group(rows, _federation).items():
        last = max(int(row.extra["rounds"]) for row in own)
        final = [row for row in own if row.extra["rounds"] == last]
        lines = [_population(final)]
        for name, mine in group(final, lambda row: row.attack).items():
            every = [row for row in own if row.attack == name]
            lines.append([str(mine[0].extra["attack_title"]), *_entries(mine), _halves(every)])
        accuracy = np.mean([row.model_accuracy for row in final])
        title = (
            f"**{partition}, local epochs {epochs}, after {last} rounds** (accuracy of the model "
            f"that was sent {accuracy:.2f}; {len(group(final, _user))} users)"
        )
        heads = ["attack", *_SHOWN.values(), "half of the guess's L1: rounds (accuracy)"]
        parts.append(table(heads, lines, title=title))
    return "\n\n".join(parts) + "\n"


_SHOWN = {
    "l1": "L1",
    "l_infinity": "L-infinity",
    "jensen_shannon": "Jensen-Shannon",
    "majority": "majority named",
    "absent_found": "absent found",
}


def _federation(row: Record) -> tuple[str, int]:
    return str(row.extra["partition"]), int(row.extra["epochs"])


def _user(row: Record) -> tuple[int, int]:
    return row.initialisation, int(row.extra["user"])


def _population(rows: Sequence[Record]) -> list[str]:
    """Describe the guess that knows the attacker's own data only."""
    size = rows[0].extra["population_size"]
    known = [rows_of[0] for rows_of in group(rows, _user).values()]
    l1 = span(_over_users([row.extra["population_l1"] for row in known], known))
    hit = span(_over_users([row.extra["population_majority"] for row in known], known))
    return [f"population guess ({size} samples)", l1, "-", "-", hit, "-", "-"]


def _entries(rows: Sequence[Record]) -> Iterator[str]:
    for key in _SHOWN:
        there = [row for row in rows if row.extra[key] is not None]
        yield span(_over_users([row.extra[key] for row in there], there)) if there else "-"


def _over_users(values: Sequence[float], rows: Sequence[Record]) -> Interval:
    return bootstrap_mean(values, [row.initialisation for row in rows])


def _halves(rows: Sequence[Record]) -> str:
    """Say after which rounds an attack is at half the population guess's distance or closer."""
    reached = []
    for rounds, own in group(rows, lambda row: int(row.extra["rounds"])).items():
        mean = np.mean([row.extra["l1"] for row in own])
        if 2 * mean <= np.mean([row.extra["population_l1"] for row in own]):
            reached.append((rounds, float(np.mean([row.model_accuracy for row in own]))))
    if not reached:
        return "never"
    (first, _), (last, accuracy) = reached[0], reached[-1]
    return f"{first} to {last} ({accuracy:.2f})"


__all__ = ["make_users_table"]

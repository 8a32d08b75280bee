"""The strongest attacker of each threat model, chosen on one half of the trials, told on the other.

The best of several attacks on the trials that chose it looks better than it is. So the trials are
halved (by initialisation where there are several, else by trial), each half names its best
attack, and the other half says what that attack scored: every trial counts once, and none had a
say in its own choice.

A server may use any attack that needs no more than it holds, the guess without the update
included: one that only loses by reading the update would not read it. So the strongest attacker's
advantage falls below 0 by chance alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from labelleak.record import THREAT_MODELS, Record
from labelleak.report.tables import Cell, condition_of, tabulate, varying_conditions

STRONGEST = "strongest"


def worst_cases(records: Iterable[Record]) -> list[Cell]:
    """Give the strongest attacker's cell for each threat model under each condition.

    Each cell's attack is `STRONGEST`; its ``chosen`` names the attacks that were chosen, with
    the number of trials that each answers for.

    Args:
        records: rows of one or several runs.
    """
    return tabulate(strongest_records(records))


def strongest_records(records: Iterable[Record]) -> list[Record]:
    """Give one record per trial and threat model that reads the update: the chosen attack's.

    >>> strongest_records([])
    []
    """
    rows = list(records)
    varying = varying_conditions(rows)
    groups: dict[Any, list[Record]] = defaultdict(list)
    for row in rows:
        groups[condition_of(row, varying)].append(row)
    found = []
    for members in groups.values():
        held = {row.threat_model for row in members}
        for rank, threat_model in enumerate(THREAT_MODELS):
            if rank and threat_model in held:
                allowed = THREAT_MODELS[: rank + 1]
                usable = [row for row in members if row.threat_model in allowed]
                found.extend(_choose(usable, threat_model))
    return found


def _choose(rows: Sequence[Record], threat_model: str) -> list[Record]:
    halves = _halve(rows)
    if not all(halves):  # a single trial has no other half to choose on
        return _answer(rows, _best(rows), threat_model)
    first, second = halves
    return [
        *_answer(first, _best(second), threat_model),
        *_answer(second, _best(first), threat_model),
    ]


def _halve(rows: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    """Split by initialisation where there are several, else by trial."""
    several = len({row.initialisation for row in rows}) > 1
    names = [row.initialisation if several else row.trial for row in rows]
    places = {name: place for place, name in enumerate(sorted(set(names)))}
    halves: tuple[list[Record], list[Record]] = ([], [])
    for name, row in zip(names, rows, strict=True):
        halves[places[name] % 2].append(row)
    return halves


def _best(rows: Sequence[Record]) -> tuple[str, bool]:
    """Name the attack with the highest mean ASR; of equals, the one that needs least."""
    scores: dict[tuple[int, str, bool], list[float]] = defaultdict(list)
    for row in rows:
        key = (THREAT_MODELS.index(row.threat_model), row.attack, row.adaptive)
        scores[key].append(row.asr)
    means = {key: round(float(np.mean(values)), 9) for key, values in scores.items()}
    _, attack, adaptive = min(means, key=lambda key: (-means[key], key))
    return attack, adaptive


def _answer(rows: Sequence[Record], chosen: tuple[str, bool], threat_model: str) -> list[Record]:
    """Take a chosen attack's records as the strongest attacker's."""
    return [
        replace(
            row,
            attack=STRONGEST,
            adaptive=False,
            threat_model=threat_model,
            extra={**row.extra, "chosen": row.attack, "chosen_adaptive": row.adaptive},
        )
        for row in rows
        if (row.attack, row.adaptive) == chosen
    ]

"""The strongest attacker of each threat model, chosen on other trials than it is measured on.

The best of several attacks on the trials that chose it looks better than it is. So each
initialisation of the model (each trial, where there is one model only) is told by the attack that
did best on all the others: every trial counts once, and none had a say in its own choice. Where
records name the client of a federation, the clients are what is told apart.

A server may use any attack that needs no more than it holds, and it may leave the update
unread: where no attack gains on the others, it answers with the best guess without the update,
which has advantage 0 by definition.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from labelleak.records.cells import Cell, block_of, condition_of, tabulate, varying_conditions
from labelleak.records.record import THREAT_MODELS, Record

STRONGEST = "strongest"


def worst_cases(records: Iterable[Record]) -> list[Cell]:
    """Return the strongest attacker's cell for each threat model under each condition.

    Each cell's attack is `STRONGEST`; its ``chosen`` names the attacks that were chosen, with
    the number of trials that each answers for.

    Args:
        records: rows of one or several runs.
    """
    return tabulate(strongest_records(records))


def strongest_records(records: Iterable[Record]) -> list[Record]:
    """Return one record per trial and threat model that reads the update: the chosen attack's.

    >>> strongest_records([])
    []
    """
    rows = list(records)
    varying = varying_conditions(rows)
    groups: dict[Any, list[Record]] = defaultdict(list)
    for row in rows:
        groups[condition_of(row, varying)].append(row)
    found: list[Record] = []
    for members in groups.values():
        held = {row.threat_model for row in members}
        for rank, threat_model in enumerate(THREAT_MODELS):
            if rank and threat_model in held:
                allowed = THREAT_MODELS[: rank + 1]
                usable = [r for r in members if r.threat_model in allowed[1:]]
                found.extend(choose(usable, threat_model))
    return found


def choose(rows: Sequence[Record], threat_model: str) -> Iterator[Record]:
    """Tell each fold of the trials by the attack that gained most on the others.

    Args:
        rows: records under one condition of attacks that this threat model may run.
        threat_model: what the told records say.
    """
    folds = _folds(rows)
    gains = {fold: _gains(members) for fold, members in folds.items()}
    attacks = sorted({_key(row) for row in rows})
    for fold, members in folds.items():
        # A single trial has no others to choose on.
        others = [gains[other] for other in folds if other != fold] or [gains[fold]]
        mean = {key: _mean_gain(others, key) for key in attacks}
        held = {_key(row) for row in members}
        best = min(held, key=lambda key: (-round(mean[key], 9), key))
        yield from _answer(members, best if mean[best] > _NO_GAIN else None, threat_model)


Key = tuple[int, str, bool]
# (sum of ASR less the free guess's, number of trials) of each attack.
Gains = Mapping[Key, tuple[float, int]]
_NO_GAIN = 1e-9


def _key(row: Record) -> Key:
    """Order attacks by what they need, then by name: of equals, the first is chosen."""
    return THREAT_MODELS.index(row.threat_model), row.attack, row.adaptive


def _folds(rows: Sequence[Record]) -> dict[Any, list[Record]]:
    """Split by initialisation (and client) where there are several, else by round and trial."""
    several = len({block_of(row) for row in rows}) > 1
    folds: dict[Any, list[Record]] = defaultdict(list)
    for row in rows:
        folds[block_of(row) if several else (row.extra.get("round"), row.trial)].append(row)
    return folds


def _gains(rows: Iterable[Record]) -> Gains:
    found: dict[Key, tuple[float, int]] = defaultdict(lambda: (0.0, 0))
    for row in rows:
        total, trials = found[_key(row)]
        found[_key(row)] = (total + row.asr - row.asr_free, trials + 1)
    return found


def _mean_gain(folds: Sequence[Gains], key: Key) -> float:
    held = [fold[key] for fold in folds if key in fold]
    trials = sum(number for _, number in held)
    return sum(total for total, _ in held) / trials if trials else -1.0


def _answer(rows: Sequence[Record], chosen: Key | None, threat_model: str) -> Iterator[Record]:
    """Return a chosen attack's records as the strongest attacker's; None is the free guess."""
    told = [row for row in rows if _key(row) == (chosen or _key(rows[0]))]
    for row in told:
        name: dict[str, Any] = {"chosen": chosen[1] if chosen else "free"}
        name["chosen_adaptive"] = bool(chosen and chosen[2])
        if not chosen:
            name["attack_title"] = None
        unread: dict[str, Any] = {} if chosen else {"asr": row.asr_free, "advantage": _nothing(row)}
        yield replace(
            row,
            **unread,
            attack=STRONGEST,
            adaptive=False,
            threat_model=threat_model,
            extra={**row.extra, **name},
        )


def _nothing(row: Record) -> float | None:
    return None if row.advantage is None else 0.0

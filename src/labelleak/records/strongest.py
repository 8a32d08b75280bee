"""The strongest attacker of each threat model, chosen on other trials than it is measured on.

The best of several attacks on the trials that chose it looks better than it is. So each
initialisation of the model (each trial, where there is one model only) is told by the attack that
did best on all the others: every trial counts once, and none had a say in its own choice. Of
attacks that did equally well there the one that sees most is chosen, and one that knows the
defense: it is more likely to hold. Where records name the client of a federation, the clients are
what is told apart.

A server may use any attack that needs no more than it holds, and it may leave the update
unread: where no attack gains on the others, it answers with the best guess without the update,
which has advantage 0 by definition. And it may do all that a server does that holds less: where the
choice among more attacks came out worse, by chance of the trials, it is shown with that server's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from labelleak.records.cells import Cell, tabulate
from labelleak.records.frame import Attacker, RecordFrame
from labelleak.records.record import THREAT_MODELS, Record, altered

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
    frame = RecordFrame.of(records)
    groups: dict[int, list[int]] = defaultdict(list)
    for index, place in enumerate(frame.conditions[0]):
        groups[place].append(index)
    return [row for members in groups.values() for row in strongest_of_each(frame, members)]


def strongest_of_each(frame: RecordFrame, members: Sequence[int]) -> Iterator[Record]:
    """Return the strongest attacker's records of each threat model that was run.

    Args:
        frame: the records.
        members: which of them are compared.
    """
    attackers = frame.attackers
    held = {attackers[index][0] for index in members}
    weaker: list[Record] = []
    for rank in sorted(held - {0}):
        usable = [index for index in members if 0 < attackers[index][0] <= rank]
        chosen = list(_choose(frame, usable, THREAT_MODELS[rank]))
        if len(weaker) == len(chosen) and _gained(weaker) > _gained(chosen):
            chosen = [altered(row, threat_model=THREAT_MODELS[rank]) for row in weaker]
        yield from chosen
        weaker = chosen


def _gained(rows: Sequence[Record]) -> float:
    """Return the mean advantage, to nine decimals so that equals are equal in any order."""
    found = [row.advantage for row in rows if row.advantage is not None]
    return round(sum(found) / len(found), 9) if found else 0.0


_NO_GAIN = 1e-9


def _choose(frame: RecordFrame, members: Sequence[int], threat_model: str) -> Iterator[Record]:
    """Score each fold of the trials with the attack that gained most on the others.

    Args:
        frame: the records.
        members: those under one condition, of attacks that this threat model may run.
        threat_model: what the answers say.
    """
    folds = _folds(frame, members)
    # Of equals the first is chosen.
    attackers = sorted(
        {frame.attackers[index] for index in members},
        key=lambda attacker: (-attacker[0], not attacker[2], attacker[1]),
    )
    totals, trials = np.zeros((2, len(folds), len(attackers)))
    gains = frame.numbers("asr") - frame.numbers("asr_free")
    place = {attacker: number for number, attacker in enumerate(attackers)}
    for number, fold in enumerate(folds):
        columns = [place[frame.attackers[index]] for index in fold]
        np.add.at(totals[number], columns, gains[fold])
        np.add.at(trials[number], columns, 1)
    # A single fold has no others to choose on.
    single = len(folds) == 1
    others = totals if single else totals.sum(axis=0) - totals
    counts = trials if single else trials.sum(axis=0) - trials
    mean = np.where(counts > 0, others / np.maximum(counts, 1), -1.0)
    ranked = np.where(trials > 0, mean.round(9), -np.inf)
    for fold, best, means in zip(folds, ranked.argmax(axis=1).tolist(), mean, strict=True):
        told = [frame.rows[index] for index in fold if frame.attackers[index] == attackers[best]]
        if means[best] > _NO_GAIN:
            yield from (_named(row, attackers[best], threat_model) for row in told)
        else:
            own = frame.attackers[fold[0]]
            blind = [frame.rows[index] for index in fold if frame.attackers[index] == own]
            yield from (_unread(row, threat_model) for row in blind)


def _folds(frame: RecordFrame, members: Sequence[int]) -> list[list[int]]:
    """Split by initialisation (and client) where there are several, else by round and trial."""
    blocks = frame.blocks[list(members)].tolist()
    several = len(set(blocks)) > 1
    folds: dict[Any, list[int]] = defaultdict(list)
    for index, block in zip(members, blocks, strict=True):
        row = frame.rows[index]
        folds[block if several else (row.extra.get("round"), row.trial)].append(index)
    return list(folds.values())


def _named(row: Record, attacker: Attacker, threat_model: str) -> Record:
    """Return a chosen attack's record as the strongest attacker's."""
    chosen = {"chosen": attacker[1], "chosen_adaptive": attacker[2]}
    return _as_strongest(row, threat_model, chosen)


def _unread(row: Record, threat_model: str) -> Record:
    """Return the free guess on a record's trial as the strongest attacker's record."""
    chosen = {"chosen": "free", "chosen_adaptive": False, "attack_title": None}
    if "class_asr_free" in row.extra:
        chosen["class_asr"] = row.extra["class_asr_free"]
    if "asr_image_free" in row.extra:
        chosen["asr_image"] = row.extra["asr_image_free"]
    nothing = None if row.advantage is None else 0.0
    return _as_strongest(row, threat_model, chosen, asr=row.asr_free, advantage=nothing)


def _as_strongest(
    row: Record, threat_model: str, chosen: Mapping[str, Any], **changed: Any
) -> Record:
    return altered(
        row,
        attack=STRONGEST,
        adaptive=False,
        threat_model=threat_model,
        extra={**row.extra, **chosen},
        **changed,
    )

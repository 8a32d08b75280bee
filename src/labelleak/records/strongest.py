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

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from labelleak.records.cells import Cell, tabulate
from labelleak.records.columns import ABSENT, Column, Unmade, code_together
from labelleak.records.frame import Attacker, RecordFrame
from labelleak.records.record import THREAT_MODELS, Record, altered

STRONGEST = "strongest"


class Pick(NamedTuple):
    """Records that answer for the strongest attacker of a threat model.

    Attributes:
        places: which they are.
        rank: the threat model's, from `THREAT_MODELS`.
        whose: the number of the attacker that was chosen for each; -1 for the guess without the
            update.
    """

    places: np.ndarray
    rank: int
    whose: np.ndarray


def worst_cases(records: Iterable[Record]) -> list[Cell]:
    """Return the strongest attacker's cell for each threat model under each condition.

    Each cell's attack is `STRONGEST`; its ``chosen`` names the attacks that were chosen, with
    the number of trials that each answers for.

    Args:
        records: rows of one or several runs.
    """
    frame = RecordFrame.of(records)
    picks = list(_pick_all(frame))
    if not picks:
        return []
    rows = (
        _as_columns(frame, picks)
        if isinstance(frame.held, Unmade)
        else [row for pick in picks for row in _as_records(frame, pick)]
    )
    # What tells conditions apart is named in all cells, though no attack was chosen under one.
    return tabulate(RecordFrame(rows, varying=frame.varying))


def strongest_records(records: Iterable[Record]) -> list[Record]:
    """Return one record per trial and threat model that reads the update: the chosen attack's.

    >>> strongest_records([])
    []
    """
    frame = RecordFrame.of(records)
    return [row for pick in _pick_all(frame) for row in _as_records(frame, pick)]


def _pick_all(frame: RecordFrame) -> Iterator[Pick]:
    codes, places = frame.placed
    for members in group_places(codes, len(places)):
        yield from _pick(frame, members)


def group_places(codes: np.ndarray, number: int) -> list[np.ndarray]:
    """Return the places of each code below a number, in their order.

    >>> [own.tolist() for own in group_places(np.array([1, 0, 1]), 2)]
    [[1], [0, 2]]
    """
    ends = np.cumsum(np.bincount(codes, minlength=number))
    return np.split(np.argsort(codes, kind="stable"), ends)[:number]


def strongest_of_each(frame: RecordFrame, members: Sequence[int]) -> Iterator[Record]:
    """Return the strongest attacker's records of each threat model that was run.

    Args:
        frame: the records.
        members: which of them are compared.
    """
    for pick in _pick(frame, np.array(members, dtype=np.int64)):
        yield from _as_records(frame, pick)


def _pick(frame: RecordFrame, members: np.ndarray) -> Iterator[Pick]:
    """Choose for each threat model that was run, among some of the records."""
    codes, attackers = frame.answerers
    ranks = np.array([rank for rank, *_ in attackers], dtype=np.int64)[codes[members]]
    weaker: Pick | None = None
    for rank in sorted(set(ranks.tolist()) - {0}):
        chosen = _choose(frame, members[(ranks > 0) & (ranks <= rank)], rank)
        if (
            weaker is not None
            and len(weaker.places) == len(chosen.places)
            and _gained(frame, weaker) > _gained(frame, chosen)
        ):
            chosen = weaker._replace(rank=rank)
        yield chosen
        weaker = chosen


def _gained(frame: RecordFrame, pick: Pick) -> float:
    """Return the mean advantage, to nine decimals so that equals are equal in any order."""
    advantages = frame.numbers("advantage")[pick.places]
    known = ~np.isnan(advantages)
    found = np.where(pick.whose < 0, 0.0, advantages)[known].tolist()
    return round(sum(found) / len(found), 9) if found else 0.0


_NO_GAIN = 1e-9


def _choose(frame: RecordFrame, members: np.ndarray, rank: int) -> Pick:
    """Score each fold of the trials with the attack that gained most on the others.

    Args:
        frame: the records.
        members: those under one condition, of attacks that this threat model may run.
        rank: the threat model's.
    """
    codes, known = frame.answerers
    folds = _folds(frame, members)
    order = np.argsort(folds, kind="stable")
    members, folds = members[order], folds[order]
    # Of equals the first is chosen.
    whose = sorted(
        set(codes[members].tolist()),
        key=lambda code: (-known[code][0], not known[code][2], known[code][1]),
    )
    columns = np.zeros(len(known), dtype=np.int64)
    columns[whose] = np.arange(len(whose))
    own = columns[codes[members]]
    shape = int(folds[-1]) + 1, len(whose)
    each = folds * len(whose) + own
    gains = (frame.numbers("asr") - frame.numbers("asr_free"))[members]
    totals = np.bincount(each, weights=gains, minlength=shape[0] * shape[1]).reshape(shape)
    trials = np.bincount(each, minlength=shape[0] * shape[1]).reshape(shape).astype(np.float64)
    # A single fold has no others to choose on.
    single = len(totals) == 1
    others = totals if single else totals.sum(axis=0) - totals
    counts = trials if single else trials.sum(axis=0) - trials
    mean = np.where(counts > 0, others / np.maximum(counts, 1), -1.0)
    best = np.where(trials > 0, mean.round(9), -np.inf).argmax(axis=1)
    gained = mean[np.arange(len(best)), best] > _NO_GAIN
    # Where nothing is gained, the trials are those that the fold's first attacker answered.
    first = own[np.searchsorted(folds, np.arange(len(best)))]
    told = own == np.where(gained, best, first)[folds]
    chosen = np.where(gained, np.array(whose)[best], -1)[folds[told]]
    return Pick(members[told], rank, chosen)


def _folds(frame: RecordFrame, members: np.ndarray) -> np.ndarray:
    """Number by initialisation (and client) where there are several, else by round and trial."""
    blocks = Column(range(int(frame.blocks.max()) + 1), frame.blocks[members])
    codes, number = code_together([blocks], len(members))
    if number > 1:
        return codes
    keys = [frame.column(name) for name in ("round", "trial")]
    own = [
        Column(key.values, members if key.codes is None else key.codes[members])
        for key in keys
        if key is not None
    ]
    return code_together(own, len(members))[0]


def _as_columns(frame: RecordFrame, picks: Sequence[Pick]) -> Unmade:
    """Return what `_as_records` gives for all picks, each made when it is asked for."""
    assert isinstance(frame.held, Unmade)
    names = [(name, adaptive) for _, name, adaptive in frame.answerers[1]] + [("free", False)]
    places, whose = (np.concatenate(own) for own in zip(*(p[::2] for p in picks), strict=True))
    unread, nobody = whose < 0, np.zeros(len(places), dtype=np.int64)
    whose[unread] = len(names) - 1
    ranks = np.repeat([pick.rank for pick in picks], [len(pick.places) for pick in picks])
    held = frame.held.take(places)
    changed = {
        "attack": Column([STRONGEST], nobody),
        "adaptive": Column([False], nobody),
        "threat_model": Column(THREAT_MODELS, ranks),
        "chosen": Column([name for name, _ in names], whose),
        "chosen_adaptive": Column([adaptive for _, adaptive in names], whose),
    }
    if unread.any():
        nothing = [None if value is None else 0.0 for value in _by_row(held, "advantage")]
        instead: dict[str, list[Any]] = {"attack_title": [None] * len(held), "advantage": nothing}
        instead |= {name: _by_row(held, other) for name, other in _GUESSED.items()}
        for name, others in instead.items():
            values = _by_row(held, name)
            for place in np.flatnonzero(unread).tolist():
                if others[place] is not ABSENT:
                    values[place] = others[place]
            changed[name] = Column(values, None)
    return held.changed(changed)


# What the free guess has under other keys than attacks have it.
_GUESSED = {"asr": "asr_free", "class_asr": "class_asr_free", "asr_image": "asr_image_free"}


def _by_row(held: Unmade, name: str) -> list[Any]:
    column = held.column(name)
    return [ABSENT] * len(held) if column is None else column.by_row()


def _as_records(frame: RecordFrame, pick: Pick) -> Iterator[Record]:
    """Return the records of a pick as the strongest attacker's."""
    attackers = frame.answerers[1]
    for place, code in zip(pick.places.tolist(), pick.whose.tolist(), strict=True):
        row, held = frame[place], THREAT_MODELS[pick.rank]
        yield _unread(row, held) if code < 0 else _named(row, attackers[code], held)


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

"""Group records into cells, one per condition and attack, each with its intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from labelleak.records.frame import TITLED, Attacker, Condition, RecordFrame, name_titles
from labelleak.records.intervals import Interval, bootstrap_means
from labelleak.records.record import SETTING, THREAT_MODELS, Record


class Setting(NamedTuple):
    """What stays the same along a figure: data, model and the way the client trains."""

    data: str
    model: str
    init: str
    local_steps: int
    defense: str
    condition: Condition


@dataclass(frozen=True, kw_only=True)
class Cell:
    """All trials of one attack under one condition, averaged.

    ``free`` is the mean expected ASR of the best guess without the update; ``advantage`` is
    None where that guess is always right. ``condition`` holds the extra keys that differ
    within the file. ``flags`` pairs each flag with the number of trials that raised it.
    ``chosen`` names the attacks that a strongest attacker's cell is made of, most trials first.
    ``titles`` pairs the attacks behind the cell with their titles, and ``concerned_by`` holds the
    flags that concern them, as far as records say; None where they do not.
    ``unsettled`` counts the trials whose scale, sign, task or loss is not known to hold.
    ``by_class`` holds the mean ASR of each label and of its free guess, where an input has several.
    ``expected_asr`` is the mean ASR that the attack said to expect, None where it does not say.
    """

    data: str
    model: str
    init: str
    condition: Condition
    training_steps: int
    scheme: str
    num_classes: int
    batch_size: int
    local_steps: int
    num_samples: int
    defense: str
    attack: str
    threat_model: str
    adaptive: bool
    asr: Interval
    free: float
    advantage: Interval | None
    model_accuracy: float | None
    trials: int
    initialisations: int
    presence_precision: float
    presence_recall: float
    flags: tuple[tuple[str, int], ...]
    presence_accuracy: float | None = None
    count_accuracy: float | None = None
    chosen: tuple[tuple[str, bool], ...] = ()
    expected_asr: float | None = None
    titles: tuple[tuple[str, str], ...] = ()
    concerned_by: frozenset[str] | None = None
    unsettled: int = 0
    task: str = "classes"
    by_class: tuple[tuple[float, float], ...] = ()
    asr_image: float | None = None
    asr_image_free: float | None = None

    @property
    def num_labels(self) -> int:
        """Labels to name behind an update: of several an input, each is there or not."""
        return self.num_samples * (self.num_classes if self.task == "multilabel" else 1)

    @property
    def setting(self) -> Setting:
        """The data, model and training that this cell shares with its figure."""
        return Setting(
            self.data, self.model, self.init, self.local_steps, self.defense, self.condition
        )

    @property
    def series(self) -> tuple[str, str, bool]:
        """What one line of a figure shares: attack, threat model, adaptive or not."""
        return (self.attack, self.threat_model, self.adaptive)

    @property
    def sort_key(self) -> tuple[Any, ...]:
        """Reading order: setting, stage, scheme, weaker attackers first, batch size."""
        return (
            (self.data, self.model, self.init, self.local_steps),
            (self.defense != "none", self.defense, self.condition),
            (self.training_steps, self.scheme, self.num_classes),
            (THREAT_MODELS.index(self.threat_model), self.attack, self.adaptive),
            (self.batch_size, self.num_samples),
        )


def tabulate(records: Iterable[Record]) -> list[Cell]:
    """Average records that differ in nothing but trial, seed and initialisation.

    The answer does not depend on the order of the records. Threat models are never averaged
    together. Intervals are those of `labelleak.records.intervals.bootstrap_mean`, grouped by
    initialisation, and by client where records name one.

    Args:
        records: rows of one or several runs, each trial once, as `count_once` gives them.

    >>> tabulate([])
    []
    """
    frame = RecordFrame.of(records)
    columns = [
        _column(frame, members, name)
        for members in frame.cells.values()
        for name in ("asr", "advantage")
    ]
    usable = [column for column in columns if column[0].size]
    intervals = iter(bootstrap_means(usable))
    found = [next(intervals) if column[0].size else None for column in columns]
    cells = [
        _cell(frame, key, members, found[2 * index], found[2 * index + 1])
        for index, (key, members) in enumerate(frame.cells.items())
    ]
    return sorted(cells, key=lambda cell: cell.sort_key)


def _column(frame: RecordFrame, members: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Take one number per trial with its block, leaving out what has none."""
    values = frame.numbers(name)[members]
    kept = ~np.isnan(values)
    return values[kept], frame.blocks[members][kept]


def _cell(
    frame: RecordFrame,
    key: tuple[int, Attacker],
    members: np.ndarray,
    asr: Interval | None,
    advantage: Interval | None,
) -> Cell:
    assert asr is not None  # every cell has a record, and every record an ASR
    place, (rank, attack, adaptive) = key
    fields, init, condition = frame.conditions[1][place]
    rows = members.tolist()

    def held(name: str) -> list[Any]:
        values = frame.values(name)
        return [values[index] for index in rows]

    def mean(name: str) -> float | None:
        values = frame.numbers(name)[members]
        known = values[~np.isnan(values)]
        return float(known.mean()) if known.size else None

    def sure(name: str) -> float:
        return float(frame.numbers(name)[members].mean())

    return Cell(
        **dict(zip(SETTING, fields, strict=True)),
        attack=attack,
        threat_model=THREAT_MODELS[rank],
        adaptive=adaptive,
        init=init,
        condition=condition,
        asr=asr,
        free=sure("asr_free"),
        advantage=advantage,
        model_accuracy=mean("model_accuracy"),
        trials=len(rows),
        initialisations=len(set(zip(held("seed"), held("initialisation"), strict=True))),
        presence_precision=sure("presence_precision"),
        presence_recall=sure("presence_recall"),
        flags=_flags(held("flags")),
        presence_accuracy=mean("presence_accuracy"),
        count_accuracy=mean("count_accuracy"),
        chosen=_chosen([frame.rows[index] for index in rows]) if frame.distinct("chosen") else (),
        expected_asr=mean("expected_asr"),
        titles=tuple(sorted(name_titles(*map(held, TITLED)).items())),
        concerned_by=_concerned_by(held("concerned_by")),
        task=str(frame.rows[rows[0]].extra.get("task", "classes")),
        by_class=_by_class(held("class_asr"), held("class_asr_free")),
        asr_image=mean("asr_image"),
        asr_image_free=mean("asr_image_free"),
        unsettled=sum(frame.unsettled[index] for index in rows) if frame.unsettled else 0,
    )


def _flags(raised: Iterable[tuple[str, ...]]) -> tuple[tuple[str, int], ...]:
    """Count the trials of each flag."""
    found: Counter[str] = Counter()
    for flags, trials in Counter(raised).items():
        for flag in flags:
            found[flag] += trials
    return tuple(sorted(found.items()))


def _by_class(named: Sequence[Any], guessed: Sequence[Any]) -> tuple[tuple[float, float], ...]:
    """Average what records say of each label, where all of them do."""
    if None in named or None in guessed:
        return ()
    means = (np.mean(shares, axis=0).tolist() for shares in (named, guessed))
    return tuple(zip(*means, strict=True))


def _chosen(members: Sequence[Record]) -> tuple[tuple[str, bool], ...]:
    """Name the attacks behind a strongest attacker's records, most trials first."""
    named = Counter(
        (str(row.extra["chosen"]), bool(row.extra.get("chosen_adaptive", row.adaptive)))
        for row in members
        if "chosen" in row.extra
    )
    return tuple(name for name, _ in sorted(named.items(), key=lambda item: (-item[1], item[0])))


def _concerned_by(said: Iterable[Any]) -> frozenset[str] | None:
    """Return the flags that concern an attack beside those that concern all, if records say so."""
    lists = [one for one in said if isinstance(one, list)]
    once = {id(one): one for one in lists}.values()  # many records share one list
    each = {tuple(map(str, flags)) for flags in once}
    return frozenset(flag for flags in each for flag in flags) if lists else None

"""Group records into cells, one per condition and attack, each with its intervals."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np

from labelleak.records.intervals import Interval, bootstrap_means
from labelleak.records.record import SETTING, THREAT_MODELS, Record
from labelleak.records.states import is_settled

_PICK = attrgetter(*SETTING)
# Extra keys that change what is measured: where a file holds several values of one, records
# of different values must not be averaged.
_CONDITIONS = (
    "activation",
    "mode",
    "victims",
    "gradient",
    "normalisation",
    "optimizer",
    "clients",
    "train_size",
    "auxiliary_size",
    "victim_size",
    "data_fingerprint",
    "train_lr",
    "train_batch_size",
    "users",
    "partition",
    "per_round",
    "round_steps",
    "dummies",
    "shadow_batches",
    "weights",
    "head",
    "defended",
    "batch_size_source",
    "federation",
    "against",
    "rounds",
    "phase",
)

Condition = tuple[tuple[str, str], ...]


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
    ``unsettled`` counts the trials whose scale or sign is not known to hold.
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
    rows = list(records)
    varying = varying_conditions(rows)
    groups: dict[tuple[Any, ...], list[Record]] = defaultdict(list)
    for row in rows:
        attacker = (row.attack, row.threat_model, row.adaptive)
        groups[*condition_of(row, varying), attacker].append(row)
    for members in groups.values():
        members.sort(key=attrgetter("initialisation", "trial", "seed", "asr"))
    columns: list[tuple[np.ndarray, np.ndarray]] = []
    for members in groups.values():
        columns += [_column(members, "asr"), _column(members, "advantage")]
    usable = [column for column in columns if column[0].size]
    intervals = iter(bootstrap_means(usable))
    found = [next(intervals) if column[0].size else None for column in columns]
    cells = [
        _cell(key, members, found[2 * index], found[2 * index + 1])
        for index, (key, members) in enumerate(groups.items())
    ]
    return sorted(cells, key=lambda cell: cell.sort_key)


def condition_of(row: Record, varying: Sequence[str]) -> tuple[Any, ...]:
    """Return what a record shares with the other attacks' records on the same trials.

    Args:
        row: the record.
        varying: what `varying_conditions` gives for all records.
    """
    extra = tuple((key, _say(row.extra[key])) for key in varying if key in row.extra)
    return _PICK(row), _say(row.extra.get("init", "")), extra


def block_of(row: Record) -> str:
    """Name what a trial shares chance with: its model, and its client where one is named."""
    client = row.extra.get("client")
    model = f"{row.seed}/{row.initialisation}"
    return model if client is None else f"{model}/{client}"


def varying_conditions(rows: Sequence[Record]) -> list[str]:
    """Name the condition keys of which the records hold more than one value."""
    return [
        key
        for key in _CONDITIONS
        if len({_say(row.extra[key]) for row in rows if key in row.extra}) > 1
    ]


def _say(value: Any) -> str:
    return value if isinstance(value, str) else str(value)


def _column(members: Sequence[Record], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Take one number per trial with its initialisation, leaving out what has none."""
    pairs = [(getattr(row, name), block_of(row)) for row in members]
    kept = [pair for pair in pairs if pair[0] is not None]
    values = np.array([value for value, _ in kept], dtype=np.float64)
    return values, np.array([group for _, group in kept])


def _cell(
    key: tuple[Any, ...],
    members: Sequence[Record],
    asr: Interval | None,
    advantage: Interval | None,
) -> Cell:
    assert asr is not None  # every group has a record, and every record an ASR
    fields, init, condition, (attack, threat_model, adaptive) = key
    accuracies = [row.model_accuracy for row in members if row.model_accuracy is not None]
    flags = Counter(flag for row in members for flag in row.flags)
    return Cell(
        **dict(zip(SETTING, fields, strict=True)),
        attack=attack,
        threat_model=threat_model,
        adaptive=adaptive,
        init=init,
        condition=condition,
        asr=asr,
        free=_mean([row.asr_free for row in members]),
        advantage=advantage,
        model_accuracy=_mean(accuracies) if accuracies else None,
        trials=len(members),
        initialisations=len({(row.seed, row.initialisation) for row in members}),
        presence_precision=_mean([row.presence_precision for row in members]),
        presence_recall=_mean([row.presence_recall for row in members]),
        flags=tuple(sorted(flags.items())),
        presence_accuracy=_mean_extra(members, "presence_accuracy"),
        count_accuracy=_mean_extra(members, "count_accuracy"),
        chosen=_chosen(members),
        expected_asr=_mean_extra(members, "expected_asr"),
        titles=tuple(sorted(titles_of(members).items())),
        concerned_by=_concerned_by(members),
        unsettled=sum(not is_settled(row.extra) for row in members),
    )


def _chosen(members: Sequence[Record]) -> tuple[tuple[str, bool], ...]:
    """Name the attacks behind a strongest attacker's records, most trials first."""
    named = Counter(
        (str(row.extra["chosen"]), bool(row.extra.get("chosen_adaptive", row.adaptive)))
        for row in members
        if "chosen" in row.extra
    )
    return tuple(name for name, _ in sorted(named.items(), key=lambda item: (-item[1], item[0])))


def titles_of(rows: Iterable[Record]) -> dict[str, str]:
    """Return the titles of attacks that records give, by name."""
    named = ((row.extra.get("chosen", row.attack), row.extra.get("attack_title")) for row in rows)
    return {name: title for name, title in named if isinstance(title, str)}


def _concerned_by(rows: Iterable[Record]) -> frozenset[str] | None:
    """Return the flags that concern an attack beside those that concern all, if records say so."""
    said = [row.extra["concerned_by"] for row in rows if "concerned_by" in row.extra]
    lists = [one for one in said if isinstance(one, list)]
    return frozenset(str(flag) for one in lists for flag in one) if lists else None


def _mean_extra(members: Sequence[Record], key: str) -> float | None:
    values = [row.extra[key] for row in members if isinstance(row.extra.get(key), (int, float))]
    return _mean(values) if values else None


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))

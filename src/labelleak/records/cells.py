"""Group records into cells, one per condition and attack, each with its intervals."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from labelleak.records.columns import ABSENT, Column
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


def tabulate(records: Iterable[Record], *, spans: bool = True) -> list[Cell]:
    """Average records that differ in nothing but trial, seed and initialisation.

    The answer does not depend on the order of the records. Threat models are never averaged
    together. Intervals are those of `labelleak.records.intervals.bootstrap_mean`, grouped by
    initialisation, and by client where records name one.

    Args:
        records: rows of one or several runs, each trial once, as `count_once` gives them.
        spans: whether intervals are drawn; for who needs the means alone both ends are the mean.

    >>> tabulate([])
    []
    """
    frame = RecordFrame.of(records)
    members = list(frame.cells.values())
    asr, advantage = _spans(frame, members) if spans else _no_spans(frame, members)
    facts = _Facts(frame)
    means = {name: mean_each(frame.numbers(name), members) for name in _MEANS}
    cells = [
        _cell(
            frame,
            key,
            own,
            facts,
            asr=asr[index],
            advantage=advantage[index],
            **{name: means[name][index] for name in _MEANS if name != "asr_free"},
            free=means["asr_free"][index],
        )
        for index, (key, own) in enumerate(frame.cells.items())
    ]
    return sorted(cells, key=lambda cell: cell.sort_key)


# Numbers of which a cell holds the mean.
_MEANS = (
    "asr_free",
    "model_accuracy",
    "presence_precision",
    "presence_recall",
    "presence_accuracy",
    "count_accuracy",
    "expected_asr",
    "asr_image",
    "asr_image_free",
)


def mean_each(values: np.ndarray, groups: Sequence[np.ndarray]) -> list[float | None]:
    """Return the mean of each group's numbers, those that are none left out; None without any.

    Groups of one size are averaged together, each in the order and so to the digits of its own.
    """
    found: list[float | None] = [None] * len(groups)
    absent = np.isnan(values)
    if absent.all():
        return found
    some = bool(absent.any())
    alike: dict[int, list[int]] = defaultdict(list)
    for number, group in enumerate(groups):
        if not some or not absent[group].any():
            alike[len(group)].append(number)
        elif (known := values[group][~absent[group]]).size:
            found[number] = float(known.mean())
    for same in alike.values():
        means = values[np.stack([groups[number] for number in same])].mean(axis=1)
        for number, mean in zip(same, means.tolist(), strict=True):
            found[number] = mean
    return found


_Spans = Sequence[Interval | None]


def _spans(frame: RecordFrame, groups: Sequence[np.ndarray]) -> tuple[_Spans, _Spans]:
    """Return the intervals of ASR and advantage of each group, drawn together."""
    columns = [column for own in groups for column in _rates(frame, own)]
    intervals = iter(bootstrap_means([column for column in columns if column[0].size]))
    found = [next(intervals) if column[0].size else None for column in columns]
    return found[::2], found[1::2]


def _no_spans(frame: RecordFrame, groups: Sequence[np.ndarray]) -> tuple[_Spans, _Spans]:
    asr, advantage = (mean_each(frame.numbers(name), groups) for name in ("asr", "advantage"))
    found = [[m if m is None else Interval(m, m, m) for m in each] for each in (asr, advantage)]
    return found[0], found[1]


def _rates(frame: RecordFrame, members: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Take ASR and advantage of each trial with its block, leaving out what has none."""
    blocks = frame.blocks[members]
    for name in ("asr", "advantage"):
        values = frame.numbers(name)[members]
        kept = ~np.isnan(values)
        yield (values, blocks) if kept.all() else (values[kept], blocks[kept])


# What tells the attacks behind a cell apart, beside `TITLED`.
_NAMED = (*TITLED, "chosen_adaptive", "adaptive", "concerned_by")


class _Facts:
    """What the records of cells say of themselves, each kind of record by a number."""

    def __init__(self, frame: RecordFrame) -> None:
        self.frame = frame
        self.codes, self.named = frame.coded(_NAMED, typed=True)
        self.flag_codes, self.flags = frame.coded(("flags",))
        self.by_class = [frame.column(name) for name in ("class_asr", "class_asr_free")]
        self.task = frame.column("task")

    def of(self, members: np.ndarray) -> dict[str, Any]:
        """Return what a cell holds beside its numbers."""
        own = self.codes[members].tolist()
        trials = [(self.named[code], count) for code, count in Counter(own).items()]
        last_first = (self.named[code][:3] for code in dict.fromkeys(reversed(own)))
        names = ((None if v is ABSENT else v for v in one) for one in [*last_first][::-1])
        raised = Counter(self.flag_codes[members].tolist())
        frame = self.frame
        return {
            "flags": _flags((self.flags[code][0], count) for code, count in raised.items()),
            "chosen": _chosen(trials),
            "titles": tuple(sorted(name_titles(*zip(*names, strict=True)).items())),
            "concerned_by": _concerned_by(named[-1] for named, _ in trials),
            "by_class": _by_class(*(_held(column, members, None) for column in self.by_class)),
            "task": str(_held(self.task, members[:1], "classes")[0]),
            "unsettled": sum(frame.unsettled[n] for n in members) if frame.unsettled else 0,
        }


def _cell(
    frame: RecordFrame, key: tuple[int, Attacker], members: np.ndarray, facts: _Facts, **means: Any
) -> Cell:
    place, (rank, attack, adaptive) = key
    fields, init, condition = frame.placed[1][place]
    return Cell(
        **dict(zip(SETTING, fields, strict=True)),
        attack=attack,
        threat_model=THREAT_MODELS[rank],
        adaptive=adaptive,
        init=init,
        condition=condition,
        trials=len(members),
        initialisations=len(set(frame.models[0][members].tolist())),
        **facts.of(members),
        **means,
    )


def _held(column: Column | None, members: np.ndarray, nothing: Any) -> list[Any]:
    """Return what some records hold in a column, in their order."""
    if column is None:
        return [nothing] * len(members)
    places = (members if column.codes is None else column.codes[members]).tolist()
    found = [column.values[place] for place in places]
    return [nothing if value is ABSENT else value for value in found]


def _flags(raised: Iterable[tuple[tuple[str, ...], int]]) -> tuple[tuple[str, int], ...]:
    """Count the trials of each flag."""
    found: Counter[str] = Counter()
    for flags, trials in raised:
        for flag in flags:
            found[flag] += trials
    return tuple(sorted(found.items()))


def _by_class(named: Sequence[Any], guessed: Sequence[Any]) -> tuple[tuple[float, float], ...]:
    """Average what records say of each label, where all of them do."""
    if None in named or None in guessed:
        return ()
    means = (np.mean(shares, axis=0).tolist() for shares in (named, guessed))
    return tuple(zip(*means, strict=True))


def _chosen(trials: Iterable[tuple[tuple[Any, ...], int]]) -> tuple[tuple[str, bool], ...]:
    """Name the attacks behind a strongest attacker's records, most trials first."""
    named: Counter[tuple[str, bool]] = Counter()
    for (_, chosen, _, knows, own, _), number in trials:
        if chosen is not ABSENT:
            named[str(chosen), bool(own if knows is ABSENT else knows)] += number
    return tuple(name for name, _ in sorted(named.items(), key=lambda item: (-item[1], item[0])))


def _concerned_by(said: Iterable[Any]) -> frozenset[str] | None:
    """Return the flags that concern an attack beside those that concern all, if records say so."""
    lists = [one for one in said if isinstance(one, list)]
    once = {id(one): one for one in lists}.values()  # many records share one list
    each = {tuple(map(str, flags)) for flags in once}
    return frozenset(flag for flags in each for flag in flags) if lists else None

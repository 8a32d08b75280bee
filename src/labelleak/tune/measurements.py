"""Leak and cost of one defense after another, each measured once and kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from labelleak.attacks import make_attack
from labelleak.audits.audited_model import build, view_model
from labelleak.audits.costs import Cohort, Cost, measure_cost
from labelleak.audits.executors import Executor
from labelleak.audits.plan import plan_audit
from labelleak.audits.run import Progress, load_once
from labelleak.core.knowledge import LabelledData
from labelleak.core.needs import Need
from labelleak.core.seeding import stream, whole_number
from labelleak.core.weights import trained_names
from labelleak.defenses import Chain, parse_defense
from labelleak.errors import BadInput
from labelleak.records.journal import Journal
from labelleak.records.provenance import VERSION
from labelleak.simulation.data.datasets import Dataset, load_dataset
from labelleak.tune.clear_layers import leaves_layers_clear
from labelleak.tune.ladders import Family
from labelleak.tune.leaks import Asked, Leak, LeakMeter, strongest_leak
from labelleak.tune.options import TuneOptions

NONE = "none"
_READS_LAYERS = {Need.AUXILIARY, Need.FULL_GRADIENT}
SEARCH, FRESH = "search", "fresh"
# Parts of the journal that one round of fresh seeds may take up, and where learners' begin.
_PARTS, _LEARNERS = 10_000, 5_000


@dataclass(frozen=True, kw_only=True)
class MeanCost:
    """What a defense costs, mean over federations; losses are taken in pairs of one seed.

    Attributes:
        accuracy: test accuracy after the rounds.
        loss: accuracy that was lost against no defense.
        wire_bytes: bytes of one shared update.
        seconds_ratio: time of a client's round over its time without the defense.
        diverged: federations in which training diverged.
        federations: how many it is the mean of.
    """

    accuracy: float
    loss: float
    wire_bytes: float
    seconds_ratio: float
    diverged: int
    federations: int = 1

    def to_json(self) -> dict[str, Any]:
        """Return the fields, rounded to what they are good for."""
        digits = {"wire_bytes": 1, "seconds_ratio": 3}
        return {key: round(value, digits.get(key, 6)) for key, value in asdict(self).items()}


@dataclass(frozen=True)
class CostTask:
    """One federation whose clients all use a defense.

    Attributes:
        data: name or path of the data set.
        cohort: the federation.
        defense: text form.
        seed: seed of everything random.
    """

    data: str
    cohort: Cohort
    defense: str
    seed: int


def train_with(task: CostTask) -> Cost:
    """Measure what a defense costs one federation."""
    return measure_cost(
        load_once(task.data), task.cohort, parse_defense(task.defense), seed=task.seed
    )


@dataclass(eq=False)
class Measurements:
    """Everything that a search measures, by the text form of the defense.

    Attributes:
        options: what is asked.
        data: the data set.
        families: what is searched, as far as the model can have it.
        journal: where all of it is kept.
        meter: measures leaks.
        executor: where leaks and costs are measured.
        progress: called with measurements done and expected.
    """

    options: TuneOptions
    data: Dataset
    families: tuple[Family, ...]
    journal: Journal
    meter: LeakMeter
    executor: Executor
    progress: Progress
    _leaks: dict[tuple[str, int, bool], Leak] = field(default_factory=dict)
    _expected: int = 0

    @classmethod
    def open(
        cls,
        options: TuneOptions,
        out: Path,
        *,
        command: str = "",
        overwrite: bool = False,
        executor: Executor | None = None,
        progress: Progress = lambda done, total: None,
    ) -> Measurements:
        """Check what is asked, then open the folder to begin a search or to go on with it.

        Raises:
            BadInput: for what cannot be; the sentence says what to do.
        """
        data = load_dataset(options.data)
        audit = options.audit
        families = _possible(options, data)
        plan_audit(audit, data=data)
        asked = {
            **asdict(options),
            "data_fingerprint": data.fingerprint,
            "labelleak": VERSION,
        }
        del asked["grid"]  # a grid may be added to a search that is done
        journal = Journal.open(out, asked, overwrite=overwrite)
        where = executor or Executor()
        meter = LeakMeter(audit, options.attacker, journal, command, where)
        found = cls(options, data, families, journal, meter, where, progress)
        found.meter.tick = found.tell
        found.tell()
        return found

    def __enter__(self) -> Measurements:
        return self

    def __exit__(self, *_: object) -> None:
        """Let another run write."""
        self.journal.__exit__()

    def measure_leaks(
        self,
        labels: Sequence[str],
        fresh: int = 0,
        *,
        learners: bool = False,
        models: int | None = None,
    ) -> None:
        """Measure what of some defenses' leaks is not known yet, all of them together.

        Args:
            labels: the defenses.
            fresh: as of `leak`.
            learners: by attackers that learn as well, and not by rules alone.
            models: of the first so many models alone; None for all.
        """
        both = (False, True) if learners and self.meter.has_learners else (False,)
        self.meter.measure(
            [
                Asked(
                    defenses={self._part(label, fresh, learn): label for label in labels},
                    learners=learn,
                )
                for learn in both
            ],
            seed=self.leak_seed(fresh),
            phase=FRESH if fresh else SEARCH,
            models=models,
        )

    def measure_costs(
        self, labels: Sequence[str], *, fresh: bool = False, repeats: int | None = None
    ) -> None:
        """Measure what of some defenses' costs is not known yet, all of them together.

        Args:
            labels: the defenses.
            fresh: on seeds that the search never saw.
            repeats: federations of each; None for as many as were asked for.
        """
        options, phase = self.options, FRESH if fresh else SEARCH
        wanted = {
            _cost_key(label, phase, repeat): CostTask(
                options.data,
                options.cohort,
                label,
                whole_number(options.seed, "cost", phase, repeat),
            )
            for label in dict.fromkeys([*labels, NONE])  # quick ones last: nobody waits long
            for repeat in range(repeats or options.repeats)
        }
        wanted = {key: task for key, task in wanted.items() if key not in self.journal.found}
        answers = self.executor.map(train_with, list(wanted.values()))
        for key, cost in zip(wanted, answers, strict=True):
            self.journal.keep(key, cost.to_json())
            self.tell()

    def leak(self, label: str, fresh: int = 0) -> Leak:
        """Return what leaks under a defense, to all who were run on it.

        Args:
            label: the defense.
            fresh: 0 for the search's seed; k for the k-th seed that the search never saw.
        """
        self.measure_leaks([label], fresh)
        learnt = self.meter.records(self._part(label, fresh, learners=True))
        key = label, fresh, bool(learnt)
        if key not in self._leaks:
            rows = [*self.meter.records(self._part(label, fresh)), *learnt]
            found = strongest_leak(rows, self.options.attacker)
            left_out = self.meter.has_learners and not learnt
            self._leaks[key] = replace(found, at_least=left_out)
        return self._leaks[key]

    def first_leak(self, label: str, fresh: int = 0) -> Leak:
        """Return what leaks of the first model alone, to all attackers; arguments as of `leak`."""
        self.measure_leaks([label], fresh, learners=True, models=1)
        both = (False, True) if self.meter.has_learners else (False,)
        parts = [self._part(label, fresh, learners) for learners in both]
        rows = [row for part in parts for row in self.meter.records(part, models=1)]
        return replace(strongest_leak(rows, self.options.attacker), at_least=True)

    def attacked(self, label: str) -> bool:
        """Return whether every layer that a defense leaves in the clear was really attacked."""
        if not leaves_layers_clear(label):
            return True
        self.leak(label)
        names = {row.attack for row in self.meter.records(self._part(label, 0))}
        return any(make_attack(name).needs >= _READS_LAYERS for name in names)

    def cost(self, label: str, *, fresh: bool = False, repeats: int | None = None) -> MeanCost:
        """Return what a defense costs; arguments as those of `measure_costs`."""
        self.measure_costs([label], fresh=fresh, repeats=repeats)
        phase = FRESH if fresh else SEARCH
        pairs = [
            tuple(
                Cost(**self.journal.found[_cost_key(one, phase, repeat)]) for one in (label, NONE)
            )
            for repeat in range(repeats or self.options.repeats)
        ]
        return MeanCost(
            accuracy=_mean([own.accuracy for own, _ in pairs]),
            loss=_mean([plain.accuracy - own.accuracy for own, plain in pairs]),
            wire_bytes=_mean([own.wire_bytes for own, _ in pairs]),
            seconds_ratio=_mean([own.seconds_ratio for own, _ in pairs]),
            diverged=sum(own.diverged for own, _ in pairs),
            federations=len(pairs),
        )

    def leak_seed(self, fresh: int) -> int:
        """Return the seed of an audit: the one asked for, or the k-th fresh one."""
        seed = self.options.seed
        return whole_number(seed, "fresh leak", fresh) if fresh else seed

    def expect(self, leaks: int, costs: int) -> None:
        """Say how many more measurements are likely to be made, for the progress."""
        options = self.options
        units = leaks * options.initialisations * len(options.training_steps)
        self._expected += units + costs * options.repeats
        self.tell()

    def tell(self) -> None:
        """Tell the progress."""
        done = len(self.journal.done) + len(self.journal.found)
        self.progress(done, max(self._expected, done + 1))

    def finish(self) -> None:
        """Tell the progress that nothing more will be measured."""
        done = len(self.journal.done) + len(self.journal.found)
        self.progress(done, done)

    def _part(self, label: str, fresh: int, learners: bool = False) -> int:
        """Number a measurement, the same in every run that searches the same families."""
        labels = [NONE, *(one for family in self.families for one in family.labels)]
        return fresh * _PARTS + learners * _LEARNERS + labels.index(label)


def _cost_key(label: str, phase: str, repeat: int) -> str:
    return f"{phase}/{repeat}/{label}"


def _possible(options: TuneOptions, data: Dataset) -> tuple[Family, ...]:
    """Return the families as far as the model can have them, before any work is begun.

    Every family that changes training computes one gradient; rungs that would withhold all of the
    model are left out.

    Raises:
        BadInput: for a defense that was written out and cannot be.
    """
    module = build(options.audit, data, 0).train()
    model = view_model(options.audit, data, module)
    few = LabelledData(data.x_train[:4], data.y_train[:4])
    names, found = trained_names(model.module), []
    for family in options.ladders:
        labels = [label for label in family.labels if _suits(label, names, model.head)]
        if family.labels == (family.name,):
            parse_defense(family.name).check_names(names, model.head)
        chain: Chain = parse_defense(family.labels[-1])
        if chain.changes_training:
            chain.gradients(model, [few], stream(options.seed, "try"))
        found += [Family(family.name, tuple(labels))] if labels else []
    return tuple(found)


def _suits(label: str, names: Sequence[str], head: str) -> bool:
    try:
        parse_defense(label).check_names(names, head)
    except BadInput:
        return False
    return True


def _mean(values: list[float]) -> float:
    return float(np.mean(values))


__all__ = ["FRESH", "NONE", "SEARCH", "CostTask", "MeanCost", "Measurements", "train_with"]

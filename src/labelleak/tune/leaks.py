"""How much leaks under a defense: one small audit of it, by the strongest attacker."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from labelleak.attacks import (
    ADAPTIVE,
    RULES,
    STANDARD,
    AdaptiveLayerShadow,
    AdaptiveShadow,
    FreeGuess,
    make_attack,
)
from labelleak.audits.executors import Executor
from labelleak.audits.options import AuditOptions
from labelleak.audits.run import plan_once
from labelleak.audits.stage import Stage, train_stages
from labelleak.core.interfaces import threat_model
from labelleak.defenses import parse_defense
from labelleak.errors import BadInput
from labelleak.records.intervals import Interval
from labelleak.records.journal import PART, Journal
from labelleak.records.record import THREAT_MODELS, Record, read_records
from labelleak.records.strongest import worst_cases
from labelleak.report.wording import name_attacker

PHASE = "phase"
# Attackers who learn from updates of their own that passed the defense.
LEARNERS = (AdaptiveShadow.name, AdaptiveLayerShadow.name)


@dataclass(frozen=True, kw_only=True)
class Leak:
    """What the strongest attacker gained from updates that a defense changed.

    Attributes:
        advantage: at the worst training stage: the one whose interval reaches highest.
        attacker: the attacks that were chosen as strongest there.
        stage: training steps of the model there.
        asr: share of the labels named there.
        free: share that the best guess without the update names there.
        at_least: whether attackers that learn were left out, who may gain more.
    """

    advantage: Interval
    attacker: str
    stage: int
    asr: float
    free: float
    at_least: bool = False

    @property
    def bound(self) -> float:
        """The upper end of the advantage's interval, which a target is held against."""
        return self.advantage.high

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain numbers and words."""
        return {
            "advantage": round(self.advantage.mean, 6),
            "low": round(self.advantage.low, 6),
            "high": round(self.advantage.high, 6),
            "attacker": self.attacker,
            "training_steps": self.stage,
            "asr": round(self.asr, 6),
            "asr_free": round(self.free, 6),
            "at_least": self.at_least,
        }


def strongest_leak(records: Iterable[Record], attacker: str) -> Leak:
    """Return the leak to the strongest attacker of a threat model, at the worst stage.

    Raises:
        BadInput: if nothing is left to learn there, or no attack of the threat model applies.
    """
    cells = [cell for cell in worst_cases(records) if cell.threat_model == attacker]
    if not cells:
        raise BadInput(f"no attack of the threat model {attacker!r} applies to these updates")
    found = []
    for cell in cells:
        if cell.advantage is None:
            raise BadInput(
                "the best guess without the update is always right here, so no update can leak; "
                "use another `scheme` or `batch_size`"
            )
        found.append(
            Leak(
                advantage=cell.advantage,
                attacker=name_attacker(cell),
                stage=cell.training_steps,
                asr=cell.asr.mean,
                free=cell.free,
            )
        )
    return max(found, key=lambda leak: (leak.bound, leak.advantage.mean))


@dataclass(frozen=True)
class LeakTask:
    """One model at one stage, to be audited under some defenses.

    Attributes:
        audits: by rules, by attackers that learn, or by both, each with the defenses to measure.
        command: the command, for the records.
        initialisation: which model.
        stage: its training steps.
    """

    audits: tuple[AuditOptions, ...]
    command: str
    initialisation: int
    stage: int


def measure_leaks(task: LeakTask) -> list[list[Record]]:
    """Audit a model under each defense; what its attackers learn of the model is kept.

    Returns:
        Records of every defense of every audit, in their order.
    """
    found: list[list[Record]] = []
    for options in task.audits:
        undefended = replace(options, defenses=("none",))
        ready = _prepared(undefended, task.command, task.initialisation, task.stage)
        chains = tuple(parse_defense(text) for text in options.defenses)
        found += ready.audit(replace(ready.plan, defenses=chains).cells)
    return found


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is to be measured of some defenses.

    Attributes:
        defenses: their text forms, by the number of the measurement in the journal.
        learners: whether by the attackers that learn, and not by the rules.
    """

    defenses: Mapping[int, str]
    learners: bool = False


# Rules and learners of the usual five models at two stages, on two seeds.
@lru_cache(maxsize=40)
def _prepared(options: AuditOptions, command: str, initialisation: int, steps: int) -> Stage:
    bare = replace(options, attacks=(FreeGuess.name,))
    stage = _trained(bare, command, initialisation, steps)
    return replace(stage, plan=plan_once(options, command))


# Two seeds of the usual five models at two stages: those of the search, and those that confirm.
@lru_cache(maxsize=20)
def _trained(options: AuditOptions, command: str, initialisation: int, steps: int) -> Stage:
    (stage,) = train_stages(plan_once(options, command), initialisation, (steps,))
    return stage


@dataclass(eq=False)
class LeakMeter:
    """Audits of defenses on the same models, kept in a journal.

    Defenses that are asked for together are audited together, model by model, so what attackers
    learn of a model is shared. A unit (model and stage) of a defense that the journal holds is not
    run again. Rules and attackers that learn from batches of their own are run apart, since a
    setting that a rule breaks needs no attacker who costs 20 times as much.

    On the search's own seed attackers who know the defense are left out, since each of them
    imitates hundreds of batches; on fresh seeds they take part.

    Attributes:
        options: the audit, whose attacks, defenses and seed are replaced.
        attacker: the threat model whose attacks are run, with those that need less.
        journal: where records go.
        command: the command, for the records.
        executor: where models are audited.
        tick: called after each model.
    """

    options: AuditOptions
    attacker: str
    journal: Journal
    command: str
    executor: Executor
    tick: Callable[[], None] = lambda: None
    _rows: dict[int, list[Record]] | None = None

    def measure(
        self, asked: Sequence[Asked], *, seed: int, phase: str, models: int | None = None
    ) -> None:
        """Audit what of some defenses is not at hand yet.

        What is asked of one model is one task, so that a process which trains it does all of it,
        and no process waits for the rules of a model before it begins with its learners.

        Args:
            asked: the defenses, and by whom each is attacked.
            seed: decides data, models, batches and attacks.
            phase: what the records say of why they were made.
            models: the first so many models alone; None for all.
        """
        rows = self._kept()
        tasks = self._tasks(asked, replace(self.options, seed=seed), models or self.options.models)
        answers = self.executor.map(measure_leaks, [task for _, task in tasks])
        for (parts, task), each in zip(tasks, answers, strict=True):
            for part, found in zip(parts, each, strict=True):
                marked = [
                    replace(row, extra={**row.extra, PART: part, PHASE: phase}) for row in found
                ]
                self.journal.write((part, task.initialisation, task.stage), marked)
                rows.setdefault(part, []).extend(marked)
            self.tick()

    def records(self, part: int, models: int | None = None) -> list[Record]:
        """Return the records of a measurement of any run; none where half of it is missing.

        Args:
            part: number of the measurement in the journal.
            models: of the first so many models alone; None for all.
        """
        wanted = range(models or self.options.models)
        units = {(part, model, stage) for model in wanted for stage in self.options.training_steps}
        if not units <= self.journal.done:
            return []
        return [row for row in self._kept()[part] if row.initialisation in wanted]

    @property
    def has_learners(self) -> bool:
        """Whether an attacker of the threat model learns."""
        return bool(_attacks(self.attacker, adaptive=False, learners=True))

    def _tasks(
        self, asked: Sequence[Asked], options: AuditOptions, models: int
    ) -> list[tuple[list[int], LeakTask]]:
        """Return what is left to do, model by model, with the parts of the journal it fills."""
        adaptive, tasks = options.seed != self.options.seed, []
        for initialisation in range(models):
            for stage in sorted(options.training_steps):
                parts, audits = list[int](), list[AuditOptions]()
                for one in asked:
                    left = {
                        part: label
                        for part, label in one.defenses.items()
                        if (part, initialisation, stage) not in self.journal.done
                    }
                    if left:
                        names = _attacks(self.attacker, adaptive=adaptive, learners=one.learners)
                        defenses = tuple(left.values())
                        audits.append(replace(options, attacks=names, defenses=defenses))
                        parts += left
                if parts:
                    task = LeakTask(tuple(audits), self.command, initialisation, stage)
                    tasks.append((parts, task))
        return tasks

    def _kept(self) -> dict[int, list[Record]]:
        """Read what earlier runs wrote, once."""
        if self._rows is None:
            self._rows = {}
            if self.journal.records.exists():
                for row in read_records(self.journal.records):
                    self._rows.setdefault(int(row.extra[PART]), []).append(row)
        return self._rows


def _attacks(attacker: str, *, adaptive: bool, learners: bool) -> tuple[str, ...]:
    """Name the standard attacks that need no more than an attacker holds."""
    held = THREAT_MODELS[: THREAT_MODELS.index(attacker) + 1]
    if learners:
        names = (*(n for n in STANDARD if n not in RULES), *(LEARNERS if adaptive else ()))
    else:
        names = (*RULES, *(ADAPTIVE if adaptive else ()))
    return tuple(name for name in names if threat_model(make_attack(name)) in held)


__all__ = ["PHASE", "Asked", "Leak", "LeakMeter", "LeakTask", "measure_leaks", "strongest_leak"]

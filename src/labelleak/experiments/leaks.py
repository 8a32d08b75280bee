"""How much leaks under a defense: one small audit of it, by the strongest attacker."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from labelleak.attacks import ADAPTIVE, make_attack
from labelleak.battery import STANDARD
from labelleak.defenses import Chain
from labelleak.errors import BadInput
from labelleak.experiments.audit import audit_model
from labelleak.experiments.journal import PART, Journal
from labelleak.experiments.options import AuditOptions
from labelleak.experiments.plan import Plan, build, plan_audit
from labelleak.experiments.stages import reach_stages
from labelleak.interfaces import threat_model
from labelleak.intervals import Interval
from labelleak.record import THREAT_MODELS, Record, read_records
from labelleak.report.selection import worst_cases
from labelleak.report.wording import name_attacker
from labelleak.simulation.datasets import Dataset

PHASE = "phase"


@dataclass(frozen=True, kw_only=True)
class Leak:
    """What the strongest attacker gained from updates that a defense changed.

    Attributes:
        advantage: at the worst training stage: the one whose interval reaches highest.
        attacker: the attacks that were chosen as strongest there.
        stage: training steps of the model there.
        asr: share of the labels named there.
        free: share that the best guess without the update names there.
    """

    advantage: Interval
    attacker: str
    stage: int
    asr: float
    free: float

    @property
    def bound(self) -> float:
        """The upper end of the advantage's interval, which a target is held against."""
        return self.advantage.high

    def to_json(self) -> dict[str, Any]:
        """Give the fields as plain numbers and words."""
        return {
            "advantage": round(self.advantage.mean, 6),
            "low": round(self.advantage.low, 6),
            "high": round(self.advantage.high, 6),
            "attacker": self.attacker,
            "training_steps": self.stage,
            "asr": round(self.asr, 6),
            "asr_free": round(self.free, 6),
        }


def strongest_leak(records: Iterable[Record], attacker: str) -> Leak:
    """Give the leak to the strongest attacker of a threat model, at the worst stage.

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
                "use another --scheme or --batch-size"
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


@dataclass(eq=False)
class LeakMeter:
    """Audits of one defense after another on the same models, kept in a journal.

    The models of a seed are trained once. A unit (model and stage) that the journal holds is not
    run again.

    On the search's own seed attackers who know the defense are left out, since each of them
    imitates hundreds of batches; on fresh seeds they take part.

    Attributes:
        options: the audit, whose attacks, defenses and seed are replaced.
        attacker: the threat model whose attacks are run, with those that need less.
        data: the data set.
        journal: where records go.
        command: the command, for the records.
        tick: called after each unit.
    """

    options: AuditOptions
    attacker: str
    data: Dataset
    journal: Journal
    command: str
    tick: Callable[[], None] = lambda: None
    _rows: dict[int, list[Record]] | None = None
    _plans: dict[int, Plan] = field(default_factory=dict)
    _models: dict[tuple[int, int], dict[int, nn.Module]] = field(default_factory=dict)

    def measure(self, defense: Chain, *, seed: int, part: int, phase: str) -> list[Record]:
        """Audit a defense, or give its records where they are at hand.

        Args:
            defense: what every client does.
            seed: decides data, models, batches and attacks.
            part: number of this measurement in the journal.
            phase: what the records say of why they were made.
        """
        rows = self._kept()
        plan = replace(self._plan(seed), defenses=(defense,))
        for initialisation, stage in plan.units:
            if (part, initialisation, stage) in self.journal.done:
                continue
            module = self._reach(plan, initialisation)[stage]
            found = [
                replace(row, extra={**row.extra, PART: part, PHASE: phase})
                for cell in audit_model(plan, initialisation, stage, module)
                for row in cell
            ]
            self.journal.write((part, initialisation, stage), found)
            rows.setdefault(part, []).extend(found)
            self.tick()
        return rows[part]

    def _kept(self) -> dict[int, list[Record]]:
        """Read what earlier runs wrote, once."""
        if self._rows is None:
            self._rows = {}
            if self.journal.records.exists():
                for row in read_records(self.journal.records):
                    self._rows.setdefault(int(row.extra[PART]), []).append(row)
        return self._rows

    def _plan(self, seed: int) -> Plan:
        if seed not in self._plans:
            adaptive = seed != self.options.seed
            options = replace(self.options, seed=seed, attacks=_attacks(self.attacker, adaptive))
            self._plans[seed] = plan_audit(options, data=self.data, command=self.command)
        return self._plans[seed]

    def _reach(self, plan: Plan, initialisation: int) -> dict[int, nn.Module]:
        """Train a model, and keep a copy at each stage; those of earlier fresh seeds are let go."""
        options = plan.options
        key = (options.seed, initialisation)
        if key not in self._models:
            needed = {options.seed, self.options.seed}
            self._models = {k: models for k, models in self._models.items() if k[0] in needed}
            self._models[key] = dict(_stages(plan, initialisation, sorted(options.training_steps)))
        return self._models[key]


def _attacks(attacker: str, adaptive: bool) -> tuple[str, ...]:
    """Name the standard attacks that need no more than an attacker holds."""
    held = THREAT_MODELS[: THREAT_MODELS.index(attacker) + 1]
    names = (*STANDARD, *(ADAPTIVE if adaptive else ()))
    return tuple(name for name in names if threat_model(make_attack(name)) in held)


def _stages(
    plan: Plan, initialisation: int, stages: Sequence[int]
) -> Iterator[tuple[int, nn.Module]]:
    options = plan.options
    model = build(options, plan.data, initialisation)
    for stage in reach_stages(model, plan.roles.train, options, initialisation, stages):
        kept = copy.deepcopy(model)
        kept.train(options.mode == "train")
        yield stage, kept


__all__ = ["PHASE", "Leak", "LeakMeter", "strongest_leak"]

"""Run the parts of an audit, a grid or a study, write records as they come, go on after a stop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any, Protocol

from labelleak.audits.executors import Executor
from labelleak.audits.options import AuditOptions
from labelleak.audits.plan import Plan, plan_audit
from labelleak.audits.stage import Stage, train_stages
from labelleak.defenses import parse_defense
from labelleak.errors import BadInput
from labelleak.records.journal import PART, Journal
from labelleak.records.provenance import VERSION
from labelleak.records.record import Record
from labelleak.simulation.data.datasets import Dataset, load_dataset
from labelleak.simulation.data.text_form import TextForm

Progress = Callable[[int, int], None]
Measure = Callable[..., Iterator[list[Record]]]
Adapt = Callable[[Dataset, int], Dataset]


class Bar(Protocol):
    """Opens a progress bar for a part of the work."""

    def __call__(self, what: str, unit: str) -> AbstractContextManager[Progress]:
        """Name what is counted."""


def say_nothing(done: int, total: int) -> None:
    """Show no progress."""


def audit_cells(stage: Stage) -> Iterator[list[Record]]:
    """Audit a model under every condition of its plan."""
    return stage.audit(stage.plan.cells)


@dataclass(frozen=True, kw_only=True)
class Part:
    """One audit of a run: its models, and what is measured of each.

    Attributes:
        options: the audit.
        command: the command, for the records.
        measure: takes a model at a stage and gives lists of records, one a cell.
        whole: whether it takes all stages of a model together, which are then done or not as one.
        adapt: changes the data set, given it and the seed.
        given: the plan, where it was made of more than options.
        steps: training steps that a measure of its own takes a model, for `estimate_seconds`.
        lists: lists of records that a measure of its own gives of a model at a stage, for progress.
    """

    options: AuditOptions
    command: str = ""
    measure: Measure = audit_cells
    whole: bool = False
    adapt: Adapt | None = None
    given: Plan | None = None
    steps: float = 0.0
    lists: int = 1

    def plan(self) -> Plan:
        """Return what the part runs on."""
        return self.given or plan_once(self.options, self.command, self.adapt)

    @property
    def models(self) -> int:
        """How many models there are; a factory that gives weights makes one."""
        return self.plan().options.models if ":" in self.options.model else self.options.models

    @property
    def cells(self) -> int:
        """Lists of records that a model at a stage gives."""
        if self.measure is not audit_cells:
            return self.lists
        asked, defenses = self.options, {parse_defense(text) for text in self.options.defenses}
        lists = (asked.batch_sizes, asked.local_steps, asked.lr, asked.clients, asked.schemes)
        return prod(map(len, lists)) * len(defenses)


@dataclass(frozen=True)
class Task:
    """One initialisation of one part, at the training stages that are still to do."""

    number: int
    part: Part
    initialisation: int
    stages: tuple[int, ...]

    def measure(self) -> Iterator[tuple[tuple[int, ...], Iterator[list[Record]]]]:
        """Measure stage by stage, or all stages at once: their steps, and lists of records."""
        stages = train_stages(self.part.plan(), self.initialisation, self.stages)
        for group in [tuple(stages)] if self.part.whole else ((stage,) for stage in stages):
            yield tuple(stage.steps for stage in group), self.part.measure(*group)


def open_run(
    parts: Sequence[Part],
    out: Path,
    *,
    overwrite: bool = False,
    more: Mapping[str, Any] | None = None,
    packed: bool = False,
) -> Journal:
    """Open the folder of a run, to begin it or to go on with it.

    Every part is planned first, so that what cannot run is refused before the folder is touched.

    Args:
        parts: what is run.
        out: made if it is not there.
        overwrite: drop whatever run lies there.
        more: what identifies the run beside its parts.
        packed: pack the records by gzip.

    Raises:
        BadInput: for a part that cannot be (the sentence says which), a folder that cannot be
            written, or one that holds another run.
    """
    asked: dict[str, Any] = {**(more or {}), "labelleak": VERSION}
    several = len(parts) > 1
    for number, part in enumerate(parts):
        try:
            plan = part.plan()
        except BadInput as error:
            where = f"part {number + 1} of {len(parts)}: " if several else ""
            raise BadInput(f"{where}{error}") from error
        own = {
            **asdict(part.options),
            "data_fingerprint": plan.data.fingerprint,
            "model_fingerprint": plan.model_fingerprint,
        }
        before = f"part {number} " if several else ""
        asked |= {f"{before}{key}": value for key, value in own.items()}
    planned = sum(part.models * len(part.options.training_steps) for part in parts)
    return Journal.open(out, asked, overwrite=overwrite, planned=planned, packed=packed)


def run_parts(
    parts: Sequence[Part],
    journal: Journal | None,
    *,
    numbered: bool = True,
    executor: Executor | None = None,
    progress: Progress = say_nothing,
) -> list[Record]:
    """Run what is not yet in the journal, and give the new records.

    Every trial's seed follows from the options alone, so records are the same on every executor
    but for the time that answering took; they are written in the order of the parts.

    Args:
        parts: what to run.
        journal: where finished stages are written; None keeps them in memory only.
        numbered: whether records say which part they are of.
        executor: where to run; serial if None.
        progress: called with cells done and cells in all, those of earlier runs included.

    Raises:
        BadInput: if a part fails or its records cannot be written; those written stay valid.
    """
    done = journal.done if journal else set()
    tasks = [task for number, part in enumerate(parts) for task in _left(number, part, done)]
    total = sum(part.cells * part.models * len(part.options.training_steps) for part in parts)
    count = total - sum(task.part.cells * len(task.stages) for task in tasks)
    progress(count, total)
    where = executor or Executor()
    # One after the other, each stage can be kept as soon as it is done.
    answers: Iterable[Iterable[tuple[tuple[int, ...], Iterable[list[Record]]]]]
    answers = (t.measure() for t in tasks) if where.kind == "serial" else where.map(_all, tasks)
    records: list[Record] = []
    for task, groups in zip(tasks, answers, strict=True):
        for stages, cells in groups:
            found: list[Record] = []
            # Whatever a measure gives, its share is counted whole once it is done, and not before.
            whole = count + task.part.cells * len(stages)
            for cell in cells:
                found += cell
                count = min(count + 1, whole - 1)
                progress(count, total)
            count = whole
            progress(count, total)
            if numbered:
                found = [replace(r, extra={**r.extra, PART: task.number}) for r in found]
            for steps in stages if journal else ():
                unit = (task.number, task.initialisation, steps)
                if journal and unit not in done:
                    journal.write(unit, [r for r in found if r.training_steps == steps])
            records += found
    return records


def _all(task: Task) -> list[tuple[tuple[int, ...], list[list[Record]]]]:
    """Do a task in a worker, which answers with all of it."""
    return [(stages, list(cells)) for stages, cells in task.measure()]


def _left(number: int, part: Part, done: set[tuple[int, int, int]]) -> Iterator[Task]:
    """Give the tasks of a part that are not done."""
    stages = tuple(sorted(part.options.training_steps))
    for initialisation in range(part.models):
        left = tuple(s for s in stages if (number, initialisation, s) not in done)
        if left:
            yield Task(number, part, initialisation, stages if part.whole else left)


@lru_cache(maxsize=8)
def plan_once(options: AuditOptions, command: str, adapt: Adapt | None = None) -> Plan:
    """Plan an audit, or give the plan that this process has made of it before."""
    data = load_once(options.data, options.text_form)
    changed = adapt(data, options.seed) if adapt else data
    return plan_audit(options, data=changed, command=command)


@lru_cache(maxsize=1)
def load_once(name: str, form: TextForm | None = None) -> Dataset:
    """Load a data set, or give the one that this process has loaded last."""
    return load_dataset(name, form)


__all__ = [
    "Adapt",
    "Bar",
    "Part",
    "Progress",
    "Task",
    "audit_cells",
    "load_once",
    "open_run",
    "plan_once",
    "run_parts",
    "say_nothing",
]

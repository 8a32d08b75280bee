"""Run the parts of a grid on an executor, write records as they come, and go on after a stop."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import labelleak
from labelleak.audits.audit import Progress, audit_stages
from labelleak.audits.executors import Executor
from labelleak.audits.grids import Grid
from labelleak.audits.options import AuditOptions
from labelleak.audits.plan import Plan, plan_audit
from labelleak.errors import BadInput
from labelleak.records.journal import PART, Journal
from labelleak.records.record import Record
from labelleak.simulation.data.datasets import Dataset, load_dataset


@dataclass(frozen=True)
class Task:
    """One initialisation of one part, at the training stages that are still to do.

    Attributes:
        part: number of the part.
        options: its audit.
        command: the command, for the records.
        initialisation: which model.
        stages: training steps to audit at, rising.
    """

    part: int
    options: AuditOptions
    command: str
    initialisation: int
    stages: tuple[int, ...]


Done = tuple[int, list[Record]]


def open_grid(grid: Grid, out: Path, *, overwrite: bool = False) -> Journal:
    """Open the folder of a grid, to begin it or to go on with it.

    Every part is planned first, so that what cannot run is refused before the folder is touched.

    Raises:
        BadInput: for a part that cannot be (the sentence says which), a folder that cannot be
            written, or one that holds another run.
    """
    asked = {**grid.asked(), "labelleak": labelleak.__version__}
    for number, options in enumerate(grid.audits):
        try:
            plan = plan_once(options, "")
        except BadInput as error:
            where = f"part {number + 1} of {len(grid.audits)}: " if len(grid.audits) > 1 else ""
            raise BadInput(f"{where}{error}") from error
        asked[f"part {number} data_fingerprint"] = plan.data.fingerprint
        asked[f"part {number} model_fingerprint"] = plan.model_fingerprint
    return Journal.open(out, asked, overwrite=overwrite)


def run_grid(
    grid: Grid,
    journal: Journal,
    *,
    command: str = "",
    executor: Executor | None = None,
    progress: Progress = lambda done, total: None,
) -> None:
    """Run what of a grid is not yet in the journal.

    Every trial's seed follows from the options alone, so records are the same on every executor
    but for the time that answering took; they are written in the order of the grid.

    Args:
        grid: what to run.
        journal: where records go; from `open_grid`.
        command: the command, for the records.
        executor: where to run; serial if None.
        progress: called with units (a model at a stage) done and units in all.

    Raises:
        BadInput: if a part fails or its records cannot be written; those written stay valid.
    """
    units = {
        (part, initialisation, stage)
        for part, options in enumerate(grid.audits)
        for initialisation in range(options.models)
        for stage in options.training_steps
    }
    tasks = _tasks(grid, command, journal)
    progress(len(journal.done & units), len(units))
    where = executor or Executor()
    # One after the other, each stage can be kept as soon as it is done.
    answers: Iterator[Iterable[Done]]
    answers = map(audit_task, tasks) if where.kind == "serial" else where.map(_whole, tasks)
    for task, stages in zip(tasks, answers, strict=True):
        for stage, records in stages:
            journal.write((task.part, task.initialisation, stage), records)
            progress(len(journal.done & units), len(units))


def audit_task(task: Task) -> Iterator[Done]:
    """Audit one initialisation of a part, stage by stage."""
    plan = plan_once(task.options, task.command)
    for stage, records in audit_stages(plan, task.initialisation, task.stages, lambda: None):
        yield stage, [replace(r, extra={**r.extra, PART: task.part}) for r in records]


def _whole(task: Task) -> list[Done]:
    """Do a task in a worker, which answers with all of it."""
    return list(audit_task(task))


def _tasks(grid: Grid, command: str, journal: Journal) -> list[Task]:
    tasks = []
    for part, options in enumerate(grid.audits):
        for initialisation in range(options.models):
            stages = _left(part, initialisation, options.training_steps, journal)
            if stages:
                tasks.append(Task(part, options, command, initialisation, stages))
    return tasks


def _left(
    part: int, initialisation: int, stages: Sequence[int], journal: Journal
) -> tuple[int, ...]:
    return tuple(s for s in sorted(stages) if (part, initialisation, s) not in journal.done)


@lru_cache(maxsize=2)
def plan_once(options: AuditOptions, command: str) -> Plan:
    """Plan an audit, or give the plan that this process has made of it before."""
    return plan_audit(options, data=load_once(options.data), command=command)


@lru_cache(maxsize=1)
def load_once(name: str) -> Dataset:
    """Load a data set, or give the one that this process has loaded last."""
    return load_dataset(name)


__all__ = ["Task", "audit_task", "load_once", "open_grid", "plan_once", "run_grid"]

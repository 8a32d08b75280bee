"""Every defense beside every other: measured, and written as a table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from labelleak.experiments.audit import Progress, open_journal, run_plan
from labelleak.experiments.defense_costs import cohort_of, measure_costs
from labelleak.experiments.defense_table import make_defense_table
from labelleak.experiments.plan import Plan
from labelleak.record import read_records
from labelleak.whole_files import write_whole


def measure_leakage(plan: Plan, out: Path, *, overwrite: bool = False, progress: Progress) -> None:
    """Audit every defense of a plan into a folder; an interrupted audit there is gone on with.

    Raises:
        BadInput: if the folder cannot be written, or holds another run.
    """
    with open_journal(plan, out, overwrite=overwrite) as journal:
        run_plan(plan, journal=journal, progress=progress)


def write_defenses(
    plan: Plan, out: Path, defenses: Sequence[str], *, seed: int, progress: Progress
) -> Path:
    """Train under every defense, and set what it costs beside what it leaks.

    Args:
        plan: the audit, done by `measure_leakage`.
        out: its folder; costs.jsonl and defenses.md are written there.
        defenses: text forms, the rows.
        seed: seed of the federation.
        progress: called with federations done and federations in all.

    Returns:
        The table.
    """
    cohort = cohort_of()
    costs = measure_costs(plan.data, cohort, defenses, (seed,), progress=progress)
    rate = min(1.0, cohort.batch_size * cohort.users / len(plan.data.y_train))
    write_whole(out / "costs.jsonl", "".join(f"{json.dumps(row)}\n" for row in costs))
    table = make_defense_table(read_records(out / "records.jsonl"), costs, rate)
    write_whole(out / "defenses.md", table)
    return out / "defenses.md"


__all__ = ["measure_leakage", "write_defenses"]

"""Every defense beside every other: measured, and written as a table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from labelleak.audits.audit import Bar, open_journal, run_plan
from labelleak.audits.plan import Plan
from labelleak.records.files import write_whole
from labelleak.records.record import read_records
from labelleak.studies.defenses.costs import cohort_of, measure_costs
from labelleak.studies.defenses.table import make_defense_table

FEDERATIONS = 3


def run_defenses(
    plan: Plan,
    out: Path,
    defenses: Sequence[str],
    *,
    seed: int,
    overwrite: bool = False,
    bar: Bar,
) -> Path:
    """Audit every defense, train under every defense, and set what it costs beside what it leaks.

    An interrupted run goes on where it stopped, audits and federations alike.

    Args:
        plan: the audit.
        out: folder for records.jsonl, costs.jsonl and defenses.md.
        defenses: text forms, the rows.
        seed: seed of the first federation.
        overwrite: drop another run that lies there.
        bar: shows progress.

    Returns:
        The table.

    Raises:
        BadInput: if the folder cannot be written, or holds another run.
    """
    cohort = cohort_of()
    with open_journal(plan, out, overwrite=overwrite) as journal:
        with bar("leakage", "cells") as advance:
            run_plan(plan, journal=journal, progress=advance)
        with bar("cost", "federations") as advance:
            seeds = range(seed, seed + FEDERATIONS)
            costs = measure_costs(
                plan.data, cohort, defenses, seeds, journal=journal, progress=advance
            )
        rate = min(1.0, cohort.batch_size * cohort.users / len(plan.data.y_train))
        write_whole(out / "costs.jsonl", "".join(f"{json.dumps(row)}\n" for row in costs))
        table = make_defense_table(read_records(journal.records), costs, rate)
        write_whole(out / "defenses.md", table)
    return out / "defenses.md"


__all__ = ["run_defenses"]

"""Compression over rounds: what clients leak round by round, and what each defense costs them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import labelleak
from labelleak.audits.audit import Bar, Progress
from labelleak.records.files import write_whole
from labelleak.records.journal import PART, Journal
from labelleak.records.record import Record, read_records
from labelleak.simulation.data.datasets import Dataset, load_dataset
from labelleak.studies.compression.rounds import DEFENSES, RoundsOptions, follow_clients
from labelleak.studies.compression.tables import draw_rounds, make_cost_table, make_round_tables
from labelleak.studies.defenses.costs import cohort_of, measure_costs

# A coarse run: rounds of the federations that tell cost.
QUICK_ROUNDS = 20


def run_compression_rounds(
    data: str,
    out: Path,
    *,
    seed: int,
    quick: bool,
    command: str,
    overwrite: bool = False,
    bar: Bar,
) -> list[Path]:
    """Measure leakage over rounds and the cost of every defense, Deep Gradient Compression too.

    An interrupted run goes on where it stopped, model by model and federation by federation.

    Args:
        data: name or path of a data set.
        out: folder for records.jsonl, rounds.md, costs.jsonl, costs.md and the figure.
        seed: seed of everything random.
        quick: fewer rounds, clients and models, and one short federation.
        command: the command, for the records.
        overwrite: drop another run that lies there.
        bar: shows progress.

    Returns:
        The figure and the tables.

    Raises:
        BadInput: for a data set that cannot be read, or a folder that cannot be written, or that
            holds another run.
    """
    dataset = load_dataset(data)
    options = RoundsOptions(seed=seed)
    if quick:
        options = replace(options, rounds=2, clients=5, initialisations=1)
    asked = {
        "experiment": "compression_rounds",
        "quick": quick,
        **asdict(options),
        "data_fingerprint": dataset.fingerprint,
        "labelleak": labelleak.__version__,
    }
    with Journal.open(out, asked, overwrite=overwrite) as journal:
        with bar("rounds", "rounds") as advance:
            _follow(dataset, options, command, journal, advance)
        rows = read_records(journal.records)
        write_whole(out / "rounds.md", make_round_tables(rows))
        draw_rounds(rows, out)
        costs = _costs(dataset, options.activations, seed, quick, journal, bar)
        write_whole(out / "costs.jsonl", "".join(f"{json.dumps(row)}\n" for row in costs))
        write_whole(out / "costs.md", make_cost_table(costs))
    return [out / name for name in ("curves.svg", "rounds.md", "costs.md")]


def _follow(
    data: Dataset, options: RoundsOptions, command: str, journal: Journal, progress: Progress
) -> None:
    """Follow the clients of every model whose rounds are not all in the journal."""
    stages = {number * options.steps for number in range(options.rounds)}
    models = list(product(enumerate(options.activations), range(options.initialisations)))
    for number, ((part, activation), initialisation) in enumerate(models):
        done = number * options.rounds
        if all((part, initialisation, stage) in journal.done for stage in stages):
            progress(done + options.rounds, len(models) * options.rounds)
            continue
        found: dict[int, list[Record]] = {stage: [] for stage in stages}
        rounds = follow_clients(data, options, activation, initialisation, command=command)
        for step, row in enumerate(rounds):
            for record in row:
                found[record.training_steps].append(
                    replace(record, extra={**record.extra, PART: part})
                )
            progress(done + min(step + 1, options.rounds), len(models) * options.rounds)
        for stage, records in found.items():
            if (part, initialisation, stage) not in journal.done:
                journal.write((part, initialisation, stage), records)


def _costs(
    data: Dataset, activations: Sequence[str], seed: int, quick: bool, journal: Journal, bar: Bar
) -> list[dict[str, Any]]:
    found = []
    for activation in activations:
        cohort = cohort_of(activation)
        seeds = (seed,) if quick else (seed, seed + 1)
        if quick:
            cohort = replace(cohort, rounds=QUICK_ROUNDS)
        with bar(f"cost, {activation}", "federations") as advance:
            found += measure_costs(data, cohort, DEFENSES, seeds, journal=journal, progress=advance)
    return found


__all__ = ["run_compression_rounds"]

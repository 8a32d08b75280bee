"""Compression over rounds: what clients leak round by round, and what each defense costs them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from labelleak.errors import BadInput
from labelleak.experiments.audit import Progress
from labelleak.experiments.compression_rounds import DEFENSES, RoundsOptions, measure_rounds
from labelleak.experiments.compression_tables import draw_rounds, make_cost_table, make_round_tables
from labelleak.experiments.defense_costs import cohort_of, measure_costs
from labelleak.simulation.datasets import Dataset, load_dataset
from labelleak.whole_files import write_whole

# A coarse run: rounds of the federations that tell cost.
QUICK_ROUNDS = 20


class Bar(Protocol):
    """Opens a progress bar for a part of the work."""

    def __call__(self, what: str, unit: str) -> AbstractContextManager[Progress]:
        """Name what is counted."""


def run_compression_rounds(
    data: str, out: Path, *, seed: int, quick: bool, command: str, bar: Bar
) -> list[Path]:
    """Measure leakage over rounds and the cost of every defense, Deep Gradient Compression too.

    Args:
        data: name or path of a data set.
        out: folder for records.jsonl, rounds.md, costs.jsonl, costs.md and the figure.
        seed: seed of everything random.
        quick: fewer rounds, clients and models, and one short federation.
        command: the command, for the records.
        bar: shows progress.

    Returns:
        The figure and the tables.

    Raises:
        BadInput: for a data set that cannot be read, or a folder that cannot be written.
    """
    dataset = load_dataset(data)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"cannot write to {out}: {error.strerror or error}") from error
    options = RoundsOptions(seed=seed)
    if quick:
        options = replace(options, rounds=2, clients=5, initialisations=1)
    with bar("rounds", "rounds") as advance:
        rows = measure_rounds(dataset, options, command=command, progress=advance)
    write_whole(out / "records.jsonl", "".join(f"{row.to_json()}\n" for row in rows))
    write_whole(out / "rounds.md", make_round_tables(rows))
    draw_rounds(rows, out)
    costs = _costs(dataset, options.activations, seed, quick, bar)
    write_whole(out / "costs.jsonl", "".join(f"{json.dumps(row)}\n" for row in costs))
    write_whole(out / "costs.md", make_cost_table(costs))
    return [out / name for name in ("curves.svg", "rounds.md", "costs.md")]


def _costs(
    data: Dataset, activations: Sequence[str], seed: int, quick: bool, bar: Bar
) -> list[dict[str, Any]]:
    found = []
    for activation in activations:
        cohort = cohort_of(activation)
        seeds = (seed,) if quick else (seed, seed + 1)
        if quick:
            cohort = replace(cohort, rounds=QUICK_ROUNDS)
        with bar(f"cost, {activation}", "federations") as advance:
            found += measure_costs(data, cohort, DEFENSES, seeds, progress=advance)
    return found


__all__ = ["run_compression_rounds"]

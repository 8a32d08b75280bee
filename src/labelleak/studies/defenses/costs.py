"""What several defenses cost the same federations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from labelleak.audits.audit import Progress
from labelleak.audits.costs import Cohort, measure_cost
from labelleak.defenses import parse_defense
from labelleak.records.journal import Journal
from labelleak.simulation.data.datasets import Dataset
from labelleak.simulation.defended import takes_long
from labelleak.simulation.models import own_init

# The paper's sigmoid CNN learns at this rate under server momentum; at 0.1 it does not.
RATE, ROUNDS = 0.03, 150


def cohort_of(activation: str | None = None) -> Cohort:
    """Return the federation: ten clients of the paper's CNN, one step of 32 samples a round.

    >>> cohort_of("relu").init
    'default'
    """
    init = own_init("cnn", activation)
    return Cohort(model="cnn", init=init, activation=activation, lr=RATE, rounds=ROUNDS)


def measure_costs(
    data: Dataset,
    cohort: Cohort,
    defenses: Sequence[str],
    seeds: Sequence[int],
    *,
    journal: Journal | None = None,
    progress: Progress = lambda done, total: None,
) -> list[dict[str, Any]]:
    """Train with every client under each defense, and give a row for each defense and seed.

    Args:
        data: what clients hold, and the test data.
        cohort: the federation.
        defenses: text forms.
        seeds: one federation each; all defenses meet the same. One that alters every sample at
            a cost (Soteria) meets the first alone.
        journal: of a run that asked for this data and cohort; federations that it kept are not
            trained again, and new ones are kept there.
        progress: called with federations done and federations in all.

    Raises:
        BadInput: for a defense that cannot be, or cannot act on the model.
    """
    chains = list(dict.fromkeys(parse_defense(text) for text in defenses))
    asked = [(one, seed) for one in chains for seed in (seeds[:1] if takes_long(one) else seeds)]
    rows: list[dict[str, Any]] = []
    for chain, seed in asked:
        place = {
            "data": data.name,
            "activation": cohort.activation or "sigmoid",
            "rounds": cohort.rounds,
            "lr": cohort.lr,
            "defense": chain.label,
            "seed": seed,
        }
        name = f"cost: {place['activation']}, {chain.label}, seed {seed}"
        row = None if journal is None else journal.found.get(name)
        if row is None:
            row = {**place, **measure_cost(data, cohort, chain, seed=seed).to_json()}
            if journal is not None:
                journal.keep(name, row)
        rows.append(row)
        progress(len(rows), len(asked))
    return rows


__all__ = ["cohort_of", "measure_costs"]

"""Every defense beside every other: what it leaves the attacks, and what it costs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from labelleak.attacks import STANDARD
from labelleak.audits.costs import Cohort, measure_cost
from labelleak.audits.options import check_options
from labelleak.audits.run import Part, load_once
from labelleak.defenses import parse_defense
from labelleak.defenses.accounting import account
from labelleak.records.intervals import bootstrap_mean
from labelleak.records.record import Record
from labelleak.records.strongest import strongest_records
from labelleak.report.markdown import group, span, table
from labelleak.report.wording import name_attack
from labelleak.simulation.defended import takes_long
from labelleak.simulation.designs import own_init
from labelleak.studies.study import Asked, Found, Measurement, Study

# Families in the order of the page, each from weak to strong.
DEFENSES = (
    "none",
    "server_noise:1",
    "clip:1",
    "clip_layers:1",
    "gaussian:0.01",
    "gaussian:0.1",
    "gaussian:1",
    "laplace:0.1",
    "exponential:0.1",
    "head_noise:0.1",
    "head_noise:1",
    "clip:1|gaussian:0.1",
    "clip:1|gaussian:1",
    "dpsgd:1:0.1",
    "dpsgd:1:1",
    "topk:0.2",
    "topk:0.01",
    "topk:0.01:feedback",
    "randomk:0.2",
    "prune:0.8",
    "prune:0.99",
    "threshold:0.01",
    "dgc:0.01",
    "sign:scaled",
    "qsgd:4",
    "bits:4",
    "float16",
    "withhold:bias",
    "withhold:head",
    "soteria:0.5",
    "label_smoothing:0.2",
    "mixup:1",
    "head_dropout:0.5",
    "randomised_response:1",
    "historical_compression:0.8",
    "historical_dp:1:0.1",
    "percentile:50:0.1",
    "svt:0.3:1:2:0.5",
    "local_dp:0.5:0.5:5",
    "adaptive_clip:0.5",
    "server_clip:0.5",
)
PAPERS = ("llg", "llg_star", "llg_plus")
ADAPTIVE = (
    "llg_plus_adaptive",
    "gradient_regression_adaptive",
    "layer_regression_adaptive",
    "shadow_adaptive",
    "shadow_layers_adaptive",
)
TRIALS, MODELS, FEDERATIONS = 50, 5, 3
# The paper's sigmoid CNN learns at this rate under server momentum; at 0.1 it does not.
RATE, ROUNDS, DELTA = 0.03, 150, 1e-5


def plan_defenses(asked: Asked) -> list[Part]:
    """Plan the audit behind the table: the paper's CNN, batches of 32, untrained and trained.

    The quick form has fewer models, batches and shadows.

    Raises:
        BadInput: for a defense that cannot be.
    """
    options = check_options(
        data=asked.data,
        model="cnn",
        batch_sizes=(32,),
        schemes=("unbalanced",),
        defenses=asked.defenses or DEFENSES,
        attacks=(*(name for name in STANDARD if name != "random"), *ADAPTIVE),
        trials=TRIALS // 2 if asked.quick else TRIALS,
        initialisations=2 if asked.quick else MODELS,
        shadow_batches=400 if asked.quick else 1000,
        training_steps=(0, 200),
        seed=asked.seed,
    )
    return [Part(options=options)]


def cohort_of(activation: str | None = None, rounds: int = ROUNDS) -> Cohort:
    """Return the federation: ten clients of the paper's CNN, one step of 32 samples a round.

    >>> cohort_of("relu").init
    'default'
    """
    init = own_init("cnn", activation)
    return Cohort(model="cnn", init=init, activation=activation, lr=RATE, rounds=rounds)


def plan_costs(
    data: str, cohort: Cohort, defenses: Sequence[str], seeds: Sequence[int]
) -> list[Measurement]:
    """Plan what defenses cost the same federations, a measurement for each defense and seed.

    Args:
        data: name or path of a data set.
        cohort: the federation.
        defenses: text forms.
        seeds: one federation each; all defenses meet the same. One that alters every sample at
            a cost (Soteria) meets the first alone.

    Raises:
        BadInput: for a defense that cannot be.
    """
    found = []
    for chain in dict.fromkeys(map(parse_defense, defenses)):
        for seed in seeds[:1] if takes_long(chain) else seeds:
            name = f"cost: {cohort.activation or 'sigmoid'}, {chain.label}, seed {seed}"
            found.append(Measurement(name, partial(_cost, data, cohort, chain.label, seed)))
    return found


def _cost(data: str, cohort: Cohort, defense: str, seed: int) -> dict[str, Any]:
    held = load_once(data)
    return {
        "data": held.name,
        "activation": cohort.activation or "sigmoid",
        "rounds": cohort.rounds,
        "lr": cohort.lr,
        "defense": defense,
        "seed": seed,
        **measure_cost(held, cohort, parse_defense(defense), seed=seed).to_json(),
    }


def cost_lines(costs: Sequence[Mapping[str, Any]]) -> str:
    """Write what was measured as JSON lines."""
    return "".join(f"{json.dumps(row)}\n" for row in costs)


def make_defense_table(
    records: Sequence[Record], costs: Sequence[Mapping[str, Any]], sample_rate: float
) -> str:
    """Write a table for each stage: advantages, accuracy after the same rounds, bytes, epsilon.

    Args:
        records: of the planned audit.
        costs: rows of the planned costs.
        sample_rate: a client's batch over its samples, for DP-SGD's epsilon.
    """
    stages = sorted(group(records, lambda row: row.training_steps).items())
    return "\n\n".join(_stage(rows, costs, sample_rate) for _, rows in stages) + "\n"


def _stage(here: Sequence[Record], costs: Sequence[Mapping[str, Any]], sample_rate: float) -> str:
    first, stage = here[0], here[0].training_steps
    models, updates = (len({key(row) for row in here}) for key in (_model, _update))
    title = (
        f"**{first.data}, the paper's CNN, {f'{stage} training steps' if stage else 'untrained'}, "
        f"{first.scheme}, N = {first.num_samples}** (advantage over the free guess, whose ASR is "
        f"{first.asr_free:.2f}; {models} initialisations, {updates} updates a row; accuracy "
        f"(mean, least and most of the federations) and epsilon after {ROUNDS} rounds, delta "
        f"{DELTA:g}; time of a client over its time without)"
    )
    columns = {
        **{name_attack(name): [r for r in here if r.attack == name] for name in PAPERS},
        "strongest, non-adaptive": best_of([row for row in here if not row.adaptive]),
        "strongest, adaptive": best_of(here),
    }
    rows = [
        [
            key,
            *(_entry([r for r in column if r.defense == key]) for column in columns.values()),
            *_paid(key, [row for row in costs if row["defense"] == key], sample_rate),
        ]
        for key in group(here, lambda row: row.defense)
    ]
    return table(["defense", *columns, "accuracy", "bytes", "time", "epsilon"], rows, title=title)


def _model(row: Record) -> int:
    return row.initialisation


def _update(row: Record) -> tuple[int, int]:
    return row.initialisation, row.trial


def best_of(rows: Sequence[Record]) -> list[Record]:
    """Return the strongest attacker's records, of whoever holds most."""
    return [row for row in strongest_records(rows) if row.threat_model == "auxiliary"]


def _entry(rows: Sequence[Record]) -> str:
    """Write a mean; the strongest attackers with interval and the attack chosen most often."""
    found = [row.advantage for row in rows if row.advantage is not None]
    if not found:
        return "-"
    names = [str(row.extra["chosen"]) for row in rows if "chosen" in row.extra]
    if not names:
        return f"{sum(found) / len(found):.2f}"
    interval = bootstrap_mean(found, [row.initialisation for row in rows])
    return f"{span(interval)} {name_attack(max(dict.fromkeys(names), key=names.count))}"


def _paid(key: str, own: Sequence[Mapping[str, Any]], sample_rate: float) -> list[str]:
    if not own:
        return ["-"] * 4
    reached = [row["accuracy"] for row in own]
    accuracy = f"{sum(reached) / len(own):.2f}"
    if len(own) > 1:
        accuracy += f" ({min(reached):.2f} to {max(reached):.2f})"
    sent = sum(row["wire_bytes"] for row in own) / len(own)
    time = sum(row["seconds_ratio"] for row in own) / len(own)
    given = account(parse_defense(key), rounds=ROUNDS, delta=DELTA, sample_rate=sample_rate)
    epsilon = "-" if given.epsilon is None else f"{given.epsilon:.3g} ({given.protects})"
    return [accuracy, f"{sent:,.0f}", f"{time:.2f}", epsilon]


def _costs(asked: Asked) -> list[Measurement]:
    seeds = range(asked.seed, asked.seed + (1 if asked.quick else FEDERATIONS))
    return plan_costs(asked.data, cohort_of(), asked.defenses or DEFENSES, seeds)


def _report(found: Found) -> dict[str, str]:
    cohort, data = cohort_of(), load_once(found.asked.data)
    rate = min(1.0, cohort.batch_size * cohort.users / len(data.y_train))
    return {
        "costs.jsonl": cost_lines(found.measured),
        "defenses.md": make_defense_table(found.records, found.measured, rate),
    }


STUDY = Study(
    parts=plan_defenses,
    measurements=_costs,
    report=_report,
    takes=frozenset({"defenses", "quick"}),
)

"""The table of all defenses: every defense has a row, and epsilon is the accountant's."""

from dataclasses import replace

import numpy as np

from labelleak.audits.audit import run_plan
from labelleak.audits.costs import Cost
from labelleak.audits.options import check_options
from labelleak.audits.plan import plan_audit
from labelleak.defenses import DEFENSES as ALL
from labelleak.defenses import parse_defense
from labelleak.records.journal import Journal
from labelleak.simulation.data.datasets import load_dataset
from labelleak.studies.defenses import costs as defense_costs
from labelleak.studies.defenses.costs import cohort_of, measure_costs
from labelleak.studies.defenses.table import DEFENSES, make_defense_table


def test_every_family_is_in_the_table():
    named = {part.name for text in DEFENSES for part in parse_defense(text).parts}
    assert set(ALL) == named


def test_a_row_holds_advantages_accuracy_bytes_and_epsilon():
    texts = ("none", "clip:1", "clip:1|gaussian:1")
    options = check_options(
        batch_sizes=(8,),
        schemes=("unbalanced",),
        defenses=texts,
        attacks=("free", "llg", "llg_star", "llg_plus", "llg_plus_adaptive"),
        trials=6,
        initialisations=2,
        training_steps=(0,),
    )
    rows = run_plan(plan_audit(options), journal=None, progress=lambda done, total: None)
    by = {
        text: np.mean([r.asr for r in rows if r.defense == text and r.attack == "llg"])
        for text in texts
    }
    assert by["clip:1"] == by["none"]  # clipping changes no sign
    costs = [
        {
            "defense": text,
            "accuracy": 0.5 + 0.1 * seed,
            "wire_bytes": 1000.0,
            "seconds_ratio": 1.25,
            "seed": seed,
        }
        for text in texts
        for seed in range(3 if text == "none" else 1)
    ]
    table = make_defense_table(rows, costs, 1.0).splitlines()
    assert table[4].startswith("| none |")
    assert table[4].endswith("| 0.60 (0.50 to 0.70) | 1,000 | 1.25 | - |")
    assert table[5].endswith("| 0.50 | 1,000 | 1.25 | - |")
    assert table[5].endswith("| - |")
    assert table[6].endswith("(update) |")
    assert table[6].startswith("| clip:1\\|gaussian:1 |")


def test_a_defense_that_takes_long_meets_one_federation_alone(monkeypatch):
    nothing = Cost(accuracy=0.5, wire_bytes=1.0, seconds_ratio=1.0)
    monkeypatch.setattr(defense_costs, "measure_cost", lambda *_, **__: nothing)
    rows = measure_costs(load_dataset("digits"), cohort_of(), ("none", "soteria:0.5"), (4, 5))
    asked = [(row["defense"], row["seed"]) for row in rows]
    assert asked == [("none", 4), ("none", 5), ("soteria:0.5", 4)]
    more = ("label_smoothing:0.1|soteria:0.5", "soteria:0", "topk:0.1", "topk:0.10")
    rows = measure_costs(load_dataset("digits"), cohort_of(), more, (4, 5))
    assert [row["seed"] for row in rows] == [4, 4, 5, 4, 5]


def test_costs_compare_on_the_same_federation():
    short = replace(cohort_of("relu"), rounds=3, users=2)
    rows = measure_costs(load_dataset("digits"), short, ("none", "prune:0", "prune:0.99"), (0,))
    assert [row["defense"] for row in rows] == ["none", "prune:0", "prune:0.99"]
    assert rows[0]["accuracy"] == rows[1]["accuracy"]
    assert rows[2]["wire_bytes"] < 0.1 * rows[0]["wire_bytes"]


def test_federations_that_a_journal_kept_are_not_trained_again(tmp_path, monkeypatch):
    short = replace(cohort_of("relu"), rounds=2, users=2)
    data, rows = load_dataset("digits"), ("none", "prune:0.8")
    with Journal.open(tmp_path, {"asked": 1}) as journal:
        first = measure_costs(data, short, rows[:1], (0,), journal=journal)
    trained = []
    real = defense_costs.measure_cost

    def spy(data, cohort, chain, *, seed):
        trained.append(chain.label)
        return real(data, cohort, chain, seed=seed)

    monkeypatch.setattr(defense_costs, "measure_cost", spy)
    with Journal.open(tmp_path, {"asked": 1}) as journal:
        again = measure_costs(data, short, rows, (0,), journal=journal)
    assert trained == ["prune:0.8"]
    assert again[:1] == first

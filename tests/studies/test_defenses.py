"""The table of all defenses: every defense has a row, and epsilon is the accountant's."""

from dataclasses import replace

import numpy as np

from labelleak.audits.options import check_options
from labelleak.audits.run import Part, run_parts
from labelleak.defenses import DEFENSES as ALL
from labelleak.defenses import parse_defense
from labelleak.studies.defenses import DEFENSES, cohort_of, make_defense_table, plan_costs


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
    rows = run_parts([Part(options=options)], None)
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


def test_a_defense_that_takes_long_meets_one_federation_alone():
    def asked(*defenses):
        planned = plan_costs("digits", cohort_of(), defenses, (4, 5))
        return [one.name.removeprefix("cost: sigmoid, ") for one in planned]

    named = asked("none", "soteria:0.5")
    assert named == ["none, seed 4", "none, seed 5", "soteria:0.5, seed 4"]
    more = ("label_smoothing:0.1|soteria:0.5", "soteria:0", "topk:0.1", "topk:0.10")
    assert [name[-1] for name in asked(*more)] == ["4", "4", "5", "4", "5"]


def test_costs_compare_on_the_same_federation():
    short = replace(cohort_of("relu", rounds=3), users=2)
    planned = plan_costs("digits", short, ("none", "prune:0", "prune:0.99"), (0,))
    rows = [one.make() for one in planned]
    assert [row["defense"] for row in rows] == ["none", "prune:0", "prune:0.99"]
    assert rows[0]["accuracy"] == rows[1]["accuracy"]
    assert rows[2]["wire_bytes"] < 0.1 * rows[0]["wire_bytes"]

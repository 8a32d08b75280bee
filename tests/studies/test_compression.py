"""Clients followed over rounds: memories last, and what is pooled is about all labels."""

from dataclasses import replace

import numpy as np
import pytest

from labelleak.audits.run import run_parts
from labelleak.core.priors import UnbalancedPrior
from labelleak.simulation.batches import parse_scheme
from labelleak.studies.compression_finding import make_finding_tables
from labelleak.studies.compression_rounds import (
    ANSWERS,
    EACH,
    UPDATES,
    PartPrior,
    draw_rounds,
    make_cost_table,
    make_round_tables,
    plan_rounds,
)
from labelleak.studies.study import Asked

DEFENSES = ("none", "prune:0.99", "prune:0.99:feedback", "historical_compression:0.8")


@pytest.fixture(scope="module")
def rows():
    _, part = plan_rounds(Asked(quick=True))
    assert part.options.activation == "relu"
    few = replace(part.options, schemes=("unbalanced",), defenses=DEFENSES, trials=6)
    return run_parts([replace(part, options=few)], None)


def test_the_first_round_is_the_same_with_and_without_feedback_and_later_ones_are_not(rows):
    def rates(defense, number):
        return [
            (row.attack, row.trial, row.asr)
            for row in rows
            if row.defense == defense and row.extra.get("round") == number
        ]

    assert rates("prune:0.99", 1) == rates("prune:0.99:feedback", 1) != []
    assert rates("prune:0.99", 2) != rates("prune:0.99:feedback", 2)


def test_pooled_answers_are_about_all_labels_and_pooled_updates_too(rows):
    sizes = {(row.extra["kind"], row.num_samples) for row in rows}
    assert sizes == {(EACH, 8), (ANSWERS, 16), (UPDATES, 16)}
    plain = [
        row.asr
        for row in rows
        if row.defense == "none" and row.extra["kind"] == ANSWERS and row.attack == "llg_plus"
    ]
    assert np.mean(plain) > 0.9


def test_the_historical_rule_wipes_whole_heads_and_pruning_none(rows):
    wiped = {
        defense: [
            r.extra["head_wiped"] for r in rows if r.defense == defense and "round" in r.extra
        ]
        for defense in DEFENSES
    }
    assert np.mean(wiped["historical_compression:0.8"]) > 0.3
    assert not any(wiped["none"] + wiped["prune:0.99"] + wiped["prune:0.99:feedback"])


def test_prior_of_a_round_is_that_of_shuffled_labels():
    rng = np.random.default_rng(0)
    pool = np.repeat(np.arange(10), 50)
    drawn = pool[parse_scheme("unbalanced").draw(pool, 10, 16, 20000, rng)]
    first = rng.permuted(drawn, axis=1)[:, :4]
    counts = (first == 0).sum(axis=1)
    seen = [np.mean(counts >= k) for k in range(1, 5)]
    assert PartPrior(UnbalancedPrior(), 4).tails(4, 10)[0] == pytest.approx(seen, abs=0.012)


def test_tables_hold_a_row_for_each_defense(rows):
    table = make_round_tables(rows)
    assert set(draw_rounds(rows)) == {"curves.svg", "curves.md"}
    assert all(f"| {defense} |" in table for defense in DEFENSES)
    each = [row for row in rows if row.extra["kind"] == EACH and row.extra["round"] == 1]
    found = make_finding_tables(each)
    assert "| prune:0.99 |" in found
    assert "where test accuracy" not in found
    learnt = [replace(row, model_accuracy=0.95) for row in each]
    assert "where test accuracy is at least 0.9" in make_finding_tables(learnt)
    cost = {"data": "d", "activation": "relu", "rounds": 2, "defense": "none", "seed": 0}
    assert "| none | 0.500 | 0.500 to 0.500 | 1,000 |" in make_cost_table(
        [{**cost, "accuracy": 0.5, "wire_bytes": 1000.0}]
    )

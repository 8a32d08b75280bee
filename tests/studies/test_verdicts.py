"""The verdicts' cells: all are measured, scales are right, and the free guess stands beside."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from labelleak.audits.run import run_parts
from labelleak.core.observation import Observation
from labelleak.studies.study import Asked
from labelleak.studies.verdicts.cases import CASES, RELU, SIGMOID, Case
from labelleak.studies.verdicts.study import defend_head, make_verdict_table, plan_cases

PUSHED = next(c for c in CASES if c.verdict == "c" and c.training.momentum and not c.plain)
FEW = (
    Case("a", RELU, 8, "iid"),
    Case("b", RELU, 8, stage=2),
    replace(PUSHED, spread=True),
    replace(PUSHED, spread=True, plain=True),
    Case("d", SIGMOID, 8, defense="gaussian:0.1"),
    Case("d", SIGMOID, 8, defense="sign"),
)


@pytest.fixture(scope="module")
def records():
    return run_parts(plan_cases(Asked(), FEW, trials=2, models=1), None)


def mean(records, case, attack):
    found = [
        row.asr for row in records if row.attack == attack and row.extra["column"] == case.column
    ]
    return sum(found) / len(found)


def test_every_case_is_there_with_all_its_attacks(records):
    for case in FEW:
        own = [row for row in records if row.extra["column"] == case.column]
        assert {row.attack for row in own} == set(case.attacks)
        assert {row.extra["verdict"] for row in own} == {case.verdict}
        assert len(own) == 2 * len(case.attacks)
    assert {row.training_steps for row in records} == {0, 2}
    assert {row.defense for row in records} == {"none", "gaussian:0.1", "sign"}


def test_several_steps_are_recorded_as_such(records):
    rows = [row for row in records if row.extra["verdict"] == "c"]
    assert {(r.local_steps, r.batch_size, r.num_samples) for r in rows} == {(10, 8, 80)}
    assert all(row.extra["lr_h2"] > 0.01 for row in rows)
    assert not any("lr_h2" in row.extra for row in records if row.extra["verdict"] != "c")


def test_momentum_is_read_by_its_step_weights_and_not_by_its_steps(records):
    right, wrong = (mean(records, case, "rlu") for case in FEW[2:4])
    assert right > wrong + 0.1


def test_the_table_holds_the_free_guess_and_every_case(records):
    text = make_verdict_table(records)
    assert text.count("| **free guess, expected** | none |") == 4
    for case in FEW:
        assert case.column in text
    assert text.index("(a)") < text.index("(b)") < text.index("(c)") < text.index("(d)")


def test_the_same_seed_gives_the_same_records(records):
    again = run_parts(plan_cases(Asked(), FEW[:1], trials=2, models=1), None)
    own = [row for row in records if row.extra["verdict"] == "a"]
    assert [(r.attack, r.asr) for r in again] == [(r.attack, r.asr) for r in own]


def test_no_two_cases_share_their_columns():
    names = [(case.verdict, case.net, case.column) for case in CASES]
    assert len(set(names)) == len(names)


def test_pruning_keeps_the_largest_entries_of_each_tensor():
    weight = torch.arange(1.0, 21.0).reshape(1, 2, 10)
    seen = Observation(weight, torch.tensor([[-3.0, 1.0]]), 8)
    pruned = defend_head(seen, "prune:0.9", np.random.default_rng(0))
    assert pruned.weight[pruned.weight != 0].tolist() == [19.0, 20.0]
    assert pruned.bias.tolist() == [[-3.0, 0.0]]


def test_noise_has_its_strength_and_signs_lose_all_size():
    seen = Observation(torch.full((1, 50, 100), 3.0), torch.full((1, 50), -2.0), 8)
    noised = defend_head(seen, "gaussian:0.1", np.random.default_rng(0))
    assert float((noised.weight - 3).std()) == pytest.approx(0.1, rel=0.05)
    assert float((noised.bias + 2).abs().max()) > 0
    signs = defend_head(seen, "sign", np.random.default_rng(0))
    assert signs.bias.unique().tolist() == [-1.0]
    assert seen.weight.unique().tolist() == [3.0]

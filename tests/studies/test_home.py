"""LLBG and RLU on their own clients: sizes, passes over the data, and the free guess beside."""

from dataclasses import replace

import numpy as np
import pytest

from labelleak.audits.run import run_parts
from labelleak.core.priors import DirichletPrior, free_guess
from labelleak.studies.home import home_cases
from labelleak.studies.study import Asked
from labelleak.studies.verdicts.study import make_verdict_table, plan_cases

CASES = home_cases(10)
FEW = tuple(
    case
    for case in CASES
    if (case.verdict == "llbg" and case.net.model == "mlp")
    or (case.stage == 0 and case.scheme == "dirichlet:0.1" and case.epochs < 10)
)


@pytest.fixture(scope="module")
def records():
    quick = [replace(c, named=("free", "llbg", "rlu", "rlu_epochs")) for c in FEW]
    return run_parts(plan_cases(Asked(), quick, trials=4, models=1), None)


def test_the_cases_are_the_papers_own_and_no_two_share_a_column():
    assert len({(case.verdict, case.column) for case in CASES}) == len(CASES)
    for case in CASES:
        assert case.size == case.training.local_steps * case.training.batch_size
        assert "rlu_epochs" in case.attacks
    llbg = [case for case in CASES if case.verdict == "llbg"]
    assert {(c.size, c.training.lr, c.scheme, c.stage) for c in llbg} == {(100, 0.001, "iid", 0)}
    assert {c.verdict for c in home_cases(100)} == {"llbg"}
    assert not any("client_simulation" in c.attacks for c in home_cases(100))


def test_a_sample_visited_twice_counts_twice_and_is_guessed_as_once(records):
    several = [row for row in records if row.extra["epochs"] == 5]
    assert {(r.num_samples, r.local_steps) for r in several} == {(320, 20)}
    _, free = free_guess(DirichletPrior(0.1), 64, 10)
    assert {r.asr_free for r in records if r.extra["verdict"] == "rlu"} == {round(free, 6)}


def test_untrained_networks_give_their_labels_away(records):
    for case in FEW:
        rows = [r for r in records if r.extra["column"] == case.column and r.attack == "llbg"]
        assert np.mean([row.asr for row in rows]) > 0.9
        assert all(row.model == case.net.model for row in rows)


def test_the_tables_stand_apart_with_the_free_guess(records):
    text = make_verdict_table(records)
    assert text.count("| **free guess, expected** | none |") == 2
    assert "LLBG's ground" in text
    assert "RLU's ground" in text
    assert "dirichlet:0.1, epochs 5, 0 steps" in text

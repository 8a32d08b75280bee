"""What a defense costs: nothing without one, and in pairs of one seed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from labelleak.audits.costs import Cohort, measure_cost, refuse_unlearnt
from labelleak.defenses import parse_defense
from labelleak.errors import BadInput
from labelleak.simulation.data.datasets import load_dataset

DIGITS = load_dataset("digits")
COHORT = Cohort(model="mlp", users=3, rounds=25, lr=0.1, batch_size=32)


def cost(text, cohort=COHORT):
    return measure_cost(DIGITS, cohort, parse_defense(text))


def test_no_defense_and_a_defense_that_is_off_cost_the_same():
    none, off = cost("none"), cost("gaussian:0")
    assert none == cost("none")
    assert off.accuracy == pytest.approx(none.accuracy, abs=0.02)
    assert none.seconds_ratio == 1.0
    parameters = 64 * 256 + 256 + 256 * 128 + 128 + 128 * 10 + 10
    assert none.wire_bytes == 4 * parameters
    assert none.accuracy > 0.5


def test_noise_costs_accuracy_and_time_and_top_k_saves_bytes():
    none, noisy, sparse = cost("none"), cost("gaussian:3"), cost("topk:0.01")
    assert noisy.accuracy < none.accuracy - 0.2
    assert noisy.seconds_ratio > 1.0
    assert noisy.wire_bytes == none.wire_bytes
    assert sparse.wire_bytes < none.wire_bytes / 40


def test_training_that_diverges_costs_all_but_a_constant_answer():
    found = cost("gaussian:1e+30", replace(COHORT, lr=1e9, rounds=2))
    most = float(torch.bincount(DIGITS.y_test).max()) / len(DIGITS.y_test)
    assert found.diverged
    assert found.accuracy == most
    # Without a defense too, where no update was counted.
    plain = cost("none", replace(COHORT, lr=1e30, rounds=3))
    assert (plain.diverged, plain.accuracy) == (True, most)
    assert plain.wire_bytes == cost("none").wire_bytes


def test_a_model_that_learns_nothing_has_nothing_to_lose():
    with pytest.raises(BadInput, match="raise `rounds` or change `lr`"):
        refuse_unlearnt(0.3, DIGITS, 5)
    refuse_unlearnt(0.9, DIGITS, 5)


def test_dp_sgd_refuses_batch_normalisation_in_one_sentence():
    with pytest.raises(BadInput, match="batch norm") as refused:
        cost("dpsgd:1:1", Cohort(model="resnet20", users=2, rounds=1))
    assert "\n" not in str(refused.value)


def test_noise_that_the_server_adds_costs_accuracy():
    none, noised, off = cost("none"), cost("server_noise:0.3"), cost("server_noise:0")
    assert noised.accuracy < none.accuracy - 0.2
    assert noised.accuracy == cost("server_noise:0.3").accuracy
    assert off.accuracy == pytest.approx(none.accuracy, abs=0.02)


def test_momentum_is_dgc_s_own_and_never_applied_twice():
    still = replace(COHORT, server_momentum=0.0)
    assert cost("dgc:0.1").accuracy == cost("dgc:0.1", still).accuracy
    assert cost("dgc:1").accuracy != cost("dgc:1", still).accuracy

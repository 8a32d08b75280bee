"""Bounds that a bias gradient proves: true counts lie within, and rounding keeps to them."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from contract import scenarios
from contract.scenarios import blobs, network, one_step, several_steps, train
from labelleak.attacks import PPLR, RLU, ZLG
from labelleak.attacks.bounds import count_bounds, round_bounded
from labelleak.core.interfaces import prepare
from labelleak.core.observation import Observation
from labelleak.core.rounding import round_counts, round_within
from labelleak.core.score import score

EXACT = ("relu", "sigmoid", "tanh", "trained", "two_classes", "hundred_classes", "one_sample")
ALL = {scenario.name: scenario for scenario in scenarios.all_scenarios()}


@pytest.mark.parametrize("name", [*EXACT, "many_samples", "local_steps", "float16"])
def test_true_counts_lie_within_the_bounds(name):
    scenario = ALL[name]
    least, most = count_bounds(scenario.observation)
    assert (least <= scenario.truth.counts).all()
    assert (scenario.truth.counts <= most).all()
    assert (least.sum(-1) <= scenario.observation.num_samples).all()


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_of_one_sample_the_bounds_name_the_label_however_sure_the_model(activation):
    sure = train(network(activation), blobs(5), 400)
    scenario = one_step("sure", sure, size=1)
    least, _ = count_bounds(scenario.observation)
    assert (least == scenario.truth.counts).all()
    for attack in (ZLG(), PPLR(), RLU()):
        ready = prepare(attack, scenario.known, 5, np.random.default_rng(0))
        assert score(ready(scenario.observation).counts, scenario.truth).asr.mean() == 1


def test_noise_pruning_and_a_missing_bias_prove_nothing():
    noised = ALL["noised"].observation
    least, most = count_bounds(noised)
    assert not least.any()
    assert (most == noised.num_samples).all()
    assert count_bounds(ALL["no_bias"].observation) is None
    counts = np.full(noised.bias.shape, noised.num_samples / 5)
    assert (round_bounded(counts, noised) == round_counts(counts, noised.num_samples)).all()


def test_an_update_of_zero_bounds_nothing():
    least, most = count_bounds(ALL["zeros"].observation)
    assert not least.any()
    assert (most == ALL["zeros"].observation.num_samples).all()


def test_bounds_that_no_counts_meet_are_dropped():
    # Twice the size of a gradient: momentum that was not taken out.
    seen = several_steps("momentum", momentum=0.9).observation
    wild = replace(seen, bias=50 * seen.bias)
    found = round_bounded(np.zeros(wild.bias.shape), wild)
    assert (found.sum(-1) == wild.num_samples).all()
    assert (found >= 0).all()


def test_rounding_errors_of_single_precision_add_no_class():
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        posteriors = torch.softmax(12 * torch.randn(64, 10, generator=generator), dim=1)
        labels = posteriors.argmax(dim=1)  # right and sure: next to nothing is left
        bias = (posteriors - nn.functional.one_hot(labels, 10)).mean(dim=0)
        least, most = count_bounds(Observation.from_gradient(None, bias, num_samples=64))
        counts = np.bincount(labels, minlength=10)
        assert (least <= counts).all()
        assert (counts <= most).all()


small = st.integers(2, 4)


@given(small, st.integers(1, 6), st.data())
def test_rounding_within_bounds_is_the_nearest_of_all(classes, total, data):
    pick = st.lists(st.integers(0, total), min_size=classes, max_size=classes)
    one, other = data.draw(pick), data.draw(pick)
    least, most = np.minimum(one, other), np.maximum(one, other)
    x = np.array(data.draw(st.lists(st.floats(-2, 7), min_size=classes, max_size=classes)))
    found = round_within(x, total, least, most)
    assert found.sum() == total
    grid = np.array(list(itertools.product(range(total + 1), repeat=classes)))
    fits = grid[(grid.sum(1) == total) & (grid >= least).all(1) & (grid <= most).all(1)]
    if not len(fits):
        assert found.tolist() == round_counts(x, total).tolist()
        return
    assert (found >= least).all()
    assert (found <= most).all()
    best = np.square(fits - x).sum(1).min()
    assert np.square(found - x).sum() <= best + 1e-6


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30), st.integers(1, 40))
def test_rounding_without_bounds_is_plain_rounding(row, total):
    x, free = np.array(row), np.zeros(len(row), dtype=np.int64)
    want = round_counts(x, total)
    assert round_within(x, total, free, free + total).tolist() == want.tolist()

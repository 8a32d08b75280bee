"""No right gradient breaks a limit; what breaks one is wrong, and says the likeliest cause."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from labelleak.core.limits import check_limits, least_samples, suspect
from labelleak.core.observation import Observation
from labelleak.core.training import LocalTraining
from labelleak.records.states import State


def gradient(labels, classes=10, width=12, seed=0, sharpness=1.0, dtype=torch.float64):
    """Make the head gradient of a batch under posteriors drawn at random, K x D and K."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(classes, sharpness), len(labels))
    errors = p - np.eye(classes)[labels]
    inputs = np.maximum(rng.standard_normal((len(labels), width)), 0)
    weight, bias = errors.T @ inputs / len(labels), errors.mean(axis=0)
    return torch.tensor(weight, dtype=dtype), torch.tensor(bias, dtype=dtype)


def seen(labels, times=1.0, **made):
    weight, bias = gradient(labels, **made)
    return Observation.from_gradient(weight * times, bias * times, num_samples=len(labels))


BATCH = np.array([0, 0, 0, 0, 1, 1, 2, 3])


@pytest.mark.parametrize("classes", [2, 3, 10, 100])
@pytest.mark.parametrize("size", [1, 3, 64])
@pytest.mark.parametrize("sharpness", [0.01, 1.0, 100.0])
def test_no_right_gradient_breaks_a_limit(classes, size, sharpness):
    rng = np.random.default_rng(size)
    for seed in range(10):
        labels = rng.integers(0, classes, size)
        one = seen(labels, classes=classes, seed=seed, sharpness=sharpness)
        found = check_limits(one)
        assert not found.scale.any()
        assert not found.sign.any()
        assert found.times <= 1 + 1e-9
        assert least_samples(one.bias_gradient, size) <= size


@pytest.mark.parametrize("times", [32, 65536, -32])
def test_what_is_too_large_is_impossible(times):
    found = check_limits(seen(BATCH, times))
    assert found.scale
    assert found.state(found.scale) is State.impossible


def test_a_factor_below_one_is_not_known():
    found = check_limits(seen(BATCH, 0.5))
    assert not found.scale
    assert found.state(found.scale) is State.not_known
    assert "below 1" in found.why


def test_half_precision_breaks_no_limit():
    one = seen(np.array([0]), dtype=torch.float16, sharpness=0.01)
    assert not check_limits(one).scale


def test_a_turned_sign_is_impossible_where_few_samples_cannot_have_the_classes():
    labels = np.array([4])
    assert check_limits(seen(labels, -1.0, sharpness=100.0)).sign
    assert not check_limits(seen(labels, 1.0, sharpness=100.0)).sign
    many = np.arange(100) % 10
    assert not check_limits(seen(many, -1.0)).sign  # all classes may be there: nobody can tell


def test_smoothed_labels_on_a_sure_model_are_not_a_turned_sign():
    """Of one sample that is told rightly with 0.9, smoothing by 0.3 turns every sign."""
    p, target = np.full(10, 0.1 / 9), np.full(10, 0.03)
    p[0], target[0] = 0.9, 0.73
    bias = torch.tensor(p - target)
    one = Observation.from_gradient(bias[:, None] * torch.rand(1, 8).double(), bias, num_samples=1)
    assert not check_limits(one).sign


@pytest.mark.parametrize(
    "spoil",
    [
        lambda w: w + torch.randn(w.shape, generator=torch.Generator().manual_seed(0)) * 3,
        torch.sign,
        lambda w: w * (torch.rand(w.shape, generator=torch.Generator().manual_seed(0)) < 0.3),
    ],
)
def test_undeclared_noise_and_compression_are_never_an_impossible_scale(spoil):
    weight, bias = gradient(BATCH)
    one = Observation.from_gradient(spoil(weight), 9 * spoil(bias), num_samples=8)
    found = check_limits(one)
    assert not found.scale
    assert "noise" in found.why


def test_who_made_the_update_and_who_does_not_know_the_rate_break_no_limit():
    large = seen(BATCH, 32.0)
    made = check_limits(replace(large, scale=State.held))
    assert (bool(made.scale), made.otherwise) == (False, State.held)
    assert not check_limits(replace(large, lr_known=False)).scale
    assert not check_limits(large, LocalTraining(lr=0.1, optimiser="adam")).scale
    assert not check_limits(replace(large, bias=None)).scale


def test_a_declared_defense_widens_the_limit():
    rng = torch.Generator().manual_seed(1)
    weight, bias = gradient(BATCH)
    noisy = bias + 2 * torch.randn(10, generator=rng).double()
    one = Observation.from_gradient(weight, noisy, num_samples=8)
    from labelleak.defenses import parse_defense

    wide = parse_defense("gaussian:2").largest_after(2.0, 10)
    assert not check_limits(replace(one, largest=wide)).scale
    assert check_limits(replace(one, bias=32 * noisy, largest=wide)).scale
    assert check_limits(replace(one, largest=2.0)).scale


def test_each_trial_is_judged_by_itself():
    weight, bias = gradient(BATCH)
    both = Observation.from_gradient(
        torch.stack([weight, 32 * weight]), torch.stack([bias, 32 * bias]), num_samples=8
    )
    assert check_limits(both).scale.tolist() == [False, True]


@pytest.mark.parametrize(
    ("times", "steps", "word"),
    [(22, 1, "32 samples"), (2, 1, "local steps"), (3, 5, "momentum"), (30000, 1, "65,536")],
)
def test_the_likeliest_cause_is_said(times, steps, word):
    weight, bias = gradient(BATCH)
    one = Observation.from_gradient(weight, bias, num_samples=32, local_steps=steps)
    if steps == 5:
        one = replace(one, num_samples=320)
    said = suspect(times, one)
    assert f"{times:.3g} times the largest possible" in said
    assert word in said

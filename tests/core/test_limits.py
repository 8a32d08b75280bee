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
    said = suspect(replace(check_limits(one), times=np.asarray(float(times))), one)
    assert f"{times:.3g} times the largest possible" in said
    assert word in said


PLAIN = LocalTraining(local_steps=1, label_smoothing=0.0, class_weights=())


@pytest.mark.parametrize("size", [1, 2, 5, 40])
def test_hard_labels_that_were_told_never_need_more_than_there_are(size):
    rng = np.random.default_rng(size)
    for seed in range(40):
        labels = rng.integers(0, 10, size)
        for dtype in (torch.float32, torch.float16):
            one = seen(labels, seed=seed, sharpness=0.05, dtype=dtype)
            found = check_limits(one, PLAIN)
            assert not found.scale
            assert found.needed <= size


def test_a_number_of_labels_that_is_too_small_is_impossible_only_where_labels_are_told_to_be_hard():
    one = seen(np.arange(20) % 3, sharpness=50.0, seed=3)
    few = replace(one, num_samples=2)
    for told in (
        PLAIN,
        replace(PLAIN, label_smoothing=None),
        replace(PLAIN, class_weights=None),
        replace(PLAIN, local_steps=None),
    ):
        found = check_limits(few, told)
        assert bool(found.scale) == (told is PLAIN)
        assert found.needed > 2  # and so the flag samples_inconsistent is raised
    assert "number of labels told too small" in suspect(check_limits(few, PLAIN), few)
    assert not check_limits(one, PLAIN).scale


@pytest.mark.parametrize(
    "told", [{"label_smoothing": 0.1}, {"class_weights": (1.0, 2.0)}, {"local_steps": 2}], ids=str
)
def test_labels_that_are_told_to_be_other_than_hard_have_no_such_bound(told):
    how = replace(PLAIN, **told)
    one = seen(np.arange(20) % 3, sharpness=50.0, seed=3)
    few = replace(one, num_samples=2, local_steps=how.local_steps)
    found = check_limits(few, how)
    assert not found.scale
    assert found.needed == 0  # no such bound

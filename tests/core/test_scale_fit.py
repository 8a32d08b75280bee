"""Own data tell the factor on an update, and one usual cause alone is undone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from contract import scenarios
from labelleak.core.knowledge import Knowledge, LabelledData
from labelleak.core.observation import Observation
from labelleak.core.scale_fit import fit_scale, repair
from labelleak.core.training import LocalTraining
from labelleak.core.white_box import WhiteBox
from labelleak.errors import NotApplicable
from labelleak.records.states import State

CLASSES = 5


@pytest.fixture(scope="module")
def case():
    """Give a model, data of the attacker's own and a client's batch of 64."""
    model = scenarios.network(nn.Tanh)
    data = scenarios.blobs(CLASSES)
    own = LabelledData(data.inputs[::2], data.labels[::2])
    return WhiteBox(model, "2"), own, data.inputs[1:128:2], data.labels[1:128:2]


def observe(case, times=1.0, **loss):
    model, _, x, y = case
    head = model.head_module
    value = F.cross_entropy(model.module(x), y, **loss)
    weight, bias = torch.autograd.grad(value, [head.weight, head.bias])
    return Observation.from_gradient(weight * times, bias * times, num_samples=len(y))


def known(case, **fields):
    model, own, *_ = case
    return Knowledge(model, tuple(own.inputs.shape[1:]), own, **fields)


def test_a_right_update_holds(case):
    fit = fit_scale(observe(case), known(case))
    assert fit.low < 1 < fit.high
    assert fit.state in (State.held, State.not_known)
    assert fit.repair is None


@pytest.mark.parametrize("times", [64.0, -1.0])
def test_one_usual_cause_is_undone(case, times):
    fit = fit_scale(observe(case, times), known(case))
    assert fit.state is State.failed
    assert fit.low <= times <= fit.high
    assert fit.repair == times
    fixed = repair(observe(case, times), fit)
    assert fixed.scale is State.repaired
    assert torch.allclose(fixed.bias, observe(case).bias, atol=1e-6)


@pytest.mark.parametrize("times", [0.01, 20.0, -20.0])
def test_a_factor_of_no_usual_cause_is_told_and_not_undone(case, times):
    fit = fit_scale(observe(case, times), known(case))
    assert fit.state is State.failed
    assert fit.repair is None


def test_clipping_that_looks_like_a_second_division_is_not_undone_unless_told_off(case):
    clipped = observe(case, 1 / 64)
    assert fit_scale(clipped, known(case)).repair is None
    told = LocalTraining(lr=1.0, batch_size=64, clip_norm=np.inf)
    assert fit_scale(clipped, known(case, training=told)).repair == 1 / 64


def test_noise_and_compression_are_not_undone(case):
    seen = observe(case, 64.0)
    rng = torch.Generator().manual_seed(0)
    noisy = seen.weight + 0.3 * seen.weight.std() * torch.randn(seen.weight.shape, generator=rng)
    assert fit_scale(replace(seen, weight=noisy), known(case)).repair is None
    assert fit_scale(replace(seen, weight=seen.weight.sign()), known(case)).repair is None


def test_smoothing_on_a_trained_model_is_no_turned_sign():
    data = scenarios.blobs(CLASSES)
    own = LabelledData(data.inputs[::2], data.labels[::2])
    for steps in (0, 5, 20, 60, 150):
        model = scenarios.train(scenarios.network(), data, steps)
        one = (WhiteBox(model, "2"), own, data.inputs[1:128:2], data.labels[1:128:2])
        for smoothing in (0.0, 0.1, 0.3, 0.5):
            seen = observe(one, label_smoothing=smoothing)
            assert fit_scale(seen, known(one)).repair is None, (steps, smoothing)


def test_without_model_data_or_size_nothing_is_told(case):
    seen = observe(case)
    for lacking in (
        (seen, Knowledge()),
        (replace(seen, num_samples=None), known(case)),
        (replace(seen, weight=None), known(case)),
        (seen, known(case, training=LocalTraining(lr=0.1, optimiser="adam"))),
    ):
        with pytest.raises(NotApplicable, match=r"measured|scales"):
            fit_scale(*lacking)


def test_several_steps_show_only_too_large_a_factor(case):
    seen = replace(observe(case, 0.2), local_steps=4)
    assert fit_scale(seen, known(case)).state is not State.failed
    large = replace(observe(case, 400.0), local_steps=4)
    assert fit_scale(large, known(case)).state is State.failed

"""Sign, scale and steps of an update: what comes out is the gradient that went in."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from labelleak.core.observation import Observation
from labelleak.core.scale import StepPath, step_weights
from labelleak.core.training import LocalTraining
from labelleak.errors import BadInput

CLASSES, WIDTH, SIZE = 4, 6, 8


def client(*, steps=1, seed=0, **options):
    """Train with torch.optim.SGD and return weights before, after, and each step's gradient."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Linear(WIDTH, CLASSES).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator).double())
    before = copy.deepcopy(model.state_dict())
    optimiser = torch.optim.SGD(model.parameters(), **options)
    gradients = []
    for _ in range(steps):
        x = torch.rand(SIZE, WIDTH, generator=generator).double()
        y = torch.randint(CLASSES, (SIZE,), generator=generator)
        optimiser.zero_grad()
        torch.autograd.backward(F.cross_entropy(model(x), y))
        gradients.append(model.weight.grad.clone())
        optimiser.step()
    return before, copy.deepcopy(model.state_dict()), torch.stack(gradients)


@settings(max_examples=40)
@given(
    lr=st.floats(1e-4, 2.0),
    momentum=st.sampled_from([0.0, 0.5, 0.9]),
    weight_decay=st.sampled_from([0.0, 1e-2, 0.5]),
    seed=st.integers(0, 1000),
)
def test_one_step_of_sgd_gives_back_the_gradient(lr, momentum, weight_decay, seed):
    options = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
    before, after, gradients = client(seed=seed, **options)
    seen = Observation.from_update(before, after, head="", batch_size=SIZE, **options)
    assert torch.allclose(seen.weight, gradients[0], rtol=1e-5, atol=1e-10)
    assert (seen.num_samples, seen.local_steps) == (SIZE, 1)


@settings(max_examples=20)
@given(
    steps=st.integers(2, 8),
    momentum=st.sampled_from([0.0, 0.9]),
    dampening=st.sampled_from([0.0, 0.3]),
    nesterov=st.booleans(),
)
def test_several_steps_give_the_weighted_mean_gradient(steps, momentum, dampening, nesterov):
    nesterov = nesterov and momentum > 0
    dampening = 0.0 if nesterov else dampening
    options = {"lr": 0.1, "momentum": momentum, "dampening": dampening, "nesterov": nesterov}
    before, after, gradients = client(steps=steps, **options)
    seen = Observation.from_update(
        before, after, head="", local_steps=steps, batch_size=SIZE, **options
    )
    weights = torch.from_numpy(
        step_weights(steps, momentum=momentum, dampening=dampening, nesterov=nesterov)
    )
    want = torch.einsum("t,tkd->kd", weights, gradients) / weights.sum()
    assert torch.allclose(seen.weight, want, rtol=1e-9, atol=1e-12)
    assert seen.num_samples == SIZE * steps


def test_weight_decay_over_several_steps_is_taken_out_nearly():
    options = {"lr": 0.05, "weight_decay": 0.1}
    before, after, gradients = client(steps=10, **options)
    right = Observation.from_update(before, after, head="", local_steps=10, **options)
    blind = Observation.from_update(before, after, head="", local_steps=10, lr=0.05)
    mean = gradients.mean(0)
    assert (right.weight - mean).norm() < 0.02 * (blind.weight - mean).norm()


def test_a_proximal_term_is_taken_out_nearly():
    mu, lr, steps = 0.5, 0.1, 5
    start = torch.zeros(2, 3, dtype=torch.float64)
    gradient = torch.tensor([[1.0, 2.0, 3.0], [-1.0, -2.0, -3.0]], dtype=torch.float64)
    theta = start.clone()
    for _ in range(steps):
        theta = theta - lr * (gradient + mu * (theta - start))
    seen = Observation.from_update(
        {"weight": start}, {"weight": theta}, head="", lr=lr, local_steps=steps, proximal=mu
    )
    assert torch.allclose(seen.weight, gradient, rtol=0.02)


def test_momentum_weighs_ten_steps_as_forty_one():
    assert step_weights(10, momentum=0.9).sum() == pytest.approx(41.38, abs=0.01)
    assert step_weights(10).sum() == 10


def test_leading_dimensions_hold_many_trials():
    weight = torch.randn(2, 3, CLASSES, WIDTH)
    seen = Observation.from_gradient(weight, weight.sum(-1), num_samples=4)
    assert seen.trials == (2, 3)
    assert seen.num_classes == CLASSES
    assert np.allclose(seen.row_sums, weight.sum(-1).numpy(), atol=1e-5)
    assert seen.row_sums.dtype == np.float64


def test_arrays_and_half_precision_are_taken():
    seen = Observation.from_gradient(np.full((3, 2000), 1e-4, dtype=np.float16), num_samples=1)
    assert seen.row_sums == pytest.approx(np.full(3, 0.2), rel=1e-3)


GOOD = torch.ones(3, 2)


@pytest.mark.parametrize(
    ("weight", "bias", "options", "sentence"),
    [
        (None, None, {}, "needs the head's weight gradient"),
        (torch.ones(3), None, {}, "at least 2 dimension"),
        (torch.ones(1, 5), None, {}, "at least 2 classes"),
        (torch.ones(3, 0), None, {}, "no empty one"),
        (GOOD, torch.ones(4), {}, "the bias gradient has shape"),
        (GOOD.long(), None, {}, "floating-point"),
        (GOOD.to_sparse(), None, {}, "sparse"),
        (torch.tensor([[1.0, float("nan")], [1.0, 1.0]]), None, {}, "NaN or infinite"),
        (torch.tensor([[1.0, float("inf")], [1.0, 1.0]]), None, {}, "NaN or infinite"),
        (torch.tensor([[float("inf"), -float("inf")], [1.0, 1.0]]), None, {}, "NaN or infinite"),
        (torch.full((2, 4), 3e38), None, {}, "overflows"),
        (torch.full((2, 4), -1e150, dtype=torch.float64), None, {}, "did the training diverge"),
        (
            torch.tensor([[1e99, 2e99], [-1e160, 0.0]], dtype=torch.float64),
            None,
            {},
            "beyond 1e100",
        ),
        (GOOD, torch.tensor([0.0, 1e200, 0.0], dtype=torch.float64), {}, "beyond 1e100"),
        (None, torch.tensor([1.0, float("nan")]), {}, "NaN or infinite"),
        (GOOD, None, {"num_samples": 0}, "at least 1"),
        (GOOD, None, {"num_samples": 2.5}, "whole number"),
        (GOOD, None, {"local_steps": 0}, "at least 1"),
        ("rows", None, {}, "tensor or array"),
    ],
)
def test_what_is_no_gradient_is_refused_in_a_sentence(weight, bias, options, sentence):
    with pytest.raises(BadInput, match=sentence):
        Observation.from_gradient(weight, bias, **options)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"lr": 0.0}, "`lr` must be a number above 0"),
        ({"lr": float("nan")}, "`lr` must be a number above 0"),
        ({"head": "fc"}, "have no 'fc.weight'"),
        ({"after": {"weight": torch.ones(2, 7)}}, "before and"),
        ({"momentum": 1.0}, "`momentum` must be a number"),
        ({"local_steps": 0}, "`local_steps` must be a whole number"),
    ],
)
def test_an_update_that_cannot_be_read_is_refused(changed, sentence):
    weights = {"weight": torch.ones(2, 3)}
    call = {"before": weights, "after": weights, "head": "", "lr": 0.1, **changed}
    with pytest.raises(BadInput, match=sentence):
        Observation.from_update(call.pop("before"), call.pop("after"), **call)


def test_the_rest_is_kept_when_it_is_asked_for():
    before = {"fc.weight": torch.ones(2, 3), "fc.bias": torch.ones(2), "conv": torch.zeros(4)}
    after = {"fc.weight": torch.ones(2, 3), "fc.bias": torch.zeros(2), "conv": torch.ones(4)}
    seen = Observation.from_update(before, after, head="fc", lr=0.5, rest=before)
    assert list(seen.rest) == ["conv"]
    assert seen.rest["conv"].tolist() == [-2.0] * 4
    assert seen.bias.tolist() == [2.0] * 2
    assert Observation.from_update(before, after, head="fc", lr=0.5).rest is None
    with pytest.raises(BadInput, match="have no 'gone'"):
        Observation.from_update(before, after, head="fc", lr=0.5, rest=["gone"])


def test_attributes_that_were_not_shared_say_so():
    with pytest.raises(BadInput, match="not shared"):
        _ = Observation.from_gradient(None, torch.ones(3)).row_sums
    with pytest.raises(BadInput, match="not shared"):
        _ = Observation.from_gradient(GOOD).bias_gradient


def test_paths_of_steps_are_kept_by_their_numbers_and_written_to_by_nobody():
    told = LocalTraining(lr=0.5, local_steps=3, momentum=0.5)
    one, again = StepPath.of(told), StepPath.of(told)
    assert one.weights is again.weights
    with pytest.raises(ValueError, match="read-only"):
        one.weights[0] = 0
    others = (
        replace(told, momentum=0.25),
        replace(told, local_steps=4),
        replace(told, dampening=0.5),
        replace(told, nesterov=True),
    )
    for other in others:
        path = StepPath.of(other)
        momentum, steps = other.momentum, other.local_steps
        wanted = step_weights(
            steps,
            momentum=momentum,
            dampening=other.dampening or 0.0,
            nesterov=bool(other.nesterov),
        )
        assert path.weights.tolist() == wanted.tolist()
        assert path.rate == 0.5 * wanted.sum()
    assert StepPath.of(replace(told, lr=0.25)).rate == one.rate / 2
    long = StepPath.of(LocalTraining(lr=1.0, local_steps=20_000))
    assert long.rate == 20_000
    assert long.weights is not StepPath.of(LocalTraining(lr=1.0, local_steps=20_000)).weights

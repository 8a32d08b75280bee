"""What a server observes from weights is what autograd gives at the steps, for any options."""

import copy
from dataclasses import replace

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from contract import scenarios
from labelleak.attacks.dlg import DLG
from labelleak.core.interfaces import prepare
from labelleak.core.knowledge import Knowledge, LabelledData
from labelleak.core.scale import step_weights
from labelleak.core.training import LocalTraining
from labelleak.core.white_box import WhiteBox
from labelleak.simulation.gradients import autograd_gradients

NAMES = ("0.weight", "0.bias", "2.weight", "2.bias")


def make(seed, sign):
    """Make a small network, data and batches; the sign turns every head input over."""
    made = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=made).double())
        model[0].weight *= sign
        model[0].bias.copy_(sign * model[0].bias.abs() * 3)
    inputs = torch.rand(40, 5, generator=made).double()
    return model, LabelledData(inputs, torch.randint(3, (40,), generator=made))


def gradient_at(state, model, data, batch):
    """Differentiate the plain mean loss at given weights, every parameter."""
    twin = copy.deepcopy(model)
    twin.load_state_dict(state)
    seen = autograd_gradients(WhiteBox(twin, "2"), data, batch[None], full=True)
    found = {"2.weight": seen.weight[0], "2.bias": seen.bias[0]}
    return found | {name: value[0] for name, value in seen.rest.items()}


def observed(update):
    seen = update.observe("2", rest=NAMES)
    return {"2.weight": seen.weight, "2.bias": seen.bias, **seen.rest}


def assert_close(found, wanted):
    for name in NAMES:
        gap = (found[name] - wanted[name]).norm()
        assert gap <= 1e-5 * wanted[name].norm() + 1e-12, name


COMMON = {
    "lr": st.floats(1e-3, 1.0),
    "sign": st.sampled_from([-1.0, 1.0]),
    "seed": st.integers(0, 500),
}


@settings(max_examples=30)
@given(
    momentum=st.floats(0.0, 0.99),
    nesterov=st.booleans(),
    decay=st.floats(0.0, 0.5),
    proximal=st.floats(0.0, 2.0),
    **COMMON,
)
def test_one_step_is_the_autograd_gradient(lr, momentum, nesterov, decay, proximal, sign, seed):
    model, data = make(seed, sign)
    training = LocalTraining(
        lr,
        momentum=momentum,
        weight_decay=decay,
        nesterov=nesterov and momentum > 0,
        proximal=proximal,
    )
    batch = np.random.default_rng(seed).integers(40, size=8)
    update = scenarios.trained_update(model, data, batch[None], training)
    assert_close(observed(update), gradient_at(update.before, model, data, batch))


@settings(max_examples=20)
@given(steps=st.integers(2, 6), momentum=st.sampled_from([0.0, 0.5, 0.9]), **COMMON)
def test_several_steps_are_the_weighted_mean_of_theirs(lr, steps, momentum, sign, seed):
    model, data = make(seed, sign)
    batches = np.random.default_rng(seed).integers(40, size=(steps, 8))
    training = LocalTraining(lr, local_steps=steps, momentum=momentum)
    update = scenarios.trained_update(model, data, batches, training)
    # The client's weights at step t are those that t steps of it return.
    states = [update.before]
    states += [
        scenarios.trained_update(model, data, batches[:t], training).after for t in range(1, steps)
    ]
    each = [
        gradient_at(state, model, data, batch) for state, batch in zip(states, batches, strict=True)
    ]
    weights = step_weights(steps, momentum=momentum)
    if momentum == 0:
        assert weights.tolist() == [1.0] * steps
    mean = {
        name: sum(w * one[name] for w, one in zip(weights, each, strict=True)) / weights.sum()
        for name in NAMES
    }
    assert_close(observed(update), mean)


@settings(max_examples=10)
@given(**COMMON)
def test_an_update_turned_around_is_the_negative_gradient(lr, sign, seed):
    model, data = make(seed, sign)
    training = LocalTraining(lr)
    update = scenarios.trained_update(model, data, np.arange(8)[None], training)
    there = observed(update)
    back = observed(replace(update, before=update.after, after=update.before))
    for name in NAMES:
        assert torch.equal(back[name], -there[name])
        assert there[name].norm() > 0


def test_dlg_works_from_weights():
    model, data = make(1, 1.0)
    training = LocalTraining(0.1, batch_size=2, momentum=0.9, weight_decay=0.01)
    update = scenarios.trained_update(model, data, np.array([[3, 4]]), training)
    labels = data.labels[3:5]
    seen = update.observe("2", rest=NAMES)
    known = Knowledge(model=WhiteBox(model, "2"), input_shape=(5,))
    answer = prepare(DLG(iterations=100), known, 3, np.random.default_rng(0))
    assert answer(seen).counts.tolist() == np.bincount(labels, minlength=3).tolist()

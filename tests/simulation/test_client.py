"""A client's steps are torch's own optimiser's, and leave the model that it was sent alone."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from labelleak.interfaces import LabelledData, LocalTraining
from labelleak.observation import Observation
from labelleak.simulation.client import train_locally
from labelleak.simulation.gradients import autograd_gradients
from labelleak.white_box import WhiteBox


@pytest.fixture
def model():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))


@pytest.fixture
def data():
    made = torch.Generator().manual_seed(0)
    return LabelledData(torch.randn(24, 6, generator=made), torch.arange(24) % 4)


BATCHES = np.arange(24).reshape(3, 8)


def observe(model, after, training):
    return Observation.from_update(
        model.state_dict(),
        after,
        head="2",
        lr=training.lr,
        local_steps=training.local_steps,
        batch_size=8,
        momentum=training.momentum,
        weight_decay=training.weight_decay,
    )


@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_one_step_gives_back_the_gradient(model, data, decay):
    training = LocalTraining(lr=0.1, batch_size=8, weight_decay=decay)
    seen = observe(model, train_locally(model, data, BATCHES[:1], training), training)
    true = autograd_gradients(WhiteBox(model, "2"), data, BATCHES[:1])
    torch.testing.assert_close(seen.weight.float(), true.weight[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(seen.bias.float(), true.bias[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_small_steps_give_the_weighted_mean_of_the_steps_gradients(model, data, momentum):
    training = LocalTraining(lr=1e-4, local_steps=3, batch_size=8, momentum=momentum)
    double = model.double()
    exact = LabelledData(data.inputs.double(), data.labels)
    seen = observe(double, train_locally(double, exact, BATCHES, training), training)
    steps = autograd_gradients(WhiteBox(double, "2"), exact, BATCHES).bias
    replays = torch.tensor([1 + momentum + momentum**2, 1 + momentum, 1.0]).double()
    mean = (replays / replays.sum()) @ steps
    torch.testing.assert_close(seen.bias, mean, rtol=1e-3, atol=1e-4)
    assert seen.num_samples == 24


def test_adam_moves_by_the_learning_rate_in_its_first_step(model, data):
    training = LocalTraining(lr=1e-3, optimiser="adam")
    after = train_locally(model, data, BATCHES[:1], training)
    moved = (after["2.bias"] - model.state_dict()["2.bias"]).abs()
    torch.testing.assert_close(moved, torch.full((4,), 1e-3), rtol=1e-2, atol=1e-6)


def test_steps_follow_torchs_optimiser_one_by_one(model, data):
    twin = copy.deepcopy(model)
    optimiser = torch.optim.Adam(twin.parameters(), lr=0.01)
    for batch in torch.from_numpy(BATCHES):
        optimiser.zero_grad()
        nn.CrossEntropyLoss()(twin(data.inputs[batch]), data.labels[batch]).backward()
        optimiser.step()
    training = LocalTraining(lr=0.01, local_steps=3, optimiser="adam")
    after = train_locally(model, data, BATCHES, training)
    assert all(torch.equal(after[name], value) for name, value in twin.state_dict().items())


def test_the_model_stays_and_its_buffers_come_back(data):
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 4))
    before = copy.deepcopy(model.state_dict())
    after = train_locally(model, data, BATCHES, LocalTraining(lr=0.1, local_steps=3))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert after.keys() == before.keys()
    assert int(after["1.num_batches_tracked"]) == 3
    assert not any(value.requires_grad for value in after.values())


def test_dropout_is_drawn_from_the_seed(data):
    model = nn.Sequential(nn.Linear(6, 5), nn.Dropout(), nn.Linear(5, 4))
    state = torch.random.get_rng_state()
    one, same, other = (
        train_locally(model, data, BATCHES, LocalTraining(lr=0.1), seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(one["2.weight"], same["2.weight"])
    assert not torch.equal(one["2.weight"], other["2.weight"])
    assert torch.equal(state, torch.random.get_rng_state())

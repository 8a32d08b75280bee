"""Client simulation: exact at one step, ahead of static class means over many."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from contract import scenarios
from labelleak.attacks.client_training import DIVERGED, ClientSimulation, SimulatedClient
from labelleak.attacks.regression import GradientRegression
from labelleak.core.interfaces import prepare
from labelleak.core.knowledge import Knowledge, LabelledData
from labelleak.core.observation import Observation
from labelleak.core.score import Truth, score
from labelleak.core.training import FullTraining
from labelleak.core.white_box import WhiteBox
from labelleak.simulation.data.datasets import load_dataset
from labelleak.simulation.models import build_model
from labelleak.simulation.roles import divide

TRIALS = 5


@pytest.fixture(scope="module")
def digits():
    found = load_dataset("digits")
    return divide(found.x_train, found.y_train, seed=0)


def model_of(activation, init):
    return build_model(
        "cnn", input_shape=(1, 8, 8), num_classes=10, activation=activation, init=init, seed=0
    )


def optimiser_of(model, how):
    if how.optimiser == "adam":
        return torch.optim.Adam(model.parameters(), lr=how.lr, weight_decay=how.weight_decay)
    return torch.optim.SGD(
        model.parameters(), lr=how.lr, momentum=how.momentum, weight_decay=how.weight_decay
    )


def clients(model, data, how, head="head", num_classes=10):
    """Let clients of two main classes each train, and observe them."""
    rng = np.random.default_rng(1)
    members = [np.flatnonzero(data.labels.numpy() == c) for c in range(num_classes)]
    after, counts = [], []
    for _ in range(TRIALS):
        labels = rng.integers(num_classes, size=(how.local_steps, how.batch_size))
        labels[:, : how.batch_size // 2] = rng.integers(num_classes)
        labels[:, how.batch_size // 2 : 3 * how.batch_size // 4] = rng.integers(num_classes)
        client = copy.deepcopy(model)
        optimiser = optimiser_of(client, how)
        for row in labels:
            picks = torch.from_numpy(np.array([rng.choice(members[c]) for c in row]))
            optimiser.zero_grad()
            loss = F.cross_entropy(client(data.inputs[picks]), data.labels[picks])
            torch.autograd.backward(loss)
            optimiser.step()
        after.append(client.state_dict())
        counts.append(np.bincount(labels.ravel(), minlength=num_classes))
    before = model.state_dict()
    sgd = how.optimiser == "sgd"
    observation = Observation.from_update(
        before,
        {name: torch.stack([state[name] for state in after]) for name in before},
        head=head,
        lr=how.lr,
        local_steps=how.local_steps,
        batch_size=how.batch_size,
        momentum=how.momentum,
        weight_decay=how.weight_decay if sgd else 0.0,
    )
    return observation, Truth(np.stack(counts))


def asr(attack, model, auxiliary, how, observation, truth):
    known = Knowledge(WhiteBox(model, "head"), (1, 8, 8), auxiliary, training=how)
    found = prepare(attack, known, 10, np.random.default_rng(0))(observation)
    return score(found.counts, truth).asr.mean()


@pytest.mark.parametrize(
    ("activation", "init", "how", "margin", "least"),
    [
        ("sigmoid", "uniform", FullTraining(0.1, 10, 8), 0.15, 0.75),
        ("sigmoid", "uniform", FullTraining(0.02, 10, 8, momentum=0.9), 0.1, 0.75),
        ("sigmoid", "uniform", FullTraining(0.02, 10, 8, weight_decay=0.01), 0.05, 0.9),
        ("relu", "default", FullTraining(0.01, 10, 8, optimiser="adam"), 0.01, 0.7),
    ],
)
def test_many_steps_are_matched_better_than_by_static_means(
    digits, activation, init, how, margin, least
):
    model = model_of(activation, init)
    seen = clients(model, digits.victims, how)
    static = asr(GradientRegression(), model, digits.auxiliary, how, *seen)
    simulated = asr(ClientSimulation(), model, digits.auxiliary, how, *seen)
    assert simulated > static + margin
    assert simulated > least


WEIGHTS = tuple(np.linspace(0.3, 3, 10).tolist())


@pytest.mark.parametrize(
    ("more", "margin", "least"),
    [
        ({"momentum": 0.9, "nesterov": True, "lr": 0.02}, -0.02, 0.95),
        ({"momentum": 0.9, "dampening": 0.5, "lr": 0.02}, -0.02, 0.93),
        ({"proximal": 1.0}, 0.01, 0.97),
        ({"clip_norm": 0.5}, 0.0, 0.92),
        ({"label_smoothing": 0.3}, 0.1, 0.97),
        ({"class_weights": WEIGHTS}, 0.1, 0.9),
        ({"class_weights": WEIGHTS, "label_smoothing": 0.2, "clip_norm": 0.5}, 0.15, 0.93),
    ],
    ids=lambda more: "+".join(more) if isinstance(more, dict) else "",
)
@pytest.mark.parametrize(("steps", "size"), [(10, 8), (1, 32)])
def test_what_bends_the_clients_steps_is_simulated(digits, more, margin, least, steps, size):
    how = FullTraining(**{"lr": 0.05, "local_steps": steps, "batch_size": size, **more})
    model = model_of("relu", "default")
    seen = clients_of_the_simulator(model, digits.victims, how)
    static = asr(GradientRegression(), model, digits.auxiliary, how, *seen)
    simulated = asr(ClientSimulation(), model, digits.auxiliary, how, *seen)
    assert simulated >= static + (margin if steps > 1 else min(margin, 0.0))
    assert simulated >= least


def clients_of_the_simulator(model, data, how):
    """Let clients of two main classes train in the simulator, and observe them."""
    rng = np.random.default_rng(1)
    members = [np.flatnonzero(data.labels.numpy() == c) for c in range(10)]
    seen, counts = [], []
    for _ in range(TRIALS):
        labels = rng.integers(10, size=(how.local_steps, how.batch_size))
        labels[:, : how.batch_size // 2] = rng.integers(10)
        labels[:, how.batch_size // 2 : 3 * how.batch_size // 4] = rng.integers(10)
        steps = np.array([[rng.choice(members[c]) for c in row] for row in labels])
        update = scenarios.trained_update(model, data, steps, how)
        seen.append(update.observe("head"))
        counts.append(np.bincount(labels.ravel(), minlength=10))
    together = Observation(
        torch.stack([one.weight for one in seen]),
        torch.stack([one.bias for one in seen]),
        seen[0].num_samples,
        how.local_steps,
    )
    return together, Truth(np.stack(counts))


def test_shares_of_the_loss_become_shares_of_the_labels():
    """The naive twin: simulate a batch of these very labels by torch's own weighted mean."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))
    data = LabelledData(torch.rand(3, 3), torch.arange(3))
    how = FullTraining(0.1, class_weights=(1.0, 2.0, 5.0), label_smoothing=0.1)
    known = Knowledge(WhiteBox(model, "2"), (3,), data, training=how)
    client = SimulatedClient.of(known, 3, 1, np.random.default_rng(0))
    labels = torch.tensor([0, 0, 1, 2])
    loss = F.cross_entropy(
        model(data.inputs[labels]),
        labels,
        weight=torch.tensor(how.class_weights),
        label_smoothing=0.1,
    )
    wanted = torch.autograd.grad(loss, [model[2].weight])[0]
    loss_shares = np.array([2.0, 2.0, 5.0]) / 9
    assert client.label_shares(loss_shares) == pytest.approx([0.5, 0.25, 0.25])
    found = client.movement(loss_shares)
    assert torch.allclose(found.weight.float(), wanted, atol=1e-5)


def test_correcting_by_the_residual_helps(digits):
    model, how = model_of("relu", "default"), FullTraining(0.2, 10, 8)
    seen = clients(model, digits.victims, how)
    once = asr(ClientSimulation(rounds=0), model, digits.auxiliary, how, *seen)
    twice = asr(ClientSimulation(), model, digits.auxiliary, how, *seen)
    assert twice >= once
    assert twice > 0.95


def test_one_step_is_the_regression_on_class_means(digits):
    model, how = model_of("relu", "default"), FullTraining(0.1, 1, 32)
    seen = clients(model, digits.victims, how)
    assert asr(ClientSimulation(16), model, digits.auxiliary, how, *seen) > 0.97


def test_the_model_and_random_state_stay_as_they_are(digits):
    model, how = model_of("relu", "default"), FullTraining(0.1, 2, 4)
    seen = clients(model, digits.victims, how)
    before, state = copy.deepcopy(model.state_dict()), torch.random.get_rng_state()
    first = asr(ClientSimulation(), model, digits.auxiliary, how, *seen)
    with torch.no_grad():
        second = asr(ClientSimulation(), model, digits.auxiliary, how, *seen)
    assert first == second
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert torch.equal(state, torch.random.get_rng_state())


def test_training_that_diverges_is_answered_evenly():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    inputs = 1e20 * torch.rand(8, 3, generator=torch.Generator().manual_seed(0))
    auxiliary = LabelledData(inputs, torch.arange(8) % 2)
    known = Knowledge(
        WhiteBox(model, "1"), (3,), auxiliary, training=FullTraining(1e20, 5, optimiser="sgd")
    )
    ready = prepare(ClientSimulation(), known, 2, np.random.default_rng(0))
    seen = Observation.from_gradient(torch.rand(2, 4), torch.rand(2), num_samples=5)
    found = ready(seen)
    assert found.counts.tolist() == [3, 2]
    assert found.notes == (DIVERGED,)


@pytest.mark.parametrize("bias", [True, False])
def test_a_head_without_bias_or_a_class_without_data(bias):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3, bias=bias))
    data = LabelledData(torch.rand(30, 3), torch.arange(30) % 3)
    how = FullTraining(0.1, 3, 8)
    observation, truth = clients(model, data, how, head="2", num_classes=3)
    kept = data.labels != 2
    auxiliary = LabelledData(data.inputs[kept], data.labels[kept])
    known = Knowledge(WhiteBox(model, "2"), (3,), auxiliary, training=how)
    found = prepare(ClientSimulation(), known, 3, np.random.default_rng(0))(observation)
    assert (found.counts.sum(-1) == truth.counts.sum(-1)).all()
    assert score(found.counts, truth).asr.mean() > 0.7

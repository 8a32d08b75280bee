"""RLU over several epochs: its simulation against a slow twin and a real client, and its search."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from contract import scenarios
from contract.scenarios import answer, blobs, network, one_step, several_steps
from labelleak.attacks import RLU, RLUEpochs
from labelleak.attacks.epochs import _Client, _measure, _search
from labelleak.core.interfaces import prepare
from labelleak.core.knowledge import Knowledge
from labelleak.core.observation import Observation
from labelleak.core.score import Truth, score
from labelleak.core.seeding import stream
from labelleak.core.training import LocalTraining
from labelleak.core.white_box import WhiteBox
from labelleak.errors import BadInput
from labelleak.simulation.client import train_locally


def client(steps=5, momentum=0.0, classes=4, lr=0.3):
    rng = np.random.default_rng(1)
    inputs = rng.standard_normal((classes, 6))
    logits = rng.standard_normal((classes, 8, classes))
    how = LocalTraining(lr, steps, 2, momentum)
    return _Client.of(how, steps, logits, inputs @ inputs.T + 1)


def slow_mean_bias(one, shares, steps, momentum, lr):
    """Take the steps one class, sample and entry at a time."""
    classes = len(shares)
    moved = [[0.0] * classes for _ in range(classes)]
    speed = [[0.0] * classes for _ in range(classes)]
    biases, replays = [], []
    for step in range(steps):
        errors = []
        for label in range(classes):
            mean = np.zeros(classes)
            for logits in one.logits[label]:
                powers = np.exp(logits + np.array(moved[label]))
                mean += powers / powers.sum() / len(one.logits[label])
            mean[label] -= 1
            errors.append(shares[label] * mean)
        biases.append(np.sum(errors, axis=0))
        replays.append(sum(momentum**k for k in range(steps - step)))
        for label in range(classes):
            for entry in range(classes):
                pull = sum(one.kernel[label, d] * errors[d][entry] for d in range(classes))
                speed[label][entry] = momentum * speed[label][entry] + pull
                moved[label][entry] -= lr * speed[label][entry]
    return np.average(biases, axis=0, weights=replays)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_simulated_steps_are_those_of_the_slow_twin(momentum):
    one = client(momentum=momentum)
    shares = np.random.default_rng(2).dirichlet(np.ones(4), size=3)
    want = [slow_mean_bias(one, row, 5, momentum, 0.3) for row in shares]
    assert np.allclose(one.mean_bias(shares), want)


def head_alone(steps, lr=0.2, momentum=0.0):
    """A client that trains nothing but a head, on some of the attacker's samples at every step."""
    data = blobs(3, rows=4)
    model = nn.Sequential(nn.Identity(), nn.Linear(12, 3))
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            numbers = stream(0, "head", number).standard_normal(tuple(parameter.shape))
            parameter.copy_(torch.from_numpy(0.3 * numbers))
    picks = np.flatnonzero(np.isin(np.arange(12), [0, 3, 6, 9, 1, 4]))  # 4 of class 0, 2 of class 1
    batches = np.tile(picks, (steps, 1))
    how = LocalTraining(lr, steps, len(picks), momentum)
    after = train_locally(model, data, batches, how)
    seen = Observation.from_update(
        model.state_dict(),
        after,
        head="1",
        lr=lr,
        local_steps=steps,
        batch_size=len(picks),
        momentum=momentum,
    )
    counts = steps * np.bincount(data.labels.numpy()[picks], minlength=3)
    return seen, Knowledge(WhiteBox(model, "1"), (12,), data, training=how), counts


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_simulation_follows_a_real_client_that_trains_its_head(momentum):
    seen, known, counts = head_alone(8, momentum=momentum)
    _, logits, kernel = _measure(known, 3, 64, np.random.default_rng(0))
    one = _Client.of(known.training, 8, logits, kernel)
    predicted = one.mean_bias(counts[None] / counts.sum())[0]
    still = replace(one, rate=0.0).mean_bias(counts[None] / counts.sum())[0]
    gap, without = (np.abs(found - seen.bias_gradient).max() for found in (predicted, still))
    assert gap < without / 4
    found = prepare(RLUEpochs(), known, 3, np.random.default_rng(0))(seen).counts
    plain = prepare(RLU(), known, 3, np.random.default_rng(0))(seen).counts
    assert np.abs(found - counts).sum() <= 2
    assert np.abs(found - counts).sum() < np.abs(plain - counts).sum()


def test_one_step_is_rlu():
    for name in ("relu", "trained", "one_sample"):
        scenario = next(s for s in scenarios.all_scenarios() if s.name == name)
        got, want = answer(RLUEpochs(), scenario), answer(RLU(), scenario)
        assert (got.counts == want.counts).all()


def test_the_search_finds_what_was_simulated_and_never_gets_farther():
    one = client(steps=10)
    truth = np.array([[20, 0, 10, 2], [8, 8, 8, 8], [0, 0, 32, 0]])
    b = one.mean_bias(truth / 32)
    start = np.array([[0, 32, 0, 0], [32, 0, 0, 0], [8, 8, 8, 8]])
    found = _search(one, start.copy(), b, 200)
    assert (found.sum(axis=1) == 32).all()
    assert (found >= 0).all()
    before, after = (
        np.linalg.norm(b - one.mean_bias(counts / 32), axis=1) for counts in (start, found)
    )
    assert (after < 0.1 * before).all()
    assert (np.abs(found - truth).sum(axis=1) <= 4).all()
    assert (_search(one, truth.copy(), b, 200) == truth).all()


def test_no_moves_leave_rlu_and_few_are_kept_to():
    scenario = several_steps("steps")
    none = answer(RLUEpochs(moves=0), scenario).counts
    assert (none == answer(RLU(), scenario).counts).all()
    tries = []
    one = client()

    class Counted(_Client):
        def mean_bias(self, shares):
            tries.append(len(shares))
            return super().mean_bias(shares)

    counted = Counted(one.logits, one.kernel, one.rate, one.momentum, one.weights)
    _search(counted, np.array([[40, 0, 0, 0]]), np.full((1, 4), 0.0), 7)
    assert len(tries) <= 1 + 7


@pytest.mark.parametrize("lr", [1e-8, 1e4, 1e30])
def test_any_learning_rate_gives_whole_counts(lr):
    scenarios.check_any_learning_rate(RLUEpochs(), lr)


def test_more_steps_than_are_simulated_are_taken_together():
    seen, known, counts = head_alone(60, lr=0.02)
    one = _Client.of(known.training, 60, *_measure(known, 3, 64, np.random.default_rng(0))[1:])
    assert len(one.weights) == 32
    assert one.rate * 32 == pytest.approx(0.02 * 60)
    found = prepare(RLUEpochs(), known, 3, np.random.default_rng(0))(seen).counts
    assert score(found, Truth(counts)).asr > 0.95


def test_a_class_without_auxiliary_data_does_no_harm():
    scenarios.check_a_class_without_data(RLUEpochs(), 3)


@pytest.mark.parametrize("options", [{"samples_per_class": 0}, {"moves": -1}])
def test_bad_options_are_refused(options):
    with pytest.raises(BadInput):
        RLUEpochs(**options)


def test_an_adam_client_is_read_as_plain_sgd():
    scenario = one_step("adam", network())
    how = LocalTraining(0.01, 4, 2, momentum=0.9, optimiser="adam")
    one = _Client.of(how, 4, np.zeros((3, 2, 3)), np.eye(3))
    assert one.momentum == 0
    assert np.allclose(one.weights, 0.25)
    assert answer(RLUEpochs(), scenario, training=how).counts.sum() > 0

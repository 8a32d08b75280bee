"""DLG on a tiny smooth network."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from labelleak.attacks import dlg
from labelleak.attacks.dlg import DIVERGED, DLG, NOT_SMOOTH, fit_dummies
from labelleak.core.interfaces import prepare
from labelleak.core.knowledge import Knowledge, LabelledData
from labelleak.core.white_box import WhiteBox
from labelleak.errors import NotApplicable
from labelleak.simulation.gradients import autograd_gradients

CLASSES, FEATURES, TRIALS = 4, 6, 5


def network(activation=nn.Sigmoid):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return nn.Sequential(nn.Linear(FEATURES, 12), activation(), nn.Linear(12, CLASSES))


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(1)
    labels = torch.arange(20) % CLASSES
    return LabelledData(torch.from_numpy(rng.random((20, FEATURES))).float(), labels)


def observe(model, data, size, trials=TRIALS):
    batches = np.random.default_rng(2).integers(20, size=(trials, size))
    seen = autograd_gradients(WhiteBox(model, "2"), data, batches, full=True)
    return seen, data.labels.numpy()[batches]


def attack(model, observation, seed=0, **options):
    known = Knowledge(WhiteBox(model, "2"), (FEATURES,))
    return prepare(DLG(**options), known, CLASSES, np.random.default_rng(seed))(observation)


def test_one_sample_is_named(data):
    model = network()
    observation, labels = observe(model, data, 1)
    found = attack(model, observation)
    assert found.counts.argmax(-1).tolist() == labels[:, 0].tolist()
    assert found.notes == ()


def test_one_sample_is_fitted_to_a_small_residual(data):
    model = network().double()
    inputs = LabelledData(data.inputs.double(), data.labels)
    observation, labels = observe(model, inputs, 1, trials=1)
    target = {"2.weight": observation.weight[0], "2.bias": observation.bias[0]}
    target |= {name: gradient[0] for name, gradient in observation.rest.items()}
    draws = np.random.default_rng(0)
    fit = fit_dummies(
        WhiteBox(model, "2"),
        target,
        torch.from_numpy(draws.standard_normal((1, FEATURES))),
        torch.from_numpy(draws.standard_normal((1, CLASSES))),
        iterations=200,
    )
    assert fit.residual < 1e-8
    assert fit.labels.argmax() == labels[0, 0]


def test_same_seed_same_answer_and_nothing_changes(data):
    model = network()
    before = copy.deepcopy(model.state_dict())
    observation, _ = observe(model, data, 3)
    first = attack(model, observation, seed=4, iterations=10)
    second = attack(model, observation, seed=4, iterations=10)
    assert (first.scores == second.scores).all()
    assert (first.counts.sum(-1) == 3).all()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_restarts_keep_the_best(data, monkeypatch):
    model = network()
    observation, _ = observe(model, data, 2, trials=1)
    residuals = []

    def spy(*arguments, **options):
        residuals.append(fit_dummies(*arguments, **options))
        return residuals[-1]

    monkeypatch.setattr(dlg, "fit_dummies", spy)
    found = attack(model, observation, iterations=5, restarts=3)
    best = min(residuals, key=lambda fit: fit.residual)
    assert len(residuals) == 3
    assert np.allclose(found.scores[0], best.labels.sum(axis=0))


def test_a_gradient_that_cannot_be_fitted_is_answered(data):
    model = network()
    with torch.no_grad():
        model[0].weight.fill_(float("nan"))
    healthy, _ = observe(network(), data, 2)
    found = attack(model, healthy, iterations=3)
    assert found.counts.tolist() == [[1, 1, 0, 0]] * TRIALS
    assert DIVERGED in found.notes
    assert np.isfinite(found.scores).all()


def test_an_update_of_zeros_is_answered(data):
    model = network()
    seen, _ = observe(model, data, 2)
    zeros = replace(
        seen,
        weight=torch.zeros_like(seen.weight),
        bias=torch.zeros_like(seen.bias),
        rest={name: torch.zeros_like(gradient) for name, gradient in seen.rest.items()},
    )
    assert (attack(model, zeros, iterations=5).counts.sum(-1) == 2).all()


def test_kinks_are_noted_and_progress_is_told(data):
    model = network(nn.ReLU)
    observation, _ = observe(model, data, 1)
    told = []
    found = attack(model, observation, iterations=2, progress=lambda *at: told.append(at))
    assert NOT_SMOOTH in found.notes
    assert told == [(done, TRIALS) for done in range(1, TRIALS + 1)]


def test_the_head_alone_is_not_enough(data):
    model = network()
    seen, _ = observe(model, data, 1)
    with pytest.raises(NotApplicable, match="every parameter"):
        attack(model, replace(seen, rest=None))
    known = Knowledge(WhiteBox(model, "2"))
    with pytest.raises(NotApplicable, match="shape"):
        prepare(DLG(), known, CLASSES, np.random.default_rng(0))

"""N is read from whole counts where it can be, and where it cannot the answer says so."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from contract import scenarios
from labelleak.core.batch_size import MeanPosterior, estimate_batch_size, least_batch_size
from labelleak.core.knowledge import Knowledge, LabelledData
from labelleak.core.observation import Observation
from labelleak.core.training import LocalTraining
from labelleak.core.white_box import WhiteBox
from labelleak.errors import BadInput, NotApplicable
from labelleak.simulation.gradients import autograd_gradients

CLASSES = 5


@pytest.fixture(scope="module")
def model():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, CLASSES))


@pytest.fixture(scope="module")
def data():
    made = torch.Generator().manual_seed(0)
    inputs = 0.1 * torch.randn(400, 6, generator=made)
    return LabelledData(inputs, torch.randint(CLASSES, (400,), generator=made))


def known(model, data):
    return Knowledge(WhiteBox(model, "2"), (6,), data)


def shared(model, data, batch, reduction="mean"):
    seen = autograd_gradients(WhiteBox(model, "2"), data, np.asarray(batch)[None])
    scale = 1 if reduction == "mean" else len(batch)
    return Observation.from_gradient(None, scale * seen.bias[0])


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("size", [3, 7, 16, 50])
def test_the_model_tells_the_batch_size(model, data, size, reduction):
    rng = np.random.default_rng(size)
    right = []
    for _ in range(10):
        batch = rng.integers(400, size=size)
        counts = np.bincount(data.labels[batch], minlength=CLASSES)
        found = estimate_batch_size(
            shared(model, data, batch, reduction), known(model, data), reduction=reduction
        )
        divisor = int(np.gcd.reduce(counts)) if reduction == "mean" else 1
        right.append(found.num_samples == size // divisor)
    assert np.mean(right) >= 0.8


def test_a_doubled_batch_shows_as_one_half_and_its_double_among_the_ties(model, data):
    batch = np.array([0, 1, 2, 3, 4, 5, 6])
    once = shared(model, data, batch)
    twice = shared(model, data, np.tile(batch, 2))
    torch.testing.assert_close(once.bias, twice.bias)
    assert estimate_batch_size(once, known(model, data)).num_samples == 7
    assert estimate_batch_size(twice, known(model, data)).num_samples == 7
    # Summed, the two differ, and the double is told.
    double = shared(model, data, np.tile(batch, 2), "sum")
    found = estimate_batch_size(double, known(model, data), reduction="sum")
    assert found.num_samples == 14


def test_without_a_source_of_posteriors_it_says_that_n_cannot_be_told(model, data):
    seen = shared(model, data, np.arange(7))
    with pytest.raises(NotApplicable, match="stays the same when every sample is doubled"):
        estimate_batch_size(seen, Knowledge())
    with pytest.raises(NotApplicable, match="give auxiliary data"):
        estimate_batch_size(seen, Knowledge(WhiteBox(model, "2")))
    rows = Observation.from_gradient(torch.ones(3, 2))
    with pytest.raises(NotApplicable, match="bias gradient"):
        estimate_batch_size(rows, known(model, data))
    many = Observation.from_gradient(None, torch.ones(2, CLASSES))
    with pytest.raises(BadInput, match="one update at a time"):
        estimate_batch_size(many, known(model, data))
    steps = Observation.from_gradient(None, torch.ones(CLASSES), local_steps=9)
    with pytest.raises(BadInput, match="no batch size up to 8"):
        estimate_batch_size(steps, known(model, data), largest=8)


def test_uniform_posteriors_are_an_assumption_that_is_named():
    counts = np.array([4, 2, 1, 0])
    bias = torch.from_numpy(1 / 4 - counts / 7)
    found = estimate_batch_size(
        Observation.from_gradient(None, bias), Knowledge(), assume_uniform=True
    )
    assert found.num_samples == 7
    assert "untrained" in found.assumes


@pytest.mark.parametrize(("spread", "least", "most"), [(1e-4, 0.5, 1.0), (0.2, 0.0, 0.1)])
def test_noise_of_the_posterior_costs_confidence(monkeypatch, spread, least, most):
    shares = np.array([0.3, 0.2, 0.1, 0.25, 0.15])
    held = MeanPosterior(shares, np.eye(5), np.full(5, spread), 1000, 0.0, "")
    monkeypatch.setattr(MeanPosterior, "from_model", lambda known: held)
    seen = Observation.from_gradient(
        None, torch.from_numpy(shares - np.array([9, 5, 1, 4, 4]) / 23)
    )
    found = estimate_batch_size(seen, Knowledge(WhiteBox(nn.Identity(), "")))
    assert least <= found.confidence <= most
    if spread < 0.01:
        assert found.num_samples == 23
    assert found.ties[0] == (found.num_samples, found.confidence)
    assert (len(found.ties) < 5) == (spread < 0.01)


def test_counts_are_solved_with_posteriors_that_follow_them():
    means = np.array([[0.8, 0.1, 0.1], [0.1, 0.7, 0.2], [0.3, 0.1, 0.6]])
    logits = torch.from_numpy(np.log(means))
    data = LabelledData(torch.eye(3).double(), torch.arange(3))
    head = nn.Linear(3, 3, bias=False).double()
    head.weight.data = logits.T
    held = MeanPosterior.from_model(Knowledge(WhiteBox(head, ""), (3,), data))
    counts = np.array([5, 0, 2])
    bias = (counts @ means - counts) / 7
    assert 7 * (held.mean - held.solve @ bias) == pytest.approx(counts)


def test_several_steps_give_multiples_of_the_steps(model, data):
    training = LocalTraining(lr=1e-4, local_steps=3, batch_size=5)
    batches = np.random.default_rng(2).integers(400, size=(3, 5))
    double = LabelledData(data.inputs.double(), data.labels)
    update = scenarios.trained_update(model.double(), double, batches, training)
    found = estimate_batch_size(update.observe("2"), known(model, double))
    model.float()
    assert found.num_samples == 15
    assert all(size % 3 == 0 for size, _ in found.ties)


@settings(max_examples=30)
@given(seed=st.integers(0, 500), size=st.integers(1, 40))
def test_a_summed_gradient_bounds_the_batch_size_from_below(seed, size):
    rng = np.random.default_rng(seed)
    posteriors = rng.dirichlet(np.full(6, 0.3), size=size)
    counts = np.bincount(rng.integers(6, size=size), minlength=6)
    assert least_batch_size(posteriors.sum(axis=0) - counts) <= size
    assert least_batch_size(np.full(6, -1e-9)) == 1


def test_noise_of_a_mean_posterior_grows_with_the_candidate():
    posterior = MeanPosterior(np.full(2, 0.5), np.eye(2), np.full(2, 0.1), 100, 0.0, "")
    noise = posterior.noise(np.array([1.0, 100.0]))[:, 0]
    assert noise == pytest.approx([0.1 * np.sqrt(1.01), 0.1 * np.sqrt(200)], rel=1e-4)

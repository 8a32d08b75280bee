"""Attacks on the layers below the head, with the head withheld, noised or shared."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from contract.scenarios import answer, blobs, network, noised, one_step, train
from labelleak.attacks import GDBR, LayerRegression
from labelleak.attacks.layers.class_means import STEADY, ClassMeans
from labelleak.core.interfaces import prepare
from labelleak.core.knowledge import Knowledge, LabelledData
from labelleak.core.observation import Observation
from labelleak.core.score import score
from labelleak.core.white_box import WhiteBox
from labelleak.errors import NotApplicable
from labelleak.simulation.gradients import autograd_gradients

BOTH = pytest.mark.parametrize("attack", [GDBR(), LayerRegression()], ids=lambda one: one.name)


def withheld(seen):
    """Leave the head out, as defenses do: a weight gradient of zeros stands for it."""
    return replace(seen, weight=torch.zeros_like(seen.weight), bias=None)


@BOTH
def test_a_withheld_head_hides_nothing_of_an_untrained_model(attack):
    scenario = one_step("withheld", network(nn.Tanh), size=8, change=withheld)
    found = answer(attack, scenario)
    assert score(found.counts, scenario.truth).asr.mean() >= 0.95


@BOTH
def test_a_noised_head_is_not_read(attack):
    scenario = one_step("noised", network(nn.Tanh), change=noised)
    alone = replace(scenario, observation=withheld(scenario.observation))
    assert (answer(attack, scenario).counts == answer(attack, alone).counts).all()


@BOTH
def test_where_no_layer_moved_there_is_nothing_to_read(attack):
    scenario = one_step("still", network(), change=withheld)
    still = {name: torch.zeros_like(t) for name, t in scenario.observation.rest.items()}
    with pytest.raises(NotApplicable, match=attack.name):
        answer(attack, scenario, replace(scenario.observation, rest=still))


@BOTH
def test_a_frozen_layer_is_passed_over(attack):
    scenario = one_step("frozen", network(nn.Tanh), change=withheld)
    rest = dict(scenario.observation.rest)
    rest["0.weight"] = torch.zeros_like(rest["0.weight"])
    seen = replace(scenario.observation, rest=rest)
    without = replace(seen, rest={"0.bias": rest["0.bias"]})
    assert (answer(attack, scenario, seen).counts == answer(attack, scenario, without).counts).all()


def test_gdbr_is_exact_for_the_bias_of_a_linear_layer_and_known_posteriors():
    rng = np.random.default_rng(0)
    body, head = nn.Linear(12, 16), nn.Linear(16, 5, bias=False)
    with torch.no_grad():
        head.weight.mul_(1e-4)  # posteriors of 1/K, whatever the input
    model = WhiteBox(nn.Sequential(body, head).double(), "1")
    data = blobs(5)
    data = LabelledData(data.inputs.double(), data.labels)
    batches = rng.integers(len(data), size=(10, 13))
    seen = withheld(autograd_gradients(model, data, batches, full=True))
    seen = replace(seen, rest={"0.bias": seen.rest["0.bias"]})
    ready = prepare(GDBR(), Knowledge(model, (12,), data), 5, rng)
    truth = np.stack([np.bincount(row, minlength=5) for row in data.labels.numpy()[batches]])
    found = ready(seen)
    assert (found.counts == truth).all()
    assert np.abs(found.scores - truth).max() < 0.01


def test_class_means_are_weighed_by_the_covariance_within_classes():
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(90) % 3
    rows = torch.randn(90, 7, generator=rng).double() + 2 * torch.eye(7)[labels].double()
    found = ClassMeans.measure(rows, labels, 3)
    means = torch.stack([rows[labels == c].mean(dim=0) for c in range(3)])
    within = rows - means[labels]
    covariance = within.T @ within / 90
    covariance += STEADY * torch.trace(covariance) * torch.eye(7)
    assert torch.allclose(found.whitened, torch.linalg.solve(covariance, means.T).T)
    assert torch.allclose(means @ found.dual(1e-9).T, torch.eye(3).double(), atol=1e-5)


def test_regression_on_a_trained_model_beats_plain_least_squares():
    """The covariance within classes is what a trained model's few wrong samples need."""
    scenario = one_step("trained", train(network(nn.Tanh), blobs(5), 60), change=withheld)
    found = score(answer(LayerRegression(), scenario).counts, scenario.truth).asr.mean()
    assert found >= 0.6


def test_batches_of_any_shape_of_observation_are_read():
    scenario = one_step("withheld", network(nn.Tanh), change=withheld)
    seen = scenario.observation
    one = Observation(
        seen.weight[0], None, seen.num_samples, rest={k: v[0] for k, v in seen.rest.items()}
    )
    found = answer(LayerRegression(), scenario, one)
    assert found.counts.shape == (5,)

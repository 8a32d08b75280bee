"""Ramakrishna and Dán's soft labels: the equation as published, exact where its model holds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from scipy.special import softmax
from torch import nn

from contract import scenarios
from contract.scenarios import answer, blobs, several_steps
from labelleak.attacks import RLU, SoftLabelShares
from labelleak.core.interfaces import prepare
from labelleak.core.knowledge import Knowledge, LabelledData
from labelleak.core.observation import Observation
from labelleak.core.training import LocalTraining
from labelleak.core.white_box import WhiteBox


def published(scenario, trial, seen, lr, steps):
    """The dossier's line: (I - (E-1)/E S^T) x = dB / (lr E) + softmax(B_0) / E, by NNLS."""
    head, data = scenario.known.model.module[2], scenario.known.auxiliary
    hidden = scenario.known.model.run_all(data.inputs).inputs.double().numpy()
    weight = head.weight.detach().double().numpy() - lr * steps * seen.weight[trial].numpy()
    start = head.bias.detach().double().numpy()
    moved = -lr * steps * seen.bias[trial].numpy()
    posteriors = softmax(hidden @ weight.T + start + moved, axis=1)
    labels = data.labels.numpy()
    by_class = np.stack([posteriors[labels == label].mean(axis=0) for label in range(5)])
    matrix = np.eye(5) - (steps - 1) / steps * by_class.T
    right = moved / (lr * steps) + softmax(start) / steps
    shares, _ = nnls(np.vstack([matrix, 1e4 * np.ones(5)]), np.append(right, 1e4))
    return shares


def test_it_is_the_published_equation():
    scenario = several_steps("steps")
    found = answer(SoftLabelShares(), scenario)
    for trial in range(len(found.counts)):
        want = published(scenario, trial, scenario.observation, 0.05, 4)
        total = scenario.observation.num_samples
        assert np.allclose(found.scores[trial] / total, want, atol=1e-4)


def made_up(shares, steps, lr):
    """An update that the published model explains exactly: the final posteriors all along."""
    data = blobs(4)
    model = nn.Sequential(nn.Identity(), nn.Linear(12, 4).double())
    inputs = data.inputs.double()
    shares = np.asarray(shares)
    with torch.no_grad():
        model[1].weight.normal_(generator=torch.Generator().manual_seed(0))
        model[1].bias.normal_(generator=torch.Generator().manual_seed(1))
    start = softmax(model[1].bias.detach().numpy())
    weight = torch.zeros(4, 12, dtype=torch.float64)
    bias = torch.zeros(4, dtype=torch.float64)
    for _ in range(400):  # the movement depends on where it ends: iterate to the fixed point
        logits = model(inputs) - lr * steps * (inputs @ weight.T + bias)
        final = logits.softmax(dim=1).detach().numpy()
        rows = np.stack([final[data.labels.numpy() == c].mean(axis=0) for c in range(4)])
        mean = start / steps + (1 - 1 / steps) * (shares @ rows)
        bias = 0.5 * bias + 0.5 * torch.from_numpy(mean - shares)
    seen = Observation(weight, bias, 40, steps)
    how = LocalTraining(lr, steps, 40 // steps)
    return seen, Knowledge(
        WhiteBox(model, "1"), (12,), LabelledData(inputs, data.labels), training=how
    )


@pytest.mark.parametrize("shares", [(0.5, 0.25, 0.25, 0), (1, 0, 0, 0), (0.1, 0.2, 0.3, 0.4)])
@pytest.mark.parametrize("steps", [1, 2, 10])
def test_it_is_exact_where_posteriors_are_those_it_assumes(shares, steps):
    seen, known = made_up(shares, steps, lr=0.02)
    found = prepare(SoftLabelShares(), known, 4, np.random.default_rng(0))(seen)
    assert np.allclose(found.scores / 40, shares, atol=1e-6)
    assert found.counts.tolist() == (40 * np.array(shares)).round().astype(int).tolist()


def test_several_steps_that_move_the_head_are_read_better_than_by_one_step_rules():
    scenario = several_steps("steps", steps=8)
    far = [
        np.abs(answer(attack, scenario).scores - scenario.truth.counts).sum()
        for attack in (SoftLabelShares(), RLU())
    ]
    assert far[0] < far[1]


def test_without_the_weights_gradient_the_bias_alone_is_moved():
    scenario = several_steps("steps")
    alone = replace(scenario.observation, weight=None)
    found = answer(SoftLabelShares(), scenario, observation=alone)
    assert (found.counts.sum(-1) == alone.num_samples).all()


@pytest.mark.parametrize("lr", [1e-8, 1e6, 1e30])
def test_any_learning_rate_gives_whole_counts(lr):
    scenarios.check_any_learning_rate(SoftLabelShares(), lr)


def test_a_class_without_auxiliary_data_does_no_harm():
    scenarios.check_a_class_without_data(SoftLabelShares(), 2)

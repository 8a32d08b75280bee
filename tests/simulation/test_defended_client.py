"""Training with a defense: the plain way without one, and Opacus' way for DP-SGD."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from contract.scenarios import blobs, network
from labelleak.core.training import LocalTraining
from labelleak.core.white_box import WhiteBox
from labelleak.defenses import DPSGD, Chain, parse_defense
from labelleak.errors import BadInput
from labelleak.simulation.client import train_defended, train_locally

DATA = blobs(5, seed=2)
BATCHES = np.random.default_rng(0).integers(len(DATA), size=(4, 8))
TRAINING = LocalTraining(lr=0.1, local_steps=4, batch_size=8, momentum=0.9)


def test_no_defense_trains_as_any_client():
    plain = train_locally(network(), DATA, BATCHES, TRAINING)
    model = WhiteBox(network(), "2")
    found = train_defended(model, DATA, BATCHES, TRAINING, Chain())
    for name, value in plain.items():
        torch.testing.assert_close(found[name], value)
    assert torch.equal(model.module[0].weight, network()[0].weight), "the model is left alone"


@pytest.mark.filterwarnings("ignore")
def test_dp_sgd_clips_as_opacus_does():
    pytest.importorskip("opacus")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from opacus import GradSampleModule
        from opacus.optimizers import DPOptimizer

    wrapped = GradSampleModule(copy.deepcopy(network()))
    sgd = torch.optim.SGD(wrapped.parameters(), lr=0.1, momentum=0.9)
    optimiser = DPOptimizer(sgd, noise_multiplier=0.0, max_grad_norm=0.3, expected_batch_size=8)
    for batch in torch.from_numpy(BATCHES):
        optimiser.zero_grad()
        torch.autograd.backward(F.cross_entropy(wrapped(DATA.inputs[batch]), DATA.labels[batch]))
        optimiser.step()
    theirs = {name.removeprefix("_module."): v for name, v in wrapped.state_dict().items()}
    ours = train_defended(WhiteBox(network(), "2"), DATA, BATCHES, TRAINING, DPSGD(0.3, 0.0))
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, atol=1e-5, rtol=1e-4)


def test_seeds_decide_and_batch_norm_is_refused():
    chain = parse_defense("label_smoothing:0.1|dpsgd:1:1")
    model = WhiteBox(network(), "2")
    first, again, other = (
        train_defended(model, DATA, BATCHES, TRAINING, chain, seed=seed) for seed in (0, 0, 1)
    )
    assert torch.equal(first["0.weight"], again["0.weight"])
    assert not torch.equal(first["0.weight"], other["0.weight"])
    normed = WhiteBox(nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Linear(8, 5)), "2")
    with pytest.raises(BadInput, match="batch normalisation"):
        train_defended(normed, DATA, BATCHES, TRAINING, chain)

"""What a head without a bias refutes of the labels told, and what it never does."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from labelleak.core.knowledge import Knowledge, LabelledData
from labelleak.core.own_labels import check_labels
from labelleak.core.training import LocalTraining
from labelleak.core.update import ReceivedUpdate
from labelleak.core.white_box import WhiteBox

PLACES = torch.randn(10, 12, generator=torch.Generator().manual_seed(7))


def draw(n):
    labels = torch.randint(0, 10, (n,))
    return PLACES[labels] + 0.5 * torch.randn(n, 12), labels


def flag(seed, *, shift=0, steps=1, size=8, learnt=0, noise=0.0, active=None, own=False, **sgd):
    """Train without a bias, report labels shifted so, and return whether they are refuted."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(12, 24), active or nn.ReLU(), nn.Linear(24, 10, bias=False))
    early = torch.optim.SGD(model.parameters(), lr=0.2)
    for _ in range(learnt):
        early.zero_grad()
        inputs, batch = draw(64)
        F.cross_entropy(model(inputs), batch).backward()
        early.step()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, **sgd)
    labels = []
    for _ in range(steps):
        inputs, batch = draw(size)
        optimiser.zero_grad()
        F.cross_entropy(model(inputs), batch).backward()
        for parameter in model.parameters():
            parameter.grad += noise * torch.randn_like(parameter)
        optimiser.step()
        labels.append((batch + shift) % 10)
    after = {name: value.clone() for name, value in model.state_dict().items()}
    how = LocalTraining(lr=0.05, local_steps=steps, batch_size=size)
    whole = torch.cat(labels)
    received = ReceivedUpdate(before, after, training=how, head="2", num_samples=len(whole))
    model.load_state_dict(before)
    held = Knowledge(
        WhiteBox(model, "2"), (12,), LabelledData(*draw(100)) if own else None, training=how
    )
    counts = np.bincount(whole, minlength=10)
    return any(one.raised.any() for one in check_labels(received.observe("2"), counts, held))


@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"own": True},
        {"learnt": 300},
        {"steps": 4, "size": 2},
        {"size": 1},
        {"steps": 3, "momentum": 0.9},
        {"weight_decay": 5e-4, "learnt": 300},
        {"noise": 0.01},
        {"noise": 0.3},
    ],
)
def test_labels_that_are_right_are_never_refuted(kind):
    assert not any(flag(seed, **kind) for seed in range(8))


@pytest.mark.parametrize(
    "kind",
    [{}, {"own": True}, {"learnt": 300}, {"size": 1}, {"steps": 2, "size": 2, "momentum": 0.9}],
)
def test_labels_of_other_classes_are_refuted_without_a_bias(kind):
    assert sum(flag(seed, shift=1, **kind) for seed in range(8)) >= 7


def test_head_inputs_of_any_sign_refute_nothing():
    assert not any(flag(seed, shift=1, active=nn.Tanh()) for seed in range(4))

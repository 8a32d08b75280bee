"""Controls of the attacks on lower layers: a planted head, a frozen body, a body of noise."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from contract.scenarios import FEATURES, blobs, network, train
from labelleak.attacks import GDBR, ZLG, GradientRegression, LayerRegression, LayerShadow, Shadow
from labelleak.core.interfaces import prepare
from labelleak.core.knowledge import Knowledge
from labelleak.core.score import Truth, score
from labelleak.core.white_box import WhiteBox
from labelleak.errors import NotApplicable
from labelleak.simulation.gradients import autograd_gradients

CLASSES, SIZE, TRIALS = 5, 16, 60


def setting(model, head):
    data = blobs(CLASSES, seed=2)
    batches = np.random.default_rng(3).integers(len(data), size=(TRIALS, SIZE))
    box = WhiteBox(model, head)
    seen = autograd_gradients(box, data, batches, full=True)
    truth = Truth.from_labels(data.labels.numpy()[batches], CLASSES)
    return seen, Knowledge(box, (FEATURES,), blobs(CLASSES)), truth


def counts(attack, seen, known):
    return prepare(attack, known, CLASSES, np.random.default_rng(0))(seen).counts


def planted(model):
    """Follow a model's head by a head that changes nothing, so that its own lies in the body."""
    last = nn.Linear(CLASSES, CLASSES, bias=False)
    with torch.no_grad():
        last.weight.copy_(torch.eye(CLASSES))
    return nn.Sequential(*model, last)


@pytest.mark.parametrize("steps", [0, 60])
def test_a_copy_of_the_head_in_the_body_says_what_the_head_says(steps):
    model = train(network(nn.Tanh), blobs(CLASSES), steps)
    alone, known, _ = setting(model, "2")
    frozen = {name: torch.zeros_like(value) for name, value in alone.rest.items()}
    expected = counts(LayerRegression(), replace(alone, rest=frozen), known)
    seen, known, _ = setting(planted(model), "3")
    rest = {**frozen, "2.weight": seen.rest["2.weight"], "2.bias": seen.rest["2.bias"]}
    hidden = replace(seen, weight=torch.zeros_like(seen.weight), rest=rest)
    assert (counts(LayerRegression(), hidden, known) == expected).all()


@pytest.mark.parametrize(
    "attack",
    [GDBR(), LayerRegression(), LayerShadow(batches=200, epochs=5)],
    ids=lambda one: one.name,
)
def test_noise_in_place_of_the_body_tells_nothing(attack):
    seen, known, truth = setting(network(nn.Tanh), "2")
    generator = torch.Generator().manual_seed(0)
    rest = {
        name: value.std() * torch.randn(value.shape, generator=generator)
        for name, value in seen.rest.items()
    }
    hidden = replace(seen, weight=torch.zeros_like(seen.weight), bias=None, rest=rest)
    found = score(counts(attack, hidden, known), truth).asr
    even = score(np.broadcast_to([4, 3, 3, 3, 3], truth.counts.shape), truth).asr
    assert found.mean() <= even.mean() + 2 * found.std() / TRIALS**0.5


FEW = {"batches": 300, "epochs": 5}
# Attackers of all layers, each with the attacker of the head that does the same there. Regression
# on all layers weighs the head's entries better, so it may name more (and names the same as on the
# head itself, see above).
PAIRS = [
    (LayerRegression(), GradientRegression()),
    (LayerShadow(**FEW), Shadow(**FEW)),
    (GDBR(), ZLG()),
]


def gap(whole, hidden, known, head, alone, head_known, truth):
    """Return how much more is named by an attacker of all layers, with its standard error."""
    mine = score(counts(whole, hidden, known), truth).asr
    theirs = score(counts(head, alone, head_known), truth).asr
    return (mine - theirs).mean(), (mine - theirs).std() / TRIALS**0.5


@pytest.mark.parametrize(("whole", "head"), PAIRS, ids=lambda one: one.name)
def test_a_planted_head_is_worth_what_the_head_is_to_all_of_them(whole, head):
    """Everything else is frozen; the head that is withheld is another."""
    model = train(network(), blobs(CLASSES), 20)
    alone, head_known, truth = setting(model, "2")
    seen, known, _ = setting(planted(model), "3")
    kept = ("2.weight", "2.bias")
    rest = {n: v if n in kept else torch.zeros_like(v) for n, v in seen.rest.items()}
    hidden = replace(seen, weight=torch.zeros_like(seen.weight), rest=rest)
    more, error = gap(whole, hidden, known, head, alone, head_known, truth)
    assert more >= -0.03 - 2 * error
    assert whole.name == "layer_regression" or more <= 0.03 + 2 * error


@pytest.mark.parametrize(("whole", "head"), PAIRS[:2], ids=lambda one: one.name)
def test_with_a_frozen_body_the_head_is_all_that_they_read(whole, head):
    """GDBR never reads the head, and refuses."""
    model = train(network(), blobs(CLASSES), 20)
    alone, known, truth = setting(model, "2")
    frozen = {name: torch.zeros_like(value) for name, value in alone.rest.items()}
    only_head = replace(alone, rest=frozen)
    more, error = gap(whole, only_head, known, head, alone, known, truth)
    assert more >= -0.03 - 2 * error
    assert whole.name == "layer_regression" or more <= 0.03 + 2 * error
    with pytest.raises(NotApplicable, match="no layer's gradient"):
        counts(GDBR(), only_head, known)

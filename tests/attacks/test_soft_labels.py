"""Soft labels of one sample: closed form with a bias, search without."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from labelleak.attacks.soft_labels import MORE_SAMPLES, SoftLabel, recover_soft_label
from labelleak.core.interfaces import prepare
from labelleak.core.knowledge import Knowledge
from labelleak.core.observation import Observation
from labelleak.core.white_box import WhiteBox
from labelleak.errors import BadInput

CLASSES, FEATURES = 10, 16
seeds = st.integers(0, 2**32 - 1)


def head(rng):
    return 0.2 * rng.standard_normal((CLASSES, FEATURES)), 0.1 * rng.standard_normal(CLASSES)


def smooth(rng, share=0.1):
    return (1 - share) * np.eye(CLASSES)[rng.integers(CLASSES)] + share / CLASSES


def mixup(rng):
    first, second = rng.permutation(CLASSES)[:2]
    share = rng.uniform(0.1, 0.9)
    return share * np.eye(CLASSES)[first] + (1 - share) * np.eye(CLASSES)[second]


def gradient(weight, bias, features, label):
    """The gradient by autograd, with soft targets."""
    w = torch.from_numpy(weight).requires_grad_()
    b = torch.from_numpy(bias).requires_grad_()
    logits = F.linear(torch.from_numpy(features)[None], w, b)
    loss = F.cross_entropy(logits, torch.from_numpy(label)[None])
    return [part.numpy() for part in torch.autograd.grad(loss, (w, b))]


@given(seeds)
def test_with_a_bias_any_soft_label_is_exact(seed):
    rng = np.random.default_rng(seed)
    weight, bias = head(rng)
    features, label = rng.standard_normal(FEATURES), rng.dirichlet(np.ones(CLASSES))
    found = recover_soft_label(*gradient(weight, bias, features, label), weight, bias)
    assert np.allclose(found.label, label, rtol=0, atol=1e-10)
    assert np.allclose(found.features, features, rtol=0, atol=1e-8)


@settings(max_examples=30)
@given(seeds, st.sampled_from([(smooth, 1), (mixup, 2)]))
def test_without_a_bias_the_search_finds_the_length(seed, kind):
    make, mixed = kind
    rng = np.random.default_rng(seed)
    weight, _ = head(rng)
    features = rng.random(FEATURES) if seed % 2 else rng.standard_normal(FEATURES)
    label = make(rng)
    seen, _ = gradient(weight, np.zeros(CLASSES), features, label)
    found = recover_soft_label(seen, None, weight, mixed=mixed)
    assert np.allclose(found.label, label, rtol=0, atol=1e-6)
    assert np.allclose(found.features, features, rtol=0, atol=1e-4)


def test_the_search_is_deterministic_and_takes_trials():
    rng = np.random.default_rng(0)
    weight, bias = head(rng)
    labels = np.stack([smooth(rng) for _ in range(4)])
    parts = [gradient(weight, bias, rng.random(FEATURES), label)[0] for label in labels]
    seen = np.stack(parts).reshape(2, 2, CLASSES, FEATURES)
    first = recover_soft_label(seen, None, weight, bias)
    second = recover_soft_label(seen, None, weight, bias)
    assert first.label.shape == (2, 2, CLASSES)
    assert (first.label == second.label).all()
    assert np.allclose(first.label.reshape(4, -1), labels, atol=1e-6)
    assert (first.loss < 1e-12).all()


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("mixed", [1, 2])
def test_hard_labels_are_named(biased, classes, mixed):
    torch.manual_seed(0)
    model = torch.nn.Linear(FEATURES, classes, bias=biased)
    labels = torch.arange(classes)
    inputs = torch.rand(classes, FEATURES)
    rows = []
    for one, label in zip(inputs, labels, strict=True):
        loss = F.cross_entropy(model(one[None]), label[None])
        rows.append(torch.autograd.grad(loss, list(model.parameters())))
    parts = [torch.stack(part) for part in zip(*rows, strict=True)]
    observation = Observation.from_gradient(*parts, num_samples=1)
    known = Knowledge(WhiteBox(model, ""), (FEATURES,))
    ready = prepare(SoftLabel(mixed=mixed), known, classes, np.random.default_rng(0))
    found = ready(observation)
    assert found.counts.argmax(-1).tolist() == labels.tolist()
    assert (found.counts.sum(-1) == 1).all()
    assert found.notes == ()


@pytest.mark.parametrize("biased", [True, False])
def test_zeros_and_batches_are_answered(biased):
    model = torch.nn.Linear(FEATURES, 4)
    weight, bias = torch.zeros(2, 4, FEATURES), torch.zeros(2, 4) if biased else None
    ready = prepare(
        SoftLabel(), Knowledge(WhiteBox(model, ""), (FEATURES,)), 4, np.random.default_rng(0)
    )
    found = ready(Observation.from_gradient(weight, bias, num_samples=5))
    assert (found.counts.sum(-1) == 5).all()
    assert found.notes == (MORE_SAMPLES,)


def test_the_search_is_not_drawn_to_ever_longer_head_inputs():
    """The variance itself goes to 0 for long inputs, whatever the label."""
    rng = np.random.default_rng(3)
    weight, _ = head(rng)
    features, label = 0.01 * rng.random(FEATURES), smooth(rng)
    seen, _ = gradient(weight, np.zeros(CLASSES), features, label)
    found = recover_soft_label(seen, None, weight)
    assert np.allclose(found.label, label, atol=1e-6)
    single = recover_soft_label(seen.astype(np.float32), None, weight)
    assert np.allclose(single.label, label, atol=1e-3)


def test_what_does_not_fit_is_refused():
    with pytest.raises(BadInput, match="does not fit"):
        recover_soft_label(np.zeros((3, 4)), None, np.zeros((4, 3)))
    with pytest.raises(BadInput, match="mixed"):
        recover_soft_label(np.zeros((3, 4)), None, np.zeros((3, 4)), mixed=0)

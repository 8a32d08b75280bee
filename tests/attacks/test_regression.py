"""Gradient regression: exact where the class means are, and its simplex solver."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from labelleak.attacks import regression
from labelleak.attacks.regression import GradientRegression
from labelleak.core.interfaces import prepare
from labelleak.core.knowledge import Knowledge, LabelledData
from labelleak.core.observation import Observation
from labelleak.core.white_box import WhiteBox
from labelleak.simulation.gradients import HeadTable, autograd_gradients

CLASSES, FEATURES = 6, 20


def linear(seed, *, bias=True, scale=1.0):
    model = torch.nn.Linear(FEATURES, CLASSES, bias=bias).double()
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.from_numpy(scale * rng.standard_normal(parameter.shape)))
    return WhiteBox(model, "")


def data(seed, rows=60):
    rng = np.random.default_rng(seed)
    labels = np.arange(rows) % CLASSES
    inputs = rng.random((rows, FEATURES)) + np.eye(CLASSES, FEATURES)[labels]
    return LabelledData(torch.from_numpy(inputs), torch.from_numpy(labels))


def attack(model, auxiliary, observation, num_classes=CLASSES):
    known = Knowledge(model, (FEATURES,), auxiliary)
    ready = prepare(GradientRegression(), known, num_classes, np.random.default_rng(0))
    return ready(observation)


@settings(max_examples=25)  # the first example loads what attacks need
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.booleans())
def test_whole_classes_are_counted_exactly(seed, repeats, bias):
    """Batches that hold each class's auxiliary data so many times have these very class means."""
    model, auxiliary = linear(seed, bias=bias), data(seed)
    times = np.random.default_rng(seed).integers(4, size=CLASSES)
    times[0] += repeats
    members = np.argsort(auxiliary.labels.numpy(), kind="stable").reshape(CLASSES, -1)
    batch = np.concatenate([np.tile(members[c], times[c]) for c in range(CLASSES)])
    observation = HeadTable.build(model, auxiliary).gradients(batch[None])
    found = attack(model, auxiliary, observation)
    assert found.counts[0].tolist() == (times * members.shape[1]).tolist()


def test_small_blocks_give_the_same(monkeypatch):
    model, auxiliary = linear(0), data(0)
    batches = np.random.default_rng(1).integers(60, size=(4, 16))
    observation = HeadTable.build(model, auxiliary).gradients(batches)
    together = attack(model, auxiliary, observation)
    monkeypatch.setattr(regression, "_KEPT_BYTES", 0)
    monkeypatch.setattr(regression, "_BLOCK_BYTES", 1)
    apart = attack(model, auxiliary, observation)
    assert np.allclose(together.scores, apart.scores)


def test_noise_is_borne_better_than_by_the_bias_alone():
    model, auxiliary = linear(0, scale=0.01), data(0, rows=600)
    batches = np.random.default_rng(1).integers(600, size=(60, 8))
    seen = autograd_gradients(model, auxiliary, batches)
    counts = np.stack([np.bincount(auxiliary.labels[b], minlength=CLASSES) for b in batches])
    generator = torch.Generator().manual_seed(0)
    noisy = replace(
        seen,
        weight=seen.weight + 0.1 * torch.randn(seen.weight.shape, generator=generator),
        bias=seen.bias + 0.1 * torch.randn(seen.bias.shape, generator=generator),
    )
    found = attack(model, auxiliary, noisy).counts
    by_bias = 8 * (1 / CLASSES - noisy.bias.numpy())
    hits = np.minimum(found, counts).sum() / counts.sum()
    assert hits > 0.9
    assert np.abs(found - counts).mean() < np.abs(by_bias - counts).mean() / 2


def test_a_class_without_auxiliary_data_can_be_found():
    model, full = linear(0, scale=0.01), data(0)
    kept = full.labels != 3
    auxiliary = LabelledData(full.inputs[kept], full.labels[kept])
    batch = np.flatnonzero(full.labels.numpy() == 3)[None]
    observation = HeadTable.build(model, full).gradients(batch)
    assert attack(model, auxiliary, observation).counts[0].argmax() == 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_an_update_of_zeros_is_answered(dtype):
    shapes = (2, CLASSES, FEATURES), (2, CLASSES)
    zeros = (torch.zeros(shape, dtype=dtype) for shape in shapes)
    observation = Observation.from_gradient(*zeros, num_samples=7)
    found = attack(linear(0), data(0), observation)
    assert (found.counts.sum(-1) == 7).all()
    assert (found.counts >= 0).all()

"""The closed forms against autograd, in double precision."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from labelleak.attacks import losses
from labelleak.errors import BadInput

CLASSES, SIZE = 5, 9
EXACT = {"rtol": 0, "atol": 1e-12}
seeds = st.integers(0, 2**32 - 1)


def batch(seed, *, spread=2.0):
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(spread * rng.standard_normal((SIZE, CLASSES)))
    labels = torch.from_numpy(rng.integers(CLASSES, size=SIZE))
    return logits, labels, np.bincount(labels, minlength=CLASSES)


def bias_gradient(logits, loss):
    bias = torch.zeros(logits.shape[1:], dtype=torch.float64, requires_grad=True)
    return torch.autograd.grad(loss(logits + bias), bias)[0].numpy()


def by_class(values, labels, absent):
    """Give the mean of values over each class; for a class that is not there, anything."""
    return np.stack(
        [
            values[labels == c].mean(0).numpy() if (labels == c).any() else absent[c]
            for c in range(CLASSES)
        ]
    )


@given(seeds)
def test_mean_and_sum(seed):
    logits, labels, counts = batch(seed)
    p = logits.softmax(1).mean(0).numpy()
    b = bias_gradient(logits, lambda z: F.cross_entropy(z, labels))
    assert np.allclose(losses.recover_from_mean(b, p, SIZE), counts, **EXACT)
    b = bias_gradient(logits, lambda z: F.cross_entropy(z, labels, reduction="sum"))
    assert np.allclose(losses.recover_from_sum(b, p, SIZE), counts, **EXACT)


@given(seeds, st.floats(0.1, 10))
def test_temperature(seed, t):
    logits, labels, counts = batch(seed)
    b = bias_gradient(logits, lambda z: F.cross_entropy(z / t, labels))
    p = (logits / t).softmax(1).mean(0).numpy()
    assert np.allclose(losses.recover_with_temperature(b, p, SIZE, temperature=t), counts, **EXACT)


@given(seeds, st.floats(0, 0.9))
def test_label_smoothing(seed, smoothing):
    logits, labels, counts = batch(seed)
    b = bias_gradient(logits, lambda z: F.cross_entropy(z, labels, label_smoothing=smoothing))
    p = logits.softmax(1).mean(0).numpy()
    found = losses.recover_with_smoothing(b, p, SIZE, smoothing=smoothing)
    assert np.allclose(found, counts, **EXACT)


@given(seeds)
def test_mixed_labels_give_their_mass_and_not_whole_counts(seed):
    logits, labels, _ = batch(seed)
    share = torch.from_numpy(np.random.default_rng(seed + 1).random((SIZE, 1)))
    soft = share * F.one_hot(labels, CLASSES) + (1 - share) * F.one_hot(labels.flip(0), CLASSES)
    b = bias_gradient(logits, lambda z: F.cross_entropy(z, soft))
    found = losses.recover_from_mean(b, logits.softmax(1).mean(0).numpy(), SIZE)
    assert np.allclose(found, soft.sum(0).numpy(), **EXACT)


@given(seeds)
def test_class_weights(seed):
    logits, labels, counts = batch(seed, spread=1.0)
    rng = np.random.default_rng(seed + 1)
    weights = rng.uniform(0.5, 2.0, CLASSES)
    b = bias_gradient(
        logits, lambda z: F.cross_entropy(z, labels, weight=torch.from_numpy(weights))
    )
    posteriors = by_class(logits.softmax(1), labels, rng.dirichlet(np.ones(CLASSES), CLASSES))
    found = losses.recover_with_class_weights(b, posteriors, SIZE, weights=weights)
    assert np.allclose(found, counts, rtol=0, atol=1e-10)


@given(seeds)
def test_class_weights_with_one_posterior_for_all(seed):
    _, labels, counts = batch(seed)
    weights = np.random.default_rng(seed).uniform(0.5, 2.0, CLASSES)
    same = torch.linspace(-1, 1, CLASSES, dtype=torch.float64).expand(SIZE, CLASSES)
    b = bias_gradient(same, lambda z: F.cross_entropy(z, labels, weight=torch.from_numpy(weights)))
    found = losses.recover_with_class_weights(b, same[0].softmax(0), SIZE, weights=weights)
    assert np.allclose(found, counts, **EXACT)


@given(seeds, st.sampled_from([0.0, 1.0, 2.0, 3.5]))
def test_focal(seed, gamma):
    logits, labels, counts = batch(seed, spread=1.0)

    def focal(z):
        own = z.log_softmax(1).gather(1, labels[:, None])[:, 0]
        return (-((1 - own.exp()) ** gamma) * own).mean()

    b = bias_gradient(logits, focal)
    p = logits.softmax(1)
    factors = torch.from_numpy(
        losses.focal_factors(p.gather(1, labels[:, None])[:, 0].numpy(), gamma=gamma)
    )
    rng = np.random.default_rng(seed + 1)
    rows = rng.dirichlet(np.ones(CLASSES), CLASSES)
    found = losses.recover_with_focal(
        b,
        by_class(factors[:, None] * p, labels, rows),
        by_class(factors, labels, np.ones(CLASSES)),
        SIZE,
    )
    assert np.allclose(found, counts, rtol=0, atol=1e-10)


@given(seeds)
def test_multi_label_counts_need_not_sum_to_n(seed):
    logits, _, _ = batch(seed)
    sets = torch.from_numpy(np.random.default_rng(seed + 1).integers(2, size=(SIZE, CLASSES)))
    b = bias_gradient(
        logits,
        lambda z: F.binary_cross_entropy_with_logits(z, sets.double(), reduction="sum") / SIZE,
    )
    found = losses.recover_multi_label(b, logits.sigmoid().mean(0).numpy(), SIZE)
    assert np.allclose(found, sets.sum(0).numpy(), **EXACT)


@given(seeds)
def test_one_logit(seed):
    logits, labels, _ = batch(seed)
    one, binary = logits[:, :1], (labels % 2).double()
    b = bias_gradient(one, lambda z: F.binary_cross_entropy_with_logits(z[:, 0], binary))
    found = losses.recover_binary(b[0], one.sigmoid().mean().item(), SIZE)
    assert np.allclose(found, [SIZE - binary.sum(), binary.sum()], **EXACT)


@settings(max_examples=20)
@given(seeds)
def test_trials_are_solved_together(seed):
    rng = np.random.default_rng(seed)
    b = rng.standard_normal((3, 2, CLASSES)) / 10
    b -= b.mean(-1, keepdims=True)
    rows, weights = rng.dirichlet(np.ones(CLASSES), CLASSES), rng.uniform(0.5, 2.0, CLASSES)
    together = losses.recover_with_class_weights(b, rows, SIZE, weights=weights)
    alone = losses.recover_with_class_weights(b[2, 1], rows, SIZE, weights=weights)
    assert together.shape == b.shape
    assert np.allclose(together[2, 1], alone)
    assert losses.recover_with_focal(b, rows, np.ones(CLASSES), SIZE).shape == b.shape


def test_options_out_of_range_are_refused():
    with pytest.raises(BadInput, match="temperature"):
        losses.recover_with_temperature([0.0, 0.0], [0.5, 0.5], 1, temperature=0.0)
    with pytest.raises(BadInput, match="smoothing"):
        losses.recover_with_smoothing([0.0, 0.0], [0.5, 0.5], 1, smoothing=1.0)
    with pytest.raises(BadInput, match="weights"):
        losses.recover_with_class_weights([0.0, 0.0], [0.5, 0.5], 1, weights=[1.0, 0.0])
    with pytest.raises(BadInput, match="gamma"):
        losses.focal_factors([0.5], gamma=0.5)


def test_focal_factor_vanishes_for_a_sure_sample():
    assert losses.focal_factors([1.0], gamma=2.0).tolist() == [0.0]

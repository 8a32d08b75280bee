"""Bounds on label counts that a bias gradient proves, and rounding within them."""

from __future__ import annotations

import numpy as np

from labelleak.core.counts import Floats, Ints
from labelleak.core.interfaces import samples
from labelleak.core.lazy import Tensor, torch
from labelleak.core.observation import Observation
from labelleak.core.rounding import round_counts, round_within

Flags = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
# A gradient of softmax cross-entropy sums to 0 but for rounding; where it is off by more than
# this share of its largest entry and a few roundings of a posterior near 1, it was noised, pruned
# or of another loss, and proves nothing.
_EXACT, _POSTERIOR = 1e-3, 4.0
# Rounding of an entry, in terms of what the whole gradient's sum is off by, and of its precision.
_SUMS, _ROUNDINGS = 2.0, 32.0


def count_bounds(observation: Observation) -> tuple[Ints, Ints] | None:
    """Return the least and the most labels of each class that a bias gradient allows.

    For softmax cross-entropy the counts are ``c = sum of posteriors - N b`` exactly, and a
    sum of N posteriors lies within 0 and N, so ``-N b <= c <= N (1 - b)``: in whole numbers, a
    class with a negative entry is present, whatever the model. The same holds for the mean gradient
    of several steps of plain SGD. One sample has its smallest entry at its label.

    Entries within rounding of a whole number bound nothing beyond it, save that of one sample the
    smallest entry is taken, even if rounding left it at 0. A trial whose entries do not sum to
    0 is left unbounded.

    Returns:
        Whole numbers ``*R x K`` each, or None without a bias gradient.

    >>> seen = Observation.from_gradient(None, [0.01, 0.98, -0.99], num_samples=1)
    >>> [bound.tolist() for bound in count_bounds(seen)]
    [[0, 0, 1], [0, 0, 1]]
    """
    if observation.bias is None:
        return None
    b, total = observation.bias_gradient, samples(observation)
    largest: Floats = np.abs(b).max(axis=-1, keepdims=True)
    gap = np.abs(b.sum(axis=-1, keepdims=True))
    precision = _precision(observation.bias)
    slack = total * np.maximum(_SUMS * gap, _ROUNDINGS * precision * largest)
    exact = is_exact(observation)[..., None]
    least = np.where(exact, np.clip(np.ceil(-total * b - slack), 0, total), 0)
    if total == 1:
        label = b == b.min(axis=-1, keepdims=True)
        known = exact & (label.sum(axis=-1, keepdims=True) == 1)
        least = np.where(known, label, least)
    most = np.where(exact, np.clip(np.floor(total * (1 - b) + slack), 0, total), total)
    return least.astype(np.int64), most.astype(np.int64)


def is_exact(observation: Observation) -> Flags:
    """Tell for each trial whether its bias gradient sums to 0, as only an untouched one does.

    >>> is_exact(Observation.from_gradient(None, [0.5, -0.4], num_samples=1)).item()
    False
    """
    assert observation.bias is not None
    b = observation.bias_gradient
    gap = np.abs(b.sum(axis=-1))
    allowed = _EXACT * np.abs(b).max(axis=-1) + _POSTERIOR * _precision(observation.bias)
    return np.asarray(gap <= allowed)


def _precision(bias: Tensor) -> float:
    # Weights before and after come in single precision, whatever their difference is kept in.
    return max(float(np.finfo(np.float32).eps), torch.finfo(bias.dtype).eps)


def round_bounded(counts: Floats, observation: Observation) -> Ints:
    """Round real counts to whole ones that sum to N, within `count_bounds` where there are any."""
    total, bounds = samples(observation), count_bounds(observation)
    if bounds is None:
        return round_counts(counts, total)
    return round_within(counts, total, *bounds)


def hold_tails(tails: Floats, bounds: tuple[Ints, Ints] | None) -> Floats:
    """Hold a posterior of counts within bounds: 1 up to the least count, 0 beyond the most.

    Args:
        tails: P(c_i >= k) for k = 1, 2, ..., ``*R x K x k``.
        bounds: least and most counts, ``*R x K`` each; None leaves the tails as they are.

    >>> hold_tails(np.array([[0.4, 0.3, 0.2]]), (np.array([1]), np.array([2]))).tolist()
    [[1.0, 0.3, 0.0]]
    """
    if bounds is None:
        return tails
    least, most = (bound[..., None] for bound in bounds)
    k = np.arange(1, tails.shape[-1] + 1)
    return np.where(k <= least, 1.0, np.where(k > most, 0.0, tails))


__all__ = ["count_bounds", "hold_tails", "is_exact", "round_bounded"]

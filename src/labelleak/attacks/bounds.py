"""Bounds on label counts that a bias gradient proves, and rounding within them."""

from __future__ import annotations

import numpy as np
import torch

from labelleak.counts import Floats, Ints, round_counts, round_within
from labelleak.interfaces import samples
from labelleak.observation import Observation

# A gradient of softmax cross-entropy sums to 0 but for rounding; where it is off by more than
# this share of its largest entry and a few roundings of a posterior near 1, it was noised, pruned
# or of another loss, and proves nothing.
_EXACT, _POSTERIOR = 1e-3, 4.0
# Rounding of an entry, in terms of what the whole gradient's sum is off by, and of its precision.
_SUMS, _ROUNDINGS = 2.0, 32.0


def count_bounds(observation: Observation) -> tuple[Ints, Ints] | None:
    """Give the least and the most labels of each class that a bias gradient allows.

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
    # Weights before and after come in single precision, whatever their difference is kept in.
    precision = max(float(np.finfo(np.float32).eps), torch.finfo(observation.bias.dtype).eps)
    slack = total * np.maximum(_SUMS * gap, _ROUNDINGS * precision * largest)
    exact = gap <= _EXACT * largest + _POSTERIOR * precision
    least = np.where(exact, np.clip(np.ceil(-total * b - slack), 0, total), 0)
    if total == 1:
        label = b == b.min(axis=-1, keepdims=True)
        known = exact & (label.sum(axis=-1, keepdims=True) == 1)
        least = np.where(known, label, least)
    most = np.where(exact, np.clip(np.floor(total * (1 - b) + slack), 0, total), total)
    return least.astype(np.int64), most.astype(np.int64)


def round_bounded(counts: Floats, observation: Observation) -> Ints:
    """Round real counts to whole ones that sum to N, within `count_bounds` where there are any."""
    total, bounds = samples(observation), count_bounds(observation)
    if bounds is None:
        return round_counts(counts, total)
    return round_within(counts, total, *bounds)


__all__ = ["count_bounds", "round_bounded"]

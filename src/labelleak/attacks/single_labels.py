"""The label of one sample, where its gradient proves it to who holds the head."""

from __future__ import annotations

import numpy as np

from labelleak.attacks.bounds import Flags, count_bounds, is_exact
from labelleak.attacks.soft_labels import recover_soft_label
from labelleak.core.counts import Floats, Ints
from labelleak.core.lazy import torch
from labelleak.core.observation import Observation

# Entries beside a label are alike if the label is hard or smoothed, but for rounding.
_ALIKE = 1e-3
# A share of the label that makes it a hard one.
_SURE = 0.9
# Entries below 0 beside the smallest sum to less than this share of it if the label is hard.
_BELOW = 0.02
# A share of the label that the second of two classes has at least.
_SECOND = 0.05
# Entries lie on a line but for this share of the largest, the label's aside; and without the label
# they lie so much nearer to one than without any other class. Where they are off by more than
# the last one, and by more roundings than that, the label is a mixture.
_ON_LINE, _NEARER, _MIXED, _ROUNDINGS = 1e-3, 10.0, 1e-2, 32.0
# Classes, the label aside, that tell a line from chance.
_FEWEST = 3


def prove_label(observation: Observation, weight: Floats, bias: Floats | None) -> Ints:
    """Return the label of one sample, or nothing where its gradient leaves it open.

    The head gradient of one sample gives its head input, so its posterior, so ``y = p - e``
    (`recover_soft_label`). Where all entries beside the largest are alike, y is a hard or a
    smoothed label, and proves itself. Elsewhere the update was scaled by some a: then
    ``e = a (p - y)`` is a line over p for all classes but that of a hard or smoothed label
    (`_off_line`). Where p is not told well enough for that, the one smallest entry of e is taken if
    it alone lies below 0 and all else about on a line, as of a hard label, and where rounding left
    no such entry, a y that is nearly hard. So mixtures of labels prove none, and no more does an
    update that does not sum to 0 over the classes.

    Args:
        observation: of one sample.
        weight: the head's weight, ``K x D``.
        bias: the head's bias, ``K``, or None for none.

    Returns:
        ``T x K`` of 0 and 1, a row of zeros where nothing is proved; T counts all trials.

    >>> head, h = np.eye(3), np.array([1.0, 2.0, 0.5])
    >>> p = np.exp(h) / np.exp(h).sum()
    >>> e = p - np.array([0.9, 0.05, 0.05])  # label 0, smoothed
    >>> seen = Observation.from_gradient(np.outer(e, h), e, num_samples=1)
    >>> prove_label(seen, head, None).tolist(), int(e.argmin())
    ([[1, 0, 0]], 0)
    """
    bounds = count_bounds(observation)
    if bounds is None or observation.weight is None:
        raise ValueError("a label is proved by gradients of the head's weight and bias")
    classes = len(weight)
    errors = observation.bias_gradient.reshape(-1, classes)
    gradient = observation.weight.detach().cpu().double().numpy()
    label = recover_soft_label(gradient, observation.bias_gradient, weight, bias).label
    label, exact = label.reshape(-1, classes), is_exact(observation).reshape(-1, 1)
    ranked = np.sort(label, axis=-1)
    largest = np.eye(classes, dtype=np.int64)[label.argmax(axis=-1)]
    alike = ranked[:, -2:-1] - ranked[:, :1] < _ALIKE
    itself = exact & alike & (ranked[:, -1:] - ranked[:, -2:-1] > 1 - _SURE) & (classes > 2)
    nearly = exact & (ranked[:, -1:] > _SURE) & (bounds[0].sum(axis=-1).reshape(-1, 1) == 0)
    off, left = _off_line(label + errors, errors)
    most = max(_MIXED, _ROUNDINGS * torch.finfo(observation.weight.dtype).eps)
    smallest = bounds[0].reshape(-1, classes) * (_is_alone(errors) & (left <= most))
    found = np.where(smallest.any(axis=-1, keepdims=True), smallest, largest * nearly)
    found = np.where(exact & off.any(axis=-1, keepdims=True), off, found)
    found = np.where(
        _may_be_mixed(ranked) & ((found * largest).sum(axis=-1, keepdims=True) == 0), 0, found
    )
    return np.asarray(np.where(itself, largest, found))


def _may_be_mixed(ranked: Floats) -> Flags:
    """Tell which labels are as those of two classes, from their entries in order; ``T x 1``.

    Of a model that is sure, a mixture of its class with another leaves what a shortened gradient of
    the other leaves.
    """
    two = ranked[:, -2:].sum(axis=-1, keepdims=True) > 1 - _BELOW
    return np.asarray(two & (ranked[:, -2:-1] > _SECOND) & (ranked[:, :1] > -_ALIKE))


def _is_alone(errors: Floats) -> Flags:
    """Tell where entries below 0 beside the smallest are but rounding, ``T x 1``."""
    below = -np.minimum(errors, 0.0)
    most = below.max(axis=-1, keepdims=True)
    return np.asarray(below.sum(axis=-1, keepdims=True) - most <= _BELOW * most)


def _off_line(chances: Floats, errors: Floats) -> tuple[Ints, Floats]:
    """Return the one class without which all lie on a rising line, and how far off they lie.

    What squares are left without a class follows from the line through all.

    Args:
        chances: p, ``T x K``.
        errors: e at any scale, ``T x K``.

    Returns:
        ``T x K`` of 0 and 1, a row of zeros where there is none or more than one would do; and how
        far off all others lie without each class, in shares of the largest entry.

    >>> p = np.array([[0.5, 0.1, 0.2, 0.2]])
    >>> _off_line(p, 3 * (p - np.array([[0.1, 0.1, 0.7, 0.1]])))[0].tolist()
    [[0, 0, 1, 0]]
    """
    classes = errors.shape[-1]
    if classes <= _FEWEST:
        return np.zeros(errors.shape, dtype=np.int64), np.zeros(errors.shape)
    across = chances - chances.mean(axis=-1, keepdims=True)
    up = errors - errors.mean(axis=-1, keepdims=True)
    spread = np.maximum(np.square(across).sum(axis=-1, keepdims=True), 1e-300)
    rest = up - across * ((across * up).sum(axis=-1, keepdims=True) / spread)
    free = np.maximum(1 - 1 / classes - np.square(across) / spread, 1e-9)
    whole = np.square(rest).sum(axis=-1, keepdims=True)
    left = np.sqrt(np.maximum(whole - np.square(rest) / free, 0.0))
    left /= np.maximum(np.abs(errors).max(axis=-1, keepdims=True), 1e-300)
    ranked = np.sort(left, axis=-1)
    one = (ranked[:, :1] <= _ON_LINE) & (ranked[:, 1:2] > _NEARER * _ON_LINE)
    found = np.eye(classes, dtype=np.int64)[left.argmin(axis=-1)]
    below = (rest * found).sum(axis=-1, keepdims=True) < 0
    return np.asarray(found * (one & below)), left


__all__ = ["prove_label"]

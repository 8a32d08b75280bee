"""The label of one sample, where its gradient proves it to who holds the head."""

from __future__ import annotations

import numpy as np

from labelleak.attacks.bounds import count_bounds, is_exact
from labelleak.attacks.soft_labels import recover_soft_label
from labelleak.core.counts import Floats, Ints
from labelleak.core.observation import Observation

# Entries beside a label are alike if the label is hard or smoothed, but for rounding.
_ALIKE = 1e-3
# A share of the label that makes it a hard one.
_SURE = 0.9


def prove_label(observation: Observation, weight: Floats, bias: Floats | None) -> Ints:
    """Return the label of one sample, or nothing where its gradient leaves it open.

    The head gradient of one sample gives its head input, so its posterior, so ``y = p - e``
    (`recover_soft_label`). Where all entries beside the largest are alike, y is a hard or a
    smoothed label, and proves itself. Elsewhere the update was scaled, or the label is a mixture:
    then the one smallest entry of e is taken, and where rounding left no such entry, a y that
    is nearly hard. An update that does not sum to 0 over the classes proves nothing.

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
    smallest = bounds[0].reshape(-1, classes)
    gradient = observation.weight.detach().cpu().double().numpy()
    label = recover_soft_label(gradient, observation.bias_gradient, weight, bias).label
    label, exact = label.reshape(-1, classes), is_exact(observation).reshape(-1, 1)
    ranked = np.sort(label, axis=-1)
    largest = np.eye(classes, dtype=np.int64)[label.argmax(axis=-1)]
    alike = ranked[:, -2:-1] - ranked[:, :1] < _ALIKE
    itself = exact & alike & (ranked[:, -1:] - ranked[:, -2:-1] > 1 - _SURE) & (classes > 2)
    nearly = exact & (ranked[:, -1:] > _SURE)
    found = np.where(smallest.any(axis=-1, keepdims=True), smallest, largest * nearly)
    return np.asarray(np.where(itself, largest, found))


__all__ = ["prove_label"]

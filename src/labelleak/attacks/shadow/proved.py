"""What the gradients of single samples prove, which shadow models hold to and need not learn."""

from __future__ import annotations

import numpy as np

from labelleak.attacks.shadow.batches import Head
from labelleak.attacks.single_labels import prove_label
from labelleak.core.counts import Ints
from labelleak.core.interfaces import Estimate, samples
from labelleak.core.observation import Observation

Bounds = tuple[Ints, Ints]


def bounds_of_one(observation: Observation, head: Head) -> Bounds | None:
    """Bound the counts of single samples by what their gradients prove, ``T x K`` each.

    Counts of more samples are left to the network: a label that is smoothed breaks their bounds
    and no update shows it.
    """
    if observation.bias is None or samples(observation) > 1:
        return None
    weight, bias = head.weight.double().numpy(), head.bias
    label = prove_label(observation, weight, None if bias is None else bias.double().numpy())
    return label, np.where(label.any(axis=-1, keepdims=True), label, 1)


def proved_estimate(bounds: Bounds | None, trials: tuple[int, ...]) -> Estimate | None:
    """Return the answer that bounds leave no choice of, or None where they leave any.

    A posterior held to such bounds gives the same, and takes a second to learn.

    >>> label = np.array([[0, 1, 0]])
    >>> proved_estimate((label, label), ()).counts.tolist()
    [0, 1, 0]
    >>> proved_estimate((label, np.array([[0, 1, 1]])), ()) is None
    True
    """
    if bounds is None or not np.array_equal(*bounds):
        return None
    counts = bounds[0].reshape(*trials, bounds[0].shape[-1])
    return Estimate(counts, (counts > 0).astype(np.float64), expected_asr=np.ones(trials))


__all__ = ["Bounds", "bounds_of_one", "proved_estimate"]

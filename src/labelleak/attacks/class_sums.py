"""Sum what labelled samples show at the head, in blocks of rows: no K x K matrix is ever held."""

from __future__ import annotations

import numpy as np

from labelleak.core.counts import Floats, Ints
from labelleak.core.lazy import torch
from labelleak.core.white_box import HeadPass

# Entries of posteriors that are held at once.
_ENTRIES = 2**22


def sum_posteriors(
    seen: HeadPass, labels: Ints, weights: Floats, *, double: bool = False
) -> tuple[Floats, Floats]:
    """Return ``sum_{n: y_n = c} w_n p_nc`` and ``sum_n w_n p_nc``, p posteriors; K numbers each.

    Args:
        seen: n samples at the head.
        labels: their classes.
        weights: w, n numbers.
        double: take the softmax in double precision.

    Returns:
        The sum over each class's own samples, and over all.
    """
    classes = seen.logits.shape[-1]
    own, whole = np.zeros((2, classes))
    step = max(1, _ENTRIES // classes)
    for start in range(0, len(labels), step):
        part = slice(start, start + step)
        logits = seen.logits[part].double() if double else seen.logits[part]
        block = HeadPass(seen.inputs[part], logits, logits, seen.problems).probabilities
        posteriors = block.detach().to("cpu", torch.float64).numpy()
        mine, heavy = labels[part], weights[part]
        whole += heavy @ posteriors
        found = heavy * posteriors[np.arange(len(mine)), mine]
        own += np.bincount(mine, found, minlength=classes)
    return own, whole


__all__ = ["sum_posteriors"]

"""Distances between shares that scores tell."""

from __future__ import annotations

import numpy as np

from labelleak.core.counts import Floats
from labelleak.core.lazy import special


def jensen_shannon(one: Floats, other: Floats) -> Floats:
    """Return the Jensen-Shannon distance (base 2) over the last axis, from 0 to 1.

    As scipy.spatial has it, which takes a tenth of torch's time to load for this one figure.

    >>> float(jensen_shannon(np.array([1.0, 0.0]), np.array([0.0, 2.0])))
    1.0
    """
    p, q = (shares / shares.sum(axis=-1, keepdims=True) for shares in (one, other))
    middle = (p + q) / 2
    sums = special.rel_entr(p, middle).sum(axis=-1) + special.rel_entr(q, middle).sum(axis=-1)
    return np.asarray(np.sqrt(np.maximum(sums / np.log(2), 0.0) / 2))  # rounding may leave -0


__all__ = ["jensen_shannon"]

"""Draw samples of given labels, each from the pool of its own label, all in one go."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from labelleak.core.counts import Ints


def draw_each(pools: Sequence[Ints], labels: Ints, rng: np.random.Generator) -> Ints:
    """Draw one sample for each label, with replacement.

    They are those that ``rng.choice(pools[label])`` gives for one label after the other, which
    takes ten times as long.

    Args:
        pools: samples by label; those of labels that are drawn are not empty.
        labels: labels in any shape.
        rng: source of the draws.

    >>> draw_each([np.array([7]), np.array([3, 3])], np.array([[0, 1]]), np.random.default_rng(0))
    array([[7, 3]])
    """
    sizes = np.array([len(pool) for pool in pools])
    starts = np.cumsum(sizes) - sizes
    together: Ints = np.concatenate(pools)
    return np.asarray(together[starts[labels] + rng.integers(0, sizes[labels])])


__all__ = ["draw_each"]

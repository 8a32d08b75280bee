"""Round real counts, and probabilities of counts, to whole label counts that sum to N.

Ties are settled as in `labelleak.core.counts`; each routine has a slow twin in ``tests/naive``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from labelleak.core.counts import Ints, check_total, fill, finite, smallest
from labelleak.errors import BadInput


def round_counts(values: ArrayLike, total: int) -> Ints:
    """Round real label counts to whole ones that sum to N, moving them as little as possible.

    The answer minimises ``sum_i (n_i - x_i)^2`` over all non-negative integers that sum to N.
    When the values are non-negative and sum to N this is the largest-remainder rule; when they
    do not, the surplus is taken from (or given to) all alike. Each next label goes to the class
    with the most still owed, so it is `fill` with a step of one.

    Args:
        values: real counts, ``*R x K``; negative ones are allowed.
        total: N.

    Raises:
        BadInput: for NaN or infinite values, or N below 1.

    >>> round_counts([1.4, 0.35, 1.25], 3)
    array([2, 0, 1])
    """
    check_total(total)
    return fill(-finite(values, "counts"), 1.0, total)


def round_within(values: ArrayLike, total: int, least: Ints, most: Ints) -> Ints:
    """Round real label counts to whole ones between bounds that sum to N, moving them little.

    As `round_counts`, with ``least <= n <= most``. Labels beyond `least` are handed out by the same
    rule; a class that would get more than its bound is full for good, since what it gives
    back only raises the others. So the rule is repeated with full classes set aside, at most K
    times and mostly once or twice.

    Args:
        values: real counts, ``*R x K``.
        total: N.
        least: whole bounds from below, ``*R x K``, at least 0.
        most: whole bounds from above, ``*R x K``. Where no counts within both sum to N,
            the trial is rounded without them.

    Raises:
        BadInput: for NaN or infinite values, or N below 1.

    >>> round_within([1.4, 0.35, 1.25], 3, np.array([0, 1, 0]), np.array([3, 3, 3]))
    array([1, 1, 1])
    """
    wanted = finite(values, "counts")
    check_total(total)
    fits = (least <= most).all(axis=-1, keepdims=True)
    fits &= (least.sum(axis=-1, keepdims=True) <= total) & (
        total <= most.sum(axis=-1, keepdims=True)
    )
    low, high = np.where(fits, least, 0), np.where(fits, most, total)
    height, room = low - wanted, high - low
    # So high that no class with room left can rise to it.
    away = height.max(axis=-1, keepdims=True, initial=0.0) + 2.0 * total + 2.0
    full = room == 0
    while True:
        given = np.where(full, room, 0)
        rest = total - (low + given).sum(axis=-1, keepdims=True)
        more = fill(np.where(full, away, height), 1.0, rest)
        over = ~full & (more > room)
        if not over.any():
            return np.asarray(low + np.where(full, given, more), dtype=np.int64)
        full |= over


def best_counts(tails: ArrayLike, total: int) -> Ints:
    """Return the counts that maximise expected ASR under a posterior (or prior) of counts.

    Expected ASR is ``sum_i sum_{k <= g_i} P(c_i >= k) / N``, concave in each g_i, so the N
    largest (i, k) pairs are optimal. Ties: smaller k first, then the lower class.

    Args:
        tails: P(c_i >= k) for k = 1 .. M, ``*R x K x M``; made non-increasing in k if noise
            broke that.
        total: N, at most K * M.

    Raises:
        BadInput: for NaN, or fewer than N pairs to choose from.

    >>> best_counts([[0.9, 0.8, 0.1], [0.5, 0.2, 0.1]], 3)
    array([2, 1])
    """
    chances = np.minimum.accumulate(finite(tails, "probabilities"), axis=-1)
    check_total(total)
    classes, most = chances.shape[-2:]
    if classes * most < total:
        raise BadInput(f"{total} labels do not fit into {classes} classes of at most {most} each")
    by_count = np.swapaxes(chances, -1, -2)
    taken = smallest(-by_count.reshape(*chances.shape[:-2], -1), total)
    return np.asarray(taken.reshape(by_count.shape).sum(axis=-2), dtype=np.int64)


__all__ = ["best_counts", "round_counts", "round_within"]

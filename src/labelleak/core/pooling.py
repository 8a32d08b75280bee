"""Attack the same client round after round, and pool the answers into one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from labelleak.core.counts import Floats, Ints
from labelleak.core.rounding import round_counts
from labelleak.errors import BadInput


def pool_rounds(estimates: Sequence[ArrayLike]) -> Ints:
    """Sum what several rounds of one client were answered into counts of all it consumed.

    Each round's estimate (whole or real-valued counts, such as ``N (p - b)`` before rounding) has a
    noise of its own, so that of the sum grows as sqrt(R) while the labels grow as R: relative to
    them it falls as 1/sqrt(R). An error that every round shares does not fall.

    Args:
        estimates: counts of each round, K numbers that sum to the labels of the round.

    Returns:
        Whole counts, K numbers that sum to the labels of all rounds.

    Raises:
        BadInput: without a round, for shapes that differ, or totals that are no whole numbers.

    >>> pool_rounds([[1.4, 0.6], [1.4, 0.6]])
    array([3, 1])
    """
    summed, total = _sum(estimates)
    return round_counts(summed, total)


def pooled_shares(estimates: Sequence[ArrayLike]) -> Floats:
    """Estimate the client's label distribution: pooled counts, none below 0, as shares.

    >>> pooled_shares([[1.5, 0.5], [2.5, -0.5]]).tolist()
    [1.0, 0.0]
    """
    summed, _ = _sum(estimates)
    kept = np.maximum(summed, 0.0)
    return np.asarray(kept / kept.sum())


def scale_to(estimates: Sequence[ArrayLike], total: int) -> Ints:
    """Scale the pooled distribution to so many labels, by largest remainder.

    Args:
        estimates: counts of each round.
        total: labels to hand out, such as the samples that the client holds.

    >>> scale_to([[3, 1], [1, 3]], 6)
    array([3, 3])
    """
    return round_counts(total * pooled_shares(estimates), total)


def _sum(estimates: Sequence[ArrayLike]) -> tuple[Floats, int]:
    each = [np.asarray(one, dtype=np.float64) for one in estimates]
    if not each or any(one.shape != each[0].shape or one.ndim != 1 for one in each):
        raise BadInput("pooling needs at least one round, and one count a class from each")
    summed = np.sum(each, axis=0)
    total = round(float(summed.sum()))
    if total < 1 or abs(summed.sum() - total) > 1e-3:
        raise BadInput("the counts of each round must sum to the labels behind its update")
    return np.asarray(summed), total


__all__ = ["pool_rounds", "pooled_shares", "scale_to"]

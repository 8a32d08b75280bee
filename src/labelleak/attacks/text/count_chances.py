"""How likely each count of each token is, by its frequency and by which tokens were read."""

from __future__ import annotations

import numpy as np

from labelleak.core.counts import Floats, Ints
from labelleak.core.lazy import special

# A count lies within this many standard deviations of what is expected, and labels.
_SPREADS, _MORE = 12.0, 12


def log_chances(expected: Floats, read: np.ndarray | None, ends: float) -> Floats:
    """Return the log chance of each count of each token, ``K x C``, up to a constant a token.

    Without more a count is Poisson's. A token that was read is a label, unless it stands nowhere
    but at the beginning of a text; another one is a label at the end of a text alone.

    Args:
        expected: labels of each token that its frequency makes expected.
        read: which tokens were read; None where that is not known.
        ends: share of labels that are the last of their text; 0 where it is not known.

    >>> np.exp(log_chances(np.array([2.0]), None, 0.0))[0, :3].round(3).tolist()
    [0.5, 1.0, 1.0]
    """
    largest = float(expected.max(initial=0.0))
    counts = np.arange(int(largest + _SPREADS * np.sqrt(largest)) + _MORE + 1)
    mean = np.maximum(expected, 1e-12)[:, None]
    if read is not None:
        mean = np.where(read[:, None], mean, np.maximum(mean * ends, 1e-12))
    logs = counts * np.log(mean) - mean - special.gammaln(counts + 1)
    if read is not None:
        logs[read, 0] += np.log(max(ends, 1e-12))
    return np.asarray(logs - logs.max(1, keepdims=True))


def moments(logs: Floats) -> tuple[Floats, Floats]:
    """Return mean and variance of each token's count."""
    chances, counts = _chances(logs), np.arange(logs.shape[1])
    mean = chances @ counts
    return mean, np.maximum(chances @ counts**2 - mean**2, 1e-12)


def likeliest(logs: Floats, total: int) -> tuple[Ints, Floats]:
    """Return counts that sum to N, of the highest expected ASR, and the chance that each is there.

    Args:
        logs: of the chance of each count, ``K x C``.
        total: N.

    >>> likeliest(np.log([[0.1, 0.9], [0.7, 0.3]]), 1)[0].tolist()
    [1, 0]
    """
    tails = 1 - np.cumsum(_chances(logs), axis=1)[:, :-1]
    order = np.argsort(-tails.ravel(), kind="stable")[:total]
    counts = np.bincount(order // tails.shape[1], minlength=len(logs))
    # Counts beyond the largest that is weighed go to where they are likeliest.
    counts[0 if not len(order) else order[0] // tails.shape[1]] += total - len(order)
    return counts, np.clip(tails[:, 0], 0.0, 1.0)


def _chances(logs: Floats) -> Floats:
    chances = np.exp(logs - logs.max(1, keepdims=True))
    return np.asarray(chances / chances.sum(1, keepdims=True))


__all__ = ["likeliest", "log_chances", "moments"]

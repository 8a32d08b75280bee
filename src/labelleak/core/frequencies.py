"""A prior from class frequencies that the attacker knows from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from labelleak.core.counts import Floats, Ints
from labelleak.core.lazy import stats
from labelleak.core.priors import Prior
from labelleak.core.task_priors import EachPrior
from labelleak.errors import BadInput


@dataclass(frozen=True)
class FrequencyPrior:
    """Each label drawn by itself with known frequencies: c_i ~ Binomial(N, p_i).

    Attributes:
        shares: p, K numbers that sum to 1.

    >>> FrequencyPrior((0.5, 0.5)).tails(2, 2)[0].tolist()
    [0.75, 0.25]
    """

    shares: tuple[float, ...]

    def tails(self, num_samples: int, num_classes: int) -> Floats:
        """Give P(c_i >= k) for k = 1 .. N as a ``K x N`` array."""
        shares = np.asarray(self.shares)[:, None]
        return np.asarray(stats.binom.sf(np.arange(num_samples), num_samples, shares))


def prior_of_frequencies(told: Sequence[float], num_classes: int, problems: int = 1) -> Prior:
    """Return the prior of frequencies; of several labels, those with each are told.

    Args:
        told: K numbers, shares or counts, of which only the ratios matter; of several labels the
            share of inputs with each, from 0 to 1.
        num_classes: K.
        problems: labels of an input that are told one by one; 1 unless there are several.

    Raises:
        BadInput: if they do not fit.

    >>> prior_of_frequencies([3, 1], 2).shares
    (0.75, 0.25)
    """
    wanted = num_classes if problems == 1 else problems
    if len(told) != wanted:
        raise BadInput(f"the prior has {len(told)} frequencies, there are {wanted} classes")
    if problems == 1:
        return FrequencyPrior(tuple(float(one) / sum(told) for one in told))
    if max(told) > 1:
        raise BadInput("of several labels the prior is the share of inputs with each, 0 to 1")
    return EachPrior(tuple(FrequencyPrior((1 - one, float(one))) for one in told))


def guess_asr(real: Prior, counts: Ints, num_samples: int) -> list[float]:
    """Return the ASR that a guess scores on average where labels really come so, label by label.

    Args:
        real: the prior that labels are drawn by.
        counts: the guess, K numbers.
        num_samples: N; of several labels, N K.

    Returns:
        One number, or one for each label where an input has several; their mean is the ASR.

    >>> guess_asr(FrequencyPrior((1.0, 0.0)), np.array([1, 3]), 4)
    [0.25]
    """
    each = real.each if isinstance(real, EachPrior) else (real,)
    own = num_samples // len(each)
    found = []
    for prior, guess in zip(each, counts.reshape(len(each), -1), strict=True):
        tails = prior.tails(own, len(guess))
        taken = np.arange(own) < guess[:, None]
        found.append(float(np.where(taken, tails, 0.0).sum() / own))
    return found


__all__ = ["FrequencyPrior", "guess_asr", "prior_of_frequencies"]

"""A prior from class frequencies that the attacker knows from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from labelleak.core.counts import Floats, Ints
from labelleak.core.lazy import special
from labelleak.core.priors import Prior, upper_tails
from labelleak.core.task_priors import EachPrior
from labelleak.errors import BadInput

# A class has no more labels than its mean and this many standard deviations.
_SPREADS = 12.0
# Chances that are held at once.
_BLOCK = 2**22
# Taken off the count of what was seen, at most.
_MOST_LESS = 0.75


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
        return _above(np.asarray(self.shares)[:, None], num_samples, 1 + np.arange(num_samples))

    def expected(self, guess: Ints, num_samples: int) -> float:
        """Return the ASR that a guess scores on average; classes that it leaves out cost nothing.

        >>> FrequencyPrior((0.75, 0.25)).expected(np.array([2, 0]), 2)
        0.75
        """
        shares = np.repeat(np.asarray(self.shares), guess)
        number = np.arange(len(shares)) - np.repeat(np.cumsum(guess) - guess, guess) + 1
        return float(_above(shares, num_samples, number).sum() / num_samples)

    def best_guess(self, num_samples: int, num_classes: int) -> tuple[Ints, float]:
        """Return the counts that score most on average, and what they score.

        Classes of one share are weighed once, and no count far above a class's mean is.

        Raises:
            BadInput: for another number of classes.

        >>> FrequencyPrior((0.75, 0.25)).best_guess(2, 2)
        (array([2, 0]), 0.75)
        """
        if len(self.shares) != num_classes:
            raise BadInput(f"the prior has {len(self.shares)} frequencies, not {num_classes}")
        values, kinds = np.unique(np.asarray(self.shares), return_inverse=True)
        held, mean = np.bincount(kinds, minlength=len(values)), num_samples * values
        most = np.minimum(num_samples, mean + _SPREADS * np.sqrt(mean) + _SPREADS).astype(np.int64)
        owner = np.repeat(np.arange(len(values)), most)
        number = np.arange(len(owner)) - np.repeat(np.cumsum(most) - most, most) + 1
        tails = _above(values[owner], num_samples, number)
        order = np.argsort(-tails, kind="stable")
        whole = order[num_samples - np.cumsum(held[owner[order]]) >= 0]
        counts = np.bincount(owner[whole], minlength=len(values))[kinds]
        asr, left = float(held[owner[whole]] @ tails[whole]), num_samples - int(counts.sum())
        if left:  # some of the classes that are alike get one more
            last = order[len(whole)]
            counts[np.flatnonzero(kinds == owner[last])[:left]] += 1
            asr += left * float(tails[last])
        return counts, min(1.0, asr / num_samples)


@dataclass(frozen=True, eq=False)
class TextPrior:
    """Texts drawn from a pool, each alike likely: a token's counts add up over them.

    Words come in clusters, so a guess by frequencies scores less than on labels drawn one by one.

    Attributes:
        labels: of each text, ``n x L``.

    >>> TextPrior(np.array([[0, 0], [1, 1]])).expected(np.array([2, 2]), 4)
    0.75
    """

    labels: Ints

    def tails(self, num_samples: int, num_classes: int) -> Floats:
        """Give P(c_i >= k) for k = 1 .. N as a ``K x N`` array."""
        return self._tails(np.arange(num_classes), num_samples)

    def expected(self, guess: Ints, num_samples: int) -> float:
        """Return the ASR that a guess scores on average; tokens that it leaves out cost nothing."""
        kept, found = np.flatnonzero(guess), 0.0
        for part in np.array_split(kept, len(kept) * num_samples // _BLOCK + 1):
            tails = self._tails(part, num_samples)
            found += float(tails[np.arange(num_samples) < guess[part, None]].sum())
        return found / num_samples

    def _tails(self, tokens: Ints, num_samples: int) -> Floats:
        texts, length = self.labels.shape
        drawn, rest = divmod(num_samples, length)
        if rest:
            raise BadInput(f"{num_samples} labels are no number of texts of {length} each")
        place = np.full(max(int(self.labels.max()), int(tokens.max(initial=0))) + 1, -1)
        place[tokens] = np.arange(len(tokens))
        owner = place[self.labels] + len(tokens) * np.arange(texts)[:, None]
        pairs, held = np.unique(owner[place[self.labels] >= 0], return_counts=True)
        alone = np.zeros((len(tokens), num_samples + 1))
        np.add.at(alone, (pairs % len(tokens), held), 1.0)
        alone[:, 0] = texts - alone.sum(1)
        waves = np.fft.rfft(alone / texts, axis=-1)
        return upper_tails(np.fft.irfft(waves**drawn, num_samples + 1, axis=-1).clip(0.0))


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
        whole = sum(told)
        return FrequencyPrior(tuple(float(one) / whole for one in told))
    if max(told) > 1:
        raise BadInput("of several labels the prior is the share of inputs with each, 0 to 1")
    return EachPrior(tuple(FrequencyPrior((1 - one, float(one))) for one in told))


def told_frequencies(prior: Prior | None) -> Floats | None:
    """Return how often each class occurs where a prior tells it, and None where it does not.

    >>> told_frequencies(FrequencyPrior((0.75, 0.25))).tolist()
    [0.75, 0.25]
    """
    return np.asarray(prior.shares) if isinstance(prior, FrequencyPrior) else None


def smooth_frequencies(counts: ArrayLike) -> Floats:
    """Return the share of each class in text to come, by how often it occurs in one's own.

    By Good and Turing what was never seen occurs together about as often as what was seen once;
    from what was seen a constant is taken off, ``n_1 / (n_1 + 2 n_2)`` (Ney, Essen and Kneser
    1994) and at most 3/4.

    >>> smooth_frequencies([6, 1, 1, 0, 0]).round(3).tolist()
    [0.685, 0.033, 0.033, 0.125, 0.125]
    """
    seen = np.asarray(counts, dtype=np.float64)
    if not seen.sum() > 0:
        return np.full(len(seen), 1 / len(seen))
    once, twice, unseen = (seen == 1).sum(), (seen == 2).sum(), seen == 0
    less = min(_MOST_LESS, once / (once + 2 * twice)) if once else 0.0
    shares = np.maximum(seen - less, 0.0)
    missing = max(float(once), 0.5) / seen.sum() if unseen.any() else 0.0
    shares *= (1 - missing) / shares.sum() if shares.sum() > 0 else 0.0
    shares[unseen] = missing / max(1, unseen.sum())
    return np.asarray(shares / shares.sum())


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
        if isinstance(prior, TextPrior | FrequencyPrior):
            found.append(prior.expected(guess, own))
            continue
        tails = prior.tails(own, len(guess))
        taken = np.arange(own) < guess[:, None]
        found.append(float(np.where(taken, tails, 0.0).sum() / own))
    return found


def _above(shares: Floats, draws: int, least: ArrayLike) -> Floats:
    """P(Binomial(draws, share) >= least), for least from 1 to draws."""
    number = np.asarray(least, dtype=np.float64)
    return np.asarray(special.betainc(number, draws - number + 1, shares))


__all__ = [
    "FrequencyPrior",
    "TextPrior",
    "guess_asr",
    "prior_of_frequencies",
    "smooth_frequencies",
    "told_frequencies",
]

"""Priors over a batch's label counts, and the best guess that knows nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import ArrayLike

from labelleak.core.counts import Floats, Ints
from labelleak.core.lazy import special
from labelleak.core.rounding import best_counts
from labelleak.errors import BadInput

Capped = tuple[float, float]
# Counts that are weighed one by one at most, all classes together.
MOST_TAILS = 2**24


class Prior(Protocol):
    """How label counts are distributed before any update is seen."""

    def tails(self, num_samples: int, num_classes: int) -> Floats:
        """Give P(c_i >= k) for k = 1 .. N as a ``K x N`` array."""
        ...


class EvenPrior(Prior, Protocol):
    """A prior to which all classes are alike, so that the best guess is even and costs no N."""

    def capped(self, most: int, num_samples: int, num_classes: int) -> Capped:
        """Give E min(c_i, most) and P(c_i > most), for 0 <= most <= N."""
        ...


class GuessingPrior(Prior, Protocol):
    """A prior that knows a shorter way to its best guess."""

    def best_guess(self, num_samples: int, num_classes: int) -> tuple[Ints, float]:
        """Give what `free_guess` is to return."""
        ...


class KnownShares(Prior, Protocol):
    """A prior that knows how often each class occurs, whatever N is."""

    @property
    def shares(self) -> tuple[float, ...]:
        """Give E[c_i] / N of each class."""
        ...


@dataclass(frozen=True)
class UniformPrior:
    """Each label drawn uniformly: c_i ~ Binomial(N, 1/K).

    >>> UniformPrior().tails(2, 4)[0].tolist()
    [0.4375, 0.0625]
    """

    def tails(self, num_samples: int, num_classes: int) -> Floats:
        """Give P(c_i >= k) for k = 1 .. N as a ``K x N`` array."""
        return _alike(_binomial(num_samples, num_samples, 1 / num_classes), num_classes)

    def capped(self, most: int, num_samples: int, num_classes: int) -> Capped:
        """Give E min(c_i, most) and P(c_i > most)."""
        return _capped_binomial(num_samples, 1 / num_classes, most)


@dataclass(frozen=True)
class UnbalancedPrior:
    """The paper's unbalanced batch: half one class, a quarter another, the rest uniform.

    Both classes are unknown, so a class is the half one with chance 1/K, the quarter one with
    chance 1/K, and otherwise gets only what falls on it from the rest.
    """

    def tails(self, num_samples: int, num_classes: int) -> Floats:
        """Give P(c_i >= k) for k = 1 .. N as a ``K x N`` array."""
        half, quarter = num_samples // 2, num_samples // 4
        rest = _binomial(num_samples, num_samples - half - quarter, 1 / num_classes)

        def raised(by: int) -> Floats:
            return np.concatenate([np.ones(by), rest])[:num_samples]

        mixed = (raised(half) + raised(quarter) + (num_classes - 2) * rest) / num_classes
        return _alike(mixed, num_classes)

    def capped(self, most: int, num_samples: int, num_classes: int) -> Capped:
        """Give E min(c_i, most) and P(c_i > most)."""
        half, quarter = num_samples // 2, num_samples // 4
        mean = above = 0.0
        for raised, share in ((half, 1), (quarter, 1), (0, num_classes - 2)):
            rest = num_samples - half - quarter
            lesser, over = _capped_binomial(rest, 1 / num_classes, most - raised)
            mean += share / num_classes * (raised + lesser)
            above += share / num_classes * over
        return mean, above


@dataclass(frozen=True)
class DirichletPrior:
    """Class shares drawn from a symmetric Dirichlet(alpha), labels from them.

    Each count is beta-binomial(N, alpha, (K - 1) alpha).
    """

    alpha: float

    def tails(self, num_samples: int, num_classes: int) -> Floats:
        """Give P(c_i >= k) for k = 1 .. N as a ``K x N`` array."""
        counts = np.arange(num_samples + 1)
        others = (num_classes - 1) * self.alpha
        chances = beta_binomial(counts, num_samples, self.alpha, others)
        return _alike(upper_tails(chances), num_classes)

    def capped(self, most: int, num_samples: int, num_classes: int) -> Capped:
        """Give E min(c_i, most) and P(c_i > most); takes ``most`` terms, N/K for a guess."""
        _refuse_many(most, self)
        others = (num_classes - 1) * self.alpha
        chances = beta_binomial(np.arange(most + 1), num_samples, self.alpha, others)
        above = 1 - np.cumsum(chances)  # P(c > k) for k = 0 .. most
        return float(above[:-1].sum()), max(0.0, float(above[-1]))


@dataclass(frozen=True)
class PoolPrior:
    """Samples drawn without replacement from a pool of known class sizes (hypergeometric).

    Attributes:
        sizes: samples of each class in the pool, K numbers.
    """

    sizes: tuple[int, ...]

    def tails(self, num_samples: int, num_classes: int) -> Floats:
        """Give P(c_i >= k) for k = 1 .. N as a ``K x N`` array."""
        counts = np.arange(num_samples + 1)
        sizes = np.asarray(self.sizes)[:, None]
        return upper_tails(hypergeometric(counts, sizes.sum(), sizes, num_samples))


@dataclass(frozen=True)
class SummedPrior:
    """Labels of several clients together, each drawing N/n of them from the same prior alone.

    A class' counts are independent over clients, so their distribution is the n-fold convolution.

    Attributes:
        each: the prior of one client.
        clients: n.

    >>> pooled = SummedPrior(UniformPrior(), 4).tails(8, 10)
    >>> np.allclose(pooled, UniformPrior().tails(8, 10))
    True
    """

    each: Prior
    clients: int

    def tails(self, num_samples: int, num_classes: int) -> Floats:
        """Give P(c_i >= k) for k = 1 .. N as a ``K x N`` array.

        Raises:
            BadInput: if the clients cannot hold equally many of N labels.
        """
        if num_samples % self.clients:
            raise BadInput(
                f"{num_samples} labels cannot be shared evenly by {self.clients} clients"
            )
        own = num_samples // self.clients
        above = np.concatenate(
            [
                np.ones((num_classes, 1)),
                self.each.tails(own, num_classes),
                np.zeros((num_classes, 1)),
            ],
            axis=1,
        )
        alone = above[:, :-1] - above[:, 1:]
        pooled = alone
        for _ in range(self.clients - 1):
            pooled = np.stack([np.convolve(a, b) for a, b in zip(pooled, alone, strict=True)])
        return upper_tails(pooled)


@dataclass(frozen=True)
class RepeatedPrior:
    """Every sample counted several times, as by a client that passes over its data again.

    Counts are multiples of E, so ``P(c >= k) = P(c / E >= ceil(k / E))``. N should be a multiple of
    E; other N are answered with the next one's tails, cut off at N.

    Attributes:
        once: how the counts of one pass are distributed.
        times: E, passes.

    >>> RepeatedPrior(UniformPrior(), 2).tails(4, 4)[0].tolist()
    [0.4375, 0.4375, 0.0625, 0.0625]
    """

    once: Prior
    times: int

    def tails(self, num_samples: int, num_classes: int) -> Floats:
        """Give P(c_i >= k) for k = 1 .. N as a ``K x N`` array."""
        single = self.once.tails(-(-num_samples // self.times), num_classes)
        return np.repeat(single, self.times, axis=-1)[..., :num_samples]


def expected_shares(prior: Prior, num_samples: int, num_classes: int) -> Floats:
    """Return E[c_i] / N.

    >>> expected_shares(UniformPrior(), 10**9, 4).tolist()
    [0.25, 0.25, 0.25, 0.25]
    """
    if _even(prior) is not None:
        return np.full(num_classes, 1 / num_classes)
    if hasattr(prior, "shares"):
        return np.asarray(cast(KnownShares, prior).shares)
    return np.asarray(_all_tails(prior, num_samples, num_classes).sum(axis=1) / num_samples)


def free_guess(prior: Prior, num_samples: int, num_classes: int) -> tuple[Ints, float]:
    """Return the best guess that needs no update, and the ASR that it scores on average.

    The guess takes the N largest P(c_i >= k) under the prior (`rounding.best_counts`); their
    sum over N is its expected ASR, exactly. Where all classes are alike it is even, and no N
    is too large; other priors cost K times N.

    Raises:
        BadInput: if that would be too much.

    >>> counts, asr = free_guess(UniformPrior(), 1, 10)
    >>> int(counts.sum()), round(asr, 3)
    (1, 0.1)
    """
    key: Any = prior
    try:
        hash(key)
    except TypeError:  # somebody's own prior, which holds an array, say
        return _free_guess.__wrapped__(prior, num_samples, num_classes)
    counts, asr = _free_guess(key, num_samples, num_classes)
    return counts.copy(), asr


# Audits of single updates ask for the same few guesses again and again.
@lru_cache(maxsize=64)
def _free_guess(prior: Prior, num_samples: int, num_classes: int) -> tuple[Ints, float]:
    if hasattr(prior, "best_guess"):
        return cast(GuessingPrior, prior).best_guess(num_samples, num_classes)
    alike = _even(prior)
    if alike is not None:
        each, rest = divmod(num_samples, num_classes)
        mean, above = alike.capped(each, num_samples, num_classes)
        counts = each + (np.arange(num_classes) < rest)
        return counts, min(1.0, (num_classes * mean + rest * above) / num_samples)
    tails = _all_tails(prior, num_samples, num_classes)
    counts = best_counts(tails, num_samples)
    taken = np.arange(tails.shape[-1]) < counts[..., None]
    return counts, float(np.where(taken, tails, 0.0).sum() / num_samples)


def _all_tails(prior: Prior, num_samples: int, num_classes: int) -> Floats:
    _refuse_many(num_samples * num_classes, prior)
    return prior.tails(num_samples, num_classes)


def _refuse_many(weighed: int, prior: Prior) -> None:
    if weighed > MOST_TAILS:
        raise BadInput(
            f"too many labels for {type(prior).__name__}: {weighed} counts would have to be "
            f"weighed one by one, and at most {MOST_TAILS} are"
        )


def _even(prior: Prior) -> EvenPrior | None:
    """Return a prior to which all classes are alike as one; None for any other."""
    if isinstance(prior, RepeatedPrior):
        once = _even(prior.once)
        return None if once is None else _RepeatedEven(once, prior.times)
    return cast(EvenPrior, prior) if hasattr(prior, "capped") else None


@dataclass(frozen=True)
class _RepeatedEven(RepeatedPrior):
    """`RepeatedPrior` of an even one."""

    once: EvenPrior

    def capped(self, most: int, num_samples: int, num_classes: int) -> Capped:
        whole, part = divmod(most, self.times)
        single = -(-num_samples // self.times)
        mean, above = self.once.capped(whole, single, num_classes)
        return self.times * mean + part * above, above


def _capped_binomial(draws: int, chance: float, most: int) -> Capped:
    """Give E min(X, m) = n p P(X' < m) + m P(X > m), X' of n - 1 draws, and P(X > m)."""
    if most < 0:
        return float(most), 1.0
    above = float(_binomial_above(most, draws, chance))
    lesser = 1.0 - float(_binomial_above(most - 1, draws - 1, chance)) if draws else 0.0
    return draws * chance * lesser + most * above, above


@lru_cache(maxsize=64)
def _binomial(up_to: int, draws: int, chance: float) -> Floats:
    """P(Binomial(draws, chance) >= k) for k = 1 .. up_to."""
    found = _binomial_above(np.arange(up_to), draws, chance)
    found.setflags(write=False)
    return found


def _binomial_above(k: ArrayLike, draws: int, chance: float) -> Floats:
    """P(Binomial(draws, chance) > k), as scipy.stats has it, which takes a second to load."""
    number = np.asarray(k, dtype=np.float64)
    inside = (number >= 0) & (number < draws)
    first, second = np.where(inside, (number + 1, draws - number), 1.0)
    tails = np.where(inside, special.betainc(first, second, chance), 0.0)
    return np.asarray(np.where(number < 0, 1.0, tails))


def beta_binomial(k: Ints, draws: int, a: float, b: float) -> Floats:
    """Return P(k) of draws whose chance is Beta(a, b), as scipy.stats has it."""
    inside = (k >= 0) & (k <= draws)
    held = np.where(inside, k, 0)
    ways = -np.log(draws + 1) - special.betaln(draws - held + 1, held + 1)
    chances = ways + special.betaln(held + a, draws - held + b) - special.betaln(a, b)
    return np.where(inside, np.exp(chances), 0.0)


def hypergeometric(k: Ints, size: int, good: Ints, draws: int) -> Floats:
    """Return P(k good ones) among draws from some number without replacement, as scipy.stats."""
    bad = size - good
    inside = (k >= 0) & (k <= good) & (k <= draws) & (draws - k <= bad)
    held = np.where(inside, k, np.minimum(np.maximum(draws - bad, 0), good))
    rest = np.minimum(draws - held, bad)

    def ways(number: Ints | int, of: Ints) -> Floats:
        return np.asarray(-special.betaln(of + 1, number - of + 1) - np.log(number + 1.0))

    chances = ways(good, held) + ways(bad, rest) - ways(size, np.asarray(draws))
    return np.where(inside, np.exp(chances), 0.0)


def upper_tails(chances: Floats) -> Floats:
    """Turn P(c = 0 .. N) into P(c >= 1 .. N)."""
    summed = np.cumsum(chances[..., ::-1], axis=-1)[..., ::-1]
    return np.clip(summed[..., 1:], 0.0, 1.0)


def _alike(tails: Floats, num_classes: int) -> Floats:
    return np.broadcast_to(tails, (num_classes, tails.size))

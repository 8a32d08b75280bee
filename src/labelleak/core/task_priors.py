"""Priors over label counts where an input has several labels: several problems, or a map."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from labelleak.core.counts import Floats, Ints
from labelleak.core.priors import (
    Prior,
    SummedPrior,
    free_guess,
    upper_tails,
)
from labelleak.errors import BadInput

# Batches of maps that are drawn, and those of them that are kept.
_DRAWN, _NEAR = 20_000, 2_000


@dataclass(frozen=True)
class MapPrior:
    """Maps of classes drawn from a pool, each alike likely: a class' pixels add up over them.

    Where maps have pixels without a label, N tells how many there are with one: batches of the pool
    are drawn, and those whose number comes nearest to N say how their classes go.

    Attributes:
        counts: pixels of each class in each map of the pool, n rows of K numbers.
        maps: how many are drawn, for maps whose pixels do not all have a label.

    >>> MapPrior(((2, 0), (0, 2))).tails(4, 2)[0].round(6).tolist()
    [0.75, 0.75, 0.25, 0.25]
    """

    counts: tuple[tuple[int, ...], ...]
    maps: int | None = None

    def tails(self, num_samples: int, num_classes: int) -> Floats:
        """Give P(c_i >= k) for k = 1 .. N as a ``K x N`` array.

        Raises:
            BadInput: if N pixels are no number of whole maps.
        """
        each = np.asarray(self.counts)
        if self.maps is not None and len({*each.sum(axis=1).tolist()}) > 1:
            return self._nearest(each, num_samples)
        pixels = int(each[0].sum())
        maps, rest = divmod(num_samples, pixels)
        if rest:
            raise BadInput(f"{num_samples} pixels are no number of maps of {pixels} each")
        alone = np.stack([np.bincount(row, minlength=num_samples + 1) for row in each.T])
        waves = np.fft.rfft(alone / len(each), axis=-1)
        return upper_tails(np.fft.irfft(waves**maps, num_samples + 1, axis=-1).clip(0.0))

    def _nearest(self, each: Ints, num_samples: int) -> Floats:
        """Give the tails over the drawn batches whose number of labels is nearest to N."""
        assert self.maps is not None
        rows = np.random.default_rng(0).integers(len(each), size=(_DRAWN, self.maps))
        counts = each[rows].sum(axis=1)
        total = counts.sum(axis=1)
        near = np.argsort(np.abs(total - num_samples), kind="stable")[:_NEAR]
        found = np.rint(counts[near] * (num_samples / np.maximum(total[near], 1))[:, None])
        there = found.astype(np.int64).clip(0, num_samples)
        of_each = [np.bincount(column, minlength=num_samples + 1) for column in there.T]
        return upper_tails(np.stack(of_each) / len(near))


@dataclass(frozen=True)
class EachPrior:
    """Several labels of the same samples: each class is absent or present by a prior of its own.

    Counts are those of absent and present, class after class; N samples have N labels a class.

    Attributes:
        each: one prior a class, over absent and present.

    >>> from labelleak.core.priors import PoolPrior
    >>> counts, asr = free_guess(EachPrior((PoolPrior((8, 0)), PoolPrior((4, 4)))), 8, 4)
    >>> counts.tolist(), round(asr, 3)
    ([4, 0, 2, 2], 0.936)
    """

    each: tuple[Prior, ...]

    def tails(self, num_samples: int, num_classes: int) -> Floats:
        """Give P(c_i >= k) of each absence and presence, for k = 1 .. the samples."""
        own = num_samples // len(self.each)
        return np.concatenate([prior.tails(own, 2) for prior in self.each])

    def guesses(self, num_samples: int) -> list[tuple[Ints, float]]:
        """Give the best guess of each label by itself, and what it scores."""
        return [free_guess(one, num_samples // len(self.each), 2) for one in self.each]

    def best_guess(self, num_samples: int, num_classes: int) -> tuple[Ints, float]:
        """Give the best guesses of the labels together."""
        counts, scores = zip(*self.guesses(num_samples), strict=True)
        return np.concatenate(counts), float(np.mean(scores))


def summed(prior: Prior, clients: int) -> Prior:
    """Return the prior over the labels of several clients together; of several labels, by class.

    >>> from labelleak.core.priors import UniformPrior
    >>> summed(EachPrior((UniformPrior(),)), 2).each[0].clients
    2
    """
    if clients == 1:
        return prior
    if isinstance(prior, EachPrior):
        return EachPrior(tuple(SummedPrior(one, clients) for one in prior.each))
    return SummedPrior(prior, clients)


def class_guesses(prior: Prior, num_samples: int) -> Iterator[float]:
    """Give what the free guess scores on each label, where an input has several; else nothing.

    >>> from labelleak.core.priors import PoolPrior
    >>> [round(one, 3) for one in class_guesses(EachPrior((PoolPrior((8, 0)),)), 2)]
    [1.0]
    """
    if isinstance(prior, EachPrior):
        yield from (asr for _, asr in prior.guesses(num_samples))


__all__ = ["EachPrior", "MapPrior", "class_guesses", "summed"]

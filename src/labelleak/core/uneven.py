"""Whether labels are unlike batches drawn evenly, which overrate the guess without the update."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from labelleak.core.counts import Floats, Ints

_DRAWS, _RARE = 4000, 1 / 1000
# Of more classes an even guess says next to nothing, and batches that are drawn would not fit.
MOST_CLASSES = 1000


def share_named(guess: Ints, counts: Ints) -> Floats:
    """Return the share of labels that a guess names, ``*R`` of counts ``*R x K``.

    >>> share_named(np.array([2, 2]), np.array([[4, 0], [1, 3]])).tolist()
    [0.5, 0.75]
    """
    total = np.maximum(np.asarray(counts).sum(axis=-1), 1)
    return np.asarray(np.minimum(guess, counts).sum(axis=-1) / total)


def suits_badly(guess: Ints, named: Floats, *, seed: int = 0, repeats: int = 1) -> np.ndarray:
    """Tell whether fewer than 1 in 1,000 batches drawn evenly suit a guess as badly, by simulation.

    Args:
        guess: counts, ``K``.
        named: shares of batches that the guess names.
        seed: of the batches that are drawn, 4,000 of them.
        repeats: how often each label that was drawn came, as over several epochs.

    >>> even = np.array([8, 8, 8, 8])
    >>> suits_badly(even, np.array([0.75, 0.25])).tolist()
    [False, True]
    """
    total, classes = int(guess.sum()), len(guess)
    if not total or classes > MOST_CLASSES:
        return np.zeros(np.shape(named), dtype=bool)
    usual = _usual(tuple(map(int, guess)), seed, repeats)
    return np.asarray(np.searchsorted(usual, named, side="right") < _RARE * _DRAWS)


@lru_cache(maxsize=64)
def _usual(guess: tuple[int, ...], seed: int, repeats: int) -> Floats:
    """Return the shares that a guess names of batches drawn evenly, the least first."""
    rng, each = np.random.default_rng(seed), np.full(len(guess), 1 / len(guess))
    drawn = rng.multinomial(max(1, sum(guess) // repeats), each, _DRAWS) * repeats
    return np.sort(share_named(np.array(guess), drawn))


__all__ = ["MOST_CLASSES", "share_named", "suits_badly"]

"""Bootstrap intervals for a mean over trials that are nested in model initialisations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

RESAMPLES = 2000
LEVEL = 0.95
# Trials of which draws are kept for another table: some 16 MB.
_MOST_KEPT = 1000


@dataclass(frozen=True)
class Interval:
    """A mean with the lower and upper end of its interval."""

    mean: float
    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        """Return whether a value lies between the ends, both included."""
        return self.low <= value <= self.high


def bootstrap_mean(
    values: ArrayLike, groups: ArrayLike, *, seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """Return the mean of values with a two-level percentile bootstrap interval.

    Trials on one initialisation of a model are not independent (LLG varies more between
    initialisations than between batches), so groups are drawn first, with replacement, then
    trials inside each drawn group. With a single group only the trials are drawn and the
    interval speaks of that one model.

    Args:
        values: one number per trial.
        groups: the initialisation that each trial belongs to; same length.
        seed: seed of the resampling; the same values and groups give the same interval, in
            whatever order they come.
        resamples: bootstrap draws.

    Raises:
        ValueError: if there are no values, or lengths differ.

    >>> interval = bootstrap_mean([1.0, 1.0, 0.0, 0.0], [0, 0, 1, 1])
    >>> interval.mean, interval.low, interval.high
    (0.5, 0.0, 1.0)
    """
    return bootstrap_means([(values, groups)], seed=seed, resamples=resamples)[0]


def bootstrap_means(
    columns: Sequence[tuple[ArrayLike, ArrayLike]], *, seed: int = 0, resamples: int = RESAMPLES
) -> list[Interval]:
    """Return what `bootstrap_mean` gives for each column, drawing once for all of one layout.

    The draws depend on the seed and on the sizes of the groups only, so columns that share
    these share one draw: a page of 160 cells costs little more than one cell.

    Args:
        columns: pairs of values and the group of each value.
        seed: seed of the resampling.
        resamples: bootstrap draws.

    Raises:
        ValueError: if a column is empty, or its lengths differ.
    """
    layouts: dict[tuple[int, ...], list[int]] = defaultdict(list)
    ordered: list[np.ndarray] = []
    for index, (values, groups) in enumerate(columns):
        data, labels = np.asarray(values, dtype=np.float64), np.asarray(groups)
        if data.size == 0 or data.shape != labels.shape:
            raise ValueError("a bootstrap needs as many groups as values, and at least one")
        order = np.lexsort((data, labels))
        layouts[_sizes(labels[order])].append(index)
        ordered.append(data[order])
    found: dict[int, Interval] = {}
    for sizes_of_groups, members in layouts.items():
        stacked = np.stack([ordered[index] for index in members], axis=1)
        few = sum(sizes_of_groups) <= _MOST_KEPT
        draws = (_draw_again if few else _draw_trials)(sizes_of_groups, seed, resamples)
        found.update(zip(members, _intervals(stacked, draws), strict=True))
    return [found[index] for index in range(len(columns))]


def _sizes(labels: np.ndarray) -> tuple[int, ...]:
    """Return how often each label stands in sorted ones."""
    ends = np.flatnonzero(labels[1:] != labels[:-1]) + 1
    return tuple(np.diff([0, *ends.tolist(), len(labels)]).tolist())


def _draw_trials(sizes: tuple[int, ...], seed: int, resamples: int) -> np.ndarray:
    """Count how often each trial, sorted by group, is drawn in each resample."""
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), size=resamples)
    return np.concatenate(
        [
            # A group drawn n times gives n * size trials, drawn anew each time.
            rng.multinomial(drawn[:, index] * size, np.full(size, 1 / size))
            for index, size in enumerate(sizes)
        ],
        axis=1,
    )


# A page and a gate tabulate twice, attacks and the strongest of them, by the same draws.
_draw_again = lru_cache(maxsize=4)(_draw_trials)


def _intervals(stacked: np.ndarray, draws: np.ndarray) -> list[Interval]:
    resampled = draws @ stacked
    resampled /= draws.sum(axis=1, keepdims=True)
    tail = 50 * (1 - LEVEL)
    # Each column in one piece of memory, where it is parted in half the time.
    low, high = quantiles(np.ascontiguousarray(resampled.T), (tail / 100, (100 - tail) / 100))
    ends = zip(stacked.mean(axis=0), low, high, strict=True)
    return [Interval(float(mean), float(below), float(above)) for mean, below, above in ends]


def quantiles(rows: np.ndarray, shares: Sequence[float]) -> list[np.ndarray]:
    """Return quantiles of each row, as `numpy.quantile` does; rows are left in another order.

    numpy's own way loads masked arrays and looks for numbers that are none, of which there are
    none here.

    >>> quantiles(np.array([[3.0, 1.0, 2.0]]), [0.5, 0.25])
    [array([2.]), array([1.5])]
    """
    last = rows.shape[1] - 1
    places = [last * share for share in shares]
    below = [int(place) for place in places]
    rows.partition(sorted({min(n + more, last) for n in below for more in (0, 1)}), axis=1)
    found = []
    for place, low in zip(places, below, strict=True):
        one, other, part = rows[:, low], rows[:, min(low + 1, last)], place - low
        gap = other - one
        found.append(one + gap * part if part < 0.5 else other - gap * (1 - part))
    return found

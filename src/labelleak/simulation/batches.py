"""How victims' batches are drawn: which labels, which samples, and the prior that goes with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from labelleak.core.priors import DirichletPrior, PoolPrior, Prior, UnbalancedPrior, UniformPrior
from labelleak.core.task_priors import EachPrior, MapPrior
from labelleak.errors import BadInput, unknown_name

IntArray = np.ndarray[tuple[int, ...], np.dtype[np.int64]]


class Scheme(Protocol):
    """A way to draw batches from a pool of labelled samples."""

    @property
    def label(self) -> str:
        """The scheme's name, as on the command line and in records."""
        ...

    def draw(
        self, pool: IntArray, num_classes: int, size: int, trials: int, rng: np.random.Generator
    ) -> IntArray:
        """Draw ``trials x size`` indices into the pool of labels."""
        ...

    def prior(self, pool: IntArray, num_classes: int) -> Prior:
        """Return the distribution of a batch's counts before anything is seen."""
        ...


@dataclass(frozen=True)
class IID:
    """Every label drawn uniformly (the paper's balanced case; not exactly balanced)."""

    label: str = "iid"

    def draw(
        self, pool: IntArray, num_classes: int, size: int, trials: int, rng: np.random.Generator
    ) -> IntArray:
        """Draw ``trials x size`` indices into the pool of labels."""
        labels = rng.integers(num_classes, size=(trials, size))
        return pick_samples(pool, num_classes, labels, rng)

    def prior(self, pool: IntArray, num_classes: int) -> Prior:
        """Return the uniform prior."""
        return UniformPrior()


@dataclass(frozen=True)
class Unbalanced:
    """Half of the batch one class, a quarter another, the rest uniform (the paper's non-IID)."""

    label: str = "unbalanced"

    def draw(
        self, pool: IntArray, num_classes: int, size: int, trials: int, rng: np.random.Generator
    ) -> IntArray:
        """Draw ``trials x size`` indices into the pool of labels."""
        labels = rng.integers(num_classes, size=(trials, size))
        half, quarter = size // 2, size // 4
        first = rng.integers(num_classes, size=(trials, 1))
        other = (first + rng.integers(1, num_classes, size=(trials, 1))) % num_classes
        labels[:, :half] = first
        labels[:, half : half + quarter] = other
        return pick_samples(pool, num_classes, labels, rng)

    def prior(self, pool: IntArray, num_classes: int) -> Prior:
        """Return the paper's unbalanced prior, both classes unknown."""
        return UnbalancedPrior()


@dataclass(frozen=True)
class Dirichlet:
    """Class shares drawn from a symmetric Dirichlet for each batch, labels from them."""

    alpha: float

    @property
    def label(self) -> str:
        """The scheme's name with its concentration."""
        return f"dirichlet:{self.alpha:g}"

    def draw(
        self, pool: IntArray, num_classes: int, size: int, trials: int, rng: np.random.Generator
    ) -> IntArray:
        """Draw ``trials x size`` indices into the pool of labels."""
        shares = rng.dirichlet(np.full(num_classes, self.alpha), size=trials)
        # A tiny concentration underflows to all-zero shares: one class then takes all.
        lost = ~(shares.sum(axis=1) > 0.5)
        shares[lost] = np.eye(num_classes)[rng.integers(num_classes, size=int(lost.sum()))]
        edges = np.cumsum(shares, axis=1)[:, None, :-1]
        labels = (rng.random((trials, size, 1)) > edges).sum(axis=2)
        return pick_samples(pool, num_classes, labels, rng)

    def prior(self, pool: IntArray, num_classes: int) -> Prior:
        """Return the Dirichlet-multinomial prior."""
        return DirichletPrior(self.alpha)


@dataclass(frozen=True)
class Natural:
    """Samples drawn from the pool as they come, without replacement."""

    label: str = "natural"

    def draw(
        self, pool: IntArray, num_classes: int, size: int, trials: int, rng: np.random.Generator
    ) -> IntArray:
        """Draw ``trials x size`` indices into the pool of labels."""
        keys = rng.random((trials, len(pool)))
        return np.asarray(np.argpartition(keys, size - 1, axis=1)[:, :size])

    def prior(self, pool: IntArray, num_classes: int) -> Prior:
        """Return the prior of draws without replacement from this very pool.

        Of maps it is that of draws with replacement, which is a little wider.
        """
        if pool.ndim > 1:
            flat = pool.reshape(len(pool), -1)
            rows = (np.bincount(row[row >= 0], minlength=num_classes).tolist() for row in flat)
            return MapPrior(tuple(map(tuple, rows)))
        return PoolPrior(tuple(np.bincount(pool, minlength=num_classes).tolist()))


# Beyond this a Dirichlet is iid to every digit, and its tails lose theirs.
LARGEST_ALPHA = 1e6
_PLAIN: dict[str, Callable[[], Scheme]] = {
    "iid": IID,
    "unbalanced": Unbalanced,
    "natural": Natural,
}
SCHEMES = {
    "iid": "every label drawn uniformly",
    "unbalanced": "half one class, a quarter another, the rest uniform (the paper's)",
    "dirichlet:ALPHA": "class shares drawn from a symmetric Dirichlet(ALPHA) for each batch",
    "natural": "samples drawn as they come in the data",
}


def parse_scheme(text: str) -> Scheme:
    """Turn a scheme's name into the scheme.

    Raises:
        BadInput: for an unknown name or a concentration that is no number above 0.

    >>> parse_scheme("dirichlet:0.3").label
    'dirichlet:0.3'
    """
    name, _, argument = text.partition(":")
    if name == "dirichlet":
        try:
            alpha = float(argument)
        except ValueError:
            alpha = -1.0
        if not 0 < alpha <= LARGEST_ALPHA:
            raise BadInput(
                "write the scheme as dirichlet:ALPHA with ALPHA above 0 and at most "
                f"{LARGEST_ALPHA:g}, not {text!r}"
            )
        return Dirichlet(alpha)
    if text not in _PLAIN:
        raise unknown_name("scheme", text, SCHEMES)
    return _PLAIN[text]()


def prior_of(scheme: Scheme, pool: IntArray, num_classes: int, problems: int = 1) -> Prior:
    """Return how counts are distributed before an update is seen; of several labels, by class.

    Args:
        scheme: how batches are drawn.
        pool: labels that can be drawn, rows of 0 and 1 of several; empty where none are known.
        num_classes: K.
        problems: how many labels an input has that are told one by one.

    Raises:
        BadInput: if labels are no rows where rows are needed.
    """
    if problems == 1:
        return scheme.prior(pool, num_classes)
    if pool.size and pool.ndim != 2:
        raise BadInput("auxiliary data of a multilabel task need rows of 0 and 1 for labels")
    columns = [pool[:, number] if pool.size else pool for number in range(problems)]
    return EachPrior(tuple(scheme.prior(one, 2) for one in columns))


def draw_batches(
    scheme: Scheme,
    pool: IntArray,
    num_classes: int,
    size: int,
    trials: int,
    rng: np.random.Generator,
    *,
    revisit: bool = False,
) -> IntArray:
    """Draw ``trials x size`` indices into a pool of labels by a scheme.

    Within a batch no sample comes twice unless its class has too few of them.

    Args:
        scheme: how labels are drawn.
        pool: label of each sample that can be picked.
        num_classes: K.
        size: samples of each trial.
        trials: how many to draw.
        rng: source of the draws.
        revisit: let a trial be larger than the pool, as that of many local steps may be.

    Raises:
        BadInput: if a batch is larger than the pool.
    """
    if size > len(pool) and not (revisit and not isinstance(scheme, Natural)):
        raise BadInput(
            f"a batch of {size} is larger than the victims' data ({len(pool)} samples); "
            "use smaller batches or a larger data set"
        )
    return scheme.draw(pool, num_classes, size, trials, rng)


def pick_samples(
    pool: IntArray, num_classes: int, labels: IntArray, rng: np.random.Generator
) -> IntArray:
    """Pick samples of given labels, none twice in a batch unless its class runs out.

    Args:
        pool: label of each sample that can be picked.
        num_classes: K.
        labels: ``trials x size`` wanted labels.
        rng: source of the picks.

    Raises:
        BadInput: if the pool has no sample of a wanted class.
    """
    sizes = np.bincount(pool, minlength=num_classes)
    missing = np.setdiff1d(labels, np.flatnonzero(sizes))
    if missing.size:
        raise BadInput(
            f"the victims' data hold no sample of class {missing[0]}, which the batch scheme asks "
            "for; use the scheme 'natural' or more data"
        )
    # Sorting by class, then by a random key, lays out a random order of every class's samples.
    order = np.argsort(pool + rng.random((len(labels), len(pool))), axis=1)
    starts = np.cumsum(sizes) - sizes
    place = starts[labels] + _rank_within_class(labels) % sizes[labels]
    return np.asarray(np.take_along_axis(order, place, axis=1))


def _rank_within_class(labels: IntArray) -> IntArray:
    """Say of each label how many equal ones stand before it in its batch."""
    order = np.argsort(labels, axis=1, kind="stable")
    ranked = np.take_along_axis(labels, order, axis=1)
    places = np.broadcast_to(np.arange(labels.shape[1]), labels.shape)
    fresh = np.ones(labels.shape, dtype=bool)
    fresh[:, 1:] = ranked[:, 1:] != ranked[:, :-1]
    first = np.maximum.accumulate(np.where(fresh, places, 0), axis=1)
    ranks = np.empty_like(labels)
    np.put_along_axis(ranks, order, places - first, axis=1)
    return ranks

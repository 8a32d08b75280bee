"""Generalised least squares of a gradient on class means, within-class covariance as the metric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from labelleak.attacks.by_class import averages
from labelleak.core.counts import Floats
from labelleak.core.lazy import Tensor, torch

# What is added to the covariance: a share of its trace. Of 3e-4 to 1, 1e-3 left least (digits).
STEADY = 1e-3
# Shares to choose from; at 1 the covariance weighs all entries nearly alike.
STEADIES = (STEADY, 4e-3, 1.0)
# Samples that the covariance is taken from; the rest adds to the means alone.
_SAMPLES = 1000
# A spread above this share of the rows' own size is not lost where products are centred.
_CLEAR = 1e-8


@dataclass(frozen=True, eq=False)
class ClassMeans:
    """Class means M of gradients, and their whitened form ``M S^-1``.

    Attributes:
        whitened: ``M S^-1``, ``K x R``.
        gram: ``M S^-1 M^T``, ``K x K``.
    """

    whitened: Tensor
    gram: Tensor

    @classmethod
    def measure(
        cls,
        rows: Tensor,
        labels: Tensor,
        classes: int,
        steady: float = STEADY,
    ) -> ClassMeans:
        """Measure means and covariance of single samples' gradients.

        With W the n samples less their class means, S is ``W^T W / n`` plus a ridge; it is
        inverted by Woodbury's identity, through n x n instead of R x R numbers.

        Args:
            rows: ``n x R`` float64.
            labels: their classes.
            classes: K; a class without samples is modelled by all of them.
            steady: the ridge, as a share of the trace of ``W^T W / n``.
        """
        return cls.measure_each(rows, labels, classes, (steady,))[0]

    @classmethod
    def measure_each(
        cls,
        rows: Tensor,
        labels: Tensor,
        classes: int,
        steadies: Sequence[float],
    ) -> list[ClassMeans]:
        """Measure with several ridges, whose systems differ in their diagonal alone."""
        means = _means(rows, labels, classes)
        within = rows - means[labels]
        step = -(-len(within) // _SAMPLES)
        within = within[::step]
        spread = within.square().sum() / len(within)
        # One sample of each class shows no spread at all; the ridge keeps a size then.
        least = torch.finfo(rows.dtype).eps * means.square().sum() / classes
        spread = torch.maximum(spread, least)
        inner = within @ within.T / len(within)
        crossed = within @ means.T / len(within)
        eye = torch.eye(len(within)).to(inner)
        found = []
        for steady in steadies:
            ridge = steady * spread + torch.finfo(rows.dtype).tiny
            left = torch.linalg.solve(inner + ridge * eye, crossed)
            whitened = (means - left.T @ within) / ridge
            found.append(cls(whitened, whitened @ means.T))
        return found

    @classmethod
    def plain(cls, rows: Tensor, labels: Tensor, classes: int) -> ClassMeans:
        """Take the means with every entry alike, as `measure` with S = 1."""
        means = _means(rows, labels, classes)
        return cls(means, means @ means.T)

    def onto(self, gradients: Tensor) -> Floats:
        """Return ``M S^-1 g``, ``T x K``."""
        return np.asarray((gradients @ self.whitened.T).numpy())

    def dual(self, steady: float = 1e-3) -> Tensor:
        """Return the basis dual to the means, ``K x R``: of a class c mean, score c is 1."""
        amount = steady * torch.diagonal(self.gram).mean() + torch.finfo(self.gram.dtype).tiny
        eye = torch.eye(len(self.gram)).to(self.gram)
        return torch.as_tensor(torch.linalg.solve(self.gram + amount * eye, self.whitened))


def weigh_each(
    products: Tensor, labels: Tensor, classes: int, steadies: Sequence[float]
) -> list[tuple[Tensor, Tensor]] | None:
    """Say how samples are weighed in what `ClassMeans.measure_each` finds, by their products alone.

    Rows are long, and all that is measured of them is a weighted sum of them; so nothing but such
    sums need be taken of the rows themselves.

    Args:
        products: inner products of the samples' rows, ``n x n`` float64.
        labels: their classes.
        classes: K.
        steadies: ridges.

    Returns:
        For each ridge weights ``K x n`` of ``M S^-1`` and the gram ``K x K``; None where there are
        many samples, or rounding would show where products are centred.
    """
    if len(labels) > _SAMPLES:
        return None
    shares = averages(labels, classes).to(products)
    onto = shares @ products
    half = products - onto[labels]
    crossed = half @ shares.T
    inner = (half - crossed[:, labels]) / len(labels)
    kept = torch.finfo(products.dtype)
    # One sample of each class shows no spread at all; the ridge keeps a size then.
    least = kept.eps * torch.trace(onto @ shares.T) / classes
    spread = torch.maximum(torch.trace(inner), least)
    if not bool(spread > _CLEAR * torch.diagonal(products).mean()):
        return None
    found = []
    for steady in steadies:
        ridge = steady * spread + kept.tiny
        steadied = inner.clone()
        steadied.diagonal().add_(ridge)
        left = solve_steadied(steadied, crossed / len(labels)).T
        by_class = left.new_zeros(classes, classes).index_add_(1, labels, left)
        weights = (shares - left + by_class @ shares) / ridge
        found.append((weights, weights @ onto.T))
    return found


def solve_steadied(gram: Tensor, right: Tensor) -> Tensor:
    """Solve a system of inner products and a ridge, by its root where rounding leaves it one."""
    root, failed = torch.linalg.cholesky_ex(gram)
    if bool(failed):
        return torch.as_tensor(torch.linalg.solve(gram, right))
    return torch.cholesky_solve(right, root)


def _means(rows: Tensor, labels: Tensor, classes: int) -> Tensor:
    return averages(labels, classes).to(rows) @ rows


__all__ = ["STEADIES", "STEADY", "ClassMeans", "solve_steadied", "weigh_each"]

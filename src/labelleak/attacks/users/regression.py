"""Shares learnt from what imitated users show, and answers of several rounds weighed together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from labelleak.core.counts import Floats

_RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
# Share of the curved part in the kernel; the rest is linear.
_CURVED = 0.5


@dataclass(frozen=True, eq=False)
class Fit:
    """Shares of users, and how far off the same fit is for imitated users left out of it.

    Attributes:
        shares: ``users x K``; not yet made non-negative.
        errors: ``shadows x K``, each from a fit to all the others.
    """

    shares: Floats
    errors: Floats


def learn_shares(shown: Floats, shares: Floats, asked: Floats) -> Fit:
    """Learn label shares from features by kernel ridge regression.

    The kernel is half linear, half Gaussian at the median distance, on features of unit
    variance; the ridge is the one with the least leave-one-out error, which a kernel ridge
    has in closed form: ``alpha_i / (K + rI)^-1_ii``.

    Args:
        shown: features of imitated users, ``shadows x F``.
        shares: their label shares, ``shadows x K``.
        asked: features of the users, ``users x F``.
    """
    middle, spread = shown.mean(axis=0), shown.std(axis=0)
    kept = spread > 1e-12
    if not kept.any():
        return Fit(np.tile(shares.mean(axis=0), (len(asked), 1)), shares - shares.mean(axis=0))
    # A user far outside of what was imitated is drawn to its edge.
    own, new = (
        np.clip((rows[:, kept] - middle[kept]) / spread[kept], -6, 6) for rows in (shown, asked)
    )
    apart = _distances(own, own)
    scale = float(np.median(apart[apart > 0])) if (apart > 0).any() else 1.0
    kernel, onto = _kernel(own, own, scale), _kernel(new, own, scale)
    mean = shares.mean(axis=0)
    tried = [_solve(kernel, shares - mean, ridge) for ridge in _RIDGES]
    weights, errors = min(tried, key=lambda pair: float(np.square(pair[1]).sum()))
    return Fit(mean + onto @ weights, errors)


def _distances(a: Floats, b: Floats) -> Floats:
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1)
    return np.asarray(np.maximum(squares - 2 * a @ b.T, 0.0))


def _kernel(a: Floats, b: Floats, scale: float) -> Floats:
    curved = np.exp(-_distances(a, b) / scale)
    return np.asarray(_CURVED * curved + (1 - _CURVED) * a @ b.T / a.shape[1])


def _solve(kernel: Floats, values: Floats, ridge: float) -> tuple[Floats, Floats]:
    inverse = np.linalg.inv(kernel + ridge * np.eye(len(kernel)))
    weights = inverse @ values
    return weights, weights / np.diag(inverse)[:, None]


def weigh_rounds(errors: list[Floats]) -> Floats:
    """Return weights of rounds, summing to 1, with the least squared error of the weighed mean.

    With C the rounds' matrix of mean error products, errors that rounds share included, the
    mean with weights w errs by ``w^T C w``, least for ``w ~ C^-1 1``; C is shrunk by a
    tenth to its diagonal, and negative weights are left out.

    >>> weigh_rounds([np.array([[1.0]]), np.array([[1.0]])]).round(6).tolist()
    [0.5, 0.5]
    """
    flat = np.stack([one.ravel() for one in errors])
    products = flat @ flat.T / flat.shape[1]
    shrunk = 0.9 * products + 0.1 * np.diag(np.diag(products))
    shrunk += 1e-9 * np.trace(shrunk) * np.eye(len(flat)) + 1e-12 * np.eye(len(flat))
    weights = np.maximum(np.linalg.solve(shrunk, np.ones(len(flat))), 0.0)
    return np.asarray(weights / weights.sum())


def nearest_shares(values: Floats) -> Floats:
    """Return the nearest shares, none negative and summing to 1, of each row.

    >>> nearest_shares(np.array([[0.7, 0.5, -0.4]])).round(3).tolist()
    [[0.6, 0.4, 0.0]]
    """
    ordered = -np.sort(-values, axis=1)
    over = (np.cumsum(ordered, axis=1) - 1) / np.arange(1, values.shape[1] + 1)
    last = (ordered > over).sum(axis=1) - 1
    return np.asarray(np.maximum(values - over[np.arange(len(values)), last][:, None], 0.0))


__all__ = ["Fit", "learn_shares", "nearest_shares", "weigh_rounds"]

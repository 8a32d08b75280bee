"""Shares of classes, not negative and summing to 1, whose mixture comes nearest to a vector."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from labelleak.core.counts import Floats
from labelleak.core.lazy import optimize
from labelleak.core.many_mixtures import TOGETHER, many_mixtures


def mixture_shares(gram: Floats, onto: Floats, size: Floats | Callable[[], Floats]) -> Floats:
    """Return the shares x >= 0, sum x = 1, whose mixture of columns a_c is nearest to a vector g.

    Since shares sum to 1, ``|sum_c x_c a_c - g|`` is the length of a point in the hull of
    the vectors a_c - g. The shortest point is the direction of the non-negative least-squares
    solution of ``[a_c - g; w] x = [0; w]``, for any w > 0: in a fixed direction of x, the best
    misfit only grows with the length of the point. So the sum is met exactly without a large w.

    Many vectors on the same columns are solved together (`many_mixtures`), and one by one where
    that is not certain of its answer: its columns are nearly dependent then.

    Args:
        gram: inner products ``a_c . a_d``, ``*R x K x K`` or ``K x K``.
        onto: inner products ``a_c . g``, ``*R x K``.
        size: ``|g|^2``, ``*R``, or what finds it, since only vectors one by one need it.

    >>> columns, g = np.eye(3), np.array([0.5, 0.6, -0.1])
    >>> mixture_shares(columns @ columns.T, columns @ g, g @ g).round(6).tolist()
    [0.45, 0.55, 0.0]
    """

    def lengths() -> Floats:
        return np.broadcast_to(size() if callable(size) else size, onto.shape[:-1])

    flat = onto.reshape(-1, onto.shape[-1])
    if gram.ndim > 2 or len(flat) < TOGETHER:
        return _one_by_one(gram, onto, lengths())
    shares, certain = many_mixtures(gram, flat)
    if not certain.all():
        shares[~certain] = _one_by_one(gram, flat[~certain], lengths().ravel()[~certain])
    return shares.reshape(onto.shape)


def _one_by_one(gram: Floats, onto: Floats, size: Floats) -> Floats:
    """Do what `mixture_shares` does by roots of each trial's inner products."""
    shifted = gram - onto[..., :, None] - onto[..., None, :] + size[..., None, None]
    classes = shifted.shape[-1]
    scale = np.trace(shifted, axis1=-2, axis2=-1)[..., None, None] / classes
    usable = scale > np.finfo(np.float64).tiny
    unit = np.where(usable, shifted / np.where(usable, scale, 1.0), 0.0)
    powers, axes = np.linalg.eigh(unit)
    roots = np.sqrt(np.maximum(powers, 0.0))[..., :, None] * np.swapaxes(axes, -1, -2)
    shares = np.empty(onto.shape)
    for trial in np.ndindex(onto.shape[:-1]):
        shares[trial] = shortest_mixture(roots[trial])
    return shares


def shortest_mixture(columns: Floats) -> Floats:
    """Return the shares x >= 0, sum x = 1, whose mixture of columns is nearest to 0.

    They point along the solution of ``columns x = 0, sum x = 1`` in non-negative least squares,
    since at a fixed direction a shorter mixture only lengthens x. Columns that are all zero
    are mixed evenly.

    >>> shortest_mixture(np.array([[1.0, -1.0], [1.0, 1.0]])).round(6).tolist()
    [0.5, 0.5]
    """
    even = np.full(columns.shape[1], 1 / columns.shape[1])
    scale = np.abs(columns).max(initial=0.0)
    if not scale > np.finfo(np.float64).tiny:
        return even
    system = np.concatenate([columns / scale, np.ones((1, len(even)))])
    try:
        found, _ = optimize.nnls(system, np.eye(len(system))[-1])
    except RuntimeError:  # it gave up: the bounded answer is the clipped one
        found = np.maximum(np.linalg.lstsq(system, np.eye(len(system))[-1])[0], 0.0)
    return np.asarray(found / found.sum()) if found.sum() > 0 else even

"""Nearest mixtures of the same columns to many vectors at once; each answer is checked."""

from __future__ import annotations

import numpy as np

from labelleak.core.counts import Floats

Flags = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]

# Vectors from which on they are solved together.
TOGETHER = 4
# How far a share may lie from the exact one.
_NEAR = 1e-9
# Shares this far below 0 are rounding.
_NOTHING = 1e-11
# Roundings of a vector's inner products which its gradient must be clear of.
_ROUNDED = 4
# Exchanges of all that is wrong at once which may fail to make less wrong, and exchanges in all.
_TRIES, _MOST = 3, 60
# Numbers of systems that are solved together; they stay in the cache.
_HELD = 2**18
# Least eigenvalue beside the largest from which on an inverse is exact enough to be solved with.
_EVEN = 1e-3


def many_mixtures(gram: Floats, onto: Floats) -> tuple[Floats, Flags]:
    """Return the shares x >= 0, sum x = 1, of the mixture of columns nearest to each vector.

    At the solution the gradient ``G x - a.g`` is one number s on all columns that are mixed and at
    least s elsewhere. Columns are guessed to be mixed, the equations solved on these, and all
    columns exchanged that then have a negative share or a gradient below s: block principal
    pivoting (Portugal, Júdice & Vicente, 1994), with its rule against going in circles.

    With H = G + 1 1^T / K, whose least eigenvalue is m, shares whose equations are off by r lie
    within r / m of the only solution. Where that is not small, or pivoting comes to no end, the
    answer is not certain, and the caller has to solve that trial otherwise.

    Args:
        gram: inner products of the columns, ``K x K``.
        onto: those of the vectors with the columns, ``T x K``.

    Returns:
        Shares ``T x K``, and which trials are certain.

    >>> shares, certain = many_mixtures(np.eye(3), np.array([[0.5, 0.6, -0.1], [2.0, 0.0, 0.0]]))
    >>> shares.round(6).tolist(), certain.tolist()
    ([[0.45, 0.55, 0.0], [1.0, 0.0, 0.0]], [True, True])
    """
    trials, classes = onto.shape
    shares, certain = np.zeros(onto.shape), np.zeros(trials, dtype=np.bool_)
    scale = float(np.trace(gram)) / classes
    if not (np.isfinite(gram).all() and scale > np.finfo(np.float64).tiny):
        return shares, certain
    lifted, given = (gram + gram.T) / (2 * scale) + 1 / classes, onto / scale
    powers = np.linalg.eigvalsh(lifted)
    room = _NEAR * float(powers[0])
    # Sums of so many products round by about this much.
    if not room > classes * np.finfo(np.float64).eps:
        return shares, certain
    inverse = (
        np.asarray(np.linalg.inv(lifted), dtype=np.float64)
        if powers[0] > _EVEN * powers[-1]
        else None
    )
    mixed = np.ones(onto.shape, dtype=np.bool_)
    fewest = np.full(trials, classes + 1)
    tries = np.full(trials, _TRIES)
    # Of vectors far longer than the columns rounding hides which columns are mixed.
    reach = np.abs(given).max(axis=-1)
    left = np.flatnonzero(_ROUNDED * np.finfo(np.float64).eps * reach < room)
    for _ in range(_MOST):
        if not left.size:
            break
        own, here = given[left], mixed[left]
        found = _solve(lifted, inverse, own, here)
        slope = found @ lifted - own
        level = np.where(here, slope, 0.0).sum(axis=-1) / here.sum(axis=-1)
        slope -= level[:, None]
        wrong = np.where(here, found < -_NOTHING, slope < -room)
        number = wrong.sum(axis=-1)
        off = np.abs(np.where(here, slope, 0.0)).max(axis=-1)
        done = number == 0
        shares[left[done]] = np.maximum(found[done], 0.0)
        certain[left[done]] = off[done] <= room
        better, again = number < fewest[left], tries[left] > 0
        tries[left] = np.where(better, _TRIES, tries[left] - 1)
        fewest[left] = np.minimum(number, fewest[left])
        last = classes - 1 - wrong[:, ::-1].argmax(axis=-1)
        single = np.arange(classes) == last[:, None]
        mixed[left] = here ^ np.where((better | again)[:, None], wrong, wrong & single)
        left = left[~done]
    sums = shares.sum(axis=-1, keepdims=True)
    return shares / np.where(sums > 0, sums, 1.0), certain


def _solve(lifted: Floats, inverse: Floats | None, given: Floats, mixed: Flags) -> Floats:
    """Solve each trial's equations on its own columns: ``H x = given + t``, sum x = 1.

    With V the inverse of H, ``x = V b - V u`` solves them for b where u is 0 on these columns
    and makes x 0 on the others, Z: ``V_ZZ u_Z = (V b)_Z``. Where Z is smaller, so is this system.
    """
    both = np.stack([given, np.ones(given.shape)], axis=-1)
    few = 2 * mixed.sum(axis=-1) > mixed.shape[-1]
    few &= inverse is not None
    found = np.empty(both.shape)
    if inverse is not None and few.any():
        whole = _times(inverse, both[few])
        found[few] = whole - _times(inverse, _solve_on(inverse, whole, ~mixed[few]))
    if not few.all():
        found[~few] = _solve_on(lifted, both[~few], mixed[~few])
    return _summed(found[..., 0] * mixed, found[..., 1] * mixed)


def _times(matrix: Floats, columns: Floats) -> Floats:
    """Multiply a symmetric matrix by each trial's columns, ``T x K x 2``."""
    return np.stack([columns[..., 0] @ matrix, columns[..., 1] @ matrix], axis=-1)


def _solve_on(matrix: Floats, right: Floats, places: Flags) -> Floats:
    """Solve each trial's equations on its own rows and columns, ``T x K x 2``; 0 elsewhere."""
    found = np.zeros(right.shape)
    padded = np.eye(2 * len(matrix))
    padded[: len(matrix), : len(matrix)] = matrix
    sizes = places.sum(axis=-1)
    order = np.argsort(sizes, kind="stable")
    while order.size:  # the largest first, with those that are padded to their size
        size = int(sizes[order[-1]])
        if not size:
            break
        number = max(1, _HELD // size**2)
        order, part = order[:-number], order[-number:]
        chosen = np.argsort(~places[part], axis=-1, kind="stable")[:, :size]
        own = np.take_along_axis(places[part], chosen, axis=-1)
        # What pads a system stands apart from it: 1 on the diagonal, and 0 elsewhere.
        among = np.where(own, chosen, len(matrix) + np.arange(size))
        systems = np.take(padded, among[:, :, None] * len(padded) + among[:, None, :])
        sides = np.take_along_axis(right[part], chosen[..., None], axis=1) * own[..., None]
        solved = np.linalg.solve(systems, sides)
        answer = np.zeros((len(part), *right.shape[1:]))
        np.put_along_axis(answer, chosen[..., None], solved, axis=1)
        found[part] = answer
    return found


def _summed(plain: Floats, even: Floats) -> Floats:
    """Add as much of the solution for equal numbers as makes shares sum to 1."""
    level = (1 - plain.sum(axis=-1)) / even.sum(axis=-1)
    return np.asarray(plain + level[..., None] * even)


__all__ = ["TOGETHER", "many_mixtures"]

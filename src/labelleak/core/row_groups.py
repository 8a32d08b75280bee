"""Look for several softmaxes in one head: rows in groups, whose gradients each sum to zero.

A head of several tasks has its softmaxes one after the other; one whose channels a pixel shuffle
turns into pixels has them interleaved. All rows together sum to zero as one softmax's do, so the
groups alone show it. They are looked for in the bias and in a few random mixtures of the columns.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from labelleak.core.counts import Floats
from labelleak.core.entries import noise_size, stands_out
from labelleak.core.lazy import F, Tensor, torch
from labelleak.core.observation import Observation
from labelleak.records.states import State

_MIXTURES, _MOST_ROWS, _MOST_ENDS = 4, 5000, 64
# What may be left of a sum, against the group's size: by rounding, in deviations of noise, at most.
_ROUNDING, _SIGMAS, _MOST = 1e-5, 6.0, 0.003
# A group of less than this share of the size of all is none.
_LEAST = 0.02


def in_groups(observation: Observation) -> np.ndarray:
    """Tell which trials' rows are of several softmaxes, trial by trial (``*R``).

    >>> one, two = torch.tensor([0.3, -0.2, -0.1]), torch.tensor([-0.5, 0.4, 0.1])
    >>> [bool(in_groups(Observation.from_gradient(None, torch.cat(both)[order])))
    ...  for both in [(one, two)] for order in ([0, 1, 2, 3, 4, 5], [0, 3, 1, 4, 2, 5])]
    [True, True]
    >>> bool(in_groups(Observation.from_gradient(None, torch.tensor([0.3, -0.2, -0.5, 0.4]))))
    False
    """
    found = np.zeros(observation.trials, dtype=bool)
    rows = observation.num_classes
    known = observation.scale is State.held  # whoever made the update knows its loss
    if known or observation.paired or observation.problems > 1 or not 4 <= rows <= _MOST_ROWS:
        return found
    seen = _features(observation)
    seen = seen.reshape(-1, *seen.shape[-2:])
    room = _SIGMAS * noise_size(observation).ravel()
    grouped = _interleaved(seen, room) | _consecutive(seen, room)
    return np.asarray(grouped.reshape(found.shape) & stands_out(observation))


def _features(observation: Observation) -> Floats:
    """Return the bias and mixtures of the weight's columns, ``*R x K x F``."""
    parts = []
    if observation.bias is not None:
        parts.append(observation.bias_gradient[..., None])
    if observation.weight is not None:
        weight = observation.weight.detach()
        width = weight.shape[-1]
        wide = weight.float() if weight.dtype != torch.float64 else weight
        parts.append(F.linear(wide, _mixture(width).to(wide)).double().cpu().numpy())
    return np.concatenate(parts, axis=-1)


@lru_cache(maxsize=4)
def _mixture(width: int) -> Tensor:
    """Return how so many columns are mixed, a mixture a row; nobody writes to it."""
    made = torch.Generator().manual_seed(0)
    found: Tensor = torch.randn(width, _MIXTURES, generator=made, dtype=torch.float64) / width**0.5
    return found.T.contiguous()


def _interleaved(seen: Floats, room: Floats) -> np.ndarray:
    """Tell which trials' rows are of groups that take turns, row by row."""
    trials, rows, features = seen.shape
    found = np.zeros(trials, dtype=bool)
    squares = np.square(seen)
    for groups in range(2, rows // 2 + 1):
        if rows % groups == 0:
            sums, sizes = (
                part.reshape(trials, -1, groups, features).sum(axis=1) for part in (seen, squares)
            )
            found |= _sum_to_zero(sums, sizes, np.full(groups, rows // groups), room)
    return found


def _consecutive(seen: Floats, room: Floats) -> np.ndarray:
    """Tell which trials' rows are of two groups, the rows of one before those of the other."""
    trials, rows, _ = seen.shape
    found = np.zeros(trials, dtype=bool)
    summed = seen.cumsum(axis=1)
    allowed = _ROUNDING * np.linalg.norm(seen, axis=1) + room[:, None] * np.sqrt(rows)
    ends = (np.abs(summed) <= allowed[:, None]).all(axis=-1)
    ends[:, -1] = False
    ends &= ends.cumsum(axis=1) <= _MOST_ENDS
    trial, end = ends.nonzero()
    if trial.size:
        parts = (summed, np.square(seen).cumsum(axis=1))
        first, whole = zip(*((part[trial, end], part[trial, -1]) for part in parts), strict=True)
        sums, squares = (np.stack([f, w - f], axis=1) for f, w in zip(first, whole, strict=True))
        members = np.stack([end + 1, rows - 1 - end], axis=1)
        found[trial[_sum_to_zero(sums, np.maximum(squares, 0.0), members, room[trial])]] = True
    return found


def _sum_to_zero(sums: Floats, squares: Floats, members: np.ndarray, room: Floats) -> np.ndarray:
    """Tell where each group sums to zero in all that is seen, and is no rest of another.

    Args:
        sums: of each group in each feature, ``T x G x F``.
        squares: sums of the squares.
        members: rows of each group, ``T x G`` or ``G``.
        room: what noise may leave of a row, T numbers.
    """
    sizes, whole = np.sqrt(squares), np.sqrt(squares.sum(axis=1, keepdims=True))
    allowed = _ROUNDING * sizes + room[:, None, None] * np.sqrt(members)[..., None]
    off = ((np.abs(sums) > allowed) | (allowed > _MOST * whole)).any(axis=(1, 2))
    if off.all():
        return np.zeros(len(off), dtype=bool)
    large = (sizes >= _LEAST * whole).all(axis=-1).sum(axis=-1)
    return np.asarray(~off & (large >= 2))


__all__ = ["in_groups"]

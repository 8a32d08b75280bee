"""Look for several softmaxes in one head: rows in groups, whose gradients each sum to zero.

A head of several tasks has its softmaxes one after the other; one whose channels a pixel shuffle
turns into pixels has them interleaved. All rows together sum to zero as one softmax's do, so the
groups alone show it. They are looked for in the bias and in a few random mixtures of the columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from labelleak.core.counts import Floats
from labelleak.core.entries import noise_size, stands_out
from labelleak.core.lazy import Tensor, torch
from labelleak.core.observation import Observation
from labelleak.records.states import State

_MIXTURES, _MOST_ROWS = 4, 5000
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
    seen, noise = _features(observation), noise_size(observation)
    clear = stands_out(observation)
    for place in np.ndindex(found.shape):
        own = seen[place]
        room = _SIGMAS * float(noise[place])
        found[place] = clear[place] and any(
            _sums_to_zero(own, groups, room) for groups in _groupings(own, room)
        )
    return found


def _features(observation: Observation) -> Floats:
    """Return the bias and mixtures of the weight's columns, ``*R x K x F``."""
    parts = []
    if observation.bias is not None:
        parts.append(observation.bias_gradient[..., None])
    if observation.weight is not None:
        weight = observation.weight.detach()
        width = weight.shape[-1]
        wide = weight.float() if weight.dtype != torch.float64 else weight
        parts.append((wide @ _mixture(width).to(wide)).double().cpu().numpy())
    return np.concatenate(parts, axis=-1)


@lru_cache(maxsize=4)
def _mixture(width: int) -> Tensor:
    """Return how so many columns are mixed, which is always alike; nobody writes to it."""
    made = torch.Generator().manual_seed(0)
    found: Tensor = torch.randn(width, _MIXTURES, generator=made, dtype=torch.float64) / width**0.5
    return found


def _groupings(seen: Floats, room: float) -> Iterator[np.ndarray]:
    """Return ways to group the rows: each a group's number of every row."""
    rows = len(seen)
    for groups in range(2, rows // 2 + 1):
        if rows % groups == 0:
            yield np.arange(rows) % groups
    left = np.abs(seen.cumsum(axis=0))
    allowed = _ROUNDING * np.linalg.norm(seen, axis=0) + room * np.sqrt(rows)
    ends = np.flatnonzero((left <= allowed).all(axis=-1))
    inner = ends[ends < rows - 1]
    for end in inner[:64]:
        yield (np.arange(rows) > end).astype(np.int64)


def _sums_to_zero(seen: Floats, group: np.ndarray, room: float) -> bool:
    """Return whether each group sums to zero in all that is seen, and is no rest of another."""
    number = int(group.max()) + 1
    sums, squares = np.zeros((2, number, seen.shape[1]))
    np.add.at(sums, group, seen)
    np.add.at(squares, group, seen**2)
    sizes, whole = np.sqrt(squares), np.sqrt(squares.sum(axis=0))
    allowed = _ROUNDING * sizes + room * np.sqrt(np.bincount(group))[:, None]
    if (np.abs(sums) > allowed).any() or (allowed > _MOST * whole).any():
        return False
    return bool(((sizes >= _LEAST * whole).all(axis=-1)).sum() >= 2)


__all__ = ["in_groups"]

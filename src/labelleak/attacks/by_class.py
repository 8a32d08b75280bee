"""Samples by class: what averages them, and draws that are alike for all classes."""

from __future__ import annotations

import numpy as np

from labelleak.core.counts import Floats, Ints
from labelleak.core.lazy import F, Tensor, torch


def averages(labels: Tensor, num_classes: int) -> Tensor:
    """Return weights that average samples by class, ``K x n``; of all where a class has none."""
    own = F.one_hot(labels.cpu(), num_classes).T.double()
    own[own.sum(dim=1) == 0] = 1.0
    return own / own.sum(dim=1, keepdim=True)


def by_appearance(labels: Tensor, num_classes: int) -> Tensor:
    """Return the classes in the order that they come in, so that class names do not matter.

    >>> by_appearance(torch.tensor([2, 0, 2]), 4).tolist()
    [2, 0, 1, 3]
    """
    found, first = np.unique(labels.numpy(), return_index=True)
    absent = np.setdiff1d(np.arange(num_classes), found)
    return torch.from_numpy(np.concatenate([found[np.argsort(first)], absent]))


def pools(labels: Ints, num_classes: int) -> list[Ints]:
    """Return the places of each class's samples; those of all where a class has none."""
    everything = np.arange(len(labels))
    members = [np.flatnonzero(labels == label) for label in range(num_classes)]
    return [own if own.size else everything for own in members]


def pick(pools: list[Ints], draws: Floats) -> Ints:
    """Pick from every class by the same draws in [0, 1), so that class names do not matter.

    Args:
        pools: places to pick from, by class.
        draws: ``* x n``.

    Returns:
        Places, ``* x K x n``.

    >>> pick([np.array([4, 7]), np.array([5])], np.array([0.1, 0.9])).tolist()
    [[4, 7], [5, 5]]
    """
    return np.stack([pool[(draws * len(pool)).astype(int)] for pool in pools], axis=-2)


__all__ = ["averages", "by_appearance", "pick", "pools"]

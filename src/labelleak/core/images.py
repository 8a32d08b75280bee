"""What pooled counts of maps say of each single image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from labelleak.core.counts import Floats, Ints
from labelleak.core.priors import Prior, RepeatedPrior, SummedPrior, free_guess
from labelleak.core.task_priors import MapPrior


def count_images(maps: Ints, num_classes: int) -> Ints:
    """Return the counts of each image; positions without a label (negative) count for none.

    Args:
        maps: ``*R x n x`` positions: a class each, of n images.
        num_classes: K.

    Returns:
        ``*R x n x K``.

    >>> count_images(np.array([[0, 2, 2], [1, 1, -100]]), 3).tolist()
    [[1, 0, 2], [0, 2, 0]]
    """
    return np.stack([(maps == one).sum(axis=-1) for one in range(num_classes)], axis=-1)


def score_images(counts: Ints, images: Ints) -> Floats:
    """Return the share of positions named where each image is taken to hold its share of them.

    An update pools its images, so nothing in it says which of them holds what: the best that it
    tells of one is the mean. With the guessed shares s and image j of m_j positions it is
    ``sum_j sum_k min(s_k m_j, c_jk) / sum_j m_j``.

    Args:
        counts: guessed pooled counts, ``*R x K``.
        images: true counts of each image, ``*R x n x K``.

    >>> halves = np.array([[4, 0], [0, 4]])
    >>> float(score_images(np.array([4, 4]), halves)), float(score_images(halves[0], halves[:1]))
    (0.5, 1.0)
    """
    shares = counts / counts.sum(axis=-1, keepdims=True)
    expected = shares[..., None, :] * images.sum(axis=-1, keepdims=True)
    return np.asarray(np.minimum(expected, images).sum((-1, -2)) / images.sum((-1, -2)))


def image_free(prior: Prior, images: Ints) -> float:
    """Return the expected success rate of the best guess at one image without the update.

    Args:
        prior: how pooled counts are distributed before the update is seen.
        images: counts of each image, ``*R x n x K``, whose mean size is taken.

    >>> image_free(MapPrior(((4, 0), (0, 4))), np.array([[4, 0], [0, 4]]))
    0.5
    """
    each = images.reshape(-1, images.shape[-1])
    size = max(1, round(float(each.sum(axis=-1).mean())))
    return free_guess(_of_one(prior), size, images.shape[-1])[1]


def _of_one(prior: Prior) -> Prior:
    """Return how one image's counts are distributed."""
    if isinstance(prior, RepeatedPrior):
        return _of_one(prior.once)
    if isinstance(prior, SummedPrior):
        return _of_one(prior.each)
    if isinstance(prior, MapPrior):
        return replace(prior, maps=None if prior.maps is None else 1)
    return prior


def count_split(labels: ArrayLike, sizes: Sequence[int], num_classes: int) -> Ints:
    """Return the counts of each image, whose labels stand one image after the other.

    Args:
        labels: of all images.
        sizes: labels of each.
        num_classes: K.

    >>> count_split([0, 2, 2, 1], (3, 1), 3).tolist()
    [[1, 0, 2], [0, 1, 0]]
    """
    image = np.repeat(np.arange(len(sizes)), sizes)
    found = np.zeros((len(sizes), num_classes), dtype=np.int64)
    np.add.at(found, (image, np.asarray(labels)), 1)
    return found


__all__ = ["count_images", "count_split", "image_free", "score_images"]

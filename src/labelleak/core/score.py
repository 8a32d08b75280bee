"""The truth, how right an answer is, and its advantage over a guess without the update."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from labelleak.core.counts import Floats, Ints
from labelleak.core.distances import jensen_shannon
from labelleak.core.task import Task
from labelleak.errors import BadInput
from labelleak.records.values import CERTAIN


@dataclass(frozen=True, eq=False)
class Truth:
    """The label counts that really stood behind each update.

    Attributes:
        counts: ``*R x K``.
        images: of maps, the counts of each image, ``*R x n x K``; None where they are not known.
    """

    counts: Ints
    images: Ints | None = None

    def __getitem__(self, trials: Any) -> Truth:
        """Return that of some trials, or with a dimension more, as numpy's indices have it."""
        images = None if self.images is None else self.images[trials]
        return Truth(self.counts[trials], images)

    @classmethod
    def from_labels(cls, labels: ArrayLike, num_classes: int) -> Truth:
        """Count labels.

        Args:
            labels: ``*R x N`` class indices.
            num_classes: K.

        Raises:
            BadInput: for labels that are no whole numbers from 0 to K - 1.

        >>> Truth.from_labels([0, 2, 2], 3).counts.tolist()
        [1, 0, 2]
        """
        array = np.asarray(labels)
        if not np.issubdtype(array.dtype, np.integer) or array.ndim < 1:
            raise BadInput(f"labels must be whole numbers, not {array.dtype}")
        if array.size and (array.min() < 0 or array.max() >= num_classes):
            raise BadInput(
                f"labels run from {array.min()} to {array.max()}; "
                f"with {num_classes} classes they must lie in 0 to {num_classes - 1}"
            )
        flat = array.reshape(-1, array.shape[-1])
        shifted = flat + num_classes * np.arange(len(flat))[:, None]
        counts = np.bincount(shifted.ravel(), minlength=len(flat) * num_classes)
        return cls(counts.reshape(*array.shape[:-1], num_classes))


@dataclass(frozen=True, eq=False)
class Score:
    """How right guessed counts are; every field is an array over the trials ``*R``.

    Attributes:
        asr: attack success rate, sum_i min(guess_i, c_i) / N: the share of labels named, as a
            multiset. With equal totals it is one minus the total variation distance.
        presence_precision: share of the classes guessed present that are.
        presence_recall: share of the classes present that were guessed.
        presence_accuracy: share of all K classes whose presence bit is right (iLRG's LeAcc;
            true negatives count, so it is high for large K whatever the guess).
        count_accuracy: share of all K classes with exactly the right count (iLRG's LnAcc;
            zeros count).
        exact: whether all counts are right.
        jensen_shannon: Jensen-Shannon distance (base 2) between guessed and true label shares.
        hellinger: Hellinger distance between them, ``sqrt(1 - sum_i sqrt(p_i q_i))``.
    """

    asr: Floats
    presence_precision: Floats
    presence_recall: Floats
    presence_accuracy: Floats
    count_accuracy: Floats
    exact: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
    jensen_shannon: Floats
    hellinger: Floats


def score(counts: ArrayLike, truth: Truth) -> Score:
    """Compare guessed counts with the truth.

    Args:
        counts: guessed counts, ``*R x K``, each row summing to that of the truth.
        truth: what was really there.

    Raises:
        BadInput: if shapes differ, a count is negative, or a total is not the truth's.

    >>> result = score([2, 1, 0], Truth(np.array([1, 1, 1])))
    >>> round(float(result.asr), 3), float(result.presence_precision)
    (0.667, 1.0)
    """
    guess, real = np.asarray(counts), truth.counts
    if guess.shape != real.shape:
        raise BadInput(f"guessed counts have shape {guess.shape}, the true ones {real.shape}")
    total = real.sum(axis=-1)
    if (guess < 0).any() or (guess.sum(axis=-1) != total).any():
        raise BadInput("guessed counts must not be negative and must sum to the number of samples")
    named, there = guess > 0, real > 0
    both, right, classes = (named & there).sum(-1), (guess == real).sum(-1), guess.shape[-1]
    shares = guess / total[..., None], real / total[..., None]
    return Score(
        asr=np.minimum(guess, real).sum(axis=-1) / total,
        presence_precision=both / named.sum(axis=-1),
        presence_recall=both / there.sum(axis=-1),
        presence_accuracy=(named == there).sum(axis=-1) / classes,
        count_accuracy=right / classes,
        exact=right == classes,
        jensen_shannon=jensen_shannon(*shares),
        hellinger=np.sqrt(np.maximum(0.0, 1 - np.sqrt(shares[0] * shares[1]).sum(axis=-1))),
    )


def pair_counts(positives: ArrayLike, total: int) -> Ints:
    """Return counts of absent and present, class after class, of samples with several labels.

    Their total is N K, so the success rate over them is pooled over classes.

    >>> pair_counts([3, 0], 4).tolist()
    [1, 3, 4, 0]
    """
    there = np.asarray(positives, dtype=np.int64)
    return np.stack((total - there, there), axis=-1).reshape(*there.shape[:-1], -1)


def count_labels(labels: Ints, task: Task, num_classes: int) -> Truth:
    """Count the labels of each batch as a task has it; those of maps that are negative are none.

    Args:
        labels: ``*R x N`` classes, ``*R x N x K`` rows of 0 and 1 of several labels; of maps, all
            positions together in ``N``.
        task: what they are.
        num_classes: K.

    >>> count_labels(np.array([[0, 1], [1, 1]]), Task.multilabel, 2).counts.tolist()
    [1, 1, 0, 2]
    """
    if task is Task.multilabel:
        return Truth(pair_counts(labels.sum(axis=-2), labels.shape[-2]))
    if task is Task.dense and labels.size and labels.min() < 0:
        return Truth(np.stack([(labels == one).sum(axis=-1) for one in range(num_classes)], -1))
    return Truth.from_labels(labels, num_classes)


def advantage(asr: ArrayLike, asr_free: float) -> Floats | None:
    """Give (ASR - free) / (1 - free): 0, the update told nothing; 1, it told everything.

    It is negative where an attack does worse than the best guess without the update, and None
    where that guess is always right, so that nothing is left to learn.
    """
    if asr_free >= CERTAIN:
        return None
    return np.asarray((np.asarray(asr, dtype=np.float64) - asr_free) / (1 - asr_free))

"""The number of labels behind an update, read from the update: when it can be told, and how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from labelleak.core.counts import Floats
from labelleak.core.knowledge import Knowledge
from labelleak.core.observation import Observation
from labelleak.errors import BadInput, NotApplicable

# Posteriors of an untrained model differ this much from one class to the next, if nothing is known.
UNIFORM_SPREAD = 0.01
# A candidate at least so likely, against the best, is a near tie.
_TIE = 0.1
# No gradient taken from float32 weights is more exact than this.
_LEAST_NOISE = 1e-6


@dataclass(frozen=True)
class BatchSize:
    """How many labels stand behind an update, as far as it shows.

    Attributes:
        num_samples: the likeliest N.
        confidence: its probability among all candidates, each held alike likely before.
        ties: candidates nearly as likely, with their probabilities, the likeliest first; the
            first is N itself.
        assumes: what the answer rests on.
    """

    num_samples: int
    confidence: float
    ties: tuple[tuple[int, float], ...]
    assumes: str


@dataclass(frozen=True, eq=False)
class MeanPosterior:
    """What is held about the batch's mean posterior, p, and how it follows its counts.

    With P_c the mean posterior of class c, ``N b = sum_c c_c (P_c - e_c)``, so counts solve ``A c =
    N 1 - N b`` for ``A = I - [P_1 .. P_K] + 1 1^T``: ``c = N mean - solve (N b)``.

    Attributes:
        mean: A^-1 1: shares of the labels where b is 0, K numbers that sum to 1; p itself
            where posteriors are the same for all classes.
        solve: A^-1, ``K x K``; the identity where posteriors are the same for all classes.
        spread: standard deviation of one sample's share in a solved count, K numbers.
        drawn: samples behind the mean; its own error is spread / sqrt(drawn).
        systematic: an error of the mean that no number of samples removes.
        assumes: in words, where it comes from.
    """

    mean: Floats
    solve: Floats
    spread: Floats
    drawn: float
    systematic: float
    assumes: str

    @classmethod
    def from_model(cls, known: Knowledge) -> MeanPosterior:
        """Take P from the model on the attacker's own data.

        A class without data is taken to have all data's mean posterior.
        """
        assert known.model is not None
        if known.auxiliary is None:
            raise NotApplicable(
                "the batch size needs inputs for the model: give auxiliary data, or assume "
                "uniform posteriors"
            )
        seen, own_labels = known.pass_own()
        each = seen.probabilities.double().detach().cpu().numpy()
        labels, classes = own_labels.numpy(), each.shape[1]
        means = np.tile(each.mean(axis=0), (classes, 1))
        for label in np.unique(labels):
            means[label] = each[labels == label].mean(axis=0)
        solve = np.linalg.pinv(np.eye(classes) - means.T + 1.0)
        around = np.sqrt(np.square(each - means[labels]).mean(axis=0))
        spread = np.sqrt(np.square(solve) @ np.square(around))
        words = "the model's posteriors of each class on auxiliary data are the batch's"
        return cls(solve.sum(axis=1), solve, spread, len(each), 0.0, words)

    @classmethod
    def uniform(cls, num_classes: int, spread: float = UNIFORM_SPREAD) -> MeanPosterior:
        """Assume p = 1/K for every class but for a systematic spread: an untrained model."""
        even = np.full(num_classes, 1 / num_classes)
        words = f"posteriors are 1/K within {spread:g} (an untrained model)"
        return cls(even, np.eye(num_classes), np.zeros(num_classes), np.inf, spread, words)

    def noise(self, sizes: Floats) -> Floats:
        """Return the error of the solved counts, ``candidates x K``."""
        n = sizes[:, None]
        drawn = self.spread**2 * (n + n**2 / self.drawn)
        return np.asarray(np.sqrt(drawn + n**2 * (self.systematic**2 + _LEAST_NOISE**2)))


def estimate_batch_size(
    observation: Observation,
    known: Knowledge,
    *,
    largest: int = 1024,
    reduction: Literal["mean", "sum"] = "mean",
    assume_uniform: bool = False,
    posterior: MeanPosterior | None = None,
) -> BatchSize:
    """Estimate N from the bias gradient b of one update.

    For softmax cross-entropy ``c_i = N (p_i - b_i)`` is exact, p the batch's mean posterior, and
    counts are whole numbers of at least 0. p follows the counts where the model tells classes
    apart, so both are solved for together (`MeanPosterior`). For each candidate N the counts
    that come out, x_i, are compared with whole numbers: with noise s of x_i the likelihood is
    ``sum_k Normal(x_i - k; s)`` over k from 0 on, a product over classes. A large N comes near
    whole numbers by chance, but its noise is wide and its density never much above 1.

    Without p, N cannot be told: a mean gradient stays the same when every sample is doubled.
    For the same reason even p leaves N open up to a common divisor of the counts: a batch of two
    of each class looks like one of each. The smallest such N is the answer.

    A client that sums its loss shares ``G = N b``, and ``c_i = N p_i - G_i``: doubling changes G,
    so a common divisor does no harm. Without p only ``N >= sum of max(0, -G_i)`` is certain.
    Assuming p = 1/K tells N only modulo K, beyond that bound; the smallest is the answer.

    Assumes hard labels and plain cross-entropy. Over several local steps N counts all labels and is
    a multiple of the steps; p is then the mean along the client's path, which is only near the
    model's for small learning rates. On a trained model posteriors differ so much from sample
    to sample that ``N (p - b)`` is noise, and the confidence says so.

    Args:
        observation: one update, without trial dimensions, with its bias gradient.
        known: model and auxiliary data, if granted.
        largest: largest N that is tried.
        reduction: how the client reduces its loss over the batch.
        assume_uniform: take p = 1/K instead of the model's, an assumption of its own.
        posterior: p, if it was made before; then the model is not run again for every update.

    Raises:
        NotApplicable: if the bias gradient or every source of p is missing.
        BadInput: for an update with trial dimensions, or no candidate to try.

    >>> import torch
    >>> bias = 1 / 4 - torch.tensor([3.0, 2.0, 1.0, 1.0]).double() / 7
    >>> found = estimate_batch_size(
    ...     Observation.from_gradient(None, bias), Knowledge(), assume_uniform=True)
    >>> found.num_samples
    7
    """
    if observation.bias is None:
        raise NotApplicable("the batch size is read from the bias gradient, which is not known")
    if observation.trials:
        raise BadInput("the batch size is estimated for one update at a time")
    held = posterior or _posterior(observation, known, assume_uniform)
    steps, gradient = observation.local_steps, observation.bias_gradient
    candidates = np.arange(steps, largest + 1, steps, dtype=np.float64)
    if not candidates.size:
        raise BadInput(f"with {steps} local steps there is no batch size up to {largest} to try")
    scale = candidates[:, None] if reduction == "mean" else 1.0
    counts = candidates[:, None] * held.mean - scale * (held.solve @ gradient)
    fits = _fit_to_whole(counts, held.noise(candidates))
    if reduction == "sum":  # a count's density given N, not given the share that it makes of N
        fits -= np.log1p(candidates)[:, None]
    # The last count follows from the others, so one class's worth of the fit tells nothing.
    logs = fits.sum(axis=1) * (1 - 1 / observation.num_classes)
    return _rank(candidates, logs, held.assumes)


def least_batch_size(bias: Floats) -> int:
    """Return the least N behind a summed bias gradient: ``sum of max(0, -G_i)``, rounded up.

    It holds for any model, since ``c_i = N p_i - G_i >= -G_i``; a mean gradient has no such bound.

    >>> least_batch_size(np.array([-2.4, -1.2, 3.6]))
    4
    """
    return max(1, int(np.ceil(np.maximum(-np.asarray(bias), 0.0).sum() - 1e-6)))


def _posterior(observation: Observation, known: Knowledge, assume_uniform: bool) -> MeanPosterior:
    if assume_uniform:
        return MeanPosterior.uniform(observation.num_classes)
    if known.model is None:
        raise NotApplicable(
            "the update does not tell it without the model, since a mean gradient stays the same "
            "when every sample is doubled; or give `model` and `auxiliary`, to read it off"
        )
    return MeanPosterior.from_model(known)


def _fit_to_whole(counts: Floats, noise: Floats) -> Floats:
    """Return the log density of figures around whole numbers from 0, wrapped where noise is wide.

    Above 5 standard deviations nothing is told from nothing; terms within 4 whole
    numbers of the figure hold all of the density while noise is at most 1, and wider noise
    makes it flat.
    """
    narrow = np.minimum(noise, 1.0)
    nearest = np.maximum(np.round(counts), 0.0)
    terms = []
    for shift in range(-4, 5):
        whole = nearest + shift
        term = -0.5 * ((counts - whole) / narrow) ** 2
        terms.append(np.where(whole >= 0, term, -np.inf))
    # Below 0 by more than the noise allows, even where that noise is wide.
    below = -0.5 * (np.minimum(counts, 0.0) / noise) ** 2
    inside = np.logaddexp.reduce(terms, axis=0) - np.log(narrow * np.sqrt(2 * np.pi))
    wide = noise > 1.0
    return np.where(wide, below, inside)


def _rank(candidates: Floats, logs: Floats, assumes: str) -> BatchSize:
    chances = np.exp(logs - logs.max())
    chances /= chances.sum()
    order = np.argsort(-chances, kind="stable")
    near = [place for place in order[:20] if chances[place] >= _TIE * chances[order[0]]]
    ties = tuple((int(candidates[place]), float(chances[place])) for place in near)
    return BatchSize(ties[0][0], ties[0][1], ties, assumes)


__all__ = ["BatchSize", "MeanPosterior", "estimate_batch_size", "least_batch_size"]

"""Look for a weight of positives that nobody told, by what own data tell of each label's rows.

For a plain loss the gradient of one sigmoid is a mean of M0 and M1, the mean gradients of samples
without and with the label, whose shares add up to 1; a weight w of positives makes that sum
``1 + (w - 1) s``. So a linear statistic that is 1 on M0 and on M1 is above 1 where w is, whatever
the counts. The statistic of least variance is found on one half of own data and judged on the other
half. The share that the bias gives must lie in 0 to 1, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np

from labelleak.core.counts import Floats
from labelleak.core.knowledge import Knowledge
from labelleak.core.observation import Observation
from labelleak.core.task import BY_POSITION
from labelleak.core.training import weight_each
from labelleak.core.white_box import WhiteBox
from labelleak.errors import NotApplicable

# Standard errors beyond which a plain loss is ruled out: of six labels in 1,200 right updates
# the largest were 4.8.
SIGMAS = 5.0
# Own inputs that are used, and the fewest of each kind in each half.
_LOOK, _FEWEST = 2048, 4
# Head inputs and labels beyond which nothing is fitted, which takes seconds then.
_WIDEST, _MOST_LABELS = 1024, 256
# Shrinkage of the covariance to a multiple of the identity.
_SHRINK = 0.1
# Largest relative error of counts, in so many standard errors, that is no doubt any more.
_SURE, _DOUBT = 0.25, 3.0


@dataclass(frozen=True, eq=False)
class _Sigmoid:
    """The statistic of one label, and how own data say it behaves.

    Attributes:
        vector: its factors, ``D + 1`` numbers, those of the bias last.
        means: its mean over samples without and with the label.
        spread: its standard deviation around each.
        sizes: own samples of each.
        posterior: mean and standard deviation of the posteriors, and number of samples.
    """

    vector: Floats
    means: Floats
    spread: Floats
    sizes: Floats
    posterior: tuple[float, float, int]

    def errors(self, gradient: Floats, size: int, weight: float) -> tuple[Floats, Floats, Floats]:
        """Return standard errors above and below a weight, and the doubt left of a count.

        Args:
            gradient: the label's row and bias, ``*R x (D + 1)``.
            size: N.
            weight: that of positives, 1 for a plain loss.
        """
        mean, deviation, count = self.posterior
        unit = mean + weight * (1 - mean)
        share = (mean - gradient[..., -1]) / unit
        of_share = deviation * np.sqrt(1 / size + 1 / count) / unit
        likely = np.clip(share, 0, 1)
        shares = np.stack((1 - likely, likely), axis=-1)
        weights = np.array([1.0, weight])
        drawn = shares / size + shares**2 / self.sizes
        error = np.sqrt(((weights * self.spread) ** 2 * drawn).sum(axis=-1))
        right = (weights * shares * self.means).sum(axis=-1)
        apart = (gradient @ self.vector - right) / error
        above = np.maximum(apart, (share - 1) / of_share)
        below = np.maximum(-apart, -share / of_share)
        return above, below, _DOUBT * error / np.maximum(share, 1e-9)


def look_for_weights(observation: Observation, known: Knowledge) -> tuple[Floats, bool]:
    """Return by how many standard errors what was told of w is missed, and whether w is sure.

    Where nothing was told, it is 1.

    Args:
        observation: updates of one or several sigmoids, ``*R``.
        known: the model and own data.

    Raises:
        NotApplicable: where the model, own data, N or a gradient's part is missing, and where
            inputs are positions of maps, which are no independent draws.
    """
    fits, labels = _fits_of(observation, known)
    size = observation.num_samples
    assert size is not None
    assert observation.weight is not None
    assert observation.bias is not None
    whole = np.concatenate(
        (
            observation.weight.detach().double().cpu().numpy(),
            observation.bias_gradient[..., None],
        ),
        axis=-1,
    )
    most = np.full(observation.trials, -np.inf)
    doubt = np.full(observation.trials, 0.0 if len(fits) == labels else np.inf)
    weights = weight_each(known.pos_weight, labels)
    for number, fit in fits.items():
        row = whole[..., 2 * number + 1, :]
        above, below, left = fit.errors(row, size, weights[number])
        if observation.local_steps > 1:  # gradients shrink on the way
            below, left = np.full_like(below, -np.inf), np.full_like(left, np.inf)
        most, doubt = np.maximum(most, np.maximum(above, below)), np.maximum(doubt, left)
    return most, bool((doubt < _SURE).all())


_KEPT: WeakKeyDictionary[WhiteBox, tuple[dict[int, _Sigmoid], int]] = WeakKeyDictionary()


def _fits_of(observation: Observation, known: Knowledge) -> tuple[dict[int, _Sigmoid], int]:
    model, data = known.model, known.auxiliary
    if model is None or data is None:
        raise NotApplicable("positives' weight is looked for with the model and own data")
    if observation.weight is None or observation.bias is None or observation.num_samples is None:
        raise NotApplicable("positives' weight is looked for in weight and bias, N being known")
    if not observation.lr_known or model.task in BY_POSITION:
        raise NotApplicable("positives' weight is looked for where sizes and draws are known")
    training = known.training
    if training is not None and training.optimiser not in (None, "sgd"):
        raise NotApplicable(f"{training.optimiser} scales every coordinate by itself")
    if observation.weight.shape[-1] > _WIDEST or observation.problems > _MOST_LABELS:
        raise NotApplicable("positives' weight is looked for in heads of moderate size")
    if model not in _KEPT:
        seen = model.run_all(data.inputs[:_LOOK])
        inputs = seen.inputs.detach().double().numpy()
        inputs = np.concatenate((inputs, np.ones((len(inputs), 1))), axis=1)
        chances = seen.probabilities.detach().double().numpy()[:, 1::2]
        labels = data.labels[:_LOOK].numpy().reshape(len(inputs), -1)
        found = {k: _fit(inputs, chances[:, k], labels[:, k]) for k in range(labels.shape[1])}
        _KEPT[model] = {k: one for k, one in found.items() if one is not None}, len(found)
    return _KEPT[model]


def _fit(inputs: Floats, chance: Floats, labels: Floats) -> _Sigmoid | None:
    """Fit on one half and judge on the other, both ways; None where own data are one-sided."""
    half = np.zeros(len(labels), dtype=bool)
    for label in (0, 1):
        half[np.flatnonzero(labels == label)[::2]] = True
    sizes = np.bincount(labels, minlength=2)
    if sizes.min() < 2 * _FEWEST:
        return None
    error = chance - labels
    vectors, parts = [], []
    for own in (half, ~half):
        vector = _statistic(error[own, None] * inputs[own], labels[own])
        value = error[~own] * (inputs[~own] @ vector)
        vectors.append(vector)
        parts.append([value[labels[~own] == label] for label in (0, 1)])
    return _Sigmoid(
        np.mean(vectors, axis=0),
        np.array([np.mean([one[label].mean() for one in parts]) for label in (0, 1)]),
        np.array([np.mean([one[label].std(ddof=1) for one in parts]) for label in (0, 1)]),
        sizes.astype(np.float64),
        (float(chance.mean()), float(chance.std()) + 1e-9, len(chance)),
    )


def _statistic(gradients: Floats, labels: Floats) -> Floats:
    """Return the linear statistic of least variance that is 1 on both means."""
    means = np.stack([gradients[labels == label].mean(axis=0) for label in (0, 1)], axis=1)
    around = gradients - means.T[labels]
    spread = around.T @ around / len(around)
    typical = np.trace(spread) / len(spread)
    spread = (1 - _SHRINK) * spread + (_SHRINK * typical + 1e-12) * np.eye(len(spread))
    turned = np.linalg.solve(spread, means)
    inner = means.T @ turned
    inner += 1e-9 * np.trace(inner) * np.eye(2)
    return np.asarray(turned @ np.linalg.solve(inner, np.ones(2)))


__all__ = ["SIGMAS", "look_for_weights"]

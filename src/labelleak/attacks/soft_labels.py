"""The soft label of a single sample: label smoothing or mixup, with or without a head bias."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from labelleak.core.card import Card
from labelleak.core.counts import Floats
from labelleak.core.interfaces import Attack, Estimate, Prepared, samples
from labelleak.core.knowledge import Knowledge
from labelleak.core.lazy import special
from labelleak.core.needs import READS_WEIGHT, Need
from labelleak.core.observation import Observation
from labelleak.core.rounding import round_counts
from labelleak.errors import BadInput
from labelleak.records.assumptions import SIZES, Assumption

MORE_SAMPLES = "more_than_one_sample"
# Lengths of h that are tried: this many on each side of 0, up to this many times the shortest
# possible one, and the most promising of them zoomed in upon.
_LENGTHS = 2000
_REACH = 1e4
_CANDIDATES = 8
_ZOOMS = 14
_ZOOM_POINTS = 33


@dataclass(frozen=True, eq=False)
class Recovered:
    """What the head gradient of one sample gives away.

    Attributes:
        label: soft label y, ``*R x K``; sums to 1.
        features: head input h, ``*R x D``.
        loss: how far y is from the assumed kind of label, ``*R``; 0 where it is in closed form.
    """

    label: Floats
    features: Floats
    loss: Floats


def recover_soft_label(
    weight_gradient: ArrayLike,
    bias_gradient: ArrayLike | None,
    head_weight: ArrayLike,
    head_bias: ArrayLike | None = None,
    *,
    mixed: int = 1,
) -> Recovered:
    """Recover the soft label and the head input of one sample from its head gradient.

    With ``e = p - y`` the weight gradient is ``e h^T`` and the bias gradient e. So with a bias,
    ``h = dW^T e / |e|^2`` and ``y = softmax(W h + b) - e``: exact for any soft label.

    Without a bias only the direction v of h is known, from ``dW = s u v^T``: ``h = m v`` and
    ``y(m) = softmax(m W v + b) - (s / m) u`` for an unknown length m of either sign. Smoothed
    labels have K - 1 equal entries and mixups of two K - 2, so m is where the variance of that
    many smallest entries of y(m) is least (Wang et al., ICLR 2024); here relative to
    ``|p - y|^2``, since it would vanish for a long enough h too. The search is deterministic: a
    grid from the shortest possible length, ``s / sqrt(2)`` since ``|p - y| <= sqrt(2)``, to 10^4
    times that, both signs, then its best dips zoomed in upon. The choice is made by that loss
    alone. It fails under noise, whose variance no length brings to 0, and for longer h.

    Edge cases: an all-zero gradient fits y = p at any h; h = 0 is taken. Without a bias, K must
    exceed `mixed` + 1 for a variance to be there at all; below, `mixed` is lowered, and for K = 2
    the label is taken to be hard and h to sum to 0 or more.

    Args:
        weight_gradient: ``*R x K x D``.
        bias_gradient: e, ``*R x K``, or None to search.
        head_weight: W, ``K x D``.
        head_bias: b, ``K``, or None for none.
        mixed: classes that stand out of a label: 1 for smoothing and hard labels, 2 for mixup.

    >>> head, h, y = np.array([[1.0, 0], [0, 1], [1, 1]]), np.array([0.5, -1]), [0.1, 0.2, 0.7]
    >>> e = special.softmax(head @ h) - y
    >>> recover_soft_label(np.outer(e, h), e, head).label.round(9).tolist()
    [0.1, 0.2, 0.7]
    """
    gradient, head = _floats(weight_gradient), _floats(head_weight)
    offset = np.zeros(len(head)) if head_bias is None else _floats(head_bias)
    if gradient.shape[-2:] != head.shape:
        raise BadInput(
            f"a weight gradient of shape {gradient.shape} does not fit a head of {head.shape}"
        )
    if mixed < 1:
        raise BadInput(f"mixed must be at least 1, not {mixed}")
    if bias_gradient is not None:
        return _closed_form(gradient, _floats(bias_gradient), head, offset)
    trials = gradient.shape[:-2]
    found = [_search(gradient[trial], head, offset, mixed) for trial in np.ndindex(trials)]
    return Recovered(
        np.reshape([one.label for one in found], (*trials, len(head))),
        np.reshape([one.features for one in found], (*trials, head.shape[1])),
        np.reshape([one.loss for one in found], trials),
    )


@dataclass(frozen=True)
class SoftLabel(Attack):
    """Read the label off one sample's gradient, by `recover_soft_label`.

    For a batch of one, hard, smoothed or mixed label (Wang et al., ICLR 2024). The counts are
    the soft label rounded, for N = 1 its largest entry; the scores are the soft label.
    A gradient of more samples is treated as that of one with the mean label, which it is not:
    N times that label is rounded and a note tells that the assumption is violated.

    Uses the bias gradient if there is one, then in closed form and for all trials at once;
    else about 4000 tried lengths of the head input, some 10 ms a trial at K = 100.

    Attributes:
        mixed: classes that stand out of a label, 2 for mixup; used only without a bias.
    """

    mixed: int = 1

    name = "soft_label"
    needs = READS_WEIGHT | {Need.MODEL}
    cite = "Wang et al., ICLR 2024 (soft labels)"
    card = Card(
        "soft label",
        SIZES
        | {
            Assumption.ONE_STEP,
            Assumption.PLAIN_STEPS,
            Assumption.EQUAL_CLASSES,
            Assumption.ONE_SAMPLE,
        },
        plain="Recovers the exact label, hard or soft, of a single sample.",
    )

    def prepare(self, known: Knowledge, num_classes: int, rng: np.random.Generator) -> Prepared:
        """Keep the head."""
        assert known.model is not None
        head = known.model.head_module.state_dict()
        weight, bias = head["weight"].double().cpu().numpy(), head.get("bias")
        offset = None if bias is None else bias.double().cpu().numpy()

        def answer(observation: Observation) -> Estimate:
            assert observation.weight is not None
            errors = None if observation.bias is None else observation.bias_gradient
            gradient = observation.weight.detach().cpu().double().numpy()
            label = recover_soft_label(gradient, errors, weight, offset, mixed=self.mixed).label
            total = samples(observation)
            notes = () if total == 1 else (MORE_SAMPLES,)
            return Estimate(round_counts(total * label, total), label, notes)

        return answer


def _closed_form(gradient: Floats, errors: Floats, head: Floats, offset: Floats) -> Recovered:
    power = np.square(errors).sum(axis=-1, keepdims=True)
    usable = power > np.finfo(np.float64).tiny
    features = np.where(
        usable, np.einsum("...i,...ij->...j", errors, gradient) / np.where(usable, power, 1.0), 0.0
    )
    label = special.softmax(features @ head.T + offset, axis=-1) - errors
    return Recovered(label, features, np.zeros(label.shape[:-1]))


def _search(gradient: Floats, head: Floats, offset: Floats, mixed: int) -> Recovered:
    """Recover one sample without a bias, by the length of its head input."""
    left, powers, right = np.linalg.svd(gradient, full_matrices=False)
    power, direction = float(powers[0]), right[0]
    if not power > np.finfo(np.float64).tiny:
        return Recovered(special.softmax(offset), np.zeros(head.shape[1]), np.asarray(0.0))
    equal = max(len(head) - mixed, 2)
    if len(head) == 2:
        label = np.eye(2)[gradient.sum(axis=1).argmin()]
        return Recovered(label, np.zeros(head.shape[1]), np.asarray(np.inf))
    pull, error = head @ direction, power * left[:, 0]

    def labels(lengths: Floats) -> Floats:
        logits = lengths[..., None] * pull + offset
        return np.asarray(special.softmax(logits, axis=-1) - error / lengths[..., None])

    def losses(lengths: Floats) -> Floats:
        spread = np.sort(labels(lengths), axis=-1)[..., :equal].var(axis=-1)
        return np.asarray(spread * np.square(lengths / power))

    steps = np.geomspace(1 - 1e-6, _REACH, _LENGTHS) * power / np.sqrt(2)
    best = min((_zoom(losses, side * steps) for side in (1.0, -1.0)), key=lambda found: found[1])
    length, loss = best
    return Recovered(labels(np.asarray(length)), length * direction, np.asarray(loss))


def _zoom(losses: Callable[[Floats], Floats], grid: Floats) -> tuple[float, float]:
    """Return the place and value of the least loss: the grid's best dips, each narrowed down."""
    values = losses(grid)
    padded = np.concatenate([[np.inf], values, [np.inf]])
    dips = np.flatnonzero((values <= padded[:-2]) & (values <= padded[2:]))
    dips = dips[np.argsort(values[dips], kind="stable")][:_CANDIDATES]
    low, high = grid[np.maximum(dips - 1, 0)], grid[np.minimum(dips + 1, len(grid) - 1)]
    parts = np.linspace(0, 1, _ZOOM_POINTS)
    rows = np.arange(len(dips))
    for _ in range(_ZOOMS):
        points = low[:, None] + (high - low)[:, None] * parts
        values = losses(points)
        lowest = values.argmin(axis=1)
        low = points[rows, np.maximum(lowest - 1, 0)]
        high = points[rows, np.minimum(lowest + 1, _ZOOM_POINTS - 1)]
    dip = int(values[rows, lowest].argmin())
    return float(points[dip, lowest[dip]]), float(values[dip, lowest[dip]])


def _floats(values: ArrayLike) -> Floats:
    return np.asarray(values, dtype=np.float64)

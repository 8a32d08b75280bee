"""Hold an update against the labels behind it, where who audits knows them.

One sample's bias gradient is ``p - y``, so with shares u of the loss a class's entry lies between
``-u_k`` and ``1 - u_k`` whatever the model answered. For a plain loss u is the share of the labels.
Own data narrow that down: p is then about what the model answers to samples of that class.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
from torch.nn.modules.batchnorm import _BatchNorm

from labelleak.core.absent_rows import negative_absent
from labelleak.core.assumptions import Flag
from labelleak.core.counts import Floats, Ints
from labelleak.core.entries import noise_size
from labelleak.core.knowledge import Knowledge
from labelleak.core.lazy import Tensor
from labelleak.core.limits import is_clean, why_not_judged
from labelleak.core.observation import Observation
from labelleak.core.scale import StepPath
from labelleak.core.task import Task
from labelleak.core.training import LocalTraining, weight_each
from labelleak.core.white_box import WhiteBox
from labelleak.errors import LabelleakError

# Room for rounding in half precision, against the largest entry, and for noise, in its deviations.
_ROUNDING, _SIGMAS = 0.01, 6.0
# How far own data's mean answers may be from the client's, in standard errors and beside them: so
# none of 900 plain updates of one softmax and of one and five sigmoids, untrained and trained, is
# refuted.
_APART, _SHIFT = 6.0, 0.02
# How far own data's size may be from the client's, beside standard errors.
_FACTOR = 0.1
# Own inputs looked at, of maps; the fewest of a class that tell its mean; and classes at most.
_LOOK, _IMAGES, _FEWEST, _MOST = 2048, 64, 8, 1000


@dataclass(frozen=True, eq=False)
class _Answers:
    """What a model answers to own samples of each class: ``problems x classes x rows``.

    Attributes:
        mean: the mean probabilities.
        variance: their variance from sample to sample.
        sizes: samples, ``problems x classes``.
        images: inputs that hold them.
        positions: labels of an input, of maps.
    """

    mean: Floats
    variance: Floats
    sizes: Floats
    images: int
    positions: int = 1


def check_labels(observation: Observation, counts: Ints, known: Knowledge) -> Iterator[Flag]:
    """Tell whether the loss that was told can have made an update of these labels.

    Nothing is said where the loss is known by who made the update, after an adaptive optimiser, a
    declared defense, or noise that shows in the sums over classes of a softmax.

    Args:
        observation: the update, trials ``*R``.
        counts: the true label counts, ``*R x K``.
        known: what was told of the training, the model and own data.
    """
    told = (known.training or LocalTraining()).filled()
    if observation.num_samples is None:
        return
    defended = observation.largest is not None
    weighted = len({*(told.class_weights or ())}) > 1
    soft = bool(told.label_smoothing) and (weighted or observation.paired)  # whose law has no form
    if defended or soft or why_not_judged(observation, known.training):
        return
    if observation.bias is None:
        below = None if told.label_smoothing else negative_absent(observation, counts, known)
        if below is not None:
            yield Flag("labels_inconsistent", below > 0, below)
        return
    each = _by_problem(observation, counts)
    gradient, shares, heavy = _of_loss(observation, each, told)
    noise = 0.0 if observation.paired else _SIGMAS * noise_size(observation)
    room = _ROUNDING * np.abs(gradient).max((-2, -1)) + noise
    even = known.batch_told and told.batch_size * observation.local_steps == observation.num_samples
    least, most = _bounds(observation, shares, heavy, told, even=even)
    apart = np.maximum(least - gradient, gradient - most).max((-2, -1))
    raised = apart > room
    if observation.local_steps == 1:
        expected = _expected(known, shares, heavy, each)
        if expected is not None:
            error, deviation = np.abs(gradient - expected[0]), expected[1]
            far = (error - _APART * deviation - _SHIFT).max((-2, -1))
            raised |= (far > room) | _is_scaled(gradient, *expected)
            apart = np.maximum(apart, far)
    # Of one logit nothing tells noise from another loss, so noise that nobody declared raises it.
    judged = observation.paired | is_clean(observation)
    yield Flag("labels_inconsistent", judged & raised, apart)


def _by_problem(observation: Observation, counts: Ints) -> Floats:
    """Return counts as ``*R x problems x classes``."""
    shape = (*observation.trials, observation.num_classes)
    whole = np.broadcast_to(counts, shape).astype(np.float64)
    return whole.reshape(*observation.trials, observation.problems, -1)


def _of_loss(
    observation: Observation, counts: Floats, told: LocalTraining
) -> tuple[Floats, Floats, Floats]:
    """Return the rows, the share of the loss of each class, and what a share weighs in the rows.

    Of a sigmoid only the row of what is there counts: the other one is its negative.
    """
    gradient = observation.bias_gradient.reshape(counts.shape)
    shares = counts / counts.sum(-1, keepdims=True)
    if observation.paired:
        positive = weight_each(told.pos_weight, observation.problems)
        heavy = np.stack([np.ones(observation.problems), np.asarray(positive)], -1)
        return gradient[..., 1:], shares, heavy
    weights = np.asarray(told.class_weights or (1.0,))
    shares = shares * weights
    return gradient, shares / shares.sum(-1, keepdims=True), np.ones(counts.shape[-2:])


def _bounds(
    observation: Observation, shares: Floats, heavy: Floats, told: LocalTraining, *, even: bool
) -> tuple[Floats, Floats]:
    """Return the least and the most that each row can be.

    Over several steps a label may weigh more, by momentum or in a batch that is smaller. A number
    of labels that the steps divide tells no even batches: 130 = 4 x 32 + 2.
    """
    smoothing, classes = told.label_smoothing or 0.0, shares.shape[-1]
    present = shares * heavy
    if not observation.paired:
        present = (1 - smoothing) * present + smoothing / classes
    rows = present[..., 1:] if observation.paired else present
    absent = shares[..., :1] if observation.paired else 1 - rows
    steps = observation.local_steps
    if steps == 1:
        return -rows, absent
    weights = StepPath.of(told).weights
    times = steps * weights.max() / weights.sum() if even and not told.class_weights else np.inf
    with np.errstate(invalid="ignore"):
        scaled = rows * times
    most = np.minimum(np.where(np.isnan(scaled), 0.0, scaled), heavy.max(-1, keepdims=True))
    return -most, np.ones_like(most)


def _expected(
    known: Knowledge, shares: Floats, heavy: Floats, counts: Floats
) -> tuple[Floats, Floats] | None:
    """Return each row as own data have it, with its standard deviation; None where they cannot."""
    told = (known.training or LocalTraining()).filled()
    if known.model is None or known.auxiliary is None or not known.weights_known:
        return None
    if told.label_smoothing or shares.shape[-1] > _MOST or known.model.task is Task.tokens:
        return None
    try:
        own = _answers(known)
    except LabelleakError:
        return None
    if own is None or own.mean.shape[:2] != shares.shape[-2:]:
        return None
    classes, rows = own.mean.shape[-2:]
    labels = np.eye(classes)[:, classes - rows :]
    part = (shares * heavy)[..., None]
    mean = (part * (own.mean - labels)).sum(-2)
    # Positions of one image are no draws of their own: there are as many as images.
    images = counts.sum(-1, keepdims=True) / own.positions
    many = np.maximum(np.minimum(counts, images), 1)
    most = np.maximum(np.minimum(own.sizes, own.images), 1)
    drawn = own.variance * (1 / many + 1 / most)[..., None]
    # Of a class that own data lack nothing is known.
    drawn = np.where(own.sizes[..., None] < _FEWEST, 1.0, drawn)
    return mean, np.sqrt((part**2 * drawn).sum(-2))


def _is_scaled(gradient: Floats, expected: Floats, deviation: Floats) -> np.ndarray:
    """Tell which trials' rows are as own data have them, but for a factor."""
    size = np.maximum((expected**2).sum((-2, -1)), 1e-300)
    factor = (gradient * expected).sum((-2, -1)) / size
    # Rows of one softmax hang together, which at most doubles the variance.
    error = np.sqrt(2 * (expected**2 * deviation**2).sum((-2, -1))) / size
    return np.asarray(np.abs(factor - 1) > _APART * error + _FACTOR)


_KEPT: WeakKeyDictionary[WhiteBox, _Answers | None] = WeakKeyDictionary()


def _answers(known: Knowledge) -> _Answers | None:
    """Measure the answers once a model; None where they hang on the batch."""
    model, data = known.model, known.auxiliary
    assert model is not None
    assert data is not None
    if model not in _KEPT:
        _KEPT[model] = None
        modules = model.module.modules()
        if not any(isinstance(one, _BatchNorm) and one.training for one in modules):
            _KEPT[model] = _measured(known, data.labels[:_LOOK])
    return _KEPT[model]


def _measured(known: Knowledge, labels: Tensor) -> _Answers:
    model, data = known.model, known.auxiliary
    assert model is not None
    assert data is not None
    images, positions = len(labels), 1
    if model.task is Task.dense:
        images, positions = min(images, _IMAGES), labels[0].numel()
        seen, labels = known.pass_own(most=images)
    else:
        seen = model.run_all(data.inputs[:_LOOK])
    own = labels.reshape(len(labels), -1).numpy()
    problems = own.shape[1]
    each = seen.probabilities.detach().double().numpy().reshape(len(own), problems, -1)
    classes = each.shape[-1]
    rows = each[..., 1:] if model.form.paired else each
    shape = (problems, classes, rows.shape[-1])
    mean, variance = np.zeros(shape), np.zeros(shape)
    sizes = np.stack([np.bincount(own[:, j], minlength=classes) for j in range(problems)])
    for j in range(problems):
        for k in np.flatnonzero(sizes[j]):
            some = rows[own[:, j] == k, j]
            # A sample unlike all others may be among the client's: once in as many.
            mean[j, k] = some.mean(0)
            variance[j, k] = some.var(0) + 1 / (min(len(some), images) + 1)
    return _Answers(mean, variance, sizes.astype(np.float64), images, positions)


__all__ = ["check_labels"]

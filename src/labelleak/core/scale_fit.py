"""The factor on an update, by least squares on class-mean head gradients of the attacker's data.

A right mean gradient is a mean of per-class means (with the class shares as weights) and noise.
So a linear statistic that is 1 on every class mean is 1 on the update, whatever its labels, and
its spread between samples says how near.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from labelleak.core.counts import Floats, Ints
from labelleak.core.entries import noise_size
from labelleak.core.knowledge import Knowledge
from labelleak.core.lazy import torch
from labelleak.core.limits import is_clean
from labelleak.core.observation import Observation
from labelleak.core.task import Task
from labelleak.core.white_box import HeadPass
from labelleak.errors import NotApplicable
from labelleak.records.states import State

# Own samples that are used, and the fewest of a class: half of them fit, half of them judge.
_LOOK = 2048
_FEWEST = 4
# Own images that are used of maps, and rows of them.
_IMAGES, _MOST_ROWS = 256, 3000
_MOST_CLASSES = 256
# Standard deviations that the interval spans on each side.
_SIGMAS = 3.0
# Gradient scalers start at 65,536 and move by factors of two.
_SCALERS = tuple(2.0**power for power in range(8, 25))
# What -1 is called.
TURNED = "the sign turned round"
# A client may smooth this share of a label, which moves the factor and may turn its sign.
_MOST_SMOOTHING = 0.5


@dataclass(frozen=True)
class ScaleFit:
    """What own data say of the factor on an update.

    Attributes:
        factor: the likeliest one; 1 for a right update.
        low: lower end of its interval, the class shares and the noise open.
        high: upper end; infinite where nothing bounds it.
        suspect: the one usual cause that explains it, in words; empty where none or several do.
        repair: the factor of that cause, to divide by; None where nothing is to be repaired.
        state: held where the interval holds 1 and no usual cause, failed where it excludes 1.
    """

    factor: float
    low: float
    high: float
    suspect: str
    repair: float | None
    state: State

    def __str__(self) -> str:
        if not np.isfinite(self.high):
            ends = f"{self.low:.3g} or more" if np.isfinite(self.low) else "any factor"
        elif not np.isfinite(self.low):
            ends = f"at most {self.high:.3g}"
        else:
            ends = f"{self.low:.3g} to {self.high:.3g}"
        return f"{self.factor:.3g} ({ends})"

    @property
    def bounded(self) -> bool:
        """Whether own data bound it at all."""
        return bool(np.isfinite([self.low, self.high]).any())


@dataclass(frozen=True, eq=False)
class _Statistic:
    """A linear statistic's value on the update and, class by class, on own data.

    Attributes:
        value: on the update.
        means: its mean on each class, which is about 1.
        errors: standard error of the update's mean around those, class by class.
        smoothed: how a class's mean moves as its labels are smoothed.
        noise: standard deviation that the update's own noise gives it.
    """

    value: float
    means: Floats
    errors: Floats
    smoothed: Floats
    noise: float

    def reach(self, smoothing: float = 0.0) -> tuple[float, float]:
        """Return the values that a right update may give."""
        around, means = _SIGMAS * self.errors, self.means + smoothing * self.smoothed
        return float((means - around).min()), float((means + around).max())

    def interval(self) -> tuple[float, float]:
        """Return the factors that explain the value."""
        low, high = self.reach()
        ends = [self.value + way * _SIGMAS * self.noise for way in (-1, 1)]
        if low <= 0:  # a right update may give 0, so no factor is too large
            return (-np.inf, np.inf) if high <= 0 or ends[0] < 0 else (ends[0] / high, np.inf)
        found = [end / bound for end in ends for bound in (low, high)]
        return min(found), max(found)

    def may_be_smoothed(self) -> bool:
        """Return whether smoothing alone could give the value."""
        ends = [end for share in (0.0, _MOST_SMOOTHING) for end in self.reach(share)]
        return min(ends) <= self.value <= max(ends)


def fit_scale(observation: Observation, known: Knowledge) -> ScaleFit:
    """Fit the factor on one update, with the interval that the attacker's own data allow.

    Args:
        observation: one update, without trial dimensions.
        known: the model and labelled data of the attacker's own.

    Raises:
        NotApplicable: where the model, data of every class, N or the weight gradient is missing,
            or the optimiser scales every coordinate by itself.
    """
    statistic = _measure(observation, known)
    low, high = statistic.interval()
    if observation.local_steps > 1:
        # The model moved, so the gradient shrank on the way: only too large a factor shows.
        low, high = low if low > 1 else -np.inf, np.inf
    factor = statistic.value / float(statistic.means.mean())
    suspects = _suspects(observation)
    fits = [cause for cause in suspects if low <= cause <= high]
    if low <= 1 <= high:
        state = State.not_known if fits else State.held
        return ScaleFit(factor, low, high, "", None, state)
    cause = fits[0] if len(fits) == 1 else None
    repair = cause
    if repair is not None and not _may_repair(repair, observation, known, statistic):
        repair = None
    words = "" if cause is None else suspects[cause]
    return ScaleFit(factor, low, high, words, repair, State.failed)


def fit_each(observation: Observation, known: Knowledge) -> ScaleFit:
    """Fit the factor; of several labels one by one, where own data have inputs with and without it.

    Returns:
        The fit, or of several labels one that is off, else one that is not known to hold, if there
        is any. The factor of one label is no repair of all.

    Raises:
        NotApplicable: as `fit_scale`, if it does for every label; where the client's weights are
            not known.
    """
    if not known.weights_known:
        raise NotApplicable("with fresh weights of the model it cannot be measured")
    if {*known.pos_weight} - {1.0}:
        raise NotApplicable("with a `pos_weight` the scale is judged together with it")
    if observation.problems == 1:
        return fit_scale(observation, known)
    found, why = [], ""
    for number in range(observation.problems):
        try:
            found.append(fit_scale(observation.of_problem(number), known.of_label(number)))
        except NotApplicable as reason:
            why = str(reason)
    if not found:
        raise NotApplicable(why)
    order = (State.failed, State.not_known, State.held)
    worst = min(found, key=lambda fit: (order.index(fit.state), -abs(fit.factor - 1)))
    return replace(worst, repair=None)


def repair(observation: Observation, fit: ScaleFit) -> Observation:
    """Divide an update by the factor of the one usual cause that explains it."""
    factor = fit.repair
    assert factor is not None
    rest = observation.rest
    return replace(
        observation,
        weight=None if observation.weight is None else observation.weight / factor,
        bias=None if observation.bias is None else observation.bias / factor,
        rest=None if rest is None else {name: t / factor for name, t in rest.items()},
        scale=State.repaired,
    )


def _suspects(observation: Observation) -> dict[float, str]:
    """Name the usual causes by the factor that each puts on an update."""
    size, steps = observation.num_samples or 1, observation.local_steps
    causes = dict.fromkeys(_SCALERS, "a gradient scaler that was not undone")
    causes |= {
        float(steps): f"a sum over {steps} steps in place of their mean",
        1 / steps: f"a division by {steps} steps too many",
        float(size): f"a loss summed over {size} samples",
        1 / size: f"a second division by {size} samples",
        -1.0: TURNED,
    }
    causes.pop(1.0, None)
    return causes


def _may_repair(
    factor: float, observation: Observation, known: Knowledge, statistic: _Statistic
) -> bool:
    """Refuse a repair that clipping, smoothing, noise or compression could call for wrongly."""
    if not bool(is_clean(observation)) or statistic.may_be_smoothed():
        return False
    clip = None if known.training is None else known.training.clip_norm
    return abs(factor) >= 1 or clip == np.inf


def _measure(observation: Observation, known: Knowledge) -> _Statistic:
    if known.model is None or known.auxiliary is None:
        raise NotApplicable("the scale is measured with the model and data of one's own")
    if observation.weight is None or observation.num_samples is None:
        raise NotApplicable("the scale is measured on the weight gradient, N being known")
    if known.training is not None and known.training.optimiser not in (None, "sgd"):
        raise NotApplicable(f"{known.training.optimiser} scales every coordinate by itself")
    if known.model.task is Task.tokens or observation.problems > 1:
        raise NotApplicable("the scale is measured where each input has one label")
    classes, size = observation.num_classes, observation.num_samples
    if classes > _MOST_CLASSES:
        raise NotApplicable(f"the scale is measured with at most {_MOST_CLASSES} classes")
    seen, labels, images = _own_rows(known)
    if np.bincount(labels, minlength=classes).min() < _FEWEST:
        raise NotApplicable(
            f"the scale is measured with {_FEWEST} samples of one's own of each class"
        )
    inputs = seen.inputs.detach().double()
    gradient = observation.weight.detach().double().cpu()
    if observation.bias is not None:
        inputs = torch.cat([inputs, torch.ones(len(inputs), 1).double()], dim=1)
        gradient = torch.cat([gradient, observation.bias.detach().double().cpu()[:, None]], dim=1)
    errors = seen.probabilities.detach().double().numpy() - np.eye(classes)[labels]
    noise = float(noise_size(observation))
    return _reduce(inputs.numpy(), errors, labels, gradient.numpy(), size, noise, images)


def _own_rows(known: Knowledge) -> tuple[HeadPass, Ints, Ints | None]:
    """Return what the head shows of own data, a row a label, its class, and of maps its image."""
    assert known.model is not None
    assert known.auxiliary is not None
    if known.model.task is not Task.dense:
        seen, labels = known.pass_own(most=_LOOK)
        return seen, labels.numpy(), None
    data = known.auxiliary
    seen, each = known.model.run_all(data.inputs[:_IMAGES]), data.labels[:_IMAGES]
    labels = each.flatten()
    if len(seen.inputs) != len(labels):
        raise NotApplicable("the scale is measured where each position has a label of its own")
    held = torch.nonzero(labels >= 0)[:, 0]
    if len(held) > _MOST_ROWS:
        order = torch.randperm(len(held), generator=torch.Generator().manual_seed(0))
        held = held[order[:_MOST_ROWS].sort().values]
    logits = seen.logits[held]
    images = (held // each[0].numel()).numpy()
    return HeadPass(seen.inputs[held], logits, logits), labels[held].numpy(), images


def _reduce(
    inputs: Floats,
    errors: Floats,
    labels: np.ndarray,
    gradient: Floats,
    size: int,
    noise: float,
    images: Ints | None,
) -> _Statistic:
    """Find the statistic on one half of the data, and how it behaves on the other half.

    Pixels of one image are no draws of their own: halves are of images, and so are errors.
    With per-sample gradients ``e h^T`` all inner products with class means are those of errors
    times those of inputs, so nothing of the gradient's own size is held.
    """
    classes = gradient.shape[0]
    fitting = np.zeros(len(labels), dtype=bool) if images is None else images % 2 == 0
    for label in range(classes if images is None else 0):
        fitting[np.flatnonzero(labels == label)[::2]] = True
    if min(np.bincount(labels[half], minlength=classes).min() for half in (fitting, ~fitting)) < 2:
        raise NotApplicable("the scale is measured with images of one's own that hold each class")
    own, other = labels[fitting], labels[~fitting]
    shares = (own[:, None] == np.arange(classes)) / np.bincount(own, minlength=classes)
    alike = inputs @ inputs[fitting].T
    products = ((errors @ errors[fitting].T) * alike) @ shares
    targets = np.eye(classes)[labels] - 1 / classes
    smoothed = ((targets @ errors[fitting].T) * alike) @ shares
    means = shares.T @ products[fitting]
    around = products[fitting] - means[own]
    ridge = around.T @ around / len(own) / size
    ridge += 1e-9 * np.trace(means.T @ means) / classes * np.eye(classes)
    weights = np.linalg.solve(means.T @ means + ridge, means.sum(axis=0))
    value = np.einsum("nk,kd,nd->n", errors[fitting], gradient, inputs[fitting]) @ shares @ weights
    by_class = [products[~fitting][other == label] @ weights for label in range(classes)]
    spread = np.array([one.std(ddof=1) for one in by_class])
    drawn = np.array([1 / size + 1 / len(one) for one in by_class])
    errors_of = spread * np.sqrt(drawn)
    if images is not None:
        around_mean = (
            products[~fitting] @ weights - np.array([one.mean() for one in by_class])[other]
        )
        errors_of = np.full(classes, _between(around_mean, images[~fitting], size))
    turned = [smoothed[~fitting][other == label].mean(axis=0) @ weights for label in range(classes)]
    return _Statistic(
        float(value),
        np.array([one.mean() for one in by_class]),
        errors_of,
        np.array(turned),
        noise * float(np.sqrt(max(weights @ means @ weights, 0.0))),
    )


def _between(around: Floats, images: Ints, size: int) -> float:
    """Return the standard error of an update's mean, of which whole images were drawn."""
    _, numbers, pixels = np.unique(images, return_inverse=True, return_counts=True)
    each = np.bincount(numbers, around) / pixels.mean()
    drawn = max(1.0, size / pixels.mean())
    return float(each.std(ddof=1) * np.sqrt(1 / drawn + 1 / len(each)))


__all__ = ["TURNED", "ScaleFit", "fit_each", "fit_scale", "repair"]

"""Hard limits on scale and sign: what no gradient of a mean softmax cross-entropy can be.

One sample's bias gradient is ``p - y``: two points of the simplex apart, so its entries sum to 0
and its L1 norm is at most 2. Means with any weights, over samples and steps, keep both. Each
limit is derived in docs/limits.md, with what breaks it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from labelleak.core.counts import Floats
from labelleak.core.entries import distinct_sizes, noise_size, stands_out, sum_rests
from labelleak.core.lazy import torch
from labelleak.core.observation import Observation
from labelleak.core.once import once
from labelleak.core.training import LocalTraining, weight_each
from labelleak.records.states import State

# Largest L1 norm of a bias gradient.
LARGEST = 2.0
# Room for rounding in half precision, and for terms undone on the straight line.
_ROUNDING = 0.01
# Sums over classes that are left of a gradient without noise, against its size; without the
# weight's many columns one sum must do, which noise comes near by chance.
_CLEAN = 0.01
_CLEAN_BIAS_ALONE = 1e-4
# Share of the rarer sign from which a row may be noise.
_MIXED = 0.1
# Standard deviations of noise that a limit leaves room for.
_SIGMAS = 6.0
# No client is taken to smooth more of a label than this, nor to mix more labels into one.
_MOST_SMOOTHING = 0.5
_MOST_MIXED = 2


@dataclass(frozen=True, eq=False)
class Limits:
    """How an update stands to the limits, trial by trial (``*R``).

    Attributes:
        times: L1 norm of the bias gradient against the largest possible.
        scale: where no right update is so large, or N labels that were told to be hard, to weigh
            alike and to be of one step cannot make it.
        sign: where the update cannot be right, and its negative can.
        negative: classes with a negative entry, of which each proves its presence.
        needed: hard labels of one weight that the negative entries need at least; 0 where noise,
            several steps or other labels leave no such bound.
        otherwise: state of scale and sign where neither is impossible.
        why: why they are not known, in words.
    """

    times: Floats
    scale: np.ndarray
    sign: np.ndarray
    negative: Floats
    needed: Floats
    otherwise: State
    why: str

    def state(self, of: np.ndarray) -> State:
        """Return the state of scale or sign over all trials."""
        return State.impossible if of.any() else self.otherwise


def check_limits(observation: Observation, training: LocalTraining | None = None) -> Limits:
    """Hold an update against what is possible.

    Nothing is impossible where the scale is held by who made the update, where the learning rate
    is not known, after an adaptive optimiser, and where sums over classes or few distinct sizes
    show noise, compression or another loss that nobody declared.

    Args:
        observation: the update.
        training: what is known of the client's training.

    >>> import torch
    >>> bias = torch.tensor([-0.5, 0.25, 0.25]).double()
    >>> found = check_limits(Observation.from_gradient(None, 32 * bias, num_samples=32))
    >>> float(found.times), bool(found.scale)
    (16.0, True)
    """
    return _checked(observation, training)


@once
def _checked(observation: Observation, training: LocalTraining | None) -> Limits:
    """Do what `check_limits` does, once for the checks and the finding of an update."""
    none = np.zeros(observation.trials, dtype=bool)
    if observation.bias is None:
        why = "without a bias gradient no size is impossible: head inputs may have any size"
        return _unsettled(observation, none, none * 0.0, why)
    gradient = observation.bias_gradient
    each = gradient.reshape(*gradient.shape[:-1], observation.problems, -1)
    heaviest = np.maximum(1.0, _positives(training, observation.problems))
    times = (np.abs(each).sum(axis=-1) / heaviest).max(axis=-1) / LARGEST
    negative = (gradient < 0).sum(axis=-1).astype(np.float64)
    why = why_not_judged(observation, training)
    if why:
        return _unsettled(observation, none, times, why, negative)
    noise, clean = noise_size(observation), is_clean(observation)
    room = observation.num_classes * noise * np.sqrt(2 / np.pi)
    room = room + _SIGMAS * noise * np.sqrt(observation.num_classes)
    scale = clean & (LARGEST * times > LARGEST * (1 + _ROUNDING) + room)
    if observation.largest is not None:
        scale = LARGEST * times > observation.largest * (1 + _ROUNDING)
    sign, needed = none, none * 0.0
    one = not observation.paired  # a pair's signs and sizes fit any N
    if one and observation.num_samples is not None and observation.largest is None:
        needed = (clean & ~scale) * _needed(observation, training, _SIGMAS * noise)
        sign = clean & ~scale & _is_flipped(observation, training, _SIGMAS * noise)
        if _is_plain(training):
            scale |= ~sign & (needed > observation.num_samples)
    why = "a factor below 1 cannot be seen without the model and data of one's own"
    if not clean.all():
        why = "sums over classes show noise, compression or another loss"
        if observation.paired:
            why = "one logit's gradient does not tell noise from scale"
    return Limits(times, scale, sign, negative, needed, _otherwise(observation), why)


def _positives(training: LocalTraining | None, labels: int) -> Floats:
    """Return the weight of each label's positives."""
    return np.asarray(weight_each(None if training is None else training.pos_weight, labels))


def _otherwise(observation: Observation) -> State:
    known = (State.held, State.repaired)
    return observation.scale if observation.scale in known else State.not_known


def _unsettled(
    observation: Observation,
    none: np.ndarray,
    times: Floats,
    why: str,
    negative: Floats | None = None,
) -> Limits:
    rest = np.zeros(none.shape) if negative is None else negative
    return Limits(times, none, none, rest, none * 0.0, _otherwise(observation), why)


def why_not_judged(observation: Observation, training: LocalTraining | None) -> str:
    """Say why no size is held against the loss; empty where it is."""
    if observation.scale is State.held:
        return "it is as whoever made the update left it"
    if not observation.lr_known:
        return "the learning rate is not known"
    if training is not None and training.optimiser not in (None, "sgd"):
        return f"{training.optimiser} scales every coordinate by itself"
    if observation.largest == np.inf:
        return "the declared defense leaves no size impossible"
    return ""


@once
def is_clean(observation: Observation) -> np.ndarray:
    """Tell which trials show neither noise nor compression nor another loss."""
    if observation.paired:
        return ~is_like_noise(observation)
    of_weight, of_bias = sum_rests(observation)
    assert of_bias is not None
    _, few = distinct_sizes(observation)
    limit = _CLEAN_BIAS_ALONE if of_weight is None else _CLEAN
    rest = of_bias if of_weight is None else np.maximum(of_weight, of_bias)
    clean = stands_out(observation) & (rest <= limit) & ~few
    if observation.num_classes == 2 and observation.weight is not None:
        # Both classes' entries are held back and sent alike by compression with error feedback,
        # so sums stay 0; only its empty columns show.
        clean &= observation.sums.live >= 0.5 * observation.weight.shape[-1]
    return np.asarray(clean)


def is_like_noise(observation: Observation) -> np.ndarray:
    """Tell which trials' gradients of one logit noise might have made.

    Its two rows sum to 0 whatever was done to it, so what shows is that noise reaches every entry,
    with signs of either kind: what has dead columns or signs nearly all alike is none.
    """
    if observation.weight is None:
        return np.ones(observation.trials, dtype=bool)
    rows = observation.weight.detach()[..., 1::2, :]
    above, below = ((rows > 0).double().mean(-1), (rows < 0).double().mean(-1))
    mixed = torch.minimum(above, below) > _MIXED
    return np.asarray((mixed & (above + below == 1)).any(-1).cpu().numpy())


def _is_flipped(
    observation: Observation, training: LocalTraining | None, noise: Floats
) -> np.ndarray:
    """Tell which trials' negatives are possible where they themselves are not.

    N samples have at most N classes, and a class that is absent has a negative entry only by
    smoothing, of at least -smoothing / K. Where labels may be smoothed or mixed, room is left.
    """
    size, classes = observation.num_samples, observation.num_classes
    assert size is not None
    gradient, slack = observation.bias_gradient, np.asarray(noise)[..., None]
    told = training is not None and training.label_smoothing is not None
    smoothing = training.label_smoothing if told and training else _MOST_SMOOTHING
    least = (smoothing or 0.0) / classes + slack
    most = size if told else _MOST_MIXED * size
    present = (gradient < -least).sum(axis=-1)
    return np.asarray((present > most) & (least_samples(-gradient, size, slack) <= size))


def _is_plain(training: LocalTraining | None) -> bool:
    """Tell whether hard labels, equal weights and one step were told, none of them assumed."""
    if training is None or training.local_steps != 1 or training.label_smoothing != 0:
        return False
    return training.class_weights is not None and len({*training.class_weights}) <= 1


def _needed(
    observation: Observation, training: LocalTraining | None, noise: Floats
) -> Floats | float:
    """Return how many hard labels an update of one step needs; 0 where others were told."""
    smoothed = training is not None and bool(training.label_smoothing)
    weighted = training is not None and len({*(training.class_weights or ())}) > 1
    if observation.local_steps > 1 or smoothed or weighted:
        return 0.0
    assert observation.num_samples is not None
    slack = np.asarray(noise)[..., None]
    return least_samples(observation.bias_gradient, observation.num_samples, slack)


def least_samples(gradient: Floats, size: int, slack: Floats | float = 0.0) -> Floats:
    """Return how many of N hard, equally weighted labels the negative entries need at least.

    ``N g_k = sum p_k - c_k >= -c_k``, so class k has at least ``ceil(N max(0, -g_k))`` labels; a
    sum above N is impossible.

    >>> gradient = np.array([-0.9, 0.1, 0.8])
    >>> float(least_samples(gradient, 1)), float(least_samples(-gradient, 1))
    (1.0, 2.0)
    """
    needed = size * np.maximum(-gradient - slack, 0.0)
    return np.asarray(np.ceil(needed * (1 - _ROUNDING) - _ROUNDING).sum(axis=-1))


def suspect(
    limits: Limits,
    observation: Observation,
    momentum: float | None = None,
    *,
    moved: bool = False,
) -> str:
    """Say what most likely made an update of an impossible scale, and the cure.

    Args:
        limits: how it stands to them.
        observation: the update.
        momentum: what is known of the client's.
        moved: whether it came as a change of weights, which the learning rate and the steps scale.
    """
    times, needed = float(np.max(limits.times)), float(np.max(limits.needed))
    size, steps = observation.num_samples, observation.local_steps
    if times <= 1 and size is not None and needed > size:
        return (
            f"its negative entries need at least {needed:.0f} hard labels of one weight, and there "
            f"are {size}: is the number of labels told too small, or are they smoothed, mixed or "
            "weighted, or the sign or the size of the update wrong? then tell them"
        )
    said = f"the bias gradient is {times:.3g} times the largest possible"
    if size is not None and size / 12 <= times <= size:
        cure = (
            f"is the loss summed over {size} samples? then {_cure(size, moved)}; or do gradients "
            "of several batches add up, with no `zero_grad` between them?"
        )
    elif times <= 20 and steps == 1:
        cure = "were several local steps or momentum not told? then give them"
        cure = "was momentum not told? then give it" if moved else cure
    elif times <= 20:
        kept = "" if momentum else ", or momentum not told"
        fewer = "" if moved else f" or are {steps} steps too few?"
        cure = f"did momentum outlast the round{kept}?{fewer}"
    else:
        cure = (
            "was it read before the gradient scaler had unscaled it (65,536 is usual), or is the "
            "learning rate told too small?"
        )
    first = ""
    if moved:  # nearer at hand than what the client's code does
        first = (
            f"is the learning rate told too small, or were there more local steps than {steps}? "
            "then tell them; or "
        )
    return f"{said}: {first}{cure}"


def _cure(size: int, moved: bool) -> str:
    return f"tell {size} times the learning rate" if moved else f"divide the gradient by {size}"


__all__ = [
    "LARGEST",
    "Limits",
    "check_limits",
    "is_clean",
    "least_samples",
    "suspect",
    "why_not_judged",
]

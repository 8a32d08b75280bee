"""The factor on an update of several steps, by clients that are simulated on own data.

Over several steps the model moves, so no linear statistic of the model as it was sent bounds the
factor. A client with the labels that the update shows, trained as the client is said to have
trained, moves the head along ``M``; the update's own size along it is ``g M / M^2``. Other clients,
simulated on other own data with labels drawn alike, say how far that figure strays by chance.
"""

from __future__ import annotations

import math

import numpy as np

from labelleak.attacks.client_training import SimulatedClient, head_entries
from labelleak.core.counts import Floats
from labelleak.core.knowledge import Knowledge
from labelleak.core.lazy import optimize
from labelleak.core.observation import Observation
from labelleak.core.scale_fit import TURNED, ScaleFit
from labelleak.core.task import Task
from labelleak.core.white_box import WhiteBox
from labelleak.errors import NotApplicable
from labelleak.records.states import State

# Clients that are simulated to measure the spread, and inputs of a class in each step.
_CLIENTS, _PER_CLASS = 8, 4
# Factor by which a right update may stray further than they do: other inputs, fewer of them.
_ROOM = 2.5
# Largest over least of theirs; beyond it few samples make the movement, and own ones do not tell.
_SPREAD = 2.0
# Inputs times parameters that are passed at most, and numbers in the class means.
_MOST_WORK, _MOST_NUMBERS = 5e9, 2e7


def simulate_scale(observation: Observation, known: Knowledge) -> ScaleFit:
    """Fit the factor on one update of several steps; it is failed, or not known.

    Args:
        observation: one update, without trial dimensions.
        known: the model, labelled data of the attacker's own, and how the client trained.

    Raises:
        NotApplicable: where the client cannot be simulated, or its likes stray too far.
    """
    model = _refuse(observation, known)
    rng, classes = np.random.default_rng(0), observation.num_classes
    client = SimulatedClient.of(known, classes, _PER_CLASS, rng)
    with_bias = observation.bias is not None and model.head_bias is not None
    means = _class_means(known, classes, with_bias)
    seen = head_entries(observation, with_bias)
    value, shares = _along(seen, means, client, with_bias)
    size = (observation.num_samples or 1) // observation.local_steps or 1
    others = []
    for _ in range(_CLIENTS):
        other = SimulatedClient.of(known, classes, _PER_CLASS, rng)
        drawn = rng.multinomial(size, shares, size=observation.local_steps) / size
        moved = head_entries(_observed(other.movement(drawn)), with_bias)
        others.append(_along(moved, means, client, with_bias)[0])
    low, high = min(others), max(others)
    if not 0 < low <= high <= _SPREAD * low:
        raise NotApplicable("clients that are simulated on own data move too differently to tell")
    return _fit(value, low, high, float(np.median(others)))


def _fit(value: float, low: float, high: float, middle: float) -> ScaleFit:
    """Say which factors explain a value, where right ones lie between low and high."""
    least, most = sorted((value / (high * _ROOM), value * _ROOM / low))
    turned = value <= -low / _ROOM
    if value < 0 and not turned:  # so small that its sign says nothing
        most = -least
    state = State.not_known if least <= 1 <= most else State.failed
    return ScaleFit(value / middle, least, most, TURNED if turned else "", None, state)


def _refuse(observation: Observation, known: Knowledge) -> WhiteBox:
    """Return the model, where the client can be simulated with it.

    Raises:
        NotApplicable: saying what is missing.
    """
    model, data, how = known.model, known.auxiliary, known.training
    if model is None or data is None or not known.weights_known:
        raise NotApplicable("a client is simulated with the model and data of one's own")
    if how is None or how.lr is None or observation.weight is None:
        raise NotApplicable("a client is simulated with its learning rate and weight gradient")
    if how.optimiser not in (None, "sgd") or model.task is not Task.classes:
        raise NotApplicable("the scale is simulated of SGD with one label an input")
    classes, width = observation.weight.shape
    passed = (2 * _CLIENTS + 1) * observation.local_steps * classes * _PER_CLASS
    numbers = sum(parameter.numel() for parameter in model.module.parameters())
    if passed * numbers > _MOST_WORK or classes * classes * width > _MOST_NUMBERS:
        raise NotApplicable("simulating so many steps of so large a model takes long")
    return model


def _class_means(known: Knowledge, classes: int, with_bias: bool) -> Floats:
    """Return each class's mean head gradient on own data, as `head_entries` lays it out."""
    seen, labels = known.pass_own(most=2048)
    one_hot = np.eye(classes)[labels.numpy()]
    errors = seen.probabilities.detach().double().cpu().numpy() - one_hot
    inputs = seen.inputs.detach().double().cpu().numpy()
    number = np.maximum(one_hot.sum(axis=0), 1.0)[:, None]
    weight = np.einsum("nc,nk,nd->ckd", one_hot, errors, inputs, optimize=True)
    flat = weight.reshape(classes, -1) / number
    return np.concatenate([flat, one_hot.T @ errors / number], axis=1) if with_bias else flat


def _along(
    seen: Floats, means: Floats, client: SimulatedClient, with_bias: bool
) -> tuple[float, Floats]:
    """Return a movement's size along that of a client with its labels, and their shares."""
    try:
        found = [optimize.nnls(means.T, way * seen) for way in (1, -1)]
    except (RuntimeError, ValueError) as error:  # it gave up, or means are not finite
        raise NotApplicable("own data do not tell the update's labels") from error
    shares, _ = min(found, key=lambda one: float(one[1]))
    total = float(shares.sum())
    if not total > 0:
        raise NotApplicable("the update shows no labels of own data")
    even = np.tile(shares / total, (len(client.picks), 1))
    moved = head_entries(_observed(client.movement(even)), with_bias)
    square = float(moved @ moved)
    if not (square > 0 and math.isfinite(square)):
        raise NotApplicable("a client that is simulated on own data does not move")
    return float(seen @ moved) / square, shares / total


def _observed(moved: Observation | None) -> Observation:
    if moved is None:
        raise NotApplicable("training that is simulated on own data diverges, as it was told")
    return moved


__all__ = ["simulate_scale"]

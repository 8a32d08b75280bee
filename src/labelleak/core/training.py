"""How a client trained: what is known of it, and what an imitator takes where nothing is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

from labelleak.errors import BadInput, shown

# Of these an imitator can take steps; what each does linearly is undone (`core.scale`).
OPTIMISERS = ("sgd", "adam", "adamw", "rmsprop")
# Files come from anybody; no honest number is larger.
LARGEST_COUNT, LARGEST_NUMBER = 10**9, 1e30


@dataclass(frozen=True)
class LocalTraining:
    """How the client turned the model it got into the one it returned; None is not known.

    All of it is what a server usually hands out with the model, so an attacker may know it. What
    is known to be absent has a value of its own: 0 for momentum, weight decay, proximal term and
    label smoothing, ``math.inf`` for the clipping norm, ``()`` for class weights.

    Attributes:
        lr: learning rate.
        local_steps: optimiser steps.
        batch_size: labels per step.
        momentum: SGD momentum.
        weight_decay: L2 factor; for adamw the decoupled one.
        optimiser: sgd, adam, adamw or rmsprop.
        dampening: SGD dampening.
        nesterov: whether the momentum is Nesterov's.
        proximal: FedProx's pull mu towards the weights that the server sent.
        clip_norm: each step's gradient is scaled down to this L2 norm.
        label_smoothing: share of each label spread evenly over all classes, in [0, 1).
        class_weights: weight of each class in the loss (mean reduction divides by their sum over
            the batch).

    Raises:
        BadInput: for a value out of its range, naming it.
    """

    lr: float | None = None
    local_steps: int | None = None
    batch_size: int | None = None
    momentum: float | None = None
    weight_decay: float | None = None
    optimiser: str | None = None
    dampening: float | None = None
    nesterov: bool | None = None
    proximal: float | None = None
    clip_norm: float | None = None
    label_smoothing: float | None = None
    class_weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for name, (fits, range_) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not fits(value):
                raise BadInput(f"{name} must be {range_}, not {shown(value)}")
        if self.nesterov and (self.momentum == 0 or self.dampening):
            raise BadInput("Nesterov momentum needs a momentum above 0 and no dampening")

    def over(self, other: LocalTraining) -> LocalTraining:
        """Fill in from another what is not known here.

        >>> LocalTraining(lr=0.1).over(LocalTraining(lr=0.5, batch_size=4)).known
        {'lr': 0.1, 'batch_size': 4}
        """
        return LocalTraining(**{**other.known, **self.known})

    @property
    def known(self) -> dict[str, Any]:
        """What is known, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def to_json(self) -> dict[str, Any]:
        """Return what is known in JSON's terms, which has no infinity: it is the text ``inf``."""
        return {n: "inf" if value == math.inf else value for n, value in self.known.items()}

    @staticmethod
    def of_json(told: Mapping[str, Any]) -> LocalTraining:
        """Take from a file what is there; what `to_json` gave comes back.

        >>> LocalTraining.of_json(LocalTraining(clip_norm=math.inf).to_json()).clip_norm
        inf
        """
        known = {name: told.get(name) for name in _RANGES}
        if known["clip_norm"] == "inf":
            known["clip_norm"] = math.inf
        if isinstance(known["class_weights"], list):
            known["class_weights"] = tuple(known["class_weights"])
        return LocalTraining(**known)

    def filled(self) -> FullTraining:
        """Return the training that an imitator takes: what is known, else one plain step of SGD.

        >>> how = LocalTraining(lr=0.1, batch_size=4).filled()
        >>> how.optimiser, how.momentum, "momentum" in how.unknown
        ('sgd', 0.0, True)
        """
        unknown = tuple(name for name, value in vars(self).items() if value is None)
        return FullTraining(**self.known, unknown=unknown)


@dataclass(frozen=True)
class FullTraining(LocalTraining):
    """A training of which nothing is open, as who takes the steps needs it.

    Attributes:
        unknown: what `LocalTraining.filled` had to take from the values below.

    >>> FullTraining(lr=0.1).local_steps
    1
    """

    lr: float = 1.0
    local_steps: int = 1
    batch_size: int = 1
    momentum: float = 0.0
    weight_decay: float = 0.0
    optimiser: str = "sgd"
    dampening: float = 0.0
    nesterov: bool = False
    proximal: float = 0.0
    clip_norm: float = math.inf
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] = ()
    unknown: tuple[str, ...] = field(default=(), compare=False, repr=False)

    def filled(self) -> FullTraining:
        """Return itself."""
        return self

    @property
    def known(self) -> dict[str, Any]:
        """What was told, by name."""
        told = {name: value for name, value in vars(self).items() if name not in self.unknown}
        told.pop("unknown")
        return told


def _whole(value: Any) -> bool:
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    return whole and 1 <= int(value) <= LARGEST_COUNT


def _number(fits: Callable[[float], bool], most: float = LARGEST_NUMBER) -> Callable[[Any], bool]:
    """Test for a number in a range; NaN is in none."""

    def test(value: Any) -> bool:
        plain = isinstance(value, Real) and not isinstance(value, bool)
        return plain and bool(value <= most) and fits(value)

    return test


def _weights(values: Any) -> bool:
    above = _number(lambda value: value > 0)
    return isinstance(values, tuple) and all(above(value) for value in values)


_AT_LEAST_0 = (_number(lambda value: value >= 0), "a number of at least 0")
_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "lr": (_number(lambda value: value > 0), "a number above 0"),
    "local_steps": (_whole, "a whole number of at least 1"),
    "batch_size": (_whole, "a whole number of at least 1"),
    "momentum": (_number(lambda value: 0 <= value < 1), "in [0, 1)"),
    "weight_decay": _AT_LEAST_0,
    "optimiser": (OPTIMISERS.__contains__, "one of " + ", ".join(OPTIMISERS)),
    "dampening": _AT_LEAST_0,
    "nesterov": (lambda value: isinstance(value, bool), "true or false"),
    "proximal": _AT_LEAST_0,
    "clip_norm": (_number(lambda value: value > 0, math.inf), "a number above 0"),
    "label_smoothing": (_number(lambda value: 0 <= value < 1), "in [0, 1)"),
    "class_weights": (_weights, "numbers above 0, one a class"),
}

__all__ = ["OPTIMISERS", "FullTraining", "LocalTraining"]

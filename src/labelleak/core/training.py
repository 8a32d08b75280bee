"""How a client trained: what is known of it, and what an imitator takes where nothing is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from numbers import Integral, Real
from typing import Annotated, Any, get_args

from labelleak.errors import BadInput, fields_checked, shown
from labelleak.records.options import Option, declared, list_item

# Of these an imitator can take steps; what each does linearly is undone (`core.scale`).
OPTIMISERS = ("sgd", "adam", "adamw", "rmsprop")
# Files come from anybody; no honest number is larger.
LARGEST_COUNT, LARGEST_NUMBER = 10**9, 1e30


LR = Option("The client's learning rate.", above=0)
BATCH_SIZE = Option("Labels per local step.", min=1)
MOMENTUM = Option("The client's SGD momentum.", min=0, below=1)
WEIGHT_DECAY = Option("The client's L2 factor.", min=0)


@dataclass(frozen=True, eq=False)
class TrainingFacts:
    """What may be told of a client's training, declared once; None is not known.

    What is known to be absent has a value of its own: 0 for momentum, weight decay, proximal term
    and label smoothing, ``math.inf`` for the clipping norm, ``()`` for class and positive weights.

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
            the batch); of several labels that of each label.
        pos_weight: how much more a label that is there weighs than one that is not, in a binary
            cross-entropy: one number for all labels, or one a label.
        loss_share: what the head's mean loss was multiplied with: its share, where several heads
            have one; 1 for none.

    Raises:
        BadInput: for a value out of its range, naming it.
    """

    lr: Annotated[float | None, LR] = None
    local_steps: Annotated[int | None, Option("The client's optimiser steps.", min=1)] = None
    batch_size: Annotated[int | None, BATCH_SIZE] = None
    momentum: Annotated[float | None, MOMENTUM] = None
    weight_decay: Annotated[float | None, WEIGHT_DECAY] = None
    optimiser: Annotated[str | None, Option("sgd, adam, adamw or rmsprop.")] = None
    dampening: Annotated[float | None, Option("Its dampening.", min=0)] = None
    nesterov: Annotated[bool | None, Option("Its momentum is Nesterov's.")] = None
    proximal: Annotated[float | None, Option("FedProx's pull.", min=0)] = None
    clip_norm: Annotated[
        float | None,
        Option("L2 norm that each step is clipped to; inf for none.", above=0, infinite=True),
    ] = None
    label_smoothing: Annotated[
        float | None, Option("Share of each label that is spread evenly.", min=0, below=1)
    ] = None
    class_weights: Annotated[
        tuple[float, ...] | None,
        Option("Weight of each class in the loss; '' for equal ones.", above=0, repeats=True),
    ] = None
    pos_weight: Annotated[
        tuple[float, ...] | None,
        Option("BCE's pos_weight, one or one a label; '' for none.", above=0, repeats=True),
    ] = None
    loss_share: Annotated[
        float | None, Option("Factor on the head's mean loss; 1 for none.", above=0)
    ] = None

    def __post_init__(self) -> None:
        for name, kind, option in declared(TrainingFacts):
            value = getattr(self, name)
            if value is not None and option is not None and not _fits(value, kind, option):
                raise BadInput(f"`{name}` must be {_words(kind, option)}, not {shown(value)}")
        if self.optimiser not in (None, *OPTIMISERS):
            known = ", ".join(OPTIMISERS)
            raise BadInput(f"`optimiser` must be one of {known}, not {shown(self.optimiser)}")
        if self.nesterov and (self.momentum == 0 or self.dampening):
            raise BadInput("Nesterov momentum needs a momentum above 0 and no dampening")

    @property
    def told(self) -> LocalTraining:
        """What was told, as a training by itself."""
        names = [name for name, _, _ in declared(TrainingFacts)]
        return LocalTraining(**{name: getattr(self, name) for name in names})


@fields_checked
@dataclass(frozen=True)
class LocalTraining(TrainingFacts):
    """How the client turned the model it got into the one it returned; see `TrainingFacts`.

    All of it is what a server usually hands out with the model, so an attacker may know it.

    Raises:
        BadInput: for a value out of its range, naming it.
    """

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
        known = {name: told.get(name) for name, _, _ in declared(TrainingFacts)}
        if known["clip_norm"] == "inf":
            known["clip_norm"] = math.inf
        for name in ("class_weights", "pos_weight"):
            listed = known[name]
            if isinstance(listed, list):
                known[name] = tuple(listed)
        return LocalTraining(**known)

    @property
    def unscaled(self) -> LocalTraining:
        """The same training with the plain mean loss, whose head takes the same steps.

        SGD on s times a loss goes as on the loss alone with s times the rate, if decay, pull and
        clipping norm are divided by s. Adam and RMSprop take the factor out themselves.

        >>> how = LocalTraining(lr=0.5, weight_decay=0.1, loss_share=0.5).unscaled
        >>> how.lr, how.weight_decay, how.loss_share
        (0.25, 0.2, 1.0)
        """
        factor = self.loss_share
        if factor is None or factor == 1:
            return self
        if self.optimiser not in (None, "sgd"):
            return replace(self, loss_share=1.0)
        bent = {name: getattr(self, name) for name in ("weight_decay", "proximal", "clip_norm")}
        divided = {name: value and value / factor for name, value in bent.items()}
        return replace(self, lr=self.lr and self.lr * factor, loss_share=1.0, **divided)

    def filled(self) -> FullTraining:
        """Return the training that an imitator takes: what is known, else one plain step of SGD.

        >>> how = LocalTraining(lr=0.1, batch_size=4).filled()
        >>> how.optimiser, how.momentum, "momentum" in how.unknown
        ('sgd', 0.0, True)
        """
        return _filled(self, tuple(map(_kind_of, vars(self).values())))


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
    pos_weight: tuple[float, ...] = ()
    loss_share: float = 1.0
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


@lru_cache(maxsize=256)
def _filled(training: LocalTraining, kinds: tuple[Any, ...]) -> FullTraining:
    """Fill in a training, which an audit asks for several times an update.

    Numbers of other kinds are equal (1, 1.0 and numpy's own), and what is answered to one who tells
    the one must not hold the other.
    """
    unknown = tuple(name for name, value in vars(training).items() if value is None)
    return FullTraining(**training.known, unknown=unknown)


def _kind_of(value: Any) -> Any:
    return tuple(map(type, value)) if isinstance(value, tuple) else type(value)


def weight_each(weights: tuple[float, ...] | None, labels: int) -> tuple[float, ...]:
    """Return a positive weight for each label, of one or of one a label; 1 where none was told.

    Raises:
        BadInput: for another number of weights.

    >>> weight_each((3.0,), 2), weight_each(None, 2)
    ((3.0, 3.0), (1.0, 1.0))
    """
    told = weights or (1.0,)
    if len(told) not in (1, labels):
        raise BadInput(f"`pos_weight` has {len(told)} numbers, the head has {labels} labels")
    return told if len(told) == labels else told * labels


def _fits(value: Any, kind: Any, option: Option) -> bool:
    """Return whether a value is of its kind and in its range; NaN is in none."""
    if list_item(kind) is not None:
        plain = isinstance(value, tuple)
        return plain and all(_is_number(v, Real) and option.refuse(v) is None for v in value)
    one = _plain(kind)
    if one in (bool, str):
        return isinstance(value, one)
    whole = one is int
    most = LARGEST_COUNT if whole else math.inf if option.infinite else LARGEST_NUMBER
    fits = _is_number(value, Integral if whole else Real) and bool(value <= most)
    return fits and option.refuse(value) is None


@cache
def _plain(kind: Any) -> Any:
    """Return the type that a fact has where it is told."""
    return get_args(kind)[0]


def _is_number(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _words(kind: Any, option: Option) -> str:
    if list_item(kind) is not None:
        return "numbers above 0, one a class or label"
    one = _plain(kind)
    if one in (bool, str):
        return "true or false" if one is bool else "text"
    low = f"above {option.above:g}" if option.above is not None else f"of at least {option.min:g}"
    high = "" if option.below is None else f" and below {option.below:g}"
    return f"a {'whole ' if one is int else ''}number {low}{high}"


__all__ = [
    "BATCH_SIZE",
    "LR",
    "MOMENTUM",
    "OPTIMISERS",
    "WEIGHT_DECAY",
    "FullTraining",
    "LocalTraining",
    "TrainingFacts",
    "weight_each",
]

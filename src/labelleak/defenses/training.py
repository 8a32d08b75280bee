"""Defenses that change what the client trains on: labels, mixed samples, dropout at the head."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import exp, isinf
from typing import Any, ClassVar

import numpy as np

from labelleak.core.knowledge import LabelledData
from labelleak.core.lazy import F, Tensor, nn, torch
from labelleak.core.update import Memory, Scope, SharedTensors
from labelleak.core.white_box import WhiteBox
from labelleak.defenses.client import TrainingChange
from labelleak.defenses.composition import Part
from labelleak.defenses.facts import POOLED, Ladders
from labelleak.defenses.text import at_least_zero, share
from labelleak.errors import BadInput


class TrainingDefense(TrainingChange, Part):
    """Base of defenses that act while the client trains; the update itself they leave alone.

    Attributes:
        changes_training: always true.
    """

    changes_training = True
    scope = Scope.ENTRY

    def apply(
        self, update: SharedTensors, rng: np.random.Generator, memory: Memory | None = None
    ) -> tuple[SharedTensors, Memory | None]:
        """Return the update as it is: what there was to do was done in training."""
        return update, memory


@dataclass(frozen=True)
class LabelSmoothing(TrainingDefense):
    """Train on ``(1 - a) e_y + a / K`` in place of the one-hot label e_y.

    Each sample then adds ``p - (1 - a) e_y - a / K`` to the bias gradient: the same line with a
    smaller step, so an attacker who knows a loses nothing.

    Attributes:
        amount: a, in [0, 1).
    """

    amount: float

    name = "label_smoothing"
    example = "label_smoothing:0.3"
    leaves_open = (
        (
            "It shifts what attackers assume by an amount that is the same for every batch; one "
            "who knows of it takes it back."
        ),
    )
    ladders: ClassVar[Ladders] = {
        "label_smoothing": tuple(f"label_smoothing:{a / 10:g}" for a in range(1, 10))
    }

    def __post_init__(self) -> None:
        share(self.amount, "the amount of label smoothing")
        if self.amount == 1:
            raise BadInput("label smoothing of 1 leaves no label to learn; give an amount below 1")

    @property
    def is_off(self) -> bool:
        """Whether labels stay as they are."""
        return self.amount == 0

    def change_batch(
        self, inputs: Tensor, targets: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Smooth the targets."""
        return inputs, (1 - self.amount) * targets + self.amount / targets.shape[1]

    def alter_table(
        self, model: WhiteBox, data: LabelledData, inputs: Tensor, errors: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Add what the smoothed targets take away from the errors."""
        one_hot = F.one_hot(data.labels, errors.shape[1]).to(errors)
        return inputs, errors + self.amount * (one_hot - 1 / errors.shape[1])


@dataclass(frozen=True)
class Mixup(TrainingDefense):
    """Train on mixtures of pairs of samples and of their labels (Zhang et al., ICLR 2018).

    Each sample is mixed with another of its batch, ``l x_i + (1 - l) x_j`` with l drawn from
    Beta(alpha, alpha) once a batch. Every label's total weight in the batch stays what it was.

    Attributes:
        alpha: concentration; 0 mixes nothing.
    """

    alpha: float

    name = "mixup"
    example = "mixup:1"
    leaves_open = (
        "Labels are mixed within a batch, so how many there are of each class stays as it was.",
    )
    ladders: ClassVar[Ladders] = {
        "mixup": tuple(f"mixup:{alpha}" for alpha in (0.1, 0.2, 0.4, 1.0, 2.0, 4.0))
    }

    def __post_init__(self) -> None:
        at_least_zero(self.alpha, "mixup's alpha")

    @property
    def is_off(self) -> bool:
        """Whether nothing is mixed."""
        return self.alpha == 0

    def change_batch(
        self, inputs: Tensor, targets: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Mix samples and targets with those of a random order of the batch."""
        if self.is_off:
            return inputs, targets
        if not inputs.is_floating_point():
            raise BadInput("mixup mixes real-valued inputs; these are whole numbers, such as words")
        weight = float(rng.beta(self.alpha, self.alpha))
        order = torch.from_numpy(rng.permutation(len(inputs)))
        return (
            weight * inputs + (1 - weight) * inputs[order],
            weight * targets + (1 - weight) * targets[order],
        )


@dataclass(frozen=True)
class RandomisedResponse(TrainingDefense):
    """Exchange labels at random before each use (Warner, 1965; K-ary as in label-DP).

    A label stays with chance ``e^eps / (e^eps + K - 1)`` and else becomes one of the others,
    each alike: eps-differential privacy of each label at each use. Inputs are not protected.

    Attributes:
        epsilon: eps, at least 0; 0 makes labels random, inf keeps them.
    """

    epsilon: float

    name = "randomised_response"
    example = "randomised_response:1"
    leaves_open = (
        (
            "The labels that are trained on are exchanged at random; inputs are not, and they "
            "tell of their labels too."
        ),
        POOLED,
    )
    ladders: ClassVar[Ladders] = {
        "randomised_response": tuple(
            f"randomised_response:{e}" for e in (8, 4, 2, 1, 0.5, 0.25, 0.1)
        )
    }

    def __post_init__(self) -> None:
        if not self.epsilon >= 0:
            raise BadInput(f"epsilon must be at least 0 (inf for off), not {self.epsilon:g}")

    @property
    def is_off(self) -> bool:
        """Whether labels stay as they are."""
        return isinf(self.epsilon)

    def keeps(self, num_classes: int) -> float:
        """Return the chance that a label stays."""
        return 1 / (1 + (num_classes - 1) * exp(-self.epsilon))

    def change_batch(
        self, inputs: Tensor, targets: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Exchange the entry of the label with that of another class, where chance says so."""
        own, classes = targets.argmax(dim=1, keepdim=True), targets.shape[1]
        shift = torch.from_numpy(rng.integers(1, classes, size=own.shape))
        stays = torch.from_numpy(rng.random(own.shape) < self.keeps(classes))
        other = torch.where(stays, own, (own + shift) % classes)
        changed = targets.scatter(1, own, targets.gather(1, other))
        return inputs, changed.scatter(1, other, targets.gather(1, own))


@dataclass(frozen=True)
class HeadDropout(TrainingDefense):
    """Drop head inputs at random in training, and scale up the rest.

    Dropped are features, before the head. (LLG's public code drops logits, after it.)

    Attributes:
        rate: chance that a head input is dropped, in [0, 1).
    """

    rate: float

    name = "head_dropout"
    example = "head_dropout:0.5"
    leaves_open = (
        (
            "It drops other inputs of the head for every sample; over a batch each class still "
            "shows."
        ),
    )
    ladders: ClassVar[Ladders] = {
        "head_dropout": tuple(f"head_dropout:{rate / 10:g}" for rate in range(1, 10))
    }

    def __post_init__(self) -> None:
        share(self.rate, "the dropout rate")
        if self.rate == 1:
            raise BadInput("a dropout rate of 1 leaves no head input; give a rate below 1")

    @property
    def is_off(self) -> bool:
        """Whether nothing is dropped."""
        return self.rate == 0

    @contextmanager
    def during(self, model: WhiteBox, rng: np.random.Generator) -> Iterator[None]:
        """Drop in front of the head."""

        def drop(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            kept = torch.from_numpy(rng.random(tuple(args[0].shape)) >= self.rate)
            return (args[0] * kept.to(args[0]) / (1 - self.rate), *args[1:])

        hook = model.head_layer.register_forward_pre_hook(drop)
        try:
            yield
        finally:
            hook.remove()

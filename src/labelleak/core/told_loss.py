"""Class weights and smoothing that were told are undone, for attacks that take the plain loss."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from labelleak.core.card import card_of
from labelleak.core.interfaces import Attack, Prepared, prepare
from labelleak.core.knowledge import Knowledge
from labelleak.core.lazy import Tensor, torch
from labelleak.core.needs import Need
from labelleak.core.observation import Observation
from labelleak.core.training import LocalTraining
from labelleak.errors import NotApplicable
from labelleak.records.assumptions import Assumption

# Own inputs whose errors are measured, made-up ones where there are none, classes at most.
_OWN, _DUMMIES, _MOST_CLASSES = 2048, 256, 1000


@dataclass(frozen=True, eq=False)
class ToldLoss:
    """What a softmax cross-entropy with class weights or smoothing made of a plain gradient.

    A sample of class j has in the mean the error m_j = E[p - e_j]. With weights w the update is
    ``sum_j u_j m_j`` with u_j = c_j w_j / sum c w; with smoothing e it is
    ``sum_j s_j (m_j + e (e_j - 1/K))`` with s_j = c_j / N. Either is solved for u or s, and what
    the plain loss would have made less is taken out. That is exact where samples of a class are
    alike, and as good as a posterior from own data is else.

    Attributes:
        weights: w, one a class; empty for equal ones.
        smoothing: e.
        errors: p - e_y of own samples, ``n x K``; one of a class that own data lack is the mean
            posterior's.
        labels: their classes.
        inputs: their head inputs, ``n x D``; None without a model.
    """

    weights: tuple[float, ...]
    smoothing: float
    errors: Tensor
    labels: Tensor
    inputs: Tensor | None = None

    @classmethod
    def of(cls, known: Knowledge, classes: int, training: LocalTraining) -> ToldLoss:
        """Measure the errors with what an attack is granted; without a model all p are 1/K."""
        if classes > _MOST_CLASSES:
            raise NotApplicable(f"weights and smoothing are undone up to {_MOST_CLASSES} classes")
        told = (training.class_weights or (), training.label_smoothing or 0.0)
        every = torch.eye(classes, dtype=torch.float64)
        if known.model is None or (known.auxiliary is None and known.input_shape is None):
            return cls(*told, 1 / classes - every, torch.arange(classes))
        labels = torch.zeros(0, dtype=torch.int64)
        if known.auxiliary is not None:
            seen, labels = known.pass_own(most=_OWN)
        else:
            made = torch.Generator().manual_seed(0)
            assert known.input_shape is not None
            seen = known.model.run(torch.rand(_DUMMIES, *known.input_shape, generator=made))
        chances, inputs = seen.probabilities.detach().double(), seen.inputs.detach().double()
        lacking = torch.from_numpy(np.setdiff1d(np.arange(classes), labels.numpy()))
        errors = torch.cat(
            (chances[: len(labels)] - every[labels], chances.mean(0) - every[lacking])
        )
        mean = inputs.mean(0).expand(len(lacking), -1)
        rows = torch.cat((inputs[: len(labels)], mean))
        return cls(*told, errors, torch.cat((labels, lacking)), rows)

    def undo(self, observation: Observation) -> Observation:
        """Return the observation as the plain loss makes it.

        Raises:
            NotApplicable: if neither the bias nor a model tells the shares of classes.
        """
        weight, bias = observation.weight, observation.bias
        means = self._means(self.errors)
        shares = self._solve(weight, bias, means)
        classes = len(means)
        if self.smoothing:
            moved = self.smoothing * (1 / classes - shares)
            rows = self._spread(shares)
        else:
            plain = shares / torch.tensor(self.weights, dtype=torch.float64)
            change = plain / plain.sum(-1, keepdim=True) - shares
            moved = change @ means
            rows = self._rows(change)
        mended = None if bias is None else bias + moved.to(bias)
        if weight is not None and rows is not None:
            weight = weight + rows.to(weight)
        elif weight is not None and bias is not None and mended is not None:
            # All inputs are taken to be alike, so a row is its bias times their mean.
            ratio = torch.where(bias == 0, torch.ones_like(bias), mended / bias)
            weight = weight * ratio[..., None]
        return replace(observation, weight=weight, bias=mended)

    def _means(self, values: Tensor) -> Tensor:
        """Return the mean of each class."""
        counts = torch.bincount(self.labels).double()[:, None]
        found = torch.zeros(len(counts), values.shape[1], dtype=torch.float64)
        return found.index_add_(0, self.labels, values) / counts

    def _spread(self, shares: Tensor) -> Tensor | None:
        """Return the weight's gradient of hard labels less that of smoothed ones."""
        if self.inputs is None:
            return None
        each = shares[..., None] * self._means(self.inputs)
        return self.smoothing * (each.mean(-2, keepdim=True) - each)

    def _rows(self, change: Tensor) -> Tensor | None:
        """Return what a change of the classes' shares makes of the weight's gradient."""
        if self.inputs is None:
            return None
        each = (change / torch.bincount(self.labels).double())[..., self.labels]
        found: Tensor = (each[..., None] * self.errors).mT @ self.inputs
        return found

    def _solve(self, weight: Tensor | None, bias: Tensor | None, means: Tensor) -> Tensor:
        """Return the classes' shares of the loss that explain an update best, ``*R x K``."""
        seen = bias
        if seen is None and weight is not None and self.inputs is not None:
            way = self.inputs.mean(0)
            way = way / way.square().sum().clamp_min(1e-300)
            seen, means = (
                weight.double() @ way,
                self._means(self.errors * (self.inputs @ way)[:, None]),
            )
        if seen is None:
            raise NotApplicable(
                "without the bias or the model, the loss's weights cannot be undone"
            )
        classes = len(means)
        every = torch.eye(classes, dtype=torch.float64)
        bent = means + self.smoothing * (every - 1 / classes)
        system = torch.cat((bent.T, torch.ones(1, classes, dtype=torch.float64)))
        one = torch.ones(*seen.shape[:-1], 1, dtype=torch.float64)
        wanted = torch.cat((seen.detach().double().cpu(), one), -1)
        found: Tensor = (wanted @ torch.linalg.pinv(system).T).clamp_min(0.0)
        return found / found.sum(-1, keepdim=True).clamp_min(1e-300)


@dataclass(frozen=True)
class PlainLoss:
    """Lets an attack on the plain loss answer an update of one with weights or smoothing.

    Attributes:
        attack: the attack.
        training: what was told of the client's.
    """

    attack: Any
    training: LocalTraining

    def __getattr__(self, name: str) -> Any:
        """Return what is known of the attack."""
        if name.startswith("__") or "attack" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.attack, name)

    def prepare(self, known: Knowledge, num_classes: int, rng: np.random.Generator) -> Prepared:
        """Get ready for the plain loss, and take out of each update what was told of another."""
        if {Need.FULL_GRADIENT, Need.DEFENSE} & set(self.attack.needs):
            raise NotApplicable(f"{self.attack.name} reads layers that the loss bent, too")
        told = known.training and replace(known.training, class_weights=(), label_smoothing=0.0)
        plain = replace(known, training=told)
        ready = prepare(self.attack, plain, num_classes, rng)
        undo = ToldLoss.of(known.granted(self.attack.needs), num_classes, self.training).undo
        return lambda seen: ready(undo(seen))


def undoes(training: LocalTraining | None) -> Assumption | None:
    """Return which assumption on the loss was told not to hold and is undone; None if none is.

    >>> undoes(LocalTraining(class_weights=(1.0, 2.0))).name, undoes(LocalTraining())
    ('EQUAL_CLASSES', None)
    """
    if training is None or {*(training.pos_weight or ())} - {1.0}:
        return None
    weighted = len({*(training.class_weights or ())}) > 1
    if weighted == bool(training.label_smoothing):  # neither, or both at once
        return None
    return Assumption.EQUAL_CLASSES if weighted else Assumption.HARD_LABELS


def for_told_loss(attacks: Iterable[Attack], training: LocalTraining | None) -> tuple[Attack, ...]:
    """Return attacks that answer as if the loss were plain; those that know another stay."""
    undone = undoes(training)
    if training is None or undone is None:
        return tuple(attacks)
    return tuple(
        cast(Attack, PlainLoss(one, training)) if undone in card_of(one).assumes else one
        for one in attacks
    )


__all__ = ["PlainLoss", "ToldLoss", "for_told_loss", "undoes"]

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

    A sample of class j has in the mean the error m_j = E[p - e_j]. With weights w and smoothing e
    the update is ``sum_j u_j b_j`` with u_j = c_j w_j / sum c w and
    ``b_j = (1 - e) m_j + e (sum(w) E[p] - w) / (K w_j)``. That is solved for u, which gives the
    shares c_j / N, and what the plain loss would have made less is taken out. It is exact where
    samples of a class are alike, and as good as a posterior from own data is else.

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
        bent = self._bent()
        found = self._solve(weight, bias, bent)
        shares = found / self._each_weight
        shares = shares / shares.sum(-1, keepdim=True).clamp_min(1e-300)
        moved = shares @ self._means(self.errors) - found @ self._means(bent)
        mended = None if bias is None else bias + moved.to(bias)
        if weight is not None and self.inputs is not None:
            # Of each own sample what the plain loss makes of it, less what this one does.
            sizes = torch.bincount(self.labels).double()
            each = (shares / sizes)[..., self.labels, None] * self.errors
            each = each - (found / sizes)[..., self.labels, None] * bent
            weight = weight + (each.mT @ self.inputs).to(weight)
        elif weight is not None and bias is not None and mended is not None:
            # All inputs are taken to be alike, so a row is its bias times their mean.
            ratio = torch.where(bias == 0, torch.ones_like(bias), mended / bias)
            weight = weight * ratio[..., None]
        return replace(observation, weight=weight, bias=mended)

    @property
    def _each_weight(self) -> Tensor:
        classes = self.errors.shape[1]
        return torch.tensor(self.weights or (1.0,) * classes, dtype=torch.float64)

    def _bent(self) -> Tensor:
        """Return what the loss makes of each own sample, over its class's weight."""
        weights, classes = self._each_weight, self.errors.shape[1]
        chances = self.errors + torch.eye(classes, dtype=torch.float64)[self.labels]
        spread = weights.sum() * chances - weights
        share = self.smoothing / (classes * weights[self.labels])
        return (1 - self.smoothing) * self.errors + share[:, None] * spread

    def _means(self, values: Tensor) -> Tensor:
        """Return the mean of each class."""
        counts = torch.bincount(self.labels).double()[:, None]
        found = torch.zeros(len(counts), values.shape[1], dtype=torch.float64)
        return found.index_add_(0, self.labels, values) / counts

    def _solve(self, weight: Tensor | None, bias: Tensor | None, bent: Tensor) -> Tensor:
        """Return the classes' shares of the loss that explain an update best, ``*R x K``."""
        seen = bias
        if seen is None and weight is not None and self.inputs is not None:
            way = self.inputs.mean(0)
            way = way / way.square().sum().clamp_min(1e-300)
            seen, bent = weight.double() @ way, bent * (self.inputs @ way)[:, None]
        if seen is None:
            raise NotApplicable(
                "without the bias or the model, the loss's weights cannot be undone"
            )
        means = self._means(bent)
        system = torch.cat((means.T, torch.ones(1, len(means), dtype=torch.float64)))
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


def undoes(training: LocalTraining | None) -> frozenset[Assumption]:
    """Return which assumptions on the loss were told not to hold and are undone.

    >>> [one.name for one in undoes(LocalTraining(class_weights=(1.0, 2.0)))]
    ['EQUAL_CLASSES']
    >>> undoes(LocalTraining())
    frozenset()
    """
    if training is None or {*(training.pos_weight or ())} - {1.0}:
        return frozenset()
    weighted = len({*(training.class_weights or ())}) > 1
    told = {
        Assumption.EQUAL_CLASSES: weighted,
        Assumption.HARD_LABELS: bool(training.label_smoothing),
    }
    return frozenset(one for one, holds in told.items() if holds)


def for_told_loss(attacks: Iterable[Attack], training: LocalTraining | None) -> tuple[Attack, ...]:
    """Return attacks that answer as if the loss were plain; those that know another stay."""
    undone = undoes(training)
    if training is None or not undone:
        return tuple(attacks)
    return tuple(
        cast(Attack, PlainLoss(one, training)) if undone & {*card_of(one).assumes} else one
        for one in attacks
    )


__all__ = ["PlainLoss", "ToldLoss", "for_told_loss", "undoes"]

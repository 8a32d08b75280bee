"""From moved weights to the mean gradient: the one place where sign and scale are decided.

SGD moves the weights by ``-lr * sum_t w_t (g_t + weight_decay * theta_t + proximal * (theta_t -
theta_0))``, where w_t counts how often momentum replays step t's gradient (`step_weights`). So the
mean gradient is ``(before - after) / (lr * sum w)`` less the known terms.

One rule holds for every optimiser: nothing is undone that it did not do linearly. Adam and RMSprop
divide each coordinate by its own size, the decay and the proximal term with it, so their movement
is taken as it is, over ``lr * steps``. AdamW adds its decay outside that, so the decay is undone.
Clipping, smoothing and class weights stay in the gradient.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from labelleak.core.lazy import Tensor
from labelleak.core.measured import Measured
from labelleak.core.training import LocalTraining
from labelleak.errors import BadInput

# Paths of more steps are laid out anew each time, since their weights would take memory.
_MOST_KEPT = 10_000


@dataclass(frozen=True, eq=False)
class StepPath:
    """How a client's steps added up to the movement of its weights.

    Attributes:
        steps: optimiser steps.
        momentum: the momentum that is undone, 0 where none is.
        weights: how often each step's gradient is in the movement.
        rate: what the mean gradient was multiplied with: the learning rate times all weights.
        middle: where the average step stood on the straight line, 0 at before and 1 at after.
        weight_decay: the decay that is undone.
        proximal: the proximal term that is undone.
        scale: the gradient that moved the weights over that of the mean loss.
        decays_bias: False where the decay spares the head's bias.

    >>> path = StepPath.of(LocalTraining(lr=0.5, optimiser="adam", weight_decay=0.1))
    >>> path.rate, path.weight_decay
    (0.5, 0.0)
    """

    steps: int
    momentum: float
    weights: np.ndarray
    rate: float
    middle: float
    weight_decay: float
    proximal: float
    scale: float = 1.0
    decays_bias: bool = True

    @classmethod
    def of(
        cls,
        training: LocalTraining,
        steps: int | None = None,
        measured: Measured | None = None,
    ) -> StepPath:
        """Lay out the path of a training.

        Args:
            training: how the client trained, as far as it is known; what is not known is taken
                as plain SGD does it (`LocalTraining.filled`).
            steps: the steps that were taken, if not the training's own.
            measured: what a capture measured beside.

        Raises:
            BadInput: if a decay or a proximal term is to be undone without the learning rate.
        """
        how = training.filled()
        linear = how.optimiser == "sgd"
        decay = how.weight_decay if linear or how.optimiser == "adamw" else 0.0
        proximal = how.proximal if linear else 0.0
        if training.lr is None and (decay or proximal):
            raise BadInput(
                "weight decay and a proximal term are undone with the learning rate only; give `lr`"
            )
        number = steps or how.local_steps
        momentum = how.momentum if linear else 0.0
        lay_out = _laid_out if number <= _MOST_KEPT else _laid_out.__wrapped__
        weights, total, middle = lay_out(number, momentum, how.dampening, how.nesterov)
        seen = measured or Measured()
        return cls(
            number,
            momentum,
            weights,
            how.lr * total,
            middle,
            decay,
            proximal,
            seen.gradient_scale or 1.0,
            seen.decays_bias is not False,
        )

    def mean_gradient(self, before: Tensor, after: Tensor) -> Tensor:
        """Return the mean gradient along the way between weights before and after."""
        moved = after - before
        gradient = moved / -self.rate
        if self.weight_decay:
            gradient -= self.weight_decay * (before + self.middle * moved)
        if self.proximal:
            gradient -= self.proximal * self.middle * moved
        return gradient if self.scale == 1 else gradient / self.scale

    @property
    def scales_alone(self) -> bool:
        """Whether the gradient is the movement times a factor: no decay, no proximal term."""
        return not self.weight_decay and not self.proximal

    @property
    def of_bias(self) -> StepPath:
        """The path of the head's bias, which a client may spare from the decay."""
        return self if self.decays_bias else replace(self, weight_decay=0.0)

    def movement(self, gradient: Tensor, before: Tensor) -> Tensor:
        """Return how far the weights went, given the mean gradient: `mean_gradient` undone."""
        pull = self.weight_decay + self.proximal
        pushed = self.scale * gradient + self.weight_decay * before
        return -self.rate * pushed / (1 + self.rate * pull * self.middle)


@lru_cache(maxsize=64)
def _laid_out(
    number: int, momentum: float, dampening: float, nesterov: bool
) -> tuple[np.ndarray, float, float]:
    """Return the steps' weights, their sum, and where the average step stood.

    They hang on these numbers alone, which are the same in every round.
    """
    weights = step_weights(number, momentum=momentum, dampening=dampening, nesterov=nesterov)
    weights.flags.writeable = False  # whoever lays out such a path gets these
    total = float(weights.sum())
    return weights, total, float(weights @ np.arange(number)) / (number * total)


def step_weights(
    steps: int, *, momentum: float = 0.0, dampening: float = 0.0, nesterov: bool = False
) -> np.ndarray:
    """Count how often SGD with momentum replays each step's gradient in the whole update.

    With an empty buffer at the start, step t's gradient is added (1 - mu^(T-t+1)) / (1 - mu)
    times (times 1 - dampening from the second step on, as torch.optim.SGD does); plain SGD
    gives ones. Ten steps at momentum 0.9 weigh 41.4 in all, not 10.

    >>> round(float(step_weights(10, momentum=0.9).sum()), 1)
    41.4
    """
    if not 0 <= momentum < 1:
        raise BadInput(f"momentum must lie in [0, 1), not {momentum}")
    remaining = np.arange(steps, 0, -1)
    replays = (1 - momentum**remaining) / (1 - momentum)
    enters = np.where(np.arange(steps) == 0, 1.0, 1.0 - dampening)
    if nesterov:
        return np.asarray(1 + momentum * replays) if momentum else np.ones(steps)
    return np.asarray(enters * replays) if momentum else np.ones(steps)


__all__ = ["StepPath", "step_weights"]

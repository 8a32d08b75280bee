"""The way of the client's head from the weights that were sent to those that came back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from labelleak.core.counts import Floats
from labelleak.core.knowledge import Knowledge
from labelleak.core.lazy import Tensor, nn, torch
from labelleak.core.observation import Observation
from labelleak.core.scale import StepPath
from labelleak.core.white_box import HeadPass

# Points of a client's path at which posteriors are taken, at most.
_POINTS = 33
_SLICE_BYTES = 256 * 2**20


@dataclass(frozen=True, eq=False)
class HeadPath:
    """Where the head stood at each step, as shares of its way, and how much the step counts.

    Attributes:
        head: the head that was sent.
        path: how the steps added up to the movement, as it was undone for the observation.
        places: where the chosen steps stood, 0 at the head that was sent and 1 at the one returned.
        weights: how much each of them counts; they sum to 1.
        moving: 1 for each row that moves, K numbers; see `WhiteBox.moving`.
    """

    head: nn.Linear
    path: StepPath
    places: Floats
    weights: Floats
    moving: Floats

    @classmethod
    def of(cls, known: Knowledge, steps: int) -> HeadPath:
        """Lay out the path of so many steps of a client that is known, thinned to 33 points."""
        assert known.model is not None
        assert known.training is not None
        path = StepPath.of(known.training.filled(), steps)
        weights = path.weights
        # The weights of t steps are the last t of all, so their sums run from the back.
        places = np.concatenate([[0.0], np.cumsum(weights[::-1])[:-1]]) / weights.sum()
        few = np.unique(np.linspace(0, steps - 1, min(steps, _POINTS)).round().astype(int))
        share = weights[few] / weights[few].sum()
        return cls(known.model.head_module, path, places[few], share, known.model.moving)

    def moves(self, part: Observation) -> tuple[Tensor, Tensor]:
        """Undo `Observation.from_update`: how far the head's weight and bias went."""
        assert part.weight is not None
        moving = torch.from_numpy(self.moving)
        weight = self._move(part.weight, self.head.weight) * moving[:, None]
        if part.bias is None or not isinstance(self.head.bias, torch.Tensor):
            return weight, torch.zeros(weight.shape[:-1], dtype=torch.float64)
        return weight, self._move(part.bias, self.head.bias) * moving

    def _move(self, gradient: Tensor, start: Tensor) -> Tensor:
        return self.path.movement(gradient.detach().cpu().double(), start.detach().cpu().double())

    def mean_posterior(self, seen: HeadPass, weight: Tensor, bias: Tensor) -> Floats:
        """Average the posteriors of what was seen along the path, ``R x K``."""
        start = seen.logits.double()
        way = seen.inputs.double() @ weight.transpose(1, 2) + bias[:, None]
        average = torch.zeros_like(bias)
        for place, share in zip(self.places, self.weights, strict=True):
            average += share * (start + place * way).softmax(dim=-1).mean(dim=1)
        return np.asarray(average.numpy())


def slices(observation: Observation, inputs: int) -> Iterator[Observation]:
    """Divide an observation into slices of trials ``R x K x D`` that fit into memory."""
    assert observation.weight is not None
    classes, width = observation.weight.shape[-2:]
    size = max(1, _SLICE_BYTES // (16 * classes * (width + inputs)))
    weights = torch.split(observation.weight.reshape(-1, classes, width), size)
    biases: tuple[Tensor | None, ...] = (None,) * len(weights)
    if observation.bias is not None:
        biases = torch.split(observation.bias.reshape(-1, classes), size)
    for weight, bias in zip(weights, biases, strict=True):
        yield Observation(weight, bias, observation.num_samples, observation.local_steps)


__all__ = ["HeadPath", "slices"]

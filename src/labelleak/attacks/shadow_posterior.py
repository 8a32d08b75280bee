"""A posterior of label counts learnt from examples, the same for every class of a batch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from labelleak.counts import Floats, Ints
from labelleak.seeding import torch_seeded

PARTS = 3
# Rows (classes of batches) in one step of training, within these numbers of batches.
_ROWS, _FEWEST, _MOST = 640, 4, 64
_LR, _DECAY, _STEEPEST = 3e-3, 1e-4, 1.0


class CountNet(nn.Module):
    """Three layers over the classes of a batch; permuting classes permutes the answer.

    Each class is passed alike, and sees the mean and maximum over all classes. For each class
    it gives a mixture of logistic distributions of ``sqrt(c)``, a scale on which counts of
    every size spread alike, so that its cost does not grow with N.
    """

    def __init__(self, features: int, width: int, spread: float) -> None:
        super().__init__()
        self.first = nn.Linear(2 * features, width)
        self.second = nn.Linear(3 * width, width)
        self.third = nn.Linear(3 * width, width)
        self.last = nn.Linear(width, 3 * PARTS)
        self.spread = spread
        with torch.no_grad():
            self.last.bias[:PARTS] = torch.linspace(0.3, 1.7, PARTS)
            self.last.bias[PARTS : 2 * PARTS] = -1.0

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Give centres, inverse widths and weights of the parts, each ``T x K x 3``."""
        mean = features.mean(dim=-2, keepdim=True).expand_as(features)
        hidden = nn.functional.silu(self.first(torch.cat([features, mean], dim=-1)))
        for layer in (self.second, self.third):
            hidden = hidden + nn.functional.silu(layer(_with_others(hidden)))
        centres, widths, weights = self.last(hidden).chunk(3, dim=-1)
        inverse = torch.exp(-widths.clamp(-5, 4)) / self.spread
        return centres * self.spread, inverse, weights.softmax(dim=-1)


def _with_others(hidden: Tensor) -> Tensor:
    mean = hidden.mean(dim=-2, keepdim=True).expand_as(hidden)
    most = hidden.amax(dim=-2, keepdim=True).expand_as(hidden)
    return torch.cat([hidden, mean, most], dim=-1)


@dataclass(frozen=True, eq=False)
class CountPosterior:
    """P(c_i >= k | features of all classes), for one N.

    Attributes:
        net: what was learnt.
        middle: mean of each feature over the examples.
        size: their standard deviation.
        lowest: the least of each feature that an example had.
        highest: the greatest.
        total: N.
    """

    net: CountNet
    middle: Tensor
    size: Tensor
    lowest: Tensor
    highest: Tensor
    total: int

    @classmethod
    def fit(
        cls,
        features: Tensor,
        counts: Ints,
        total: int,
        *,
        epochs: int,
        rng: np.random.Generator,
        width: int = 64,
    ) -> CountPosterior:
        """Learn from examples by maximum likelihood of each class's count (AdamW, one cycle).

        Args:
            features: ``S x K x F``.
            counts: ``S x K``, each row summing to N.
            total: N.
            epochs: passes over the examples.
            rng: source of the first weights and of the order of examples.
            width: numbers in each hidden layer.
        """
        middle = features.mean(dim=(0, 1))
        size = features.std(dim=(0, 1)) + 1e-6
        lowest, highest = features.amin(dim=(0, 1)), features.amax(dim=(0, 1))
        spread = math.sqrt(max(total / counts.shape[1], 1.0))
        with torch_seeded(int(rng.integers(2**31))):
            net = CountNet(features.shape[-1], width, spread)
        posterior = cls(net, middle, size, lowest, highest, total)
        _train(net, posterior._scaled(features), torch.from_numpy(counts), total, epochs, rng)
        return posterior

    def tails(self, features: Tensor) -> Floats:
        """Give P(c_i >= k) for k = 1 .. N, ``T x K x N``; it falls with k by construction."""
        steps = torch.sqrt(torch.arange(1, self.total + 1) - 0.5)
        with torch.no_grad():
            centres, inverse, weights = self.net(self._scaled(features))
            chances = torch.zeros(*centres.shape[:-1], self.total)
            for part in range(PARTS):
                height = (centres[..., part, None] - steps) * inverse[..., part, None]
                chances += weights[..., part, None] * torch.sigmoid(height)
        return np.asarray(chances.double().numpy())

    def _scaled(self, features: Tensor) -> Tensor:
        # What no example reached is held at the edge, so that it cannot run away.
        held = torch.minimum(torch.maximum(features, self.lowest), self.highest)
        return ((held - self.middle) / self.size).float()


def _train(
    net: CountNet,
    features: Tensor,
    counts: Tensor,
    total: int,
    epochs: int,
    rng: np.random.Generator,
) -> None:
    examples, classes = counts.shape
    size = min(examples, int(np.clip(_ROWS // classes, _FEWEST, _MOST)))
    rounds = examples // size
    optimiser = torch.optim.AdamW(net.parameters(), lr=_LR, weight_decay=_DECAY)
    pace = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, _LR, total_steps=epochs * rounds + 1, pct_start=0.2
    )
    with torch.enable_grad():
        for _ in range(epochs):
            order = torch.from_numpy(rng.permutation(examples)[: rounds * size])
            for picks in torch.split(order, size):
                loss = _surprise(net(features[picks]), counts[picks], total)
                optimiser.zero_grad()
                torch.autograd.backward(loss)
                nn.utils.clip_grad_norm_(net.parameters(), _STEEPEST)
                optimiser.step()
                pace.step()


def _surprise(parts: tuple[Tensor, Tensor, Tensor], counts: Tensor, total: int) -> Tensor:
    """Mean of -log P(c_i): the mixture's mass between the square roots of c - 1/2 and c + 1/2."""
    centres, inverse, weights = parts
    c = counts[..., None].to(centres.dtype)
    low = torch.where(c > 0, torch.sqrt((c - 0.5).clamp(min=0.1)), -1e4)
    high = torch.where(c < total, torch.sqrt(c + 0.5), 1e4)
    above, below = (high - centres) * inverse, (low - centres) * inverse
    # log(s(a) - s(b)) in a form whose slope never vanishes, however far off a part is.
    apart = torch.log(-torch.expm1(below - above) + 1e-12)
    mass = nn.functional.logsigmoid(above) + nn.functional.logsigmoid(-below) + apart
    return -torch.logsumexp(torch.log(weights + 1e-12) + mass, dim=-1).mean()


__all__ = ["CountNet", "CountPosterior"]

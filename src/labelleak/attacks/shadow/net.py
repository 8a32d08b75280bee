"""The network behind a learnt posterior of label counts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

PARTS = 3


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
        """Return centres, inverse widths and weights of the parts, each ``T x K x 3``."""
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


__all__ = ["CountNet"]

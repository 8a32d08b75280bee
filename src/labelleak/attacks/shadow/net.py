"""The network behind a learnt posterior of label counts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from labelleak.attacks.shadow.slopes import PARTS


class CountNet(nn.Module):
    """Two layers over the classes of a batch; permuting classes permutes the answer.

    Each class is passed alike, and sees the mean and maximum over all classes. For each class
    it gives a mixture of logistic distributions of ``sqrt(c)``, a scale on which counts of
    every size spread alike, so that its cost does not grow with N. What is linear in a class's own
    features shifts all centres alike.
    """

    def __init__(self, features: int, width: int, spread: float) -> None:
        super().__init__()
        self.first = nn.Linear(2 * features, width)
        self.second = nn.Linear(3 * width, width)
        self.last = nn.Linear(width, 3 * PARTS)
        self.direct = nn.Linear(features, 1, bias=False)
        self.spread = spread
        with torch.no_grad():
            self.last.bias[:PARTS] = torch.linspace(0.3, 1.7, PARTS)
            self.last.bias[PARTS : 2 * PARTS] = -1.0

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return centres, inverse widths and weights of the parts, each ``T x K x 3``."""
        hidden = nn.functional.silu(_apply(self.first, features, _mean(features)))
        most = hidden.amax(dim=-2, keepdim=True)
        hidden = hidden + nn.functional.silu(_apply(self.second, hidden, _mean(hidden), most))
        centres, widths, weights = self.last(hidden).chunk(3, dim=-1)
        inverse = torch.exp(-widths.clamp(-5, 4)) / self.spread
        centres = centres + self.direct(features)
        return centres * self.spread, inverse, weights.softmax(dim=-1)


def _mean(hidden: Tensor) -> Tensor:
    return hidden.mean(dim=-2, keepdim=True)


def _apply(layer: nn.Linear, own: Tensor, *others: Tensor) -> Tensor:
    """Apply a layer to each class's numbers beside those of all classes.

    What all classes share is multiplied once for a batch and not once for each class.
    """
    width = own.shape[-1]
    shared = nn.functional.linear(torch.cat(others, dim=-1), layer.weight[:, width:], layer.bias)
    return nn.functional.linear(own, layer.weight[:, :width]) + shared


__all__ = ["CountNet"]

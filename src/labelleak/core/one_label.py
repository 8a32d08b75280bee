"""A model of several labels as the attacker of one of them sees it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from labelleak.core.counts import Floats
from labelleak.core.lazy import Tensor, nn
from labelleak.core.white_box import HeadPass, WhiteBox


@dataclass(frozen=True, eq=False)
class OneLabel(WhiteBox):
    """A model of several labels as the attacker of one of them sees it.

    Attributes:
        label: which one.
    """

    label: int = 0

    @property
    def head_module(self) -> nn.Linear:
        """The two rows of the label."""
        whole, rows = super().head_module, self._rows_of_label
        head = nn.Linear(whole.in_features, 2, self.head_bias is not None, device="meta")
        head.weight = nn.Parameter(whole.weight.detach()[rows])
        if self.head_bias is not None:
            head.bias = nn.Parameter(whole.bias.detach()[rows])
        return head

    @property
    def moving(self) -> Floats:
        """The row of the class that is absent stays."""
        return np.array([0.0, 1.0])

    @property
    def _rows_of_label(self) -> slice:
        return slice(2 * self.label, 2 * self.label + 2)

    def run(self, inputs: Tensor, *, seed: int = 0, grad: bool = False) -> HeadPass:
        """Pass a batch through the whole model, and keep what it says of the label."""
        seen = super().run(inputs, seed=seed, grad=grad)
        logits = seen.logits[:, self._rows_of_label]
        return HeadPass(seen.inputs, logits, logits)


__all__ = ["OneLabel"]

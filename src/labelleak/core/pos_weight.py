"""Undo the weight of positives in a binary cross-entropy (`pos_weight`), where it was told.

With a weight w the mean gradient of one sigmoid is ``(1 - s) M0 + w s M1``: s is the share of
samples that have the label, M0 and M1 the mean gradients of samples without and with it, each
without its weight. The share follows from the bias, and ``(w - 1) s M1`` is taken out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from labelleak.core.knowledge import Knowledge
from labelleak.core.lazy import Tensor, torch
from labelleak.core.observation import Observation
from labelleak.errors import NotApplicable

# Made-up inputs that stand for data where there are none.
_DUMMIES = 64


@dataclass(frozen=True, eq=False)
class PositiveWeight:
    """The weight of one label's positives, and the mean gradients by which it is undone.

    Attributes:
        weight: w, above 0.
        absent: bias entry of M0, 0.5 where nothing is known of the model.
        present: bias entry of M1.
        of_weight: the weight's rows of M0 and M1, ``2 x D``; None without a model.
    """

    weight: float
    absent: float = 0.5
    present: float = -0.5
    of_weight: Tensor | None = None

    @classmethod
    def of(cls, known: Knowledge, weight: float) -> PositiveWeight:
        """Measure the means with what an attack is granted: own data, else made-up inputs."""
        if known.model is None or (known.auxiliary is None and known.input_shape is None):
            return cls(weight)
        labels = None
        if known.auxiliary is not None:
            seen, labels = known.pass_own(most=2048)
        else:
            made = torch.Generator().manual_seed(0)
            assert known.input_shape is not None
            seen = known.model.run(torch.rand(_DUMMIES, *known.input_shape, generator=made))
        chance = seen.probabilities[:, 1].detach().double()
        inputs = seen.inputs.detach().double()
        means = []
        for label in (0, 1):
            own = None if labels is None else labels == label
            some = own is not None and bool(own.any())
            error, rows = (chance - label)[own], inputs[own]
            if not some:
                error, rows = chance - label, inputs
            means.append((float(error.mean()), (error[:, None] * rows).mean(0)))
        (absent, first), (present, second) = means
        return cls(weight, absent, present, torch.stack((first, second)))

    def undo(self, observation: Observation) -> Observation:
        """Return a label's two rows as the loss without the weight makes them.

        Raises:
            NotApplicable: if neither the bias nor a model tells how many positives there are.
        """
        weight, bias = observation.weight, observation.bias
        share = self._share(weight, bias)
        extra = (self.weight - 1) * share
        mended = None if bias is None else bias[..., 1] - extra * self.present
        rows = None if weight is None else weight[..., 1, :]
        if rows is not None and self.of_weight is not None:
            rows = rows - extra[..., None] * self.of_weight[1].to(rows)
        elif rows is not None and bias is not None and mended is not None:
            # All inputs are taken to be alike, so the row is the bias times their mean.
            own = bias[..., 1]
            ratio = torch.where(own == 0, torch.ones_like(own), mended / own)
            rows = rows * ratio[..., None]
        return replace(
            observation,
            weight=None if rows is None else torch.stack((-rows, rows), -2),
            bias=None if mended is None else torch.stack((-mended, mended), -1),
        )

    def _share(self, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """Return the share of positives, in 0 to 1."""
        if bias is not None:
            found = (self.absent - bias[..., 1]) / (self.absent - self.weight * self.present)
        elif weight is not None and self.of_weight is not None:
            first, second = self.of_weight.to(weight)
            way = self.weight * second - first
            found = (weight[..., 1, :] - first) @ way / way.square().sum().clamp_min(1e-300)
        else:
            raise NotApplicable("without the bias or the model, pos_weight cannot be undone")
        return found.clamp(0.0, 1.0)


__all__ = ["PositiveWeight"]

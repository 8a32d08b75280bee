"""How a whole update is measured: features of its heads, scores of its layers, and their weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from labelleak.attacks.shadow.bridges import Bridges, score_features
from labelleak.attacks.shadow.features import ClassFeatures
from labelleak.core.lazy import Tensor, torch
from labelleak.core.observation import Observation
from labelleak.core.white_box import HeadPass

# What a feature of the layers below counts beside a head that is in the clear.
_BESIDE_HEAD = 0.1


@dataclass(frozen=True, eq=False)
class Seen:
    """Updates as they are measured, classes in the attack's order.

    Attributes:
        heads: gradients of the head (under no name) and of the layers that are read as heads.
        scores: summed over a batch, ``T x (groups * 2 K)``.
    """

    heads: Mapping[str, Observation]
    scores: Tensor


@dataclass(frozen=True, eq=False)
class Kit:
    """How updates are measured.

    Attributes:
        bridges: maps learnt from all samples.
        heads: features of each head, the layers' own under their names.
        constants: how sure the model is of each class, ``K x 4``.
    """

    bridges: Bridges
    heads: Mapping[str, ClassFeatures]
    constants: Tensor

    def halved(
        self,
        views: Mapping[str, HeadPass],
        labels: Tensor,
        groups: tuple[str, ...],
        rng: np.random.Generator,
        number: int,
    ) -> list[Kit]:
        """Measure heads by random halves of the samples, as a sample errs about all there are."""
        found = []
        for _ in range(number):
            halves = {
                name: ClassFeatures.measure_half(view, labels, groups, rng)
                for name, view in views.items()
            }
            found.append(replace(self, heads=halves))
        return found

    def trust(self, width: int) -> Tensor:
        """Weigh so many features: beside a head in the clear what lies below it counts less.

        The head's gradient says all that the layers below say of labels, so they can only mislead
        a network that learns from few shadows.
        """
        weights = torch.ones(width, dtype=torch.float64)
        if "" not in self.heads:
            return weights
        constants = self.constants.shape[1]
        scores = self.bridges.score_width(len(self.constants))
        each = (width - constants - scores) // len(self.heads)
        for place, name in enumerate(self.heads):
            weights[place * each : (place + 1) * each] = 1.0 if not name else _BESIDE_HEAD
        weights[width - constants - scores : width - constants] = _BESIDE_HEAD
        return weights

    def features(self, seen: Seen, total: int) -> Tensor:
        """Measure updates, ``T x K x F``."""
        parts = [measure(seen.heads[name], total) for name, measure in self.heads.items()]
        constants = self.constants.expand(len(seen.scores), *self.constants.shape)
        if seen.scores.shape[1]:
            parts.append(score_features(seen.scores, len(self.constants)))
        return torch.cat([*parts, constants], dim=2)


__all__ = ["Kit", "Seen"]

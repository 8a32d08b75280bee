"""Bounds on the norm of an update: of the whole, or of each layer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from math import isinf

import numpy as np

from labelleak.core.lazy import Tensor, torch
from labelleak.core.update import Memory, Scope, SharedTensors
from labelleak.defenses.composition import Part
from labelleak.defenses.facts import Kind
from labelleak.defenses.text import above_zero


def scale_to(tensors: dict[str, Tensor], norm: float | Tensor) -> dict[str, Tensor]:
    """Scale tensors of R trials down, together, until each trial's L2 norm is at most a bound.

    The bound is one number, or one a trial.
    """
    if not tensors:
        return {}
    squares = [t.detach().flatten(1).double().square().sum(dim=1) for t in tensors.values()]
    size = torch.stack(squares).sum(dim=0).sqrt()
    bound = torch.as_tensor(norm, dtype=torch.float64).to(size.device)
    factor = (bound / size.clamp_min(torch.finfo(torch.float64).tiny)).clamp_max(1.0)
    return {
        name: (tensor * factor.view(-1, *[1] * (tensor.dim() - 1))).to(tensor.dtype)
        for name, tensor in tensors.items()
    }


@dataclass(frozen=True)
class NormBound(Part):
    """Base of defenses that hold the update, or each layer, to a largest L2 norm."""

    norm: float

    kind = Kind.CLIP

    def __post_init__(self) -> None:
        above_zero(self.norm, "the clipping norm")

    @property
    def is_off(self) -> bool:
        """Whether there is no bound."""
        return isinf(self.norm)

    def apply(
        self, update: SharedTensors, rng: np.random.Generator, memory: Memory | None = None
    ) -> tuple[SharedTensors, Memory | None]:
        """Clip what is bounded together; nothing is kept."""
        if self.is_off:
            return update, memory
        clipped = (scale_to(one, self.norm) for one in self._bounded(update.floats))
        return update.replaced({name: t for part in clipped for name, t in part.items()}), memory

    def _bounded(self, tensors: dict[str, Tensor]) -> Iterable[dict[str, Tensor]]:
        """Return the parameters that have one bound together."""
        return [tensors]


@dataclass(frozen=True)
class Clipping(NormBound):
    """Scale the update down to a largest L2 norm over all parameters together.

    Clipping multiplies the whole update by one number, so signs and ratios stay: alone it hides
    no label from LLG. It bounds what noise after it has to hide.

    Attributes:
        norm: largest L2 norm; inf for none.

    >>> update = SharedTensors({"weight": torch.tensor([[[3.0, 4.0]], [[0.3, 0.4]]])}, "")
    >>> sent, _ = Clipping(1.0).apply(update, np.random.default_rng(0))
    >>> sent.norms().numpy().round(6).tolist()
    [1.0, 0.5]
    """

    name = "clip"
    example = "clip:0.5"
    scope = Scope.UPDATE


@dataclass(frozen=True)
class LayerClipping(NormBound):
    """Scale each layer (the parameters of one module) down to a largest L2 norm of its own.

    Attributes:
        norm: largest L2 norm of a layer; inf for none. The whole is then at most norm * sqrt(L).
    """

    name = "clip_layers"
    example = "clip_layers:0.5"
    scope = Scope.LAYER

    def _bounded(self, tensors: dict[str, Tensor]) -> Iterable[dict[str, Tensor]]:
        layers: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for name, tensor in tensors.items():
            layers[name.rpartition(".")[0]][name] = tensor
        return layers.values()

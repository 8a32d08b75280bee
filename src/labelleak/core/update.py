"""A client's update of the whole model, as defenses take and give it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum

from labelleak.core.lazy import Tensor, torch
from labelleak.errors import BadInput


class Scope(IntEnum):
    """How much of an update a defense must see at once; the widest view of a chain counts."""

    ENTRY = 0  # each entry alone: noise, signs
    LAYER = 1  # each tensor or layer alone: pruning and clipping by layer
    UPDATE = 2  # everything: a global norm, a global top-k


@dataclass(frozen=True, eq=False)
class Update:
    """Gradients (or weight differences) by parameter name, of many trials of one model.

    Attributes:
        tensors: ``R x ...`` each, R trials; a single update has R = 1.
        head: module name of the head; ``""`` when the model is the head itself.
        buffers: names of floating-point tensors that are no parameters (batch norm's running
            statistics); like integer tensors they pass every defense untouched and uncounted.

    Raises:
        BadInput: if the tensors differ in R.

    >>> counter = torch.tensor([3])
    >>> update = Update({"fc.weight": torch.ones(1, 2, 4), "norm.steps": counter}, "fc")
    >>> list(update.floats), update.norms().tolist()
    (['fc.weight'], [2.8284271247461903])
    """

    tensors: Mapping[str, Tensor]
    head: str
    buffers: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if any(tensor.dim() == 0 for tensor in self.tensors.values()):
            raise BadInput("every tensor of an update needs a leading dimension of trials")
        rows = {len(tensor) for tensor in self.tensors.values()}
        if len(rows) > 1:
            raise BadInput(f"the tensors of an update differ in their number of trials: {rows}")

    @property
    def trials(self) -> int:
        """R, the trials that every tensor holds; 0 when nothing is shared."""
        return len(next(iter(self.tensors.values()), ()))

    @property
    def floats(self) -> dict[str, Tensor]:
        """The parameters: what defenses change and measure."""
        return {
            name: tensor
            for name, tensor in self.tensors.items()
            if tensor.is_floating_point() and name not in self.buffers
        }

    @property
    def head_weight(self) -> str:
        """Name of the head's weight."""
        return f"{self.head}.weight" if self.head else "weight"

    @property
    def head_bias(self) -> str:
        """Name of the head's bias, shared or not."""
        return f"{self.head}.bias" if self.head else "bias"

    def norms(self) -> Tensor:
        """L2 norm of each trial's parameters together, R numbers in float64."""
        total = torch.zeros(self.trials, dtype=torch.float64)
        for tensor in self.floats.values():
            total += tensor.detach().flatten(1).double().square().sum(dim=1).cpu()
        return total.sqrt()

    def replaced(self, tensors: Mapping[str, Tensor]) -> Update:
        """Return the update with some tensors exchanged, each cast to the type that it had."""
        cast = {name: tensor.to(self.tensors[name].dtype) for name, tensor in tensors.items()}
        return replace(self, tensors={**self.tensors, **cast})

    def without(self, *names: str) -> Update:
        """Return the update without some tensors, which are then not shared at all."""
        kept = {name: tensor for name, tensor in self.tensors.items() if name not in names}
        return replace(self, tensors=kept)


@dataclass(frozen=True, eq=False)
class Memory:
    """What a client keeps from one round to the next on behalf of a defense.

    Attributes:
        rounds: updates that were shared so far.
        residual: what was held back, by parameter name, ``R x ...``.
        momentum: momentum of the gradients, by parameter name, ``R x ...``.
        parts: memories of a chain's parts, in order.
    """

    rounds: int = 0
    residual: Mapping[str, Tensor] = field(default_factory=dict)
    momentum: Mapping[str, Tensor] = field(default_factory=dict)
    parts: tuple[Memory | None, ...] = ()


__all__ = ["Memory", "Scope", "Update"]

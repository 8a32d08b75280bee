"""Read an optimiser's step on one layer, and replay what it says that it did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]

NAMED = {"Adam": "adam", "AdamW": "adamw", "RMSprop": "rmsprop"}
SGD_OPTIONS = ("momentum", "dampening", "nesterov", "weight_decay")
# What a step may differ from its replay, relative to its size; half precision is coarser.
CLOSE = 2e-3


@dataclass(frozen=True)
class StepOptions:
    """What an optimiser says of one parameter's step; None where it says nothing."""

    optimiser: str
    lr: float | None = None
    momentum: float | None = None
    dampening: float | None = None
    nesterov: bool | None = None
    weight_decay: float | None = None
    maximise: bool = False


def name_optimiser(optimiser: torch.optim.Optimizer) -> str:
    """Return sgd, adam, adamw or rmsprop, or that it is unknown, with its class.

    >>> name_optimiser(torch.optim.Adagrad([torch.zeros(1)]))
    'unknown (Adagrad)'
    """
    if isinstance(optimiser, torch.optim.SGD):
        return "sgd"
    named = (NAMED.get(kind.__name__) for kind in type(optimiser).__mro__)
    return next((name for name in named if name), f"unknown ({type(optimiser).__name__})")


def read_options(optimiser: torch.optim.Optimizer, parameter: Tensor) -> StepOptions | None:
    """Read the options of the group that holds a parameter; None if none does."""
    for group in optimiser.param_groups:
        if any(parameter is other for other in group["params"]):
            return _options(optimiser, group)
    return None


def _options(optimiser: torch.optim.Optimizer, group: Mapping[str, Any]) -> StepOptions:
    name = name_optimiser(optimiser)
    lr = float(group["lr"]) if "lr" in group else None
    if name != "sgd":
        return StepOptions(name, lr)
    return StepOptions(
        name,
        lr,
        float(group["momentum"]),
        float(group["dampening"]),
        bool(group["nesterov"]),
        float(group["weight_decay"]),
        bool(group.get("maximize", False)),
    )


@dataclass
class SgdReplay:
    """Replay SGD's steps on one layer, momentum buffers included."""

    buffers: dict[str, Tensor] = field(default_factory=dict)

    def move(self, name: str, used: Tensor, start: Tensor, how: StepOptions) -> Tensor:
        """Return how SGD moves a parameter.

        Args:
            name: of the parameter.
            used: the gradient that the optimiser used.
            start: the parameter before the step.
            how: its options; they must be those of SGD.
        """
        direction = -used if how.maximise else used
        if how.weight_decay:
            direction = direction + how.weight_decay * start
        if how.momentum:
            held = self.buffers.get(name)
            self.buffers[name] = (
                direction.clone()
                if held is None
                else how.momentum * held + (1 - (how.dampening or 0.0)) * direction
            )
            replayed = self.buffers[name]
            direction = direction + how.momentum * replayed if how.nesterov else replayed
        return -(how.lr or 0.0) * direction


def kept_momentum(optimiser: torch.optim.Optimizer, parameter: Tensor) -> Tensor | None:
    """Return a copy of the momentum buffer that an optimiser holds for a parameter."""
    held = optimiser.state.get(parameter, {}).get("momentum_buffer")
    return held.detach().clone() if isinstance(held, Tensor) else None


def factor_between(
    moved: Tensors, other: Tensors, *, tolerance: float = CLOSE, slack: float = 0.0
) -> tuple[float, bool]:
    """Fit one factor between two sets of tensors, and say whether it explains the first.

    Args:
        moved: tensors by name.
        other: tensors of the same names.
        tolerance: how far they may be apart, relative to the largest entry.
        slack: absolute size of rounding in the first.

    >>> a, b = {"w": torch.tensor([2.0, 4.0])}, {"w": torch.tensor([1.0, 2.0])}
    >>> factor_between(a, b)
    (2.0, True)
    """
    names = [name for name in moved if name in other]
    a = torch.cat([moved[name].double().flatten() for name in names])
    b = torch.cat([other[name].double().flatten() for name in names])
    if not bool(torch.isfinite(a).all()):
        return 0.0, False
    if not bool(b.any()):
        return 1.0, not bool(a.any())
    factor = float(a @ b / (b @ b))
    left = float((a - factor * b).abs().max())
    return factor, left <= tolerance * float(a.abs().max()) + slack


def close(a: Tensor, b: Tensor, *, slack: float = 0.0) -> bool:
    """Return whether two tensors differ by rounding only."""
    low = min((a, b), key=lambda t: torch.finfo(t.dtype).bits).dtype
    tolerance = max(CLOSE, 8 * torch.finfo(low).eps)
    return float((a - b).abs().max()) <= tolerance * float(a.abs().max()) + slack


def has_stepped(state: Mapping[str, Any] | None) -> bool:
    """Tell state of earlier steps from what some optimisers make at once."""
    return bool(state) and float((state or {}).get("step", 1)) > 0

"""A copy of a model, whatever it has kept of its last pass."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from labelleak.core.lazy import Tensor, nn, torch


def copy_model(module: nn.Module) -> nn.Module:
    """Return a copy that shares nothing with the model.

    Many models keep an activation of their last pass (``self.features = h``), and PyTorch refuses
    to copy a tensor that has a gradient to pass on. Such tensors are copied as plain values.

    >>> class Keeps(nn.Linear):
    ...     def forward(self, inputs):
    ...         self.last = super().forward(inputs)
    ...         return self.last
    >>> model = Keeps(3, 2)
    >>> given = model(torch.ones(1, 3))
    >>> copied = copy_model(model)
    >>> bool(torch.equal(copied.last, given)), copied.last.requires_grad
    (True, False)
    """
    kept = {
        id(tensor): tensor.detach().clone()
        for part in module.modules()
        for value in vars(part).values()
        for tensor in _tensors(value)
        if not tensor.is_leaf
    }
    return copy.deepcopy(module, kept)


def _tensors(value: Any) -> Iterator[Tensor]:
    """Give the tensors that an attribute holds, in lists and mappings, too."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)


__all__ = ["copy_model"]

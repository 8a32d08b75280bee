"""What an update itself says of a layer: whether it moved, and whether it does as a softmax's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from labelleak.core.counts import Floats
from labelleak.core.head_shapes import Layer, key_of
from labelleak.core.head_sums import BLOCK, sums_of

# The columns of a softmax head's gradient sum to 0 over the classes. Rounding leaves less than
# this of their absolute sum; random signs of any number of rows that fit in memory leave more.
BALANCED = 1e-3


@dataclass(frozen=True)
class Change:
    """How a layer's weight changed.

    Attributes:
        moved: whether any entry did.
        balanced: whether the change sums to zero over the rows, as a softmax head's does.
        sparse: whether some rows did not move though others did, as an embedding's.
    """

    moved: bool
    balanced: bool = False
    sparse: bool = False


def change_of(
    layer: Layer, tensors: Mapping[str, Tensor], before: Mapping[str, Tensor] | None
) -> Change:
    """Measure a layer's change: from before to the tensors, or the tensors as a gradient.

    >>> gradient = torch.tensor([[1.0, 2.0], [-1.0, -2.0]])
    >>> change_of(Layer("fc", 2, 2), {"fc.weight": gradient}, None)
    Change(moved=True, balanced=True, sparse=False)
    """
    key = key_of(layer.name)
    end, start = tensors[key], None if before is None else before.get(key)
    if before is not None and (start is None or start.shape != end.shape):
        return Change(True)
    rows, columns = _sizes(end, start)
    total = float(rows.sum())
    if not total > 0:
        return Change(total != 0)
    balanced = layer.rows > 1 and float(np.abs(columns).sum()) < BALANCED * total
    return Change(True, balanced, not rows.all())


def _sizes(end: Tensor, start: Tensor | None) -> tuple[Floats, Floats]:
    """Return sizes of a change's rows that add up to its L1 norm, and its sums over the rows."""
    if end.numel() > BLOCK:
        flat = [None if t is None else t.reshape(len(t), -1) for t in (end, start)]
        assert flat[0] is not None
        sums = sums_of(flat[0], flat[1])
        moved = (sums.lowest != 0) | (sums.highest != 0)
        return moved * sums.absolute / max(moved.sum(), 1), sums.columns
    change = _numbers(end) if start is None else _numbers(end) - _numbers(start)
    change = change.reshape(len(change), -1)
    return np.abs(change).sum(axis=1), change.sum(axis=0)


def _numbers(tensor: Tensor) -> Floats:
    """Return a tensor's numbers for numpy, whose sums of small arrays are the faster ones."""
    plain = tensor.detach().cpu()
    return plain.numpy() if plain.dtype in (torch.float32, torch.float64) else plain.float().numpy()


__all__ = ["Change", "change_of"]

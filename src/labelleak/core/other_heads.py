"""Other heads in an update: layers that learnt with losses of their own, beside the head's."""

from __future__ import annotations

import re

from labelleak.core.head_changes import BALANCED, Change, change_of
from labelleak.core.head_finding import HeadFinding
from labelleak.core.head_shapes import (
    Chain,
    Layer,
    Place,
    convolutions_of,
    key_of,
    layers_of,
    norm_widths,
)
from labelleak.core.reparametrised import Folded, is_adapter
from labelleak.core.task import Task

# Layers below a softmax of their own, whose changes sum to zero over its rows like a head's.
_GATE = re.compile("gat(e|es|ing)|router|routing|attn|attention|experts?|mixing")
_SIGMOIDS = (Task.binary, Task.multilabel)


def other_heads(update: Folded, found: HeadFinding, task: Task | None) -> tuple[str, ...]:
    """Name the layers that moved as heads do, beside the one that was found.

    Each has a share of the loss that the update does not tell (deep supervision, several tasks).
    Where the model was traced, it is any that moved though the head does not rest on it. Else a
    softmax head's change sums to zero over its rows. A sigmoid's does not, so there any layer with
    as many rows counts that feeds no other.

    Args:
        update: the tensors.
        found: the head.
        task: what the labels are, where it is known.

    >>> import torch
    >>> rows = torch.tensor([[1.0, 2.0], [-1.0, -2.0]])
    >>> update = Folded({"out.weight": rows, "aux.weight": rows / 2}, None, {})
    >>> other_heads(update, HeadFinding("out", "named"), None)
    ('aux',)
    """
    tensors = update.tensors
    layers = [one for one in layers_of(tensors) if not is_adapter(one.name)]
    maps = convolutions_of(tensors)
    own = next((one for one in (*layers, *maps) if one.name == found.name), None)
    if own is None:
        return ()
    chain = Chain.of(tensors, layers)
    below, apart = {own.name, *found.below}, {*found.apart} - {own.name}
    alike = {one.name for one in (maps if own in maps else layers) if _may_be(one, below)}
    sigmoid = task in _SIGMOIDS or own.rows == 1
    return tuple(
        one.name
        for one in (*layers, *maps)
        if (one.name in apart and _change(one, update).moved)
        or (one.name in alike and _is_head(one, own, chain, update, sigmoid=sigmoid))
    )


def _may_be(layer: Layer, below: set[str]) -> bool:
    """Leave out what is the head itself, feeds it by a model's trace, or is called a gate."""
    if layer.name in below or layer.turned:
        return False
    return not any(_GATE.fullmatch(part) for part in re.split(r"[._\d]+", layer.name.lower()))


def _is_head(layer: Layer, own: Layer, chain: Chain, update: Folded, *, sigmoid: bool) -> bool:
    free = chain.place(layer) is Place.LEAF
    alike = layer.rows == own.rows
    if sigmoid:
        return alike and free and _change(layer, update).moved
    if layer.rows < 2 or not (alike or free) or not _bias_balanced(layer, update):
        return False
    return _change(layer, update).balanced and (
        free or layer.rows not in norm_widths(update.tensors)
    )


def _change(layer: Layer, update: Folded) -> Change:
    return change_of(layer, update.tensors, update.before)


def _bias_balanced(layer: Layer, update: Folded) -> bool:
    """Look at the bias first, which costs nothing, where there is one."""
    key = key_of(layer.name, "bias")
    end = update.tensors.get(key)
    if end is None or not layer.bias:
        return True
    start = None if update.before is None else update.before.get(key)
    moved = end.double() if start is None else end.double() - start.double()
    return bool(moved.sum().abs() <= BALANCED * moved.abs().sum())


__all__ = ["other_heads"]

"""Give a model's arrays their names back, find the head among them, join those of updates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from labelleak.core.head import AmbiguousHead, HeadFinding, locate_head
from labelleak.core.tensor_names import list_names
from labelleak.errors import BadInput

UNCERTAIN = "uncertain"


class Renamed(Mapping[str, Tensor]):
    """Arrays under other names, still decoded one by one."""

    def __init__(self, arrays: Mapping[str, Tensor], names: Sequence[str]) -> None:
        self._arrays = arrays
        self._source = dict(zip(names, arrays, strict=True))

    def __getitem__(self, name: str) -> Tensor:
        return self._arrays[self._source[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._source)

    def __len__(self) -> int:
        return len(self._source)


def with_names(arrays: Mapping[str, Tensor], model: nn.Module | None) -> Mapping[str, Tensor]:
    """Name arrays that came as a plain list, under their numbers, as Flower's old interface sends.

    They take the names of the model's state dict if there is a model; else those of `list_names`.

    Raises:
        BadInput: if the model has another number of arrays.
    """
    names = list(arrays)
    if not names or any(not name.isdigit() for name in names):
        return arrays
    if model is not None:
        known = list(model.state_dict())
        if set(names) == set(known):  # a model whose names are numbers
            return arrays
        if len(known) != len(names):
            raise BadInput(f"the update has {len(names)} arrays, the model has {len(known)}")
        return Renamed(arrays, known)
    called = list_names({name: tuple(arrays[name].shape) for name in names})
    return arrays if called is None else Renamed(arrays, called)


def likeliest_head(
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    known: HeadFinding | None = None,
    *,
    strict: bool = False,
) -> HeadFinding:
    """Find the head of an update, or take the likeliest layer and say that it is uncertain.

    Args:
        before: weights that were sent.
        after: weights that came back.
        known: the head by name or by the model; it must be in the update.
        strict: refuse where several layers could be it.

    Raises:
        AmbiguousHead: if several layers could be it, and strict.
        BadInput: as `locate_head`.
    """
    if known is not None:
        found = locate_head(after, before=before, name=known.name)
        return replace(known, evidence=(*known.evidence, *found.evidence))
    try:
        return locate_head(after, before=before)
    except AmbiguousHead as doubt:
        if strict or not doubt.candidates:
            raise
        first, *others = doubt.candidates
        return HeadFinding(first, UNCERTAIN, (str(doubt),), tuple(others[:8]))


def stack(name: str, start: Tensor | None, afters: Sequence[Mapping[str, Tensor]]) -> Tensor:
    """Put one array of several updates into one, trials first.

    Raises:
        BadInput: if its shape is not the one that was sent.
    """
    tensors = [after[name] for after in afters]
    for tensor in tensors:
        if start is not None and tensor.shape != start.shape:
            raise BadInput(
                f"{name} has shape {tuple(start.shape)} before and {tuple(tensor.shape)} after "
                "the update"
            )
    return torch.stack(tensors)


__all__ = ["UNCERTAIN", "likeliest_head", "stack", "with_names"]

"""Give a model's arrays their names back, find the head among them, join those of updates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from labelleak.core.forms import Entry, as_tensors, plan
from labelleak.core.head import AmbiguousHead, HeadFinding, locate_head
from labelleak.core.task import Task
from labelleak.errors import BadInput
from labelleak.flower.findings import UNCERTAIN


class Renamed(Mapping[str, Tensor]):
    """Arrays under other names, or turned, still decoded one by one."""

    def __init__(self, arrays: Mapping[str, Tensor], entries: Mapping[str, Entry]) -> None:
        self._arrays = arrays
        self._entries = entries

    def __getitem__(self, name: str) -> Tensor:
        return self._entries[name].take(self._arrays)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def with_names(
    arrays: Mapping[str, Tensor] | Sequence[object],
    model: nn.Module | None,
    layout: str | None = None,
) -> Mapping[str, Tensor]:
    """Name arrays that came as a plain list, or as Keras and JAX name them, as torch does.

    Those of a list, or under numbers as Flower's old interface sends one, take the names of the
    model's state dict if there is a model; else those of `labelleak.core.forms.plan`.

    Raises:
        BadInput: if the model has another number of arrays, or their layout cannot be told.
    """
    if not isinstance(arrays, Mapping):
        arrays = {str(place): array for place, array in enumerate(arrays)}  # type: ignore[misc]
    if type(arrays) is dict:
        arrays = as_tensors(arrays)
    names = list(arrays)
    if names and all(name.isdigit() for name in names) and model is not None:
        known = list(model.state_dict())
        if set(names) == set(known):  # a model whose names are numbers
            return arrays
        if len(known) != len(names):
            raise BadInput(f"the update has {len(names)} arrays, the model has {len(known)}")
        return Renamed(arrays, {k: Entry(n, ()) for k, n in zip(known, names, strict=True)})
    if layout is None and any(name.rpartition(".")[2] == "weight" for name in names):
        return arrays
    return Renamed(arrays, plan({n: tuple(arrays[n].shape) for n in names}, layout))


def likeliest_head(
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    known: HeadFinding | None = None,
    *,
    strict: bool = False,
    task: Task | None = None,
) -> HeadFinding:
    """Find the head of an update, or take the likeliest layer and say that it is uncertain.

    Args:
        before: weights that were sent.
        after: weights that came back.
        known: the head by name or by the model; it must be in the update.
        strict: refuse where several layers could be it.
        task: what the labels are, where it is known.

    Raises:
        AmbiguousHead: if several layers could be it, and strict.
        BadInput: as `locate_head`.
    """
    if known is not None:
        return locate_head(after, before=before, name=known, task=task)
    try:
        return locate_head(after, before=before, task=task)
    except AmbiguousHead as doubt:
        if strict or not doubt.candidates:
            raise
        first, *others = doubt.candidates
        beside = locate_head(after, before=before, name=first, task=task).beside
        return HeadFinding(first, UNCERTAIN, (str(doubt),), tuple(others[:8]), beside=beside)


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

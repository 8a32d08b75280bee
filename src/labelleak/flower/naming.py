"""Return a model's arrays their names, find the head among them, put those of updates together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from labelleak.core.head import find_head
from labelleak.errors import BadInput


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

    They take the names of the model's state dict if there is a model; else the last matrix is
    called ``head.weight``, and the vector after it ``head.bias``.

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
    for place in reversed(range(len(names))):
        if arrays[names[place]].dim() == 2:
            names[place] = "head.weight"
            if place + 1 < len(names) and arrays[names[place + 1]].dim() == 1:
                names[place + 1] = "head.bias"
            break
    return Renamed(arrays, names)


def head_of(arrays: Mapping[str, Tensor], model: nn.Module | None) -> str:
    """Find the head: by the model if there is one, else the last matrix among the arrays.

    Raises:
        BadInput: if it cannot be told; name it.
    """
    if model is not None:
        linear = [name for name, part in model.named_modules() if isinstance(part, nn.Linear)]
        if linear:
            return find_head(model, name=linear[-1])
    for name in reversed(list(arrays)):
        if name.rpartition(".")[2] == "weight" and arrays[name].dim() == 2:
            return name.rpartition(".")[0]
    raise BadInput("no array of the update looks like a head's weight; name the head")


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


__all__ = ["head_of", "stack", "with_names"]

"""Names for tensors that came as a list, and tensors out of anybody's arrays."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from labelleak.errors import BadInput, shown

_PLACE = re.compile(r"(?:arr_)?(\d{1,6})")


def list_names(shapes: Mapping[str, tuple[int, ...]]) -> list[str] | None:
    """Name tensors that came as a list (``0, 1, ...`` or npz's ``arr_0, ...``) as layers are.

    A tensor of two or more dimensions at place i becomes ``i.weight``; a vector right behind it
    that fits its rows (or, in Keras and JAX, its columns) ``i.bias``. Others keep their names.

    Returns:
        The new names in the order of the old; None if they were no list.

    >>> list_names({"arr_0": (3, 4), "arr_1": (3,), "arr_2": (7,)})
    ['0.weight', '0.bias', 'arr_2']
    """
    places = {name: _PLACE.fullmatch(name) for name in shapes}
    if not shapes or not all(places.values()):
        return None
    order = sorted((int(place[1]), name) for name, place in places.items() if place)
    named: dict[str, str] = {}
    layer = ""
    sides: tuple[int, ...] = ()
    for place, name in order:
        shape = shapes[name]
        named[name] = name
        if len(shape) > 1:
            layer, sides = str(place), (shape[0], shape[-1])
            named[name] = f"{layer}.weight"
        elif len(shape) == 1 and shape[0] in sides:
            named[name], sides = f"{layer}.bias", ()
    return [named[name] for name in shapes]


def name_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors under the names of `list_names`; those with names stay.

    >>> sorted(name_tensors({"arr_0": torch.zeros(3, 4), "arr_1": torch.zeros(3)}))
    ['0.bias', '0.weight']
    """
    names = list_names({name: tuple(tensor.shape) for name, tensor in tensors.items()})
    return dict(tensors) if names is None else dict(zip(names, tensors.values(), strict=True))


def as_tensors(arrays: Mapping[str, Any]) -> dict[str, Tensor]:
    """Take arrays of numpy where tensors are expected; entries that are None are left out.

    Raises:
        BadInput: if an entry is no array of numbers.

    >>> as_tensors({"a": np.zeros(2, np.float32), "b": None})
    {'a': tensor([0., 0.])}
    """
    taken: dict[str, Tensor] = {}
    for name, array in arrays.items():
        if isinstance(array, Tensor):
            taken[name] = array
        elif array is not None:
            try:
                taken[name] = torch.as_tensor(np.asarray(array))
            except (TypeError, ValueError, RuntimeError) as error:
                raise BadInput(f"{shown(name)} is no array of numbers") from error
    return taken


__all__ = ["as_tensors", "list_names", "name_tensors"]

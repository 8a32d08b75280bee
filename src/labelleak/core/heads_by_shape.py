"""Find the head among bare tensors, by name or by shape, where no model is at hand."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from labelleak.errors import BadInput, shown

_PLACE = re.compile(r"(?:arr_)?(\d{1,6})")


def name_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name tensors that came as a list (``0, 1, ...`` or npz's ``arr_0, ...``) as layers are.

    A tensor of two or more dimensions at place i becomes ``i.weight``; a row of as many entries
    as it has rows, right behind it, ``i.bias``. Tensors with names stay.

    >>> import torch
    >>> sorted(name_tensors({"arr_0": torch.zeros(3, 4), "arr_1": torch.zeros(3)}))
    ['0.bias', '0.weight']
    """
    places = {name: _PLACE.fullmatch(name) for name in tensors}
    if not all(places.values()):
        return dict(tensors)
    order = sorted((int(place[1]), name) for name, place in places.items() if place)
    named: dict[str, Tensor] = {}
    layer, rows = "", None
    for place, name in order:
        tensor = tensors[name]
        if tensor.dim() > 1:
            layer, rows = str(place), tensor.shape[0]
            named[f"{layer}.weight"] = tensor
        elif tensor.dim() == 1 and len(tensor) == rows:
            named[f"{layer}.bias"], rows = tensor, None
        else:
            named[name] = tensor
    return named


def locate_head(tensors: Mapping[str, Tensor], name: str | None = None) -> str:
    """Return the module name of the head among tensors named as in a state dict.

    By name if one is given. Else by shape: among two-dimensional weights with a matching bias
    (without one, where none has any), the head is the one whose outputs feed no other layer: no
    other two-dimensional weight has as many columns as it has rows. The order of the
    tensors says nothing, since safetensors files do not keep it.

    Raises:
        BadInput: if the named one is not there, or none or several could be it.

    >>> import torch
    >>> layers = {"a.weight": torch.zeros(8, 4), "b.weight": torch.zeros(3, 8)}
    >>> locate_head(layers)
    'b'
    """
    flat = {n: t for n, t in tensors.items() if t.dim() == 2 and t.is_floating_point()}
    weights = {n: t for n, t in flat.items() if n.rpartition(".")[2] == "weight" and len(t) > 1}
    if name is not None:
        return _by_name(tensors, list(weights), name)
    biased = {n: t for n, t in weights.items() if _has_bias(tensors, n)}
    pool = biased or weights
    leaving = [
        n
        for n, t in pool.items()
        if not any(len(t) == other.shape[1] for m, other in flat.items() if m != n)
    ]
    if len(leaving) == 1:
        return _module(leaving[0])
    if not pool:
        raise BadInput(
            f"no tensor looks like a linear layer's weight (K x D, named ...weight), so there is "
            f"no head; the file holds {_listed(list(tensors))}"
        )
    shapes = [f"{_module(n)!a} {tuple(pool[n].shape)}" for n in (leaving or list(pool))]
    raise BadInput(
        f"several layers could be the head: {_first(shapes)}; name it with --head, or give --model"
    )


def _by_name(tensors: Mapping[str, Tensor], weights: list[str], name: str) -> str:
    head = name.removesuffix(".weight") if name not in ("weight", "bias") else ""
    prefix = f"{head}." if head else ""
    weight, bias = tensors.get(f"{prefix}weight"), tensors.get(f"{prefix}bias")
    if weight is None and bias is None:
        raise BadInput(
            f"there is no head {shown(name)} in the file; its linear layers: "
            f"{_listed([_module(n) for n in weights])}"
        )
    for part, tensor, sides in (("weight", weight, 2), ("bias", bias, 1)):
        if tensor is not None and (tensor.dim() != sides or not tensor.is_floating_point()):
            raise BadInput(
                f"the head's {part} must be floating-point numbers in {sides} dimension(s), not "
                f"{tensor.dtype} of shape {tuple(tensor.shape)}; name the last linear layer"
            )
    return head


def _has_bias(tensors: Mapping[str, Tensor], weight: str) -> bool:
    bias = tensors.get(f"{weight.removesuffix('weight')}bias")
    return bias is not None and tuple(bias.shape) == (len(tensors[weight]),)


def _module(weight: str) -> str:
    return weight.removesuffix("weight").removesuffix(".")


def _listed(names: list[str]) -> str:
    return _first([shown(name) for name in names]) or "none"


def _first(words: list[str], most: int = 8) -> str:
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more

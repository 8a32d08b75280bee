"""Tensors of any framework in torch's form: names by module, weights of outputs x inputs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from labelleak.core.lazy import Tensor, torch
from labelleak.errors import BadInput, shown

TORCH, KERAS = LAYOUTS = ("torch", "keras")
UNTOLD = (
    "whether the weights are outputs x inputs (as PyTorch has them) or inputs x outputs (Keras, "
    "JAX) cannot be told, as no bias fits one side alone; say it with `layout`: torch or keras"
)
_PLACE = re.compile(r"(?:arr_)?(\d{1,6})")
_WEIGHTS, _BIASES = ("kernel", "w", "weights"), ("b", "biases")
# What wrappers put before every name: DataParallel, compile, Opacus, Lightning, PEFT.
_WRAPPERS = ("module.", "_orig_mod.", "_module.", "base_model.model.", "model.", "net.")
_DEEPEST = 32


@dataclass(frozen=True)
class Entry:
    """Where a tensor of torch's form comes from.

    Attributes:
        source: its name as it came.
        shape: its shape as it came.
        turned: whether it is a kernel of inputs x outputs, to be transposed.
    """

    source: str
    shape: tuple[int, ...]
    turned: bool = False

    def take(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return the tensor in torch's form; no number is copied."""
        tensor = tensors[self.source]
        sides = tensor.dim()
        return tensor.permute(sides - 1, sides - 2, *range(sides - 2)) if self.turned else tensor


def torch_form(
    arrays: Any, layout: str | None = None, *, of_torch: bool | None = None
) -> dict[str, Tensor]:
    """Take tensors or arrays, by name or in a list, of any framework.

    Args:
        arrays: by name, nested (Flax) or not, or a list as Keras's ``get_weights()`` and Flower
            give it. None in place of an array is left out. Of a module, its state.
        layout: ``torch`` (weights are outputs x inputs) or ``keras`` (inputs x outputs, as JAX
            has them, too); told by names and biases if left out.
        of_torch: whether PyTorch made them, so that a list of which nothing else tells the layout
            has PyTorch's; by default whether there are tensors among them.

    Raises:
        BadInput: if an entry is no array of numbers, or the layout cannot be told.

    >>> kernels = [np.zeros((4, 3), np.float32), np.zeros(3, np.float32)]
    >>> {name: tuple(tensor.shape) for name, tensor in torch_form(kernels).items()}
    {'0.weight': (3, 4), '0.bias': (3,)}
    """
    if isinstance(arrays, torch.nn.Module):
        arrays = arrays.state_dict()
    if not isinstance(arrays, Mapping):
        if not isinstance(arrays, list | tuple):
            raise BadInput(
                "tensors are taken by name, as in {'fc.weight': ...}, or in a list, not as "
                f"{type(arrays).__name__}"
            )
        arrays = {str(place): array for place, array in enumerate(arrays)}
    if of_torch is None:
        of_torch = any(isinstance(array, torch.Tensor) for array in arrays.values())
    lists = TORCH if of_torch else None
    tensors = as_tensors(arrays)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    return {n: entry.take(tensors) for n, entry in plan(shapes, layout, lists=lists).items()}


def plan(
    shapes: Mapping[str, tuple[int, ...]], layout: str | None = None, *, lists: str | None = None
) -> dict[str, Entry]:
    """Say under which name and how turned each tensor is to be taken, by names and shapes alone.

    A list's tensor of two or more dimensions at place i becomes ``i.weight``, and a vector right
    behind it that fits its rows or columns ``i.bias``. ``Dense_0/kernel`` becomes
    ``Dense_0.weight``.

    Args:
        shapes: by name; ``0, 1, ...`` or npz's ``arr_0, ...`` are a list.
        layout: as in `torch_form`.
        lists: the layout of a list of which nothing else tells it.

    Raises:
        BadInput: if the layout cannot be told, or two tensors would get one name.

    >>> plan({"arr_0": (3, 4), "arr_1": (3,), "arr_2": (7,)})["0.bias"]
    Entry(source='arr_1', shape=(3,), turned=False)
    """
    if layout not in (None, *LAYOUTS):
        raise BadInput(f"the layout must be one of {', '.join(LAYOUTS)}, not {shown(layout)}")
    listed = _list_names(shapes)
    names = dict(shapes) if listed is None else listed
    called = {source: _clean(name) for source, name in zip(shapes, names, strict=True)}
    own = any(n.rpartition(".")[2] == "weight" and len(shapes[s]) > 1 for s, n in called.items())
    kernels = not own and any(n.rpartition(".")[2] == "kernel" for n in called.values())
    if not own:
        called = {source: _in_torch_words(name) for source, name in called.items()}
    entries = {name: Entry(source, tuple(shapes[source])) for source, name in called.items()}
    if len(entries) != len(called):
        twice = next(name for name, n in Counter(called.values()).items() if n > 1)
        raise BadInput(f"two tensors would be called {shown(twice)}")
    if layout is None and own and listed is None:
        layout = KERAS if _all_turned(entries) else TORCH
    elif layout is None:
        layout = _layout(entries, KERAS if kernels else lists)
    if layout == TORCH:
        return entries
    return {n: replace(e, turned=_is_weight(n, e)) for n, e in entries.items()}


def _list_names(shapes: Mapping[str, tuple[int, ...]]) -> list[str] | None:
    """Name the tensors of a list, in the order they came; None if they are no list."""
    places = {name: _PLACE.fullmatch(name) for name in shapes}
    if not shapes or not all(places.values()):
        return None
    named: dict[str, str] = {}
    layer, sides = -2, (0, 0)
    for place, name in sorted((int(p[1]), name) for name, p in places.items() if p):
        shape = shapes[name]
        named[name] = name
        if len(shape) > 1:
            layer, sides = place, (shape[0], shape[-1])
            named[name] = f"{place}.weight"
        elif len(shape) == 1 and place == layer + 1 and shape[0] in sides:
            named[name] = f"{layer}.bias"
    return [named[name] for name in shapes]


def _clean(name: str) -> str:
    """Write a path of Keras or JAX as torch writes a module's.

    >>> _clean("model/dense_1/kernel:0")
    'model.dense_1.kernel'
    """
    return name.removesuffix(":0").replace("/", ".") if "/" in name or name[-2:] == ":0" else name


def _in_torch_words(name: str) -> str:
    module, dot, part = name.rpartition(".")
    part = "weight" if part in _WEIGHTS else "bias" if part in _BIASES else part
    return f"{module}{dot}{part}"


def _is_weight(name: str, entry: Entry) -> bool:
    return name.rpartition(".")[2] == "weight" and len(entry.shape) > 1


@dataclass(frozen=True)
class _Matrix:
    """A weight matrix as it came, and the length of the vector that goes with it."""

    rows: int
    columns: int
    bias: int | None

    @property
    def says(self) -> str | None:
        """The layout in which the vector is its bias, if one alone."""
        if self.rows == self.columns or self.bias not in (self.rows, self.columns):
            return None
        return TORCH if self.bias == self.rows else KERAS


def _matrices(entries: Mapping[str, Entry]) -> Iterator[_Matrix]:
    for name, entry in entries.items():
        if _is_weight(name, entry) and len(entry.shape) == 2:
            vector = entries.get(f"{name.removesuffix('weight')}bias")
            length = vector.shape[0] if vector is not None and len(vector.shape) == 1 else None
            yield _Matrix(*entry.shape, length)


def _all_turned(entries: Mapping[str, Entry]) -> bool:
    """Return whether every weight has a bias, and all that tell anything tell Keras's layout."""
    found = list(_matrices(entries))
    return {m.says for m in found} - {None} == {KERAS} and all(m.bias for m in found)


def _layout(entries: Mapping[str, Entry], presumed: str | None) -> str:
    """Tell the layout by the biases, else by the chain of sizes.

    The first of several matrices may be an embedding, and the vector behind it a norm's.
    """
    found = list(_matrices(entries))
    if not found:
        return presumed or TORCH
    said = Counter(m.says for m in found)
    told: str | None
    doubtful = len(found) > 1 and said[KERAS] == 1 and found[0].says == KERAS
    if said[TORCH] != said[KERAS] and not (doubtful and not said[TORCH] and presumed != KERAS):
        told = max(LAYOUTS, key=lambda layout: said[layout])
    else:
        pairs = list(pairwise(found))
        straight = bool(pairs) and all(
            one.rows == two.columns or (one is found[0] and one.columns == two.columns)
            for one, two in pairs
        )
        turned = bool(pairs) and all(one.columns == two.rows for one, two in pairs)
        told = presumed if straight == turned else TORCH if straight else KERAS
    if told is None or (presumed == KERAS and told == TORCH):
        raise BadInput(UNTOLD)
    return told


def as_tensors(arrays: Mapping[str, Any]) -> dict[str, Tensor]:
    """Take arrays of numpy where tensors are expected; entries that are None are left out.

    Raises:
        BadInput: if an entry is no array of numbers.

    >>> as_tensors({"a": np.zeros(2, np.float32), "b": None})
    {'a': tensor([0., 0.])}
    """
    return {name: _tensor(name, array) for name, array in _flat(arrays) if array is not None}


def _flat(arrays: Mapping[str, Any], before: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    if depth > _DEEPEST:
        raise BadInput("the tensors are nested too deeply to be an update")
    for key, array in arrays.items():
        if isinstance(array, Mapping):
            yield from _flat(array, f"{before}{key}.", depth + 1)
        else:
            yield f"{before}{key}", array


def _tensor(name: str, array: Any) -> Tensor:
    if isinstance(array, torch.Tensor):
        if array.is_meta:
            raise BadInput(f"{shown(name)} has a shape and no data (device meta)")
        return array
    try:
        plain = np.asarray(array)
        if plain.dtype.name == "bfloat16":  # of JAX's own kind, which torch does not know
            plain = plain.astype(np.float32)
        plain = plain.astype(plain.dtype.newbyteorder("="), copy=False)
        # torch takes no views that run backwards, and warns of arrays that may not be written to.
        awkward = not plain.flags.writeable or any(step < 0 for step in plain.strides)
        return torch.as_tensor(plain.copy() if awkward else plain)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadInput(f"{shown(name)} is no array of numbers") from error


def without_wrapper(names: Iterable[str]) -> dict[str, str]:
    """Take off what a wrapper put before every name.

    >>> without_wrapper(["module.model.fc.weight", "module.model.fc.bias"])
    {'module.model.fc.weight': 'fc.weight', 'module.model.fc.bias': 'fc.bias'}
    """
    called = {name: name for name in names}
    while called:
        first = next(iter(called.values()))
        prefix = next((p for p in _WRAPPERS if first.startswith(p)), None)
        if prefix is None or not all(name.startswith(prefix) for name in called.values()):
            break
        called = {name: short.removeprefix(prefix) for name, short in called.items()}
    return called


def named_like(tensors: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor] | None:
    """Return tensors under other names, if only a wrapper's prefix sets theirs apart; else None.

    >>> sorted(named_like({"module.fc.weight": torch.ones(1)}, ["fc.weight", "fc.bias"]))
    ['fc.weight']
    """
    wanted, mine = without_wrapper(names), without_wrapper(tensors)
    full = {short: name for name, short in wanted.items()}
    if any(name in wanted for name in tensors) or not any(n in full for n in mine.values()):
        return None
    return {full.get(mine[name], mine[name]): tensor for name, tensor in tensors.items()}


def module_called(name: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the module that somebody means, who may name its weight, or its wrapper, too.

    >>> module_called("module.Dense_0/kernel", {"Dense_0.weight": torch.ones(1)})
    'Dense_0'
    """
    plain = _in_torch_words(_clean(name))
    plain = "" if plain == "weight" else plain.removesuffix(".weight")
    short = without_wrapper([plain])[plain]
    for module in (name, plain, short):
        if any((f"{module}.{p}" if module else p) in tensors for p in ("weight", "bias")):
            return module
    return plain


__all__ = [
    "LAYOUTS",
    "TORCH",
    "Entry",
    "as_tensors",
    "module_called",
    "named_like",
    "plan",
    "torch_form",
    "without_wrapper",
]

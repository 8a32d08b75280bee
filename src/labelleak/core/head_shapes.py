"""The chain of layers' sizes: whose rows feed whose columns, among tensors named as in a state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from torch import Tensor

_RECURRENT = ("weight_hh", "weight_ih")


class Place(IntEnum):
    """Where a layer stands in the chain of sizes, likeliest head first."""

    LEAF = 0  # its rows feed no layer
    DOUBTFUL = 1  # they may feed one, or match it by chance
    HIDDEN = 2  # some layer has no other source than these rows


@dataclass(frozen=True)
class Layer:
    """A matrix that may be a linear layer's weight, or a convolution's kernel.

    Attributes:
        name: of the module.
        rows: outputs; classes, if it is the head.
        columns: inputs; channels of them, of a convolution.
        bias: whether a vector of as many entries as rows goes with it.
        turned: whether its vector fits the columns alone, as where kernels are inputs x outputs.
    """

    name: str
    rows: int
    columns: int
    bias: bool = False
    turned: bool = False


def key_of(module: str, part: str = "weight") -> str:
    """Return the name of a module's tensor.

    >>> key_of("fc"), key_of("", "bias")
    ('fc.weight', 'bias')
    """
    return f"{module}.{part}" if module else part


def norm_widths(tensors: Mapping[str, Tensor]) -> set[int]:
    """Return the lengths of the vectors called weight, which norm layers have.

    Before a norm layer a hidden layer's change sums to zero over its rows, as a head's does.

    >>> import torch
    >>> norm_widths({"norm.weight": torch.ones(8), "norm.bias": torch.ones(8)})
    {8}
    """
    return {len(t) for name, t in tensors.items() if t.dim() == 1 and name.endswith("weight")}


def layers_of(tensors: Mapping[str, Tensor]) -> list[Layer]:
    """List the matrices called weight; buffers and tables of other names are none.

    >>> import torch
    >>> [layer.rows for layer in layers_of({"fc.weight": torch.zeros(3, 4), "m": torch.eye(2)})]
    [3]
    """
    found = []
    for key, tensor in tensors.items():
        if key.rpartition(".")[2] != "weight" or tensor.dim() != 2 or not _is_real(tensor):
            continue
        name = key.removesuffix("weight").removesuffix(".")
        rows, columns = (int(n) for n in tensor.shape)
        vector = tensors.get(key_of(name, "bias"))
        length = int(vector.shape[0]) if vector is not None and vector.dim() == 1 else None
        turned = length is not None and length == columns != rows
        found.append(Layer(name, rows, columns, length == rows, turned))
    return found


def convolutions_of(tensors: Mapping[str, Tensor]) -> list[Layer]:
    """List the kernels called weight, which may give a class a position.

    >>> import torch
    >>> [layer.columns for layer in convolutions_of({"out.weight": torch.zeros(3, 8, 1, 1)})]
    [8]
    """
    found = []
    for key, tensor in tensors.items():
        if key.rpartition(".")[2] == "weight" and 3 <= tensor.dim() <= 5 and _is_real(tensor):
            name = key.removesuffix("weight").removesuffix(".")
            rows, channels = (int(n) for n in tensor.shape[:2])
            vector = tensors.get(key_of(name, "bias"))
            bias = vector is not None and tuple(vector.shape) == (rows,)
            found.append(Layer(name, rows, channels, bias))
    return found


def _is_real(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.numel() > 0


@dataclass(frozen=True)
class Chain:
    """Counts of widths, from which each layer's place follows at once.

    Attributes:
        made: how many matrices put out each width, and take in another.
        taken: how many matrices take in each width, and put out another.
        squares: how many do both.
        open: widths of matrices that no other feeds, as the first layer is, and how many.
        entered: whether the model's input is accounted for without any of the made widths.
    """

    made: Counter[int]
    taken: Counter[int]
    squares: Counter[int]
    open: Counter[int]
    entered: bool

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], layers: list[Layer]) -> Chain:
        """Count widths in one pass.

        A convolution's channels feed a matrix as they are (pooled) or times the places left
        (flattened); a recurrent layer puts out the columns of its own loop.
        """
        others = [layer for layer in layers if layer.rows != layer.columns]
        made = Counter(layer.rows for layer in others)
        taken = Counter(layer.columns for layer in others)
        squares = Counter(layer.rows for layer in layers if layer.rows == layer.columns)
        channels: set[int] = set()
        entered = False
        loops: list[int] = []
        for key, tensor in tensors.items():
            part = key.rpartition(".")[2]
            if tensor.dim() > 2 and part == "weight":
                channels.add(int(tensor.shape[0]))
                entered = True
            elif tensor.dim() == 2 and part.startswith(_RECURRENT):
                taken[int(tensor.shape[1])] += 1
                loops.append(int(tensor.shape[1]))
                if part.startswith("weight_hh"):
                    channels.add(int(tensor.shape[1]))
            elif tensor.dim() == 2 and part == "in_proj_weight":
                taken[int(tensor.shape[1])] += 1
                made[int(tensor.shape[0]) // 3] += 1
        alone = Counter(
            layer.columns
            for layer in layers
            if made[width := layer.columns] + squares[width] == (layer.rows == width)
        )
        fed = {width: any(c and width % c == 0 for c in channels) for width in {*alone, *loops}}
        free = Counter({width: n for width, n in alone.items() if not fed[width]})
        # A matrix that may be fed by the halves of another's rows says nothing of the input.
        halves = {layer.rows / 2 for layer in others if layer.rows != 2 * layer.columns}
        inputs = set(free) - halves
        inputs.update(width for width in loops if not fed[width] and not made[width])
        return cls(made, taken, squares, free, entered or bool(inputs))

    def takers(self, layer: Layer) -> int:
        """Count the other matrices that take in as many numbers as a layer puts out."""
        width = layer.rows
        return self.taken[width] + self.squares[width] - (width == layer.columns)

    def place(self, layer: Layer) -> Place:
        """Say where a layer stands."""
        width = layer.rows
        if self.takers(layer) == 0:
            return self._halved(layer)
        # What takes this width has no source but those that make it, if the input is elsewhere.
        if not self.entered or width == layer.columns:
            return Place.DOUBTFUL
        makers = self.made[width]
        return Place.HIDDEN if makers == 1 or self.taken[width] >= makers else Place.DOUBTFUL

    def _halved(self, layer: Layer) -> Place:
        """Look for one whose source these rows are by halves (GLU), thirds or quarters."""
        for parts in (2, 3, 4):
            width, rest = divmod(layer.rows, parts)
            if rest or width < 2:
                continue
            own = width == layer.columns
            others = sum(self.open.values()) - self.open[width]
            if not own and self.open[width] == 1 and parts == 2 and others:
                return Place.HIDDEN
            if own and self.taken[width] + self.squares[width] > 1:
                return Place.DOUBTFUL  # queries, keys and values in one matrix
        return Place.LEAF


__all__ = ["Chain", "Layer", "Place", "convolutions_of", "key_of", "layers_of", "norm_widths"]

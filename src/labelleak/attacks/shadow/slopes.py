"""The loss of a network of counts and its gradient by hand, in a fraction of autograd's time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from labelleak.core.counts import Ints
from labelleak.core.lazy import torch

if TYPE_CHECKING:
    from labelleak.attacks.shadow.net import CountNet

Numbers = NDArray[np.floating[Any]]
# Logistic distributions that each count is a mixture of.
PARTS = 3
_TINY = 1e-12


@dataclass(frozen=True, eq=False)
class Examples:
    """Batches to learn from, laid out as the steps of training read them.

    Attributes:
        own: features of each class, ``S x K x F``.
        means: over the classes, ``S x F``.
        ends: square roots of c - 1/2 and of c + 1/2, or what nothing lies below where c is 0 and
            above where it is N, ``S x 2 x K``.
    """

    own: Numbers
    means: Numbers
    ends: Numbers

    @classmethod
    def of(cls, features: Numbers, counts: Ints, total: int) -> Examples:
        """Lay out ``S x K x F`` features and ``S x K`` counts of N labels."""
        c = counts.astype(features.dtype)
        below = np.where(c > 0, np.sqrt(np.maximum(c - 0.5, 0.1)), -1e4)
        above = np.where(c < total, np.sqrt(c + 0.5), 1e4)
        ends = np.stack([below, above], axis=1).astype(features.dtype)
        return cls(features, features.mean(axis=1), ends)

    def __len__(self) -> int:
        """Return how many batches there are."""
        return len(self.own)

    def __getitem__(self, picks: NDArray[np.int64] | slice) -> Examples:
        """Return some of them."""
        return Examples(self.own[picks], self.means[picks], self.ends[picks])


@dataclass(frozen=True, eq=False)
class Slopes:
    """The parameters of a `CountNet` and the slope of its loss, each laid flat.

    A network this small spends most of autograd's time on bookkeeping, so its gradient is written
    down here. The tests hold it to autograd's.

    Attributes:
        net: whose parameters are views of `flat`.
        flat: all parameters.
        slope: the gradient that `measure` leaves.
        values: views of the parameters by name.
        slopes: views of the slope by name.
    """

    net: CountNet
    flat: Numbers
    slope: Numbers
    values: dict[str, Numbers]
    slopes: dict[str, Numbers]

    @classmethod
    def of(cls, net: CountNet) -> Slopes:
        """Lay a network's parameters flat; the network follows what is written there."""
        named = dict(net.named_parameters())
        flat = torch.cat([value.detach().flatten() for value in named.values()])
        slope = torch.zeros_like(flat)
        sizes = [value.numel() for value in named.values()]
        pieces = zip(torch.split(flat, sizes), torch.split(slope, sizes), strict=True)
        values, slopes = {}, {}
        for (name, parameter), (own, part) in zip(named.items(), pieces, strict=True):
            parameter.data = own.view_as(parameter)
            values[name] = parameter.detach().numpy()
            slopes[name] = part.view_as(parameter).numpy()
        return cls(net, flat.numpy(), slope.numpy(), values, slopes)

    def measure(self, shown: Examples) -> float:
        """Return the mean of ``-log P(c_i)`` over all classes of all batches, and set its slope.

        Classes come first here, so that what is added up over them lies side by side, and parts of
        the mixture before them.
        """
        values, given = self.values, np.ascontiguousarray(shown.own.transpose(1, 0, 2))
        first = self._pass("first", given, shown.means)
        low = first.given
        means = np.add.reduce(low, axis=0) / len(low)
        others = np.concatenate([means, np.maximum.reduce(low, axis=0)], axis=1)
        second = self._pass("second", low, others)
        top = low + second.given
        held, own = _flat(top), _flat(given)
        out = values["last.weight"] @ held.T + values["last.bias"][:, None]
        out[:PARTS] += values["direct.weight"] @ own.T
        ends = shown.ends.transpose(1, 2, 0).reshape(2, 1, -1)
        loss, slope = _surprise(out.reshape(3, PARTS, -1), ends, self.net.spread)
        self.slopes["last.weight"][:] = slope @ held
        self.slopes["last.bias"][:] = np.add.reduce(slope, axis=1)
        self.slopes["direct.weight"][:] = np.add.reduce(slope[:PARTS], axis=0) @ own
        back = (slope.T @ values["last.weight"]).reshape(top.shape)
        back += self._push("second", second, back)
        self._slope("first", first, back)
        return loss

    def _pass(self, name: str, own: Numbers, others: Numbers) -> _Layer:
        weight, (classes, batches, width) = self.values[f"{name}.weight"], own.shape
        shared = others @ weight[:, width:].T + self.values[f"{name}.bias"]
        before = (_flat(own) @ weight[:, :width].T).reshape(classes, batches, -1)
        before += shared
        gate = np.exp(-before)
        gate += 1
        np.divide(1, gate, out=gate)
        return _Layer(own, others, gate, before * gate)

    def _push(self, name: str, layer: _Layer, back: Numbers) -> Numbers:
        """Set the slope of a layer's parameters and return that of the layer's inputs."""
        (classes, _, width), weight = layer.own.shape, self.values[f"{name}.weight"]
        steep, shared = self._slope(name, layer, back)
        through = (_flat(steep) @ weight[:, :width]).reshape(layer.own.shape)
        others = shared @ weight[:, width:]
        # The greatest of each number gets its slope; several that are equal share it.
        first = (layer.own == layer.others[:, width:]).astype(through.dtype)
        first *= others[:, width:] / np.add.reduce(first, axis=0)
        through += first
        through += others[:, :width] / classes
        return np.asarray(through)

    def _slope(self, name: str, layer: _Layer, back: Numbers) -> tuple[Numbers, Numbers]:
        width = layer.own.shape[2]
        steep = 1 - layer.gate  # silu' = gate + given (1 - gate)
        steep *= layer.given
        steep += layer.gate
        steep *= back
        shared = np.add.reduce(steep, axis=0)
        slope = self.slopes[f"{name}.weight"]
        slope[:, :width] = _flat(steep).T @ _flat(layer.own)
        slope[:, width:] = shared.T @ layer.others
        self.slopes[f"{name}.bias"][:] = np.add.reduce(shared, axis=0)
        return steep, shared


@dataclass(frozen=True, eq=False)
class _Layer:
    """One layer as it was passed: ``silu(own A + others B + b)``, the others shared by a batch."""

    own: Numbers
    others: Numbers
    gate: Numbers
    given: Numbers


def _flat(values: Numbers) -> Numbers:
    return values.reshape(-1, values.shape[2])


def _surprise(out: Numbers, ends: Numbers, spread: float) -> tuple[float, Numbers]:
    """Return the loss, and its slope by what the network gave last, a column a class.

    It is the mixture's mass between the square roots of c - 1/2 and c + 1/2. ``log(s(a) - s(b))``
    is taken in a form whose slope never vanishes, however far off a part is.
    """
    centres, widths, weights = out
    inverse = np.exp(-np.minimum(np.maximum(widths, -5), 4)) / spread
    # How far the mass's lower end lies above a centre, and its upper end below it.
    off = (ends - centres * spread) * inverse
    np.negative(off[1], out=off[1])
    small = np.exp(-np.abs(off))
    inside = 1 / (1 + small)
    missed = np.where(off > 0, inside, 1 - inside)
    width = np.add.reduce(off, axis=0)
    apart = np.maximum(-np.expm1(width), _TINY)
    lost = np.log1p(small) + np.maximum(off, 0)
    chances, whole = _shares(weights)
    share, likely = _shares(weights - np.add.reduce(lost, axis=0) + np.log(apart))
    likely -= whole
    moved = share * (missed[1] - missed[0]) * inverse * spread
    wider = np.add.reduce(missed * off, axis=0) + (1 / apart - 1) * width
    wider *= share * (np.abs(widths + 0.5) < 4.5)
    slope = np.concatenate([moved, -wider, chances - share])
    slope /= likely.size
    return -float(np.add.reduce(likely)) / likely.size, slope


def _shares(logs: Numbers) -> tuple[Numbers, Numbers]:
    """Return what shares of their sum numbers have that are given by logarithms, and its own."""
    most = np.maximum.reduce(logs, axis=0)
    parts = np.exp(logs - most)
    whole = np.add.reduce(parts, axis=0)
    parts /= whole
    return parts, np.log(whole) + most


__all__ = ["PARTS", "Examples", "Numbers", "Slopes"]

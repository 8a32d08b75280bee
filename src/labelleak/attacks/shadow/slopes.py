"""The loss of networks of counts and its gradient by hand, in a fraction of autograd's time."""

from __future__ import annotations

from collections.abc import Sequence
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
    """Batches to learn from, of each of M networks, laid out as the steps of training read them.

    Classes come before batches here, so that what is added up over them lies side by side.

    Attributes:
        own: features of each class, ``M x K x S x F``.
        means: over the classes, ``M x S x F``.
        ends: square roots of c - 1/2 and of c + 1/2, or what nothing lies below where c is 0 and
            above where it is N, ``2 x M x K x S``.
    """

    own: Numbers
    means: Numbers
    ends: Numbers

    @classmethod
    def of(cls, features: Numbers, counts: Ints, total: int) -> Examples:
        """Lay out ``S x K x F`` features and ``S x K`` counts of N labels, for one network."""
        ends = ends_of(counts, total).astype(features.dtype)
        own = np.ascontiguousarray(features.transpose(1, 0, 2))
        return cls(own[None], features.mean(axis=1)[None], ends.transpose(0, 2, 1)[:, None])


def ends_of(counts: Ints, total: int) -> Numbers:
    """Return the ends of what counts of N labels stand for, ``2 x S x K``; see `Examples`."""
    below = np.where(counts > 0, np.sqrt(np.maximum(counts - 0.5, 0.1)), -1e4)
    above = np.where(counts < total, np.sqrt(counts + 0.5), 1e4)
    return np.stack([below, above])


@dataclass(frozen=True, eq=False)
class Slopes:
    """The parameters of M like `CountNet` and the slopes of their losses, each laid flat.

    Networks this small spend most of autograd's time on bookkeeping, so their gradient is written
    down here, and most of numpy's on its calls, so it is that of several at once. Each one's
    numbers are to the last bit those that it would have alone. The tests hold them to autograd's.

    Attributes:
        spreads: of the networks.
        flat: all parameters, ``M x P``; the networks follow what is written there.
        slope: the gradient that `measure` leaves.
        values: views of the parameters by name.
        slopes: views of the slope by name.
    """

    spreads: Numbers
    flat: Numbers
    slope: Numbers
    values: dict[str, Numbers]
    slopes: dict[str, Numbers]

    @classmethod
    def of(cls, nets: Sequence[CountNet]) -> Slopes:
        """Lay networks' parameters flat; the networks follow what is written there."""
        rows = [torch.cat([p.detach().flatten() for p in net.parameters()]) for net in nets]
        flat = torch.stack(rows)
        shapes = {name: value.shape for name, value in nets[0].named_parameters()}
        values = _views(flat.numpy(), shapes)
        for place, net in enumerate(nets):
            for name, parameter in net.named_parameters():
                parameter.data = torch.from_numpy(values[name][place])
        slope = np.zeros_like(flat.numpy())
        spreads = np.array([net.spread for net in nets], dtype=slope.dtype)
        return cls(spreads, flat.numpy(), slope, values, _views(slope, shapes))

    def first(self, number: int) -> Slopes:
        """Return those of the first networks alone."""
        values, slopes = ({n: v[:number] for n, v in s.items()} for s in (self.values, self.slopes))
        return Slopes(
            self.spreads[:number], self.flat[:number], self.slope[:number], values, slopes
        )

    def measure(self, shown: Examples) -> Numbers:
        """Set the slopes of losses, and return these: means of ``-log P(c_i)`` over all classes.

        Of the arrays here, the networks come first; parts of the mixture before them.
        """
        values, given = self.values, shown.own
        first = self._pass("first", given, shown.means)
        low = first.given
        means = np.add.reduce(low, axis=1) / low.shape[1]
        others = np.concatenate([means, np.maximum.reduce(low, axis=1)], axis=2)
        second = self._pass("second", low, others)
        top = low + second.given
        held, own = _flat(top), _flat(given)
        out = values["last.weight"] @ _turned(held) + values["last.bias"][:, :, None]
        out[:, :PARTS] += values["direct.weight"] @ _turned(own)
        nets, _, rows = out.shape
        laid = out.transpose(1, 0, 2).reshape(3, PARTS, -1)
        lost, slope = _surprise(laid, shown.ends.reshape(2, 1, -1), np.repeat(self.spreads, rows))
        slope /= rows
        slope = slope.reshape(-1, nets, rows).transpose(1, 0, 2)
        np.matmul(slope, held, out=self.slopes["last.weight"])
        np.add.reduce(slope, axis=2, out=self.slopes["last.bias"])
        centred = np.add.reduce(slope[:, :PARTS], axis=1)
        np.matmul(centred[:, None], own, out=self.slopes["direct.weight"])
        back = (_turned(slope) @ values["last.weight"]).reshape(top.shape)
        back += self._push("second", second, back)
        self._slope("first", first, back)
        return np.asarray(lost.reshape(nets, -1).mean(axis=1))

    def _pass(self, name: str, own: Numbers, others: Numbers) -> _Layer:
        weight, width = self.values[f"{name}.weight"], own.shape[3]
        shared = others @ _turned(weight[:, :, width:]) + self.values[f"{name}.bias"][:, None]
        before = (_flat(own) @ _turned(weight[:, :, :width])).reshape(*own.shape[:3], -1)
        before += shared[:, None]
        gate = np.exp(-before)
        gate += 1
        np.divide(1, gate, out=gate)
        return _Layer(own, others, gate, before * gate)

    def _push(self, name: str, layer: _Layer, back: Numbers) -> Numbers:
        """Set the slope of a layer's parameters and return that of the layer's inputs."""
        (_, classes, _, width), weight = layer.own.shape, self.values[f"{name}.weight"]
        steep, shared = self._slope(name, layer, back)
        through = (_flat(steep) @ weight[:, :, :width]).reshape(layer.own.shape)
        others = shared @ weight[:, :, width:]
        # The greatest of each number gets its slope; several that are equal share it.
        first = (layer.own == layer.others[:, None, :, width:]).astype(through.dtype)
        first *= (others[:, :, width:] / np.add.reduce(first, axis=1))[:, None]
        through += first
        through += (others[:, :, :width] / classes)[:, None]
        return np.asarray(through)

    def _slope(self, name: str, layer: _Layer, back: Numbers) -> tuple[Numbers, Numbers]:
        width = layer.own.shape[3]
        steep = 1 - layer.gate  # silu' = gate + given (1 - gate)
        steep *= layer.given
        steep += layer.gate
        steep *= back
        shared = np.add.reduce(steep, axis=1)
        slope = self.slopes[f"{name}.weight"]
        slope[:, :, :width] = _turned(_flat(steep)) @ _flat(layer.own)
        slope[:, :, width:] = _turned(shared) @ layer.others
        np.add.reduce(shared, axis=1, out=self.slopes[f"{name}.bias"])
        return steep, shared


@dataclass(frozen=True, eq=False)
class _Layer:
    """One layer as it was passed: ``silu(own A + others B + b)``, the others shared by a batch."""

    own: Numbers
    others: Numbers
    gate: Numbers
    given: Numbers


def _views(flat: Numbers, shapes: dict[str, torch.Size]) -> dict[str, Numbers]:
    """Name the parts of flat parameters, ``M x ...`` each."""
    ends = np.cumsum([shape.numel() for shape in shapes.values()])
    parts = np.split(flat, ends[:-1], axis=1)
    return {n: p.reshape(len(flat), *s) for (n, s), p in zip(shapes.items(), parts, strict=True)}


def _flat(values: Numbers) -> Numbers:
    return values.reshape(len(values), -1, values.shape[3])


def _turned(matrices: Numbers) -> Numbers:
    return matrices.transpose(0, 2, 1)


def _surprise(out: Numbers, ends: Numbers, spread: Numbers) -> tuple[Numbers, Numbers]:
    """Return the loss of each column, and its slope by what the network gave last.

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
    return -likely, np.concatenate([moved, -wider, chances - share])


def _shares(logs: Numbers) -> tuple[Numbers, Numbers]:
    """Return what shares of their sum numbers have that are given by logarithms, and its own."""
    most = np.maximum.reduce(logs, axis=0)
    parts = np.exp(logs - most)
    whole = np.add.reduce(parts, axis=0)
    parts /= whole
    return parts, np.log(whole) + most


__all__ = ["PARTS", "Examples", "Numbers", "Slopes", "ends_of"]

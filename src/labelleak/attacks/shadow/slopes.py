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
        below: square root of c - 1/2, or what nothing lies below where c is 0, ``S x K x 1``.
        above: square root of c + 1/2, or what nothing lies above where c is N.
    """

    own: Numbers
    means: Numbers
    below: Numbers
    above: Numbers

    @classmethod
    def of(cls, features: Numbers, counts: Ints, total: int) -> Examples:
        """Lay out ``S x K x F`` features and ``S x K`` counts of N labels."""
        c = counts[..., None].astype(features.dtype)
        below = np.where(c > 0, np.sqrt(np.maximum(c - 0.5, 0.1)), -1e4)
        above = np.where(c < total, np.sqrt(c + 0.5), 1e4)
        kind = features.dtype
        return cls(features, features.mean(axis=1), below.astype(kind), above.astype(kind))

    def __len__(self) -> int:
        """Return how many batches there are."""
        return len(self.own)

    def __getitem__(self, picks: NDArray[np.int64] | slice) -> Examples:
        """Return some of them."""
        return Examples(self.own[picks], self.means[picks], self.below[picks], self.above[picks])


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

    @np.errstate(over="ignore")  # the gate of what is far below 0 is 1 / inf
    def measure(self, shown: Examples) -> float:
        """Return the mean of ``-log P(c_i)`` over all classes of all batches, and set its slope."""
        (batches, classes, _), values = shown.own.shape, self.values
        first = self._pass("first", shown.own, shown.means)
        kept, top = [("first", first)], first.given
        for name in ("second", "third"):
            layer = self._pass(name, top, np.hstack([top.mean(axis=1), top.max(axis=1)]))
            kept.append((name, layer))
            top = top + layer.given
        held = top.reshape(batches * classes, -1)
        out = held @ values["last.weight"].T + values["last.bias"]
        own = shown.own.reshape(batches * classes, -1)
        out[:, :PARTS] += own @ values["direct.weight"].T
        loss, rows = _surprise(out.reshape(batches, classes, -1), shown, self.net.spread)
        self.slopes["last.weight"][:] = rows.T @ held
        self.slopes["last.bias"][:] = rows.sum(axis=0)
        self.slopes["direct.weight"][:] = rows[:, :PARTS].sum(axis=1) @ own
        back = (rows @ values["last.weight"]).reshape(top.shape)
        for name, layer in kept[:0:-1]:
            back += self._push(name, layer, back)
        self._slope("first", first, back)
        return loss

    def _pass(self, name: str, own: Numbers, others: Numbers) -> _Layer:
        weight, width = self.values[f"{name}.weight"], own.shape[2]
        shared = others @ weight[:, width:].T + self.values[f"{name}.bias"]
        before = own @ weight[:, :width].T
        before += shared[:, None]
        gate = np.exp(-before)
        gate += 1
        np.divide(1, gate, out=gate)
        return _Layer(own, others, gate, before * gate)

    def _push(self, name: str, layer: _Layer, back: Numbers) -> Numbers:
        """Set the slope of a layer's parameters and return that of the layer's inputs."""
        (_, classes, width), weight = layer.own.shape, self.values[f"{name}.weight"]
        steep, shared = self._slope(name, layer, back)
        through = steep @ weight[:, :width]
        others = shared @ weight[:, width:]
        # The greatest of each number gets its slope; several that are equal share it.
        first = (layer.own == layer.others[:, None, width:]).astype(through.dtype)
        most = others[:, width:] / first.sum(axis=1)
        first *= most[:, None]
        through += first
        through += (others[:, :width] / classes)[:, None]
        return np.asarray(through)

    def _slope(self, name: str, layer: _Layer, back: Numbers) -> tuple[Numbers, Numbers]:
        width = layer.own.shape[2]
        steep = 1 - layer.gate  # silu' = gate + given (1 - gate)
        steep *= layer.given
        steep += layer.gate
        steep *= back
        shared = steep.sum(axis=1)
        rows, own = steep.reshape(-1, steep.shape[2]), layer.own.reshape(-1, width)
        slope = self.slopes[f"{name}.weight"]
        slope[:, :width] = rows.T @ own
        slope[:, width:] = shared.T @ layer.others
        self.slopes[f"{name}.bias"][:] = shared.sum(axis=0)
        return steep, shared


@dataclass(frozen=True, eq=False)
class _Layer:
    """One layer as it was passed: ``silu(own A + others B + b)``, the others shared by a batch."""

    own: Numbers
    others: Numbers
    gate: Numbers
    given: Numbers


def _surprise(out: Numbers, shown: Examples, spread: float) -> tuple[float, Numbers]:
    """Return the loss, and its slope by what the network gave last, a row a class.

    It is the mixture's mass between the square roots of c - 1/2 and c + 1/2. ``log(s(a) - s(b))``
    is taken in a form whose slope never vanishes, however far off a part is.
    """
    centres, widths, weights = np.split(out, 3, axis=2)
    inverse = np.exp(-np.clip(widths, -5, 4)) / spread
    above = (shown.above - centres * spread) * inverse
    below = (shown.below - centres * spread) * inverse
    apart = _TINY - np.expm1(below - above)
    under, over = -np.logaddexp(0, -above), -np.logaddexp(0, below)
    chances = weights - _log_sum(weights)
    joint = chances + under + over + np.log(apart)
    likely = _log_sum(joint)
    share = np.exp(joint - likely)
    near = (1 - apart) / apart
    up, down = share * (1 - np.exp(under) + near), share * (1 - np.exp(over) + near)
    moved = (up - down) * inverse * spread
    wider = (up * above - down * below) * (np.abs(widths + 0.5) < 4.5)
    slope = np.concatenate([moved, wider, np.exp(chances) - share], axis=2) / likely.size
    return -float(likely.mean()), slope.reshape(-1, 3 * PARTS)


def _log_sum(values: Numbers) -> Numbers:
    most = values.max(axis=2, keepdims=True)
    return np.asarray(np.log(np.exp(values - most).sum(axis=2, keepdims=True)) + most)


__all__ = ["PARTS", "Examples", "Numbers", "Slopes"]

"""The form of a client's reply: weights, their difference from those sent, or a gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from labelleak.core.limits import LARGEST
from labelleak.core.weights import buffer_names
from labelleak.errors import BadInput, shown

Arrays = Mapping[str, Tensor]
# Entries of a tensor that are looked at, which bounds what the look costs.
LOOK = 2**18
# Sums over a matrix' rows against its size: of a softmax gradient, and of no trained weight.
CLOSED = 1e-3
_SIGMAS = 4.0


class Returns(StrEnum):
    """What a client sends back."""

    weights = "weights"
    difference = "difference"
    gradient = "gradient"


class UncertainForm(BadInput):
    """A reply that does not look like weights, and was not declared to be anything else."""


@dataclass(frozen=True)
class Form:
    """The form in which a reply is read.

    Attributes:
        kind: the form.
        doubt: why it was not taken for weights, where nobody declared it; else empty.
    """

    kind: Returns = Returns.weights
    doubt: str = ""


def form_of(before: Arrays, reply: Arrays, declared: str | None, *, strict: bool = False) -> Form:
    """Tell the form of a reply: as declared, else weights unless it does not look like them.

    Args:
        before: the weights that were sent.
        reply: what came back, under the same names.
        declared: a form of `Returns`, or None.
        strict: refuse what does not look like weights, instead of naming the doubt.

    Raises:
        UncertainForm: if it does not look like weights, and strict.
    """
    if declared is not None:
        return Form(Returns(declared))
    doubt = doubt_weights(before, reply)
    if doubt and strict:
        raise UncertainForm(doubt)
    return Form(Returns.difference, doubt) if doubt else Form()


def doubt_weights(before: Arrays, reply: Arrays) -> str:
    """Say why a reply does not look like the weights that were sent, moved; empty if it does.

    Weights that were trained or defended are what was sent plus something, so their projection
    on what was sent is near 1. Differences and gradients are far shorter, or point anywhere:
    their projection is near 0. And a matrix whose sums over classes vanish is a gradient of a
    softmax head or a multiple of it, unless those sums vanished in what was sent, too.

    >>> sent = {"fc.weight": torch.tensor([[1.0, 2.0], [3.0, 4.0]])}
    >>> doubt_weights(sent, {"fc.weight": sent["fc.weight"] + 0.1})
    ''
    >>> doubt_weights(sent, {"fc.weight": torch.tensor([[0.1, 0.2], [-0.1, -0.2]])})[:34]
    'the reply does not look like weigh'
    """
    product = square = moved = 0.0
    entries = 0
    for name in _compared(before, reply):
        start, end = before[name], reply[name]
        if _closes(end) and not _closes(start, empty=True):
            return _said(f"the sums of {shown(name)} over its rows are zero, as a gradient's are")
        sent, got = (t.detach().flatten()[:LOOK].double() for t in (start, end))
        product, square = product + float(sent @ got), square + float(sent @ sent)
        moved, entries = moved + float((got - sent).square().sum()), entries + len(sent)
    if square == 0:
        return ""
    # Noise that a defense added tilts the projection by chance; room is left for it. NaN is
    # nobody's form; what reads the update refuses it by name.
    chance = _SIGMAS * (moved / square / entries) ** 0.5
    if product / square < min(0.5, 1 - chance):
        return _said(f"its projection on the weights sent is {product / square:.2g}, not about 1")
    return ""


def _said(why: str) -> str:
    return (
        f"the reply does not look like weights: {why}; if it is a difference or a gradient, say "
        "returns='difference' or 'gradient'; if it is weights, returns='weights'"
    )


def _compared(before: Arrays, reply: Arrays) -> Iterator[str]:
    buffers = buffer_names(before)
    for name, start in before.items():
        if name in buffers or name not in reply or not start.is_floating_point():
            continue
        if start.shape == reply[name].shape:
            yield name


def _closes(tensor: Tensor, *, empty: bool = False) -> bool:
    """Return whether a matrix' columns sum to zero; an all-zero one says what is asked."""
    if tensor.dim() != 2 or min(tensor.shape) < 2 or tensor.numel() > 64 * LOOK:
        return False
    wide = tensor.detach().double()
    size, rest = float(wide.norm()), float(wide.sum(0).norm())
    return rest < CLOSED * size if size else empty


class AsWeights(Mapping[str, Tensor]):
    """A reply in any form as the weights that it stands for, decoded one by one.

    Args:
        before: the weights that were sent.
        reply: what came back.
        kind: its form.
        rate: what the mean gradient moved the weights by, per unit.
        control: constant terms that each step added to its gradient (SCAFFOLD's c - c_i,
            FedDyn's -lambda_i), by name; their part of the movement is undone.
    """

    def __init__(
        self,
        before: Arrays,
        reply: Arrays,
        kind: Returns,
        rate: float,
        control: Mapping[str, Tensor] | None = None,
    ) -> None:
        self._before, self._reply, self._kind, self._rate = before, reply, kind, rate
        self._control = control or {}

    def __getitem__(self, name: str) -> Tensor:
        got = self._reply[name]
        if not got.is_floating_point():
            return got
        if self._kind is not Returns.weights:
            start = self._before[name].double()
            if start.shape != got.shape:
                raise BadInput(
                    f"{name} has shape {tuple(start.shape)} before and {tuple(got.shape)} after "
                    "the update"
                )
            factor = 1.0 if self._kind is Returns.difference else -self._rate
            got = start + factor * got.double()
        if name not in self._control:
            return got
        term = torch.as_tensor(self._control[name]).double()
        if term.shape != got.shape:
            raise BadInput(f"the control term of {name!r} has shape {tuple(term.shape)}")
        return got.double() + self._rate * term

    def __iter__(self) -> Iterator[str]:
        return iter(self._reply)

    def __len__(self) -> int:
        return len(self._reply)


def likelier(form: Form, bias: Callable[[], Tensor | None], rate: float) -> Form:
    """Choose between difference and gradient for a reply that was taken for no weights.

    As a difference its bias gradient would be the reply over the rate, of which the L1 norm is
    at most 2.
    """
    if not form.doubt:
        return form
    found = bias()
    if found is None or float(found.abs().sum()) <= 1.01 * LARGEST * rate:
        return form
    return Form(Returns.gradient, form.doubt)


__all__ = ["AsWeights", "Form", "Returns", "UncertainForm", "doubt_weights", "form_of", "likelier"]

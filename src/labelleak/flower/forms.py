"""The form of a client's reply: weights, their difference from those sent, or a gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from labelleak.core.likeness import Arrays, Laid, doubt_weights, weights_instead
from labelleak.core.limits import LARGEST
from labelleak.errors import BadInput

_NO_WEIGHTS = (
    "the reply does not look like weights: {}; if it is a difference or a gradient, say "
    "returns='difference' or 'gradient'; if it is weights, returns='weights'"
)


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
        doubt: why it is not the form that was expected; else empty.
    """

    kind: Returns = Returns.weights
    doubt: str = ""


def form_of(
    before: Arrays,
    reply: Arrays,
    declared: str | None,
    *,
    strict: bool = False,
    laid: Laid | None = None,
) -> Form:
    """Tell the form of a reply: as declared, else weights, unless its entries speak against it.

    A reply that was declared to be weights is taken for weights.

    Args:
        before: the weights that were sent.
        reply: what came back, under the same names.
        declared: a form of `Returns`, or None.
        strict: refuse what does not look like its form, instead of naming the doubt.
        laid: what other replies to the same weights were held against.

    Raises:
        UncertainForm: if it does not look like its form, and strict.
    """
    if declared == Returns.weights:
        return Form()
    if declared is None:
        kind, doubt = Returns.difference, doubt_weights(before, reply, laid)
        said = _NO_WEIGHTS.format(doubt)
    else:
        kind, doubt = Returns.weights, weights_instead(reply, before)
        said = f"the reply looks like weights, not like the {declared} it was said to be: {doubt}"
    if not doubt:
        return Form(Returns(declared or Returns.weights))
    if strict:
        raise UncertainForm(said)
    return Form(kind, said)


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
    if not form.doubt or form.kind is Returns.weights:
        return form
    found = bias()
    if found is None or float(found.abs().sum()) <= 1.01 * LARGEST * rate:
        return form
    return Form(Returns.gradient, form.doubt)


__all__ = ["AsWeights", "Form", "Returns", "UncertainForm", "form_of", "likelier"]

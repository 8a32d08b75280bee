"""Steps of SGD through chains of a few plain layers, whose gradients are written down."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labelleak.core.small_maps import Laid, lay_out, spread_kernel
from labelleak.simulation.networks import Classifier

# What autograd itself calls.
_aten: Any = torch.ops.aten
# Each activation, and what a slope is behind it, by what it gave.
_Apply = Callable[[Tensor], Tensor]
_Back = Callable[[Tensor, Tensor], Tensor]
_ACTIVATIONS: Mapping[type[nn.Module], tuple[_Apply, _Back]] = {
    nn.ReLU: (torch.relu, lambda slope, given: _aten.threshold_backward.default(slope, given, 0)),
    nn.Tanh: (torch.tanh, _aten.tanh_backward.default),
    nn.Sigmoid: (torch.sigmoid, _aten.sigmoid_backward.default),
}


@dataclass(eq=False)
class PlainSteps:
    """A model of plain layers, one after the other, that learns by SGD with momentum.

    Steps of a network this small are mostly autograd's bookkeeping. Here are the same products in
    the same order, in well under half the time. Whatever is not certain to be so is left to
    autograd: any other layer, what is shared or frozen, hooks, other precisions.

    Attributes:
        layers: in the order that they pass a batch.
        named: the model's parameters.
        values: them, laid flat; the model has them after `write`.
        slopes: of the loss by them.
        moved: sum of slopes so far, each counting less than the next.
        momentum: how much less.
        last: logarithms of the last step's posteriors, and its labels.
    """

    layers: Sequence[_Layer]
    named: Sequence[nn.Parameter]
    values: Tensor
    slopes: Tensor
    moved: Tensor
    momentum: float
    last: tuple[Tensor, Tensor] | None = None

    @property
    def loss(self) -> Tensor:
        """Mean cross-entropy of the last step's batch, before the step."""
        assert self.last is not None
        return F.nll_loss(*self.last)

    @classmethod
    def of(
        cls, model: nn.Module, inputs: Tensor, labels: Tensor, momentum: float
    ) -> PlainSteps | None:
        """Take a model, or None where its steps are autograd's.

        Args:
            model: left as it is.
            inputs: what it takes.
            labels: of them.
            momentum: of SGD.
        """
        named, plain = list(model.parameters()), list(_in_order(model))
        held = [p for part in plain if part for p in part.parameters()]
        kinds = {(p.dtype, p.device.type, p.requires_grad) for p in named}
        sure = (
            kinds == {(torch.float32, "cpu", True)}
            and {id(p) for p in named} == {id(p) for p in held}
            and len(named) == len(held)
            and inputs.dtype == torch.float32
            and inputs.device == labels.device == torch.device("cpu")
            and labels.dim() == 1
            and not torch.is_autocast_enabled("cpu")
        )
        if not sure or None in plain:
            return None
        values = torch.cat([p.detach().flatten() for p in named])
        slopes = torch.zeros_like(values)
        views = {id(p): (_view(values, named, p), _view(slopes, named, p)) for p in named}
        layers, shape = [], inputs.shape[1:]
        for part in plain:
            assert part is not None
            own = [views[id(p)] for p in part.parameters(recurse=False)]
            made = _layer_of(part, shape, *own)
            if made is None:
                return None
            layer, shape = made
            layers += [] if layer is None else [layer]
        if not layers or len(shape) != 1:
            return None
        return cls(layers, named, values, slopes, torch.zeros_like(values), momentum)

    @torch.no_grad()
    def step(self, inputs: Tensor, labels: Tensor, lr: float) -> None:
        """Step against the slope of a batch's mean cross-entropy."""
        given = inputs.flatten(1)
        for layer in self.layers:
            given = layer.forward(given)
        self.last = torch.log_softmax(given, dim=1), labels
        share = torch.zeros_like(given).scatter_(1, labels[:, None], -1 / len(labels))
        back = _aten._log_softmax_backward_data.default(share, self.last[0], 1, given.dtype)
        for place in reversed(range(len(self.layers))):
            back = self.layers[place].back(back, deeper=place > 0)
        self.moved.mul_(self.momentum).add_(self.slopes)
        self.values.add_(self.moved, alpha=-lr)

    @torch.no_grad()
    def write(self) -> None:
        """Give the model its parameters."""
        for parameter in self.named:
            parameter.copy_(_view(self.values, self.named, parameter))


class _Layer(ABC):
    """One layer: passes a batch of flat inputs, then its slopes back."""

    @abstractmethod
    def forward(self, given: Tensor) -> Tensor:
        """Answer ``n x inputs``."""

    @abstractmethod
    def back(self, slope: Tensor, *, deeper: bool) -> Tensor:
        """Set the slopes of its parameters; return that of its inputs where it goes deeper."""


@dataclass(eq=False)
class _Activation(_Layer):
    apply: _Apply
    behind: _Back

    def forward(self, given: Tensor) -> Tensor:
        self.given = self.apply(given)
        return self.given

    def back(self, slope: Tensor, *, deeper: bool) -> Tensor:
        return self.behind(slope, self.given)


@dataclass(eq=False)
class _Linear(_Layer):
    weight: Tensor
    weight_slope: Tensor
    bias: Tensor | None = None
    bias_slope: Tensor | None = None

    def forward(self, given: Tensor) -> Tensor:
        self.given = given
        if self.bias is None:
            return given.mm(self.weight.t())
        return torch.addmm(self.bias, given, self.weight.t())

    def back(self, slope: Tensor, *, deeper: bool) -> Tensor:
        torch.mm(slope.t(), self.given, out=self.weight_slope)
        if self.bias_slope is not None:
            torch.sum(slope, 0, out=self.bias_slope)
        return slope.mm(self.weight) if deeper else slope


@dataclass(eq=False)
class _Maps(_Layer):
    """A small convolution as the matrix that it is; see `small_maps`."""

    laid: Laid
    weight: Tensor
    weight_slope: Tensor
    bias: Tensor | None = None
    bias_slope: Tensor | None = None

    def forward(self, given: Tensor) -> Tensor:
        self.given, self.matrix = given, spread_kernel(self.weight, self.laid)
        passed = given.mm(self.matrix.t())
        if self.bias is None:
            return passed
        return (passed.view(len(given), len(self.bias), -1) + self.bias[:, None]).flatten(1)

    def back(self, slope: Tensor, *, deeper: bool) -> Tensor:
        outside, inside = self.weight.shape[:2]
        if self.bias_slope is not None:
            torch.sum(slope.view(len(slope), outside, -1), (0, 2), out=self.bias_slope)
        spread = slope.t().mm(self.given).view(outside, -1, inside, self.given.shape[1] // inside)
        rows = spread.transpose(1, 2).reshape(outside * inside, -1)
        kernel = self.weight_slope.view(outside * inside, -1)
        torch.mm(rows, self.laid.places.t(), out=kernel)
        return slope.mm(self.matrix) if deeper else slope


def _in_order(model: nn.Module) -> Iterator[nn.Module | None]:
    """Give a chain's layers one after the other; None where it is no chain, or is listened to."""
    hooks = (model._forward_hooks, model._forward_pre_hooks, model._backward_hooks)
    if any(hooks) or model._backward_pre_hooks:
        yield None
    elif type(model) is Classifier:
        yield from _in_order(model.features)
        yield from _in_order(model.head)
    elif type(model) is nn.Sequential:
        for part in model:
            yield from _in_order(part)
    else:
        yield model


def _layer_of(
    part: nn.Module, shape: torch.Size, *own: tuple[Tensor, Tensor]
) -> tuple[_Layer | None, torch.Size] | None:
    """Return what a layer is here, and the shape that it gives; None where there is no such."""
    kind, tensors = type(part), [tensor for pair in own for tensor in pair]
    if kind in _ACTIVATIONS:
        return _Activation(*_ACTIVATIONS[kind]), shape
    if isinstance(part, nn.Flatten) and (part.start_dim, part.end_dim) == (1, -1):
        return None, torch.Size([shape.numel()])
    if kind is nn.Linear and len(shape) == 1:
        return _Linear(*tensors), torch.Size([len(tensors[0])])
    if kind is not nn.Conv2d or len(shape) != 3:
        return None
    assert isinstance(part, nn.Conv2d)
    if part.padding_mode != "zeros" or part.groups != 1 or isinstance(part.padding, str):
        return None
    laid = lay_out(shape, part.weight.shape, part.stride, part.padding, part.dilation)
    if laid is None:
        return None
    return _Maps(laid, *tensors), torch.Size([len(tensors[0]), *laid.left])


def _view(flat: Tensor, named: Sequence[nn.Parameter], wanted: nn.Parameter) -> Tensor:
    """Return the part of flat numbers that is of a parameter."""
    at = 0
    for parameter in named:
        if parameter is wanted:
            break
        at += parameter.numel()
    return flat[at : at + wanted.numel()].view(wanted.shape)


__all__ = ["PlainSteps"]

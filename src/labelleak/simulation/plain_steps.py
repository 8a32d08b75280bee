"""Steps of SGD through chains of a few plain layers, whose gradients are written down."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.module import _has_any_global_hook

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


# Numbers in a line of memory. Products may round otherwise where a matrix begins within one.
_LINE = 16


@dataclass(eq=False)
class PlainSteps:
    """A model of plain layers, one after the other, that learns by SGD with momentum.

    Steps of a network this small are mostly autograd's bookkeeping. Here are the same products in
    the same order, in well under half the time. Whatever is not certain to be so is left to
    autograd: any other layer, what is shared or frozen, hooks, other precisions, odd labels.

    Attributes:
        layers: in the order that they pass a batch.
        named: the model's parameters.
        optimiser: their SGD, which has the sums of slopes after `write`.
        values: them, laid flat; the model has them after `write`.
        slopes: of the loss by them.
        moved: sum of slopes so far, each counting less than the next.
        last: logarithms of the last step's posteriors, and its labels.
    """

    layers: Sequence[_Layer]
    named: Sequence[nn.Parameter]
    optimiser: torch.optim.Optimizer
    values: Tensor
    slopes: Tensor
    moved: Tensor
    last: tuple[Tensor, Tensor] | None = None

    @property
    def loss(self) -> Tensor:
        """Mean cross-entropy of the last step's batch, before the step."""
        assert self.last is not None
        return F.nll_loss(*self.last)

    @classmethod
    def of(
        cls, model: nn.Module, inputs: Tensor, labels: Tensor, optimiser: torch.optim.Optimizer
    ) -> PlainSteps | None:
        """Take a model as it stands, or None where its steps are autograd's.

        Args:
            model: left as it is.
            inputs: what it takes.
            labels: of them.
            optimiser: SGD of nothing but a learning rate and momentum; left as it is.
        """
        named, plain = list(model.parameters()), list(_in_order(model))
        (group,) = optimiser.param_groups
        held = [p for part in plain if part for p in part.parameters()]
        alike = [sorted(map(id, own)) for own in (named, held, group["params"])]
        if None in plain or alike[0] != alike[1] or alike[0] != alike[2]:
            return None
        if not (_are_plain(named) and _is_plain_data(inputs, labels)):
            return None
        values, slopes, moved = (
            torch.zeros(sum(map(_room, named)), dtype=torch.float32) for _ in range(3)
        )
        pairs = zip(_parts(values, named), _parts(slopes, named), strict=True)
        views = {id(p): pair for p, pair in zip(named, pairs, strict=True)}
        layers, shape = [], inputs.shape[1:]
        for part in plain:
            assert part is not None
            made = _layer_of(part, shape, views)
            if made is None:
                return None
            layer, shape = made
            layers += [] if layer is None else [layer]
        if not layers or len(shape) != 1 or not 0 <= labels.amin() <= labels.amax() < shape[0]:
            return None
        steps = cls(layers, named, optimiser, values, slopes, moved)
        steps._read()
        return steps

    @torch.no_grad()
    def _read(self) -> None:
        """Take the model's parameters, and their sums of slopes."""
        laid = (_parts(flat, self.named) for flat in (self.values, self.moved))
        for parameter, value, moved in zip(self.named, *laid, strict=True):
            value.copy_(parameter)
            before = self.optimiser.state.get(parameter, {}).get("momentum_buffer")
            if before is not None:
                moved.copy_(before)

    @torch.no_grad()
    def step(self, inputs: Tensor, labels: Tensor) -> None:
        """Step against the slope of a batch's mean cross-entropy."""
        (group,) = self.optimiser.param_groups
        given = inputs.flatten(1)
        for layer in self.layers:
            given = layer.forward(given)
        self.last = torch.log_softmax(given, dim=1), labels
        share = torch.zeros_like(given).scatter_(1, labels[:, None], -1 / len(labels))
        back = _aten._log_softmax_backward_data.default(share, self.last[0], 1, given.dtype)
        for place in reversed(range(len(self.layers))):
            back = self.layers[place].back(back, deeper=place > 0)
        self.moved.mul_(group["momentum"]).add_(self.slopes)
        self.values.add_(self.moved, alpha=-group["lr"])

    @torch.no_grad()
    def write(self) -> None:
        """Give the model its parameters, and its optimiser their sums of slopes."""
        laid = (_parts(flat, self.named) for flat in (self.values, self.moved))
        for parameter, value, moved in zip(self.named, *laid, strict=True):
            parameter.copy_(value)
            if self.optimiser.param_groups[0]["momentum"]:
                self.optimiser.state[parameter]["momentum_buffer"] = moved.clone()


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
    # A single module may have a way of its own to pass what its class passes otherwise.
    own = vars(model).keys() & {"forward", "_compiled_call_impl"}
    if any(hooks) or model._backward_pre_hooks or own:
        yield None
    elif type(model) is Classifier:
        yield from _in_order(model.features)
        yield from _in_order(model.head)
    elif type(model) is nn.Sequential:
        for part in model:
            yield from _in_order(part)
    else:
        yield model


def _are_plain(named: Sequence[nn.Parameter]) -> bool:
    """Tell whether autograd would give each of these its slope, and nobody else."""
    return (
        all(type(p) is nn.Parameter and p.requires_grad and p.is_contiguous() for p in named)
        and {(p.dtype, p.device.type) for p in named} == {(torch.float32, "cpu")}
        and len({p.untyped_storage().data_ptr() for p in named}) == len(named)
        and not any(p._backward_hooks or p._post_accumulate_grad_hooks for p in named)
        and not _has_any_global_hook()  # type: ignore[no-untyped-call]
        and torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
    )


def _is_plain_data(inputs: Tensor, labels: Tensor) -> bool:
    return (
        inputs.layout is labels.layout is torch.strided
        and inputs.device == labels.device == torch.device("cpu")
        and (inputs.dtype, labels.dtype) == (torch.float32, torch.int64)
        and labels.dim() == 1
        and len(labels) > 0
    )


def _layer_of(
    part: nn.Module, shape: torch.Size, views: Mapping[int, tuple[Tensor, Tensor]]
) -> tuple[_Layer | None, torch.Size] | None:
    """Return what a layer is here, and the shape that it gives; None where there is no such."""
    kind, known = type(part), part._parameters
    if not known and kind in _ACTIVATIONS:
        return _Activation(*_ACTIVATIONS[kind]), shape
    if kind is nn.Flatten and isinstance(part, nn.Flatten) and not known:
        whole = (part.start_dim, part.end_dim) == (1, -1)
        return (None, torch.Size([shape.numel()])) if whole else None
    # A weight or bias that is no parameter, or further ones: somebody's own.
    if kind not in (nn.Linear, nn.Conv2d) or known.keys() != {"weight", "bias"}:
        return None
    own = [known[name] for name in ("weight", "bias")]
    if own[0] is None or (own[1] is not None and own[1].shape != own[0].shape[:1]):
        return None
    tensors = [tensor for p in own if p is not None for tensor in views[id(p)]]
    if kind is nn.Linear and len(shape) == 1:
        return _Linear(*tensors), torch.Size([len(tensors[0])])
    if not isinstance(part, nn.Conv2d) or len(shape) != 3:
        return None
    if part.padding_mode != "zeros" or part.groups != 1 or isinstance(part.padding, str):
        return None
    laid = lay_out(shape, part.weight.shape, part.stride, part.padding, part.dilation)
    if laid is None:
        return None
    return _Maps(laid, *tensors), torch.Size([len(tensors[0]), *laid.left])


def _room(parameter: nn.Parameter) -> int:
    """Return how many numbers a parameter takes where each begins a line of memory."""
    return -(-parameter.numel() // _LINE) * _LINE


def _parts(flat: Tensor, named: Sequence[nn.Parameter]) -> Iterator[Tensor]:
    """Give the parts of flat numbers that are of parameters, one after the other."""
    rooms = torch.split(flat, [_room(p) for p in named])
    for parameter, own in zip(named, rooms, strict=True):
        yield own[: parameter.numel()].view(parameter.shape)


__all__ = ["PlainSteps"]

"""What one forward and backward pass shows at every layer: inputs and back-propagated signals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from labelleak.core.knowledge import LabelledData
from labelleak.core.lazy import F, Tensor, nn, torch
from labelleak.core.seeding import torch_seeded
from labelleak.core.white_box import CHUNK, HeadPass, WhiteBox


@dataclass(frozen=True, eq=False)
class LayerPass:
    """A linear or convolutional layer, as samples passed it.

    The gradient of its weight for sample k is ``sum_p d_kp a_kp^T`` over its P positions, and that
    of its bias ``sum_p d_kp``; one loss a sample, not divided by their number.

    Attributes:
        inputs: a, ``n x P x inputs``.
        signals: d, ``n x P x outputs``.
    """

    inputs: Tensor
    signals: Tensor

    def slopes(self, name: str) -> Iterator[tuple[str, Tensor]]:
        """Give each sample's gradient of the weight, ``n x outputs x inputs``, and of the bias.

        Args:
            name: the layer's, which comes before theirs.
        """
        prefix = f"{name}." if name else ""
        yield f"{prefix}weight", torch.bmm(self.signals.transpose(1, 2), self.inputs)
        yield f"{prefix}bias", self.signals.sum(dim=1)

    @classmethod
    def joined(cls, parts: Sequence[LayerPass]) -> LayerPass:
        """Put the samples of several passes into one."""
        inputs, signals = ([getattr(p, name) for p in parts] for name in ("inputs", "signals"))
        return cls(torch.cat(inputs), torch.cat(signals))


@dataclass(frozen=True, eq=False)
class ModelPass:
    """One batch on its way through the model.

    Attributes:
        head: what the head saw.
        layers: the linear and convolutional layers that ran once, by module name.
    """

    head: HeadPass
    layers: Mapping[str, LayerPass]


@dataclass(eq=False)
class _Caught:
    inputs: dict[str, list[Tensor]] = field(default_factory=dict)
    outputs: dict[str, list[Tensor]] = field(default_factory=dict)


def pass_layers(
    model: WhiteBox, data: LabelledData, *, seed: int = 0, chunk: int = CHUNK
) -> Iterator[ModelPass]:
    """Pass samples forward and backward in chunks, and show every layer of each.

    In train mode batch normalisation ties the samples of a chunk together: their gradients then
    still sum to that of the chunk, and stand for other batches only nearly.

    Args:
        model: left as it was.
        data: samples with their labels.
        seed: seed of dropout and the like.
        chunk: samples of a chunk, nearly.
    """
    number = max(1, -(-len(data) // chunk))
    parts = (torch.tensor_split(one, number) for one in (data.inputs, data.labels))
    for place, (inputs, labels) in enumerate(zip(*parts, strict=True)):
        yield _pass(model, inputs, labels, seed + place)


def shared_parameters(module: nn.Module) -> frozenset[str]:
    """Name the parameters that several layers hold, whose gradient no layer shows alone."""
    held = Counter(id(p) for m in module.modules() for p in m.parameters(recurse=False))
    return frozenset(name for name, p in module.named_parameters() if held[id(p)] > 1)


def _pass(model: WhiteBox, inputs: Tensor, labels: Tensor, seed: int) -> ModelPass:
    caught, hooks = _Caught(), []
    modules = {name: one for name, one in model.module.named_modules() if _reads(one)}

    def catch(name: str) -> Any:
        def note(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            caught.inputs.setdefault(name, []).append(args[0])
            caught.outputs.setdefault(name, []).append(output)

        return note

    for name, module in modules.items():
        hooks.append(module.register_forward_hook(catch(name)))
    try:
        with torch_seeded(seed):
            seen = model.run(inputs, seed=seed, grad=True)
    finally:
        for hook in hooks:
            hook.remove()
    once = [name for name, found in caught.outputs.items() if len(found) == 1]
    once = [name for name in once if caught.outputs[name][0].requires_grad]
    loss = F.cross_entropy(seen.outputs, labels, reduction="sum")
    outputs = [caught.outputs[name][0] for name in once]
    signals = torch.autograd.grad(loss, outputs, allow_unused=True) if once else ()
    found = {
        name: _laid_out(modules[name], caught.inputs[name][0].detach(), signal)
        for name, signal in zip(once, signals, strict=True)
        if signal is not None
    }
    head = HeadPass(seen.inputs.detach(), seen.logits.detach(), seen.outputs.detach())
    return ModelPass(head, found)


def _reads(module: nn.Module) -> bool:
    """Return whether a layer's gradient is a sum of outer products that are laid out here."""
    if isinstance(module, nn.Conv2d):
        return module.groups == 1 and module.padding_mode == "zeros" and module.weight.requires_grad
    return isinstance(module, nn.Linear) and module.weight.requires_grad


def _laid_out(module: nn.Module, inputs: Tensor, signals: Tensor) -> LayerPass:
    size = len(inputs)
    if not isinstance(module, nn.Conv2d):
        return LayerPass(
            inputs.reshape(size, -1, inputs.shape[-1]), signals.reshape(size, -1, signals.shape[-1])
        )
    padding = module.padding
    if isinstance(padding, str):
        (top, bottom), (left, right) = (_same(k, d) for k, d in _spans(module, padding))
        inputs, padding = F.pad(inputs, (left, right, top, bottom)), (0, 0)
    patches = F.unfold(
        inputs, module.kernel_size, module.dilation, padding, module.stride
    ).transpose(1, 2)
    return LayerPass(patches, signals.flatten(2).transpose(1, 2))


def _spans(module: nn.Conv2d, padding: str) -> list[tuple[int, int]]:
    sizes = zip(module.kernel_size, module.dilation, strict=True)
    return [(k, d) if padding == "same" else (1, 1) for k, d in sizes]


def _same(kernel: int, dilation: int) -> tuple[int, int]:
    total = dilation * (kernel - 1)
    return total // 2, total - total // 2


__all__ = ["LayerPass", "ModelPass", "pass_layers", "shared_parameters"]

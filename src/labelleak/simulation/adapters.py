"""Adapters of low rank (LoRA) beside linear layers of a model whose own weights are frozen."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from labelleak.core.seeding import torch_seeded
from labelleak.errors import BadInput, few
from labelleak.simulation.lora_form import LoraForm

# What a part is called in models of text, as a whole word of a module's name.
_ATTENTION = re.compile(r"(self_?)?attn|(self_?)?attention")


class LowRank(nn.Module):
    """A linear layer W that is frozen, with an adapter: ``W x + B (A x alpha / r)``.

    Names are those of PEFT. B starts at zero, so that the model is at first what it was (Hu et
    al., ICLR 2022). The factor stands before B, which gives the same and makes ``A x alpha / r``
    the inputs that B sees.
    """

    def __init__(self, layer: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        like = {"device": layer.weight.device, "dtype": layer.weight.dtype}
        self.base_layer = layer
        self.lora_A = nn.Linear(layer.in_features, rank, bias=False, **like)
        self.lora_B = nn.Linear(rank, layer.out_features, bias=False, **like)
        self.scale = alpha / rank
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        """Apply the layer with its adapter."""
        outputs: Tensor = self.base_layer(inputs)
        added: Tensor = self.lora_B(self.lora_A(inputs) * self.scale)
        return outputs + added


def attach_adapters(module: nn.Module, form: LoraForm, head: str, seed: int) -> None:
    """Freeze a model and put fresh adapters beside some of its layers, in place.

    Args:
        module: the model.
        form: which layers, and how wide the adapters are.
        head: module name of the model's head.
        seed: decides the adapters' first matrices.

    Raises:
        BadInput: if a part is not there or holds no linear layer, or one has fewer inputs than r.
    """
    chosen = {name: None for part in form.parts for name in _linear(module, part, head)}
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    with torch_seeded(seed):
        for name in chosen:
            owner, _, own = name.rpartition(".")
            layer = module.get_submodule(name)
            assert isinstance(layer, nn.Linear)
            if form.rank > layer.in_features:
                raise BadInput(
                    f"`lora` asks for rank {form.rank}, and {name} has {layer.in_features} "
                    "inputs; an adapter has no more"
                )
            adapted = LowRank(layer, form.rank, form.alpha).train(layer.training)
            setattr(module.get_submodule(owner), own, adapted)


def _linear(module: nn.Module, part: str, head: str) -> list[str]:
    """Name the linear layers of a part; all have a name, since a head alone cannot be adapted."""
    layers = [name for name, one in module.named_modules() if name and isinstance(one, nn.Linear)]
    if part == "head":
        found = [name for name in layers if name == head]
    elif part == "attention":
        found = [n for n in layers if any(_ATTENTION.fullmatch(word) for word in n.split("."))]
    else:
        found = [n for n in layers if n == part or n.startswith(f"{part}.")]
    if not found:
        raise BadInput(f"no linear layer of the model is {part}; they are {few(layers, 8)}")
    return found


def silent_adapters(module: nn.Module, inputs: Tensor) -> list[str]:
    """Name the adapters that a pass goes around, as where a model takes a layer's weight alone."""
    ran: set[str] = set()
    adapters = {name: one for name, one in module.named_modules() if isinstance(one, LowRank)}
    hooks = [
        one.register_forward_hook(lambda *_, name=name: ran.add(name))
        for name, one in adapters.items()
    ]
    try:
        with torch.no_grad():
            module(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return [name for name in adapters if name not in ran]


__all__ = ["LowRank", "attach_adapters", "silent_adapters"]

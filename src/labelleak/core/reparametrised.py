"""Layers whose weight is computed from other tensors: rebuilt where it can be, named where not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from labelleak.core.head_shapes import key_of

Tensors = Mapping[str, Tensor]
# The parts that give a form away, its name, and where it can be undone.
WEIGHT_NORM = "weight-normed"
PRUNED = "pruned"
SPECTRAL_NORM = "spectrally normed"
OTHER = "reparametrised"
LORA = "adapted by LoRA"
_FORMS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("weight_g", "weight_v"), WEIGHT_NORM),
    (("parametrizations.weight.original0", "parametrizations.weight.original1"), WEIGHT_NORM),
    (("weight_orig", "weight_mask"), PRUNED),
    (("weight_orig", "weight_u"), SPECTRAL_NORM),
    (("parametrizations.weight.original", "parametrizations.weight.0._u"), SPECTRAL_NORM),
    (("parametrizations.weight.original",), OTHER),
    (("parametrizations.weight.original0",), OTHER),
    (("weight_orig",), f"{OTHER} (pruned or spectrally normed)"),
    (("lora_A.weight", "lora_B.weight"), LORA),
    (("lora_A.default.weight", "lora_B.default.weight"), LORA),
)
_ENDS = tuple(parts[0] for parts, _ in _FORMS)


@dataclass(frozen=True)
class Folded:
    """Tensors in which computed weights stand beside their parts.

    Attributes:
        tensors: weights after, or the gradient.
        before: weights before, or None.
        unknown: what the weight of a module is, where it could not be rebuilt.
    """

    tensors: Tensors
    before: Tensors | None
    unknown: Mapping[str, str]


def fold(tensors: Tensors, before: Tensors | None = None) -> Folded:
    """Put the weights that are computed from several tensors together.

    What comes out differs by what one step of SGD on the weight itself would have changed.
    A gradient of parts does not tell that of the weight, so there they are only named.

    >>> parts = {"fc.weight_g": torch.ones(2, 1), "fc.weight_v": torch.eye(2)}
    >>> fold(parts).unknown
    {'fc': 'weight-normed'}
    >>> sorted(fold(parts, parts).tensors)
    ['fc.weight', 'fc.weight_g', 'fc.weight_v']
    """
    forms = _forms(tensors)
    if not forms:
        return Folded(tensors, before, {})
    after, start = dict(tensors), None if before is None else dict(before)
    unknown: dict[str, str] = {}
    for module, (parts, form) in forms.items():
        names = [key_of(module, part) for part in parts]
        build = _BUILDERS.get(form)
        if build is None or before is None or any(name not in before for name in names):
            unknown[module] = form
            continue
        old, new = ([side[name].detach().float() for name in names] for side in (before, tensors))
        weight, change = build(old, new)
        assert start is not None
        start[key_of(module)], after[key_of(module)] = weight, weight + change
    return Folded(after, start, unknown)


def _forms(tensors: Tensors) -> dict[str, tuple[tuple[str, ...], str]]:
    """Find each reparametrised module; one pass, as most models have none."""
    found: dict[str, tuple[tuple[str, ...], str]] = {}
    for key in tensors:
        if not key.endswith(_ENDS):
            continue
        for parts, form in _FORMS:
            module = key.removesuffix(parts[0]).removesuffix(".")
            if key != key_of(module, parts[0]) or module in found:
                continue
            if all(key_of(module, part) in tensors for part in parts):
                found[module] = (parts, form)
                break
    return found


def _weight_norm(old: list[Tensor], new: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Undo w = g v / |v|: g's gradient is that along v, v's is g / |v| times that across it."""
    (size, direction), (new_size, new_direction) = old, new
    kept = [
        d for d in range(direction.dim()) if size.dim() == direction.dim() and size.shape[d] > 1
    ]
    over = [d for d in range(direction.dim()) if d not in kept]
    norm = direction.pow(2).sum(over, keepdim=True).sqrt().clamp_min(1e-30)
    unit = direction / norm
    safe = torch.where(size == 0, torch.ones_like(size), size)
    across = (new_direction - direction) * norm / safe
    return size * unit, unit * (new_size - size) + across


def _pruned(old: list[Tensor], new: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Undo w = orig * mask: what is masked has no gradient."""
    (weight, mask), (new_weight, _) = old, new
    return weight * mask, (new_weight - weight) * mask


_BUILDERS: dict[str, Callable[[list[Tensor], list[Tensor]], tuple[Tensor, Tensor]]] = {
    WEIGHT_NORM: _weight_norm,
    PRUNED: _pruned,
}


def is_adapter(module: str) -> bool:
    """Return whether a module is a part of LoRA, of low rank, beside the layer that it adapts.

    >>> is_adapter("query.lora_A.default"), is_adapter("classifier")
    (True, False)
    """
    return module.removesuffix(".default").rpartition(".")[2] in ("lora_A", "lora_B")


__all__ = ["LORA", "Folded", "fold", "is_adapter"]

"""A model that returns its logits in a mapping, a tuple or an object, as one that returns them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from labelleak.core.copies import copy_model
from labelleak.core.lazy import Tensor, nn, torch
from labelleak.core.resizing import find_resizing
from labelleak.errors import BadInput

# What rounding, of half precision too, leaves between two ways to the same probabilities.
_SAME = 2e-3


class NoLogits(BadInput):
    """A model does not return its head's logits; what reads the update alone answers all the same.

    Not so where it makes other maps of them, since the head's rows are no classes then.
    """


@dataclass(frozen=True)
class Pick:
    """A forward hook: of what a model returns, what stands under a key.

    Attributes:
        keys: by whether the model is in train mode, in which it may return more than in eval mode:
            key of a mapping, number in a tuple, or name of an object's attribute.
    """

    keys: Mapping[bool, Any]

    def __call__(self, module: nn.Module, _inputs: Any, outputs: Any) -> Any:
        """Take it out; a tensor alone stays as it is."""
        if isinstance(outputs, torch.Tensor) or module.training not in self.keys:
            return outputs
        return dict(_parts(outputs))[self.keys[module.training]]


def as_tensor_model(module: nn.Module, head: str, example: Tensor | None) -> nn.Module:
    """Return a model that returns the output of its head, where it returns several things.

    Which of them that is shows by passing an example, in eval mode and in train mode; maps may be
    resized after the head. The model itself stays as it is.

    Args:
        module: the model.
        head: module name of its head.
        example: a few inputs; without any the model is given back.

    Raises:
        NoLogits: if nothing that the model returns is what its head gives, or it returns
            probabilities.
        BadInput: if the model returns maps with other channels than its head gives.

    >>> class Two(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.fc = nn.Linear(3, 2)
    ...     def forward(self, inputs):
    ...         return {"features": inputs, "scores": self.fc(inputs)}
    >>> as_tensor_model(Two(), "fc", torch.zeros(1, 3))(torch.zeros(4, 3)).shape
    torch.Size([4, 2])
    """
    if example is None:
        return module
    keys: dict[bool, Any] = {}
    tried = copy_model(module)
    for training in (False, True):
        given, outputs = _pass_once(tried.train(training), head, example)
        if given is None:
            continue
        if not isinstance(outputs, torch.Tensor):
            keys[training] = _key_of(given, outputs, head)
            continue
        _refuse_rearranged(given, outputs, head, module)
        if not training and _squashed(given, outputs):
            refuse_probabilities(module, head, example)
    if not keys:
        return module
    picked = copy.copy(module)
    picked.__dict__["_forward_hooks"] = module._forward_hooks.copy()
    picked.register_forward_hook(Pick(keys))
    return picked


def _refuse_rearranged(given: Tensor, outputs: Tensor, head: str, module: nn.Module) -> None:
    """Refuse maps of other channels than a convolution gave; they may be moved to the end."""
    maps = getattr(module.get_submodule(head), "weight", given).dim() > 2
    if not maps or outputs.dim() != given.dim() or outputs.shape[1] == given.shape[1]:
        return
    if outputs.movedim(-1, 1).shape != given.shape:
        raise BadInput(
            f"the model makes maps of {outputs.shape[1]} channels of the {given.shape[1]} that its "
            f"head {head!r} gives, as a pixel shuffle does, so rows of the head are no classes, "
            "and no attack reads them"
        )


def _key_of(given: Tensor, outputs: Any, head: str) -> Any:
    """Return under what the head's output stands in what the model returns."""
    keys = [key for key, part in _parts(outputs) if _is(part, given)]
    if not keys:
        raise NoLogits(
            f"the model returns {type(outputs).__name__}, and nothing in it is what its head "
            f"{head!r} gives; wrap it so that it returns one tensor of logits"
        )
    return keys[0]


def refuse_probabilities(module: nn.Module, head: str, example: Tensor) -> None:
    """Refuse a model that returns probabilities, since the loss is taken of logits.

    Logarithms of a softmax pass: a cross-entropy takes them as it takes logits.

    Args:
        module: the model; one that gives logits in the mode it is in may give others in eval mode.
        head: module name of its head.
        example: a few inputs.

    Raises:
        NoLogits: naming what follows the head.

    >>> refuse_probabilities(nn.Sequential(nn.Linear(3, 2), nn.Softmax(1)), "0", torch.rand(2, 3))
    Traceback (most recent call last):
    labelleak.core.outputs.NoLogits: the model returns the softmax of what its head \
'0' gives, and the loss is taken of logits; return what the head gives, without the softmax
    """
    tried = copy_model(module)
    for training in (False, True) if module.training else (False,):
        given, outputs = _pass_once(tried.train(training), head, example)
        name = "" if given is None else _squashed(given, outputs)
        if not name:
            return
    raise NoLogits(
        f"the model returns the {name} of what its head {head!r} gives, and the loss is taken of "
        f"logits; return what the head gives, without the {name}"
    )


def _squashed(given: Tensor, outputs: Any) -> str:
    """Name what made probabilities of a head's output; empty where they are none."""
    if not isinstance(outputs, torch.Tensor) or not outputs.numel():
        return ""
    if outputs.shape == given.shape and torch.equal(outputs, given):
        return ""
    if outputs.numel() == given.numel():
        sigmoid = torch.sigmoid(given.float()).flatten()
        if torch.allclose(outputs.float().flatten(), sigmoid, atol=_SAME):
            return "sigmoid"
    for axis in {1, outputs.dim() - 1} if outputs.dim() > 1 else ():
        sums = outputs.float().sum(axis)
        whole = torch.allclose(sums, torch.ones_like(sums), atol=_SAME)
        if outputs.shape[axis] > 1 and whole and bool((outputs >= 0).all()):
            return "softmax"
    return ""


def _pass_once(tried: nn.Module, head: str, example: Tensor) -> tuple[Tensor | None, Any]:
    """Return what the head gives and what the model returns; nothing where it cannot be passed."""
    caught: list[Any] = []
    hook = tried.get_submodule(head).register_forward_hook(
        lambda _module, _inputs, output: caught.append(output)
    )
    try:
        with torch.no_grad():
            outputs = tried(example)
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError):
        return None, None  # whoever passes it in earnest says why
    finally:
        hook.remove()
    return (caught[0] if len(caught) == 1 else None), outputs


def _parts(outputs: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(outputs, Mapping):
        yield from outputs.items()
    elif isinstance(outputs, tuple | list):
        yield from enumerate(outputs)
    else:
        yield from getattr(outputs, "__dict__", {}).items()


def _is(part: Any, given: Tensor) -> bool:
    if not isinstance(part, torch.Tensor) or part.dim() != given.dim():
        return False
    if part.shape == given.shape:
        return torch.equal(part, given)
    return given.dim() > 2 and find_resizing(given, part) is not None


__all__ = ["NoLogits", "as_tensor_model", "refuse_probabilities"]

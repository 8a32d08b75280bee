"""Find the classification head, the last linear layer, of any model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from labelleak.core.white_box import explain_failure
from labelleak.errors import BadInput


def find_head(
    model: nn.Module,
    *,
    name: str | None = None,
    example: Tensor | None = None,
    num_classes: int | None = None,
) -> str:
    """Return the module name of a model's classification head.

    By name if one is given. Else by tracing one forward pass of an example: the head is the
    linear layer whose output leaves the model, or, when something follows it (a softmax, a
    reshape), the last linear layer run with as many rows as the model has outputs. Else by
    class count: the only linear layer with that many rows.

    Args:
        model: any module; it is not changed.
        name: module name, as in ``model.named_modules()``; ``""`` for the model itself.
        example: a batch of at least one input, to trace with.
        num_classes: rows that the head must have.

    Raises:
        BadInput: if there is no head, several could be it, it is frozen, or it shares its weight
            with another layer, so that its gradient mixes two things.

    >>> find_head(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), num_classes=3)
    '2'
    """
    layers = {path: m for path, m in model.named_modules() if isinstance(m, nn.Linear)}
    if not layers:
        raise BadInput(
            f"{type(model).__name__} has no linear layer, so no head whose gradient could be read"
        )
    if name is not None:
        found = _by_name(model, layers, name)
    elif example is not None:
        found = _by_tracing(model, layers, example)
    else:
        found = _by_class_count(layers, num_classes)
    _check(model, found, layers[found], num_classes)
    return found


def _by_name(model: nn.Module, layers: dict[str, nn.Linear], name: str) -> str:
    if name in layers:
        return name
    what = "is no linear layer" if name in dict(model.named_modules()) else "does not exist"
    raise BadInput(f"the head {name!r} {what}; linear layers: {_listed(layers)}")


def _by_tracing(model: nn.Module, layers: dict[str, nn.Linear], example: Tensor) -> str:
    outputs: list[tuple[str, Tensor]] = []

    def watch(path: str) -> Any:
        return lambda _module, _inputs, output: outputs.append((path, output))

    hooks = [layer.register_forward_hook(watch(path)) for path, layer in layers.items()]
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        with torch.no_grad():
            final = model(example)
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise BadInput(explain_failure(example, error)) from error
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training
    if not isinstance(final, Tensor):
        raise BadInput(
            f"the model returns {type(final).__name__}, not one tensor; name the head instead"
        )
    return _leaving(outputs, final)


def _leaving(outputs: list[tuple[str, Tensor]], final: Tensor) -> str:
    """Pick the linear layer whose output leaves the model."""
    direct = [path for path, output in outputs if output is final]
    if direct:
        return direct[0]
    fitting = [path for path, output in outputs if output.shape[-1:] == final.shape[-1:]]
    if not fitting:
        raise BadInput(
            f"no linear layer gives the model's {tuple(final.shape)} output; name the head "
            f"if it is one of {_listed(path for path, _ in outputs)}"
        )
    return fitting[-1]


def _by_class_count(layers: dict[str, nn.Linear], num_classes: int | None) -> str:
    fitting = [path for path, layer in layers.items() if num_classes in (None, layer.out_features)]
    if len(fitting) == 1:
        return fitting[0]
    rows = "" if num_classes is None else f" with {num_classes} rows"
    if not fitting:
        raise BadInput(f"no linear layer{rows}; linear layers: {_listed(layers)}")
    raise BadInput(
        f"several linear layers{rows} could be the head: {_listed(fitting)}; "
        "name it, or give an example input to trace"
    )


def _check(model: nn.Module, path: str, layer: nn.Linear, num_classes: int | None) -> None:
    if num_classes not in (None, layer.out_features):
        raise BadInput(
            f"the head {path!r} has {layer.out_features} rows, but there are {num_classes} classes"
        )
    if "weight" not in dict(layer.named_parameters(recurse=False)):
        raise BadInput(
            f"the head {path!r} computes its weight from other parameters (weight norm, say), so "
            "its gradient is not shared as such; fold them into one weight first"
        )
    if not layer.weight.requires_grad:
        raise BadInput(f"the head {path!r} is frozen, so an update says nothing of it")
    holders = [
        f"{owner}.{key}" if owner else key
        for owner, module in model.named_modules()
        for key, parameter in module.named_parameters(recurse=False)
        if parameter is layer.weight
    ]
    if len(holders) > 1:
        raise BadInput(
            f"the head {path!r} shares its weight ({', '.join(holders)}), so its gradient "
            "mixes several layers and cannot be read"
        )


def _listed(paths: Any) -> str:
    return ", ".join(repr(path) for path in paths) or "none"

"""Find the classification head, the last linear layer, of a model or an update, by evidence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, nn

from labelleak.core.forms import as_tensors, module_called
from labelleak.core.head_candidates import find_among
from labelleak.core.head_changes import change_of
from labelleak.core.head_finding import (
    AmbiguousHead,
    HeadFinding,
    listed,
    module_shown,
    word_of,
)
from labelleak.core.head_shapes import Layer, key_of, layers_of
from labelleak.core.head_tracing import Trace, trace, trace_without_example
from labelleak.core.other_heads import other_heads
from labelleak.core.reparametrised import Folded, fold
from labelleak.core.task import Task
from labelleak.core.token_heads import FROZEN, TIED, as_adapted, beside_adapters
from labelleak.core.white_box import convolutions, unlifted
from labelleak.errors import BadInput, few, shown


def locate_head(
    tensors: Mapping[str, Tensor] | None = None,
    *,
    name: str | HeadFinding | None = None,
    model: nn.Module | None = None,
    example: Tensor | None = None,
    before: Mapping[str, Tensor] | None = None,
    num_classes: int | None = None,
    task: Task | None = None,
    frozen: bool = False,
) -> HeadFinding:
    """Find the head of an update, of a model, or of both, and say why it is the head.

    By name if one is given. Else by tracing the model: the head is the linear layer whose output
    becomes the model's output. Else by the tensors: which matrices' rows feed no other layer,
    which of them moved, whose change sums to zero over the classes as a softmax head's does, and
    what they are called. The order of definition says nothing.

    Args:
        tensors: weights after the training, if before is given; else a gradient. numpy is fine.
        name: module name, as in ``model.named_modules()``; ``""`` for the model itself; or what was
            found before, of which the update is asked again.
        model: any module; it is not changed.
        example: a batch of at least one input, to trace with; made up from the model's first
            layers if left out.
        before: weights before the training.
        num_classes: rows that the head must have.
        task: what the labels are, where it is known: a dense one may have a convolution for a head
            beside linear layers, and of tokens the head may be tied to the input embedding, or
            adapted by LoRA.
        frozen: whether a model's head will do that is not trained, so that no update holds it.

    Raises:
        AmbiguousHead: if several layers could be it; its candidates are the likeliest first.
        BadInput: if there is no head, it is frozen or did not move, or its weight is shared with
            another layer or computed from parts that do not tell its gradient.

    >>> import torch
    >>> after = {"a.weight": torch.zeros(8, 4), "b.weight": torch.zeros(3, 8)}
    >>> found = locate_head({n: t + 0.1 for n, t in after.items()}, before=after)
    >>> found.name, found.how
    ('b', 'shape')
    """
    update = None
    if tensors is not None:
        start = None if before is None else as_tensors(before)
        update = fold(as_tensors(tensors), start)
    if model is not None:
        name = name.name if isinstance(name, HeadFinding) else name
        found = _in_model(model, name, example, num_classes, update, task, frozen)
    elif update is None:
        raise BadInput("a head is looked for in tensors or in a model; give one of them")
    elif isinstance(name, HeadFinding):
        found = name
    elif name is not None:
        found = HeadFinding(module_called(name, update.tensors), "named")
    else:
        found = find_among(update, num_classes, task)
        return replace(found, beside=other_heads(update, found, task))
    if update is None:
        return found
    found = _in_update(update, found, num_classes)
    return replace(found, beside=other_heads(update, found, task))


def find_head(
    model: nn.Module,
    *,
    name: str | None = None,
    example: Tensor | None = None,
    num_classes: int | None = None,
) -> str:
    """Return the module name of a model's classification head.

    By name if one is given. Else by tracing: the head is the linear layer whose output becomes
    the model's output, whatever follows it (a softmax, a reshape). Without an example one is made
    up from the shapes of the model's layers; if the model takes none of them, shapes decide.

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
    return locate_head(model=model, name=name, example=example, num_classes=num_classes).name


def _in_model(
    model: nn.Module,
    name: str | None,
    example: Tensor | None,
    num_classes: int | None,
    update: Folded | None,
    task: Task | None = None,
    frozen: bool = False,
) -> HeadFinding:
    model = unlifted(model)
    kinds: tuple[type[nn.Module], ...] = (nn.Linear, *convolutions())
    layers = {path: m for path, m in model.named_modules() if isinstance(m, kinds)}
    if not layers:
        raise BadInput(
            f"{type(model).__name__} has no linear layer, so no head whose gradient could be read"
        )
    if name is not None:
        found = _named(model, layers, module_called(name, model.state_dict()))
        found = in_trace(found, model, example)
    else:
        seen = trace(model, example) if example is not None else trace_without_example(model)
        if seen is not None:
            of_text = task is Task.tokens
            found = _traced(beside_adapters(seen) if of_text else seen, layers, num_classes)
        else:
            found = _untraced(layers, num_classes, update)
    found = as_adapted(found, layers) if task is Task.tokens else found
    tied = _check(model, found.name, layers[found.name], num_classes, frozen)
    if frozen and not layers[found.name].weight.requires_grad:
        return replace(found, evidence=(*found.evidence, FROZEN))
    if not tied:
        return found
    if task is not Task.tokens:
        raise BadInput(
            f"the head {module_shown(found.name)} shares its weight ({', '.join(tied)}), so its "
            "gradient mixes several layers and cannot be read; say `task` tokens if it is a "
            "language model's"
        )
    return replace(found, evidence=(*found.evidence, TIED))


def in_trace(found: HeadFinding, model: nn.Module, example: Tensor | None) -> HeadFinding:
    """Add to a head that was named which layers of the model it rests on, and which it does not.

    Args:
        found: the head.
        model: the model.
        example: a batch of at least one input; made up if left out.

    Returns:
        The finding; as it was, where the model cannot be traced or ends elsewhere.
    """
    try:
        seen = trace(model, example) if example is not None else trace_without_example(model)
    except BadInput:
        return found
    if seen is None or found.name not in seen.heads:
        return found
    others = [path for path in seen.heads if path != found.name]
    return replace(found, below=seen.below, apart=(*others, *seen.aside))


def _named(model: nn.Module, layers: Mapping[str, nn.Module], name: str) -> HeadFinding:
    if name in layers:
        return HeadFinding(name, "named")
    what = "is no linear layer" if name in dict(model.named_modules()) else "does not exist"
    raise BadInput(f"the head {shown(name)} {what}; linear layers: {listed(layers)}")


def _traced(seen: Trace, layers: Mapping[str, nn.Module], num_classes: int | None) -> HeadFinding:
    """Choose among the layers that a pass ended in."""
    heads = list(seen.heads)
    if not heads:
        made = f" (it comes from {few(seen.others)})" if seen.others else ""
        raise BadInput(
            f"no linear layer gives the model's {seen.shape} output{made}; name the head if it "
            f"is one of {listed(seen.run)}"
        )
    heads = [p for p in heads if num_classes in (None, _rows(layers[p]))] or heads
    rivals = [path for path in seen.heads if path not in heads]
    if len(heads) > 1:
        good = [path for path in heads if word_of(path) > 0]
        if len(good) != 1 or any(word_of(path) == 0 for path in heads):
            ranked = sorted(heads, key=lambda path: -word_of(path))
            raise AmbiguousHead(
                f"the model's output comes from several linear layers: {listed(ranked)}, "
                "likeliest first; name the head",
                ranked,
            )
        rivals += [path for path in heads if path not in good]
        heads = good
    after = f" through {few(dict.fromkeys(seen.through))}" if seen.through else ""
    said = f"its output becomes the model's{after}"
    others = [*rivals, *seen.aside]
    return HeadFinding(heads[0], "traced", (said,), tuple(others[:8]), seen.below, tuple(others))


def _untraced(
    layers: Mapping[str, nn.Module], num_classes: int | None, update: Folded | None
) -> HeadFinding:
    """Fall back to the update, else to the class count, where no input could be made up."""
    if update is not None:
        return find_among(update, num_classes)
    linear = {p: layer for p, layer in layers.items() if isinstance(layer, nn.Linear)}
    layers = linear or layers
    fitting = [p for p, layer in layers.items() if num_classes in (None, _rows(layer))]
    rows = "" if num_classes is None else f" with {num_classes} rows"
    if len(fitting) == 1:
        said = f"it is the only linear layer{rows}"
        return HeadFinding(fitting[0], "shape", (said,))
    if not fitting:
        raise BadInput(f"no linear layer{rows}; linear layers: {listed(layers)}")
    ranked = sorted(fitting, key=lambda path: -word_of(path))
    raise AmbiguousHead(
        f"several linear layers{rows} could be the head: {listed(ranked)}; "
        "name it, or give an example input to trace",
        ranked,
    )


def _other_rows(where: str, rows: int, classes: int) -> BadInput:
    """Say that a head has not the rows that its classes need, and what it may be."""
    hint = ""
    if (rows, classes) == (1, 2):
        hint = "; if its one output tells one of two classes, say `task` binary"
    elif rows == classes - 1:
        hint = "; classes count from 0, so if the labels start at 1, take 1 from each"
    return BadInput(f"the head {where} has {rows} rows, but there are {classes} classes{hint}")


def _check(
    model: nn.Module, path: str, layer: nn.Module, num_classes: int | None, frozen: bool
) -> tuple[str, ...]:
    """Refuse a head that cannot be read; return all names of a weight that is shared."""
    where = module_shown(path)
    if num_classes not in (None, _rows(layer)):
        raise _other_rows(where, _rows(layer), num_classes or 0)
    if "weight" not in dict(layer.named_parameters(recurse=False)):
        raise BadInput(
            f"the head {where} computes its weight from other parameters (weight norm, say), so "
            "its gradient is not shared as such; fold them into one weight first"
        )
    weight = layer.weight
    assert isinstance(weight, Tensor)
    if not weight.requires_grad and not frozen:
        raise BadInput(f"the head {where} is frozen, so an update says nothing of it")
    holders = [
        key_of(owner, key)
        for owner, module in model.named_modules()
        for key, parameter in module.named_parameters(recurse=False)
        if parameter is weight
    ]
    return tuple(holders) if len(holders) > 1 else ()


def _rows(layer: nn.Module) -> int:
    """Return the outputs of a linear layer, or the channels of a convolution."""
    return int(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)  # type: ignore[arg-type]


def _in_update(update: Folded, found: HeadFinding, num_classes: int | None) -> HeadFinding:
    """Check that a head known by name or by the model is in the update, and moved."""
    name, tensors = found.name, update.tensors
    if name in update.unknown:
        raise BadInput(
            f"the head {module_shown(name)} is {update.unknown[name]}: its weight is computed from "
            "several tensors, and these do not tell its gradient; fold them into one weight first"
        )
    weight, bias = (tensors.get(key_of(name, part)) for part in ("weight", "bias"))
    layers = layers_of(tensors)
    if weight is None and bias is None:
        raise BadInput(
            f"there is no head {shown(name)} in the update; its linear layers: "
            f"{listed(layer.name for layer in layers)}"
        )
    for part, tensor, sides in (("weight", weight, 2), ("bias", bias, 1)):
        if tensor is None or (part == "weight" and _is_kernel(tensor, bias, found)):
            continue
        if tensor.dim() != sides or not tensor.is_floating_point():
            raise BadInput(
                f"the head's {part} must be floating-point numbers in {sides} dimension(s), not "
                f"{tensor.dtype} of shape {tuple(tensor.shape)}; name the last linear layer"
            )
    if weight is None:
        return found
    rows, columns = (int(n) for n in weight.shape[:2])
    if weight.dim() > 2 and bias is not None and len(bias) == columns != rows:
        rows, columns = columns, rows  # of a transposed convolution
    if num_classes not in (None, rows):
        raise _other_rows(module_shown(name), rows, num_classes or 0)
    return _moved(update, found, Layer(name, rows, columns), layers)


def _is_kernel(weight: Tensor, bias: Tensor | None, found: HeadFinding) -> bool:
    """Tell a convolution's kernel from updates of several clients, by its bias or the model."""
    told = found.how == "traced" or weight.dim() > 3
    one = bias is not None and tuple(bias.shape) == tuple(weight.shape[:1])
    return weight.is_floating_point() and 3 <= weight.dim() <= 5 and (told or one)


def _moved(update: Folded, found: HeadFinding, layer: Layer, layers: list[Layer]) -> HeadFinding:
    if change_of(layer, update.tensors, update.before).moved:
        return found
    for other in layers:
        if other.name != layer.name and change_of(other, update.tensors, update.before).moved:
            raise BadInput(
                f"the head {module_shown(layer.name)} did not move, though "
                f"{module_shown(other.name)} did: it is frozen, or another layer is the head"
            )
    return replace(found, evidence=(*found.evidence, "no layer moved"))


__all__ = ["AmbiguousHead", "HeadFinding", "find_head", "in_trace", "locate_head"]

"""The model that is audited: built by name or given, and as attackers see it."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path

from torch import nn

from labelleak.audits.data_rules import task_of
from labelleak.audits.options import AuditOptions
from labelleak.core.copies import copy_model
from labelleak.core.head import HeadFinding, locate_head
from labelleak.core.outputs import as_tensor_model, refuse_probabilities
from labelleak.core.seeding import whole_number
from labelleak.core.task import Task, check_rows
from labelleak.core.weights import load_weights
from labelleak.core.white_box import WhiteBox, lift
from labelleak.errors import BadInput, few, shown_path
from labelleak.simulation.adapters import LowRank, attach_adapters, silent_adapters
from labelleak.simulation.data.datasets import Dataset
from labelleak.simulation.designs import own_init
from labelleak.simulation.lora_form import parse_lora
from labelleak.simulation.models import build_model, fingerprint


def build(options: AuditOptions, data: Dataset, initialisation: int) -> nn.Module:
    """Build the model of an initialisation, with given weights where there are some."""
    model = build_model(
        options.model,
        input_shape=data.input_shape,
        num_classes=check_rows(task_of(options.task, data), data.num_classes),
        activation=options.activation,
        init=init_of(options),
        seed=whole_number(options.seed, "model", initialisation),
        task=task_of(options.task, data),
    )
    if options.weights:
        _load_weights(model, Path(options.weights))
    return (
        as_attacked(options, data, model) if ":" in options.model else _lifted(options, data, model)
    )


def has_weights(options: AuditOptions, data: Dataset, first: nn.Module) -> bool:
    """Return whether weights were given; a factory gives them if every seed leads to the same."""
    if options.weights or ":" not in options.model:
        return bool(options.weights)
    return fingerprint(build(options, data, 1)) == fingerprint(first)


def as_attacked(options: AuditOptions, data: Dataset, module: nn.Module) -> nn.Module:
    """Return a user's own model, of what it returns the output of its head, as attackers see it."""
    head, example = find_head_of(options, data, module).name, data.x_train[:2]
    if task_of(options.task, data) is Task.tokens:
        refuse_probabilities(module, head, example)
    else:
        module = as_tensor_model(module, head, example)
    return _lifted(options, data, module)


def _lifted(options: AuditOptions, data: Dataset, module: nn.Module) -> nn.Module:
    return lift(module, task_of(options.task, data), data.y_train)


def init_of(options: AuditOptions) -> str:
    """Name the initialisation: the one asked for, or what goes with the model."""
    return options.init or own_init(options.model, options.activation)


def view_model(options: AuditOptions, data: Dataset, module: nn.Module) -> WhiteBox:
    """Find the head of a model, by the name that was given or by tracing."""
    return WhiteBox(module, find_head_of(options, data, module).name)


def as_trained(
    options: AuditOptions, data: Dataset, module: nn.Module, *purpose: object
) -> nn.Module:
    """Return a model as clients train it: itself, or frozen with fresh adapters, in a copy.

    Args:
        options: what is audited.
        data: what the model sees.
        module: the model.
        purpose: what the adapters are drawn for.

    Raises:
        BadInput: if the model has no such part, or goes around its adapters.
    """
    if options.lora is None:
        return module
    adapted, head = copy_model(module), find_head_of(options, data, module).name
    seed = whole_number(options.seed, "lora", *purpose)
    attach_adapters(adapted, parse_lora(options.lora), head, seed)
    if silent := silent_adapters(adapted, data.x_train[:1]):
        raise BadInput(
            f"the model takes the weight of {few(silent, 4)} without calling the layer, so an "
            "adapter beside it does nothing; name other layers in `lora`"
        )
    return adapted


def find_head_of(options: AuditOptions, data: Dataset, module: nn.Module) -> HeadFinding:
    """Say which layer is a model's head, and how it was found; maps of two may have one channel."""
    task, name = task_of(options.task, data), options.head
    if name is not None and isinstance(dict(module.named_modules()).get(name), LowRank):
        name = f"{name}.base_layer"
    find = partial(
        locate_head,
        model=module,
        name=name,
        example=data.x_train[:2],
        task=task,
        frozen=task is Task.tokens,
    )
    if task is Task.dense and data.num_classes == 2:
        with suppress(BadInput):
            return find(num_classes=1)
    return find(num_classes=check_rows(task, data.num_classes))


def check_model(options: AuditOptions, data: Dataset, module: nn.Module) -> None:
    """Find the head and pass one batch of the smallest size, before any work is begun."""
    model = view_model(options, data, module)
    trained = copy_model(model.module).train(options.mode == "train")
    tried = WhiteBox(trained, model.head)
    outputs = tried.run(data.x_train[: min(options.batch_sizes)]).outputs
    given, wanted = tuple(outputs.shape[2:]), tuple(data.y_train.shape[1:])
    if given != wanted:
        raise BadInput(
            f"{options.model} gives a class for each of {given}, the data have labels for each of "
            f"{wanted}; models such as fcn give maps"
        )
    if options.gradient == "head_table" and not tried.is_per_sample(data.x_train):
        raise BadInput(
            "the head table is not exact for this model: batch norm or dropout in train mode "
            "ties samples together, or something follows the head; use `gradient` autograd"
        )


def _load_weights(model: nn.Module, path: Path) -> None:
    """Load trained weights from a file, which may be hostile."""
    from labelleak.files.tensors import read_tensors

    load_weights(model, read_tensors(path).tensors, f"the weights in {shown_path(path)}")


__all__ = [
    "as_attacked",
    "as_trained",
    "build",
    "check_model",
    "find_head_of",
    "has_weights",
    "init_of",
    "view_model",
]

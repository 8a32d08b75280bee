"""The model that an attacker of one update holds: built by name, or given as a module."""

from __future__ import annotations

import torch
from torch import nn

from labelleak.audits.update_options import ModelOptions
from labelleak.core.head import HeadFinding, locate_head
from labelleak.core.head_shapes import key_of
from labelleak.core.interfaces import LabelledData
from labelleak.core.seeding import torch_seeded, whole_number
from labelleak.core.update import ReceivedUpdate
from labelleak.core.weights import load_weights
from labelleak.core.white_box import WhiteBox
from labelleak.errors import BadInput
from labelleak.files.tensors import read_tensors
from labelleak.simulation.data.datasets import Dataset
from labelleak.simulation.designs import own_init
from labelleak.simulation.models import build_model
from labelleak.simulation.user_models import call_factory

AS_BUILT = "the model's weights are as it was built; give `weights` if the client had others"


def view_update(
    update: ReceivedUpdate,
    head: str | None,
    model: nn.Module | ModelOptions | None,
    data: Dataset | LabelledData | None,
    seed: int,
    max_bytes: int,
) -> tuple[ReceivedUpdate, WhiteBox | None, HeadFinding, tuple[str, ...]]:
    """Find the head, build the attacker's model where one is granted, and name the update so."""
    if model is None or (isinstance(model, ModelOptions) and model.name is None):
        return update, None, locate_head(update.tensors, before=update.before, name=head), ()
    example = _example(model, data)
    if isinstance(model, nn.Module):
        update = update.named_like(model.state_dict())
        found = locate_head(
            update.tensors, before=update.before, name=head, model=model, example=example
        )
        return update, WhiteBox(model, found.name), found, ()
    classes = data.num_classes if isinstance(data, Dataset) else _classes(update, head)
    module, notes = _build(model, update, classes, example, seed, max_bytes)
    update = update.named_like(module.state_dict())
    found = locate_head(
        update.tensors,
        before=update.before,
        name=head,
        model=module,
        example=example,
        num_classes=classes,
    )
    view = WhiteBox(module.train(model.mode == "train"), found.name)
    return update, view, found, notes


def _classes(update: ReceivedUpdate, head: str | None) -> int:
    found = locate_head(update.tensors, before=update.before, name=head)
    names = (key_of(found.name, part) for part in ("weight", "bias"))
    return len(next(update.tensors[name] for name in names if name in update.tensors))


def _example(
    model: nn.Module | ModelOptions, data: Dataset | LabelledData | None
) -> torch.Tensor | None:
    if data is not None:
        return (data.x_train if isinstance(data, Dataset) else data.inputs)[:2]
    shape = model.input_shape if isinstance(model, ModelOptions) else None
    return None if shape is None else torch.zeros(2, *shape)


def _build(
    options: ModelOptions,
    update: ReceivedUpdate,
    num_classes: int,
    example: torch.Tensor | None,
    seed: int,
    max_bytes: int,
) -> tuple[nn.Module, tuple[str, ...]]:
    """Build a named model with the weights that the client was sent, as far as they are known."""
    assert options.name is not None
    number = whole_number(seed, "model", 0)
    if example is not None:
        module = build_model(
            options.name,
            input_shape=tuple(example.shape[1:]),
            num_classes=num_classes,
            activation=options.activation,
            init=options.init or own_init(options.name, options.activation),
            seed=number,
        )
    elif ":" in options.name:
        with torch_seeded(number):
            module = call_factory(options.name, seed=number, num_classes=num_classes)
    else:
        raise BadInput(
            f"the model {options.name} needs the shape of an input; give `auxiliary` data, or "
            "`input_shape`, as in 1,28,28"
        )
    if options.weights is not None:
        weights = read_tensors(options.weights, max_bytes=max_bytes).tensors
    elif update.before is not None:
        weights = update.before
    else:
        return module, (AS_BUILT,)
    load_weights(module, weights, f"the weights for {options.name}")
    return module, ()


__all__ = ["ModelOptions", "view_update"]

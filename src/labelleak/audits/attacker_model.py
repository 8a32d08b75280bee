"""The model that an attacker of one update holds: built by name, or given as a module."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import nn

from labelleak.audits.update_options import ModelOptions
from labelleak.core.head import HeadFinding, locate_head
from labelleak.core.head_shapes import key_of
from labelleak.core.knowledge import LabelledData
from labelleak.core.outputs import NoLogits, as_tensor_model
from labelleak.core.seeding import torch_seeded, whole_number
from labelleak.core.task import Task, check_rows
from labelleak.core.update import ReceivedUpdate
from labelleak.core.weights import load_weights
from labelleak.core.white_box import WhiteBox, lift, shared_names, transposed, unlifted
from labelleak.errors import BadInput, shown
from labelleak.files.tensors import read_tensors
from labelleak.simulation.data.datasets import Dataset
from labelleak.simulation.designs import own_init
from labelleak.simulation.models import build_model
from labelleak.simulation.user_models import call_factory

BY_LABELS = (
    "the head has one output and its labels are 0 and 1, so the task is taken to be binary; say "
    "`task` if it is another"
)
RESIZED = (
    "the model gives maps of {} and the labels are {}; they are taken to be resized linearly "
    "between neighbours before the loss (`align_corners` false)"
)
AS_BUILT = "the model's weights are as it was built; give `weights` if the client had others"


def view_update(
    update: ReceivedUpdate,
    head: str | None,
    model: nn.Module | ModelOptions | None,
    data: Dataset | LabelledData | None,
    seed: int,
    max_bytes: int | None,
    labels: Iterable[int] | None = None,
) -> tuple[ReceivedUpdate, WhiteBox | None, HeadFinding, tuple[str, ...]]:
    """Find the head, build the attacker's model where one is granted, and name the update so.

    Args:
        update: as it was received.
        head: the head's name, where it is known.
        model: what the attacker holds.
        data: its own data.
        seed: of a model that is built.
        max_bytes: largest file that is read.
        labels: labels behind the update, where they are known; they tell the task where nothing
            else does.

    Returns:
        The update with its task, the model, the head, and what is to be said.
    """
    if model is None or (isinstance(model, ModelOptions) and model.name is None):
        found = locate_head(update.tensors, before=update.before, name=head, task=update.task)
        update, said = with_task(update, found.name, labels)
        return update, None, found, said
    example, notes, rows = _example(model, data), tuple[str, ...](), None
    if isinstance(model, nn.Module):
        module = model
    else:
        rows = _rows(update, head, data)
        module, notes = _build(model, update, rows, example, seed, max_bytes)
        module.train(model.mode == "train")
    _refuse_empty(module)
    update = update.named_like(module.state_dict()).tied_like(shared_names(module))
    found = locate_head(
        update.tensors,
        before=update.before,
        name=head,
        model=module,
        example=example,
        num_classes=rows,
        task=update.task,
    )
    turned = isinstance(module.get_submodule(found.name), transposed())
    update = replace(update, transposed=turned)
    update, said = with_task(update, found.name, labels)
    assert update.task is not None
    _check_rows_of(data, update.task)
    _check_labels_of(data, update.task, module.get_submodule(found.name))
    own = data.y_train if isinstance(data, Dataset) else None if data is None else data.labels
    if update.task is not Task.tokens:
        try:
            module = as_tensor_model(module, found.name, example)
        except NoLogits as reason:  # what reads the update alone answers all the same
            return update, None, found, (*notes, *said, f"the model is left out: {reason}")
    view = WhiteBox(lift(module, update.task, own), found.name)
    return update, view, found, (*notes, *said, *_resized(view, example, own))


def _resized(
    view: WhiteBox, example: torch.Tensor | None, labels: torch.Tensor | None
) -> tuple[str, ...]:
    """Say where maps had to be given the size of their labels."""
    if view.task is not Task.dense or example is None or labels is None:
        return ()
    plain = WhiteBox(lift(unlifted(view.module), Task.dense), view.head)
    own, wanted = tuple(plain.run(example).outputs.shape[2:]), tuple(labels.shape[1:])
    size, other = ("x".join(map(str, one)) for one in (own, wanted))
    return () if own == wanted else (RESIZED.format(size, other),)


def _check_rows_of(data: Dataset | LabelledData | None, task: Task) -> None:
    """Refuse own data with several labels an input where the task has one.

    Raises:
        BadInput: naming the task that they suit.
    """
    labels = data.y_train if isinstance(data, Dataset) else None if data is None else data.labels
    if labels is not None and labels.dim() == 2 and task in (Task.classes, Task.binary):
        raise BadInput(
            f"the auxiliary data have a row of labels for each input, so the task is not {task}; "
            "say `task` multilabel if each label is there or not"
        )


def _check_labels_of(data: Dataset | LabelledData | None, task: Task, head: nn.Module) -> None:
    """Refuse own data with a label that the head has no row for.

    Raises:
        BadInput: naming both; where no label is 0 it asks whether they run from 1.
    """
    labels = data.y_train if isinstance(data, Dataset) else None if data is None else data.labels
    if labels is None or labels.dim() != 1 or task is not Task.classes or not len(labels):
        return
    least, most = int(labels.min()), int(labels.max())
    weight = getattr(head, "weight", None)
    if isinstance(head, nn.Linear) and isinstance(weight, torch.Tensor) and most >= len(weight):
        hint = "; do they start at 1? classes count from 0" if least == 1 else ""
        raise BadInput(
            f"the auxiliary data have labels up to {most}, and the head has {len(weight)} rows, "
            f"for labels 0 to {len(weight) - 1}{hint}"
        )


def with_task(
    update: ReceivedUpdate, head: str, labels: Iterable[int] | None
) -> tuple[ReceivedUpdate, tuple[str, ...]]:
    """Settle an update's task; see `tell_task`.

    Returns:
        The update, and what is to be said where only its labels told the task.
    """
    form = update.form_of(head, labels)
    only = update.task is None and update.measured.loss is None and form.task is Task.binary
    return replace(update, task=form.task), (BY_LABELS,) if only else ()


def _rows(update: ReceivedUpdate, head: str | None, data: Dataset | LabelledData | None) -> int:
    """Return the outputs of the model, by its task and data, else by the head of the update."""
    classes = data.num_classes if isinstance(data, Dataset) else None
    if classes is not None and (update.task is not None or classes != 2):
        return check_rows(update.task or Task.classes, classes)
    try:
        found = locate_head(update.tensors, before=update.before, name=head, task=update.task)
    except BadInput:
        if classes is None:
            raise
        return classes
    names = (key_of(found.name, part) for part in ("weight", "bias"))
    return len(next(update.tensors[name] for name in names if name in update.tensors))


def _refuse_empty(module: nn.Module) -> None:
    """Refuse a model of which only the shapes were made."""
    empty = next((name for name, one in module.named_parameters() if one.is_meta), None)
    if empty is not None:
        raise BadInput(f"the model's {shown(empty)} has a shape and no data (device meta)")


def _example(
    model: nn.Module | ModelOptions, data: Dataset | LabelledData | None
) -> torch.Tensor | None:
    if data is not None:
        return (data.x_train if isinstance(data, Dataset) else data.inputs)[:2]
    shape = model.input_shape if isinstance(model, ModelOptions) else None
    return None if shape is None else torch.zeros(2, *shape)


def is_as_built(model: nn.Module | ModelOptions | None, update: ReceivedUpdate) -> bool:
    """Return whether a named model has the weights that it is built with, for lack of others."""
    if not isinstance(model, ModelOptions) or model.name is None:
        return False
    return model.weights is None and update.before is None


def _build(
    options: ModelOptions,
    update: ReceivedUpdate,
    rows: int,
    example: torch.Tensor | None,
    seed: int,
    max_bytes: int | None,
) -> tuple[nn.Module, tuple[str, ...]]:
    """Build a named model with the weights that the client was sent, as far as they are known."""
    assert options.name is not None
    number = whole_number(seed, "model", 0)
    if example is not None:
        module = build_model(
            options.name,
            input_shape=tuple(example.shape[1:]),
            num_classes=rows,
            activation=options.activation,
            init=options.init or own_init(options.name, options.activation),
            seed=number,
            task=update.task if update.task is Task.tokens else Task.classes,
        )
    elif ":" in options.name:
        with torch_seeded(number):
            module = call_factory(options.name, seed=number, input_shape=None, num_classes=rows)
    else:
        raise BadInput(
            f"the model {options.name} needs the shape of an input; give `auxiliary` data, or "
            "`input_shape`, as in 1,28,28"
        )
    if is_as_built(options, update):
        return module, (AS_BUILT,)
    if options.weights is not None:
        weights = read_tensors(options.weights, max_bytes=max_bytes).tensors
    else:
        assert update.before is not None
        weights = update.before
    load_weights(module, weights, f"the weights for {options.name}")
    return module, ()


__all__ = ["AS_BUILT", "ModelOptions", "is_as_built", "view_update"]

"""What data allow in an audit: their task, how batches are drawn, how large, and what is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from labelleak.audits.options import AuditOptions
from labelleak.core.frequencies import prior_of_frequencies
from labelleak.core.knowledge import LabelledData
from labelleak.core.task import Task, read_task
from labelleak.errors import BadInput
from labelleak.files.frequencies import read_frequencies
from labelleak.simulation.batches import Scheme, parse_scheme
from labelleak.simulation.data.datasets import Dataset
from labelleak.simulation.data.texts import read_texts
from labelleak.simulation.roles import Roles


def read_prior(options: AuditOptions, data: Dataset) -> tuple[float, ...]:
    """Read the frequencies that attackers know; none where the scheme tells.

    Raises:
        BadInput: if they do not fit the data.
    """
    if options.prior is None:
        return ()
    if data.task is Task.dense:
        raise BadInput("pixels come in lumps, which `prior` does not tell; leave it out for maps")
    found, task = read_frequencies(options.prior), data.task or Task.classes
    prior_of_frequencies(found, data.num_classes, task.problems(data.num_classes))
    return found


def with_own_data(options: AuditOptions, data: Dataset, roles: Roles) -> Roles:
    """Give the attacker other text, or less data, where it was asked for.

    Raises:
        BadInput: if the text cannot be read, or the data are none.
    """
    own, form = roles.auxiliary, options.text_form
    if options.own_text is not None:
        if form is None:
            raise BadInput("`own_text` goes with `task` tokens")
        names = data.class_names if form.tokenizer is None else None
        found = read_texts(options.own_text, form, names)
        own = LabelledData(torch.from_numpy(found.x_train), torch.from_numpy(found.y_train))
        if (
            own.inputs.shape[1:] != data.x_train.shape[1:]
            or int(own.labels.max()) >= data.num_classes
        ):
            raise BadInput("`own_text` has other tokens or another length than the data")
    return replace(roles, auxiliary=_first(own, options.auxiliary_size))


def _first(data: LabelledData, most: int | None) -> LabelledData:
    return data if most is None else LabelledData(data.inputs[:most], data.labels[:most])


def choose_schemes(
    names: Sequence[str], unless_said: Sequence[str], data: Dataset
) -> tuple[Scheme, ...]:
    """Return the schemes; inputs with several labels, or maps, come as they are in the data.

    Args:
        names: those asked for.
        unless_said: those that stand where nobody asks.
        data: what is drawn from.

    Raises:
        BadInput: for an unknown one, or another one than the data allow.
    """
    if data.task is not None:
        if tuple(names) not in (("natural",), tuple(unless_said)):
            raise BadInput(
                "labels of maps, or several of an input, cannot be drawn class by class; use "
                "`schemes` natural"
            )
        names = ("natural",)
    return tuple(parse_scheme(text) for text in names)


def check_size(options: AuditOptions, schemes: Sequence[Scheme], held: int) -> None:
    """Refuse batches that the victims cannot fill; those drawn as they come fill all local steps.

    Raises:
        BadInput: if there are any.
    """
    largest = max(options.batch_sizes)
    steps = max(options.local_steps) if any(one.label == "natural" for one in schemes) else 1
    if largest * steps > held:
        of = f" in {steps} local steps" if steps > 1 else ""
        raise BadInput(
            f"a batch of {largest}{of} is larger than the victims' data ({held} samples); use "
            "smaller `batch_sizes` or a larger data set"
        )


def check_parts(roles: Roles, rows: int) -> None:
    """Refuse data of which the model, the attacker or the victims would have nothing.

    Raises:
        BadInput: if they are so few.
    """
    if not all(map(len, (roles.train, roles.auxiliary, roles.victims))):
        raise BadInput(
            f"{rows} training rows are too few to be parted among the model, the attacker and the "
            "victims; give at least 5 of each class"
        )


def check_classes(
    schemes: Sequence[Scheme], roles: Roles, num_classes: int, clients: Sequence[int] = ()
) -> None:
    """Refuse data without a label that a scheme draws, and maps without any.

    Raises:
        BadInput: naming the class.
    """
    labels = roles.victims.labels.numpy()
    if labels.min(initial=0) < 0 and max(clients, default=1) > 1:
        raise BadInput("where pixels have no label, an average over clients tells no N; use one")
    if labels.min(initial=0) < 0 and not (labels.reshape(len(labels), -1) >= 0).any(axis=1).all():
        raise BadInput("some map of the data has no pixel with a label; leave it out")
    held = np.bincount(labels[labels >= 0], minlength=num_classes)
    absent = np.flatnonzero(held == 0)
    if absent.size and any(scheme.label != "natural" for scheme in schemes):
        from_one = "; do these run from 1?" if absent[0] == 0 else ""
        raise BadInput(
            f"the victims' data hold no sample of class {absent[0]} (labels must run from 0 "
            f"without gaps{from_one}); number the labels anew, use `schemes` natural, or more data"
        )


def task_of(told: str | None, data: Dataset) -> Task:
    """Return the task: as told, else as the data have it.

    Raises:
        BadInput: for an unknown name, or one that the data do not fit.
    """
    task, own = read_task(told), data.task
    if task is not None and task not in ((own,) if own else (Task.classes, Task.binary)):
        has = {None: "one label", Task.dense: "a map of labels", Task.tokens: "tokens"}.get(
            own, "0 or 1 for each class"
        )
        raise BadInput(f"each input of {data.name} has {has}, so its task is not {task}")
    return task or own or Task.classes


__all__ = [
    "check_classes",
    "check_parts",
    "check_size",
    "choose_schemes",
    "read_prior",
    "task_of",
    "with_own_data",
]

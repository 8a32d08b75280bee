"""Gather an update from its files, its tensors or a capture."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from labelleak.core.contradictions import contradictions
from labelleak.core.forms import named_like, torch_form
from labelleak.core.likeness import refuse_weights
from labelleak.core.measured import Measured
from labelleak.core.task import Task
from labelleak.core.training import LocalTraining
from labelleak.core.update import ReceivedUpdate
from labelleak.errors import BadInput, shown, shown_path
from labelleak.files.capture import CapturedUpdate
from labelleak.files.notes import Note, read_note
from labelleak.files.shards import is_shard
from labelleak.files.tensors import read_tensors

# A file, arrays of any framework by name or in a list, or a module with its weights.
Source = str | os.PathLike[str] | Mapping[str, Any] | Sequence[Any] | nn.Module
Tensors = dict[str, Tensor]

_FORMS = (
    {"captured"},
    {"before", "after"},
    {"gradient"},
    {"difference"},
    {"before", "difference"},
    {"update"},
)


def gather_update(
    captured: CapturedUpdate | None = None,
    *,
    before: Source | None = None,
    after: Source | None = None,
    gradient: Source | None = None,
    difference: Source | None = None,
    update: Source | None = None,
    made: LocalTraining | None = None,
    num_samples: int | None = None,
    layout: str | None = None,
    head: str | None = None,
    task: Task | None = None,
    max_bytes: int | None = None,
) -> ReceivedUpdate:
    """Read an update in one of its forms, of any framework; see `labelleak.core.forms`.

    Args:
        captured: what `labelleak.capture` caught.
        before: weights that the server sent: a path, or arrays by name or in a list.
        after: weights that the client returned.
        gradient: the shared gradient, in place of both.
        difference: weights after minus before, alone or with before.
        update: a file of `CapturedUpdate.save`, in place of both.
        made: what is known of the client's training; it wins over what files say of themselves.
        num_samples: labels behind the update in all, where the batches' sizes differ.
        layout: ``torch`` or ``keras``, where names and biases do not tell.
        head: module name of the head, where it is known.
        task: what the labels are, where it is known.
        max_bytes: largest file that is read.

    Raises:
        BadInput: if no form or more than one is given, a file cannot be read, or weights are given
            as a difference.
    """
    given = {
        "after": after,
        "gradient": gradient,
        "difference": difference,
        "update": update,
        "before": before,
    }
    forms = {name: source for name, source in given.items() if source is not None}
    _check_kinds(captured, made)
    told = made or LocalTraining()
    _check(forms.keys() | ({"captured"} if captured is not None else set()), told, num_samples)
    if captured is not None:
        return ReceivedUpdate(
            **captured.sides,
            training=told.over(captured.made),
            head=captured.head,
            num_samples=num_samples,
            measured=captured.measured,
            transposed=captured.transposed,
            task=task,
            contradicted=contradictions(told, (captured.made,), captured.measured, num_samples),
        )
    reader = _Reader(layout, max_bytes, any_part=head is not None)
    read = {name: reader.load(source, name) for name, source in forms.items()}
    notes = [note for _, note in read.values()]
    sides: dict[str, Any] = dict(_sides({name: side for name, (side, _) in read.items()}))
    return ReceivedUpdate(
        **sides,
        source=_source(next(iter(forms.values()))),
        head=next((note.head for note in notes if note.head), None),
        num_samples=num_samples,
        task=task,
        **_noted(notes, told, num_samples),
    )


def _noted(notes: Sequence[Note], told: LocalTraining, num_samples: int | None) -> dict[str, Any]:
    """Return what files say of themselves, below what was told, and what was told in two ways."""
    said = [note.training for note in notes]
    measured = next((note.measured for note in notes if note.measured.known), Measured())
    return {
        "training": reduce(LocalTraining.over, said, told),
        "measured": measured,
        "contradicted": contradictions(told, said, measured, num_samples),
    }


def _check_kinds(captured: object, made: object) -> None:
    """Refuse what is no capture and no training.

    Raises:
        BadInput: naming what is taken.
    """
    if not isinstance(made, LocalTraining | None):
        raise BadInput(
            "`made` takes a labelleak.LocalTraining, as in LocalTraining(batch_size=8, lr=0.1), "
            f"not {type(made).__name__}"
        )
    if not isinstance(captured, CapturedUpdate | None):
        raise BadInput(
            "what stands first is what `labelleak.capture` caught; give tensors as `gradient`, or "
            f"as `before` and `after`, not {type(captured).__name__}"
        )


def _check(forms: set[str], told: LocalTraining, num_samples: int | None) -> None:
    if forms not in _FORMS:
        raise BadInput(
            "give the update in one form: `before` and `after`, `gradient`, `difference` (with or "
            "without `before`), `update`, or a capture alone"
        )
    if num_samples is not None and told.batch_size is not None:
        raise BadInput("give `num_samples` or `batch_size`, not both: one follows from the other")


@dataclass(frozen=True)
class _Reader:
    """Reads files and arrays, in torch's form.

    Attributes:
        layout: as told.
        max_bytes: largest file that is read.
        any_part: whether a part of a model will do, since the head is named.
    """

    layout: str | None
    max_bytes: int | None
    any_part: bool

    def load(self, source: Source, wanted: str) -> tuple[Tensors, Note]:
        """Read one side, with what a file says of itself."""
        if isinstance(source, nn.Module) and wanted not in ("before", "after"):
            raise BadInput(
                f"`{wanted}` takes no module, which holds weights; give tensors by name, such as "
                "{name: p.grad for name, p in model.named_parameters()}"
            )
        if not isinstance(source, str | os.PathLike):
            return torch_form(source, self.layout), Note()
        file = read_tensors(source, max_bytes=self.max_bytes)
        if is_shard(file.path) and not self.any_part:
            raise BadInput(
                f"{shown(file.path.name)} is one of several files of a model; give their index "
                "(ending in .safetensors.index.json), or name the `head` that is in it"
            )
        noted = read_note(file.metadata, file.path)
        if noted.part is not None and noted.part != wanted:
            raise BadInput(
                f"{shown_path(file.path.name)} says that it holds the part {shown(noted.part)}, "
                f"not {wanted!r}"
            )
        return torch_form(file.tensors, self.layout, of_torch=file.of_torch), noted


def _sides(read: Mapping[str, Tensors]) -> dict[str, Tensors]:
    """Return an update's tensors as `ReceivedUpdate` has them, both sides under one name each."""
    sides = dict(read)
    if "update" in sides:
        both = sides.pop("update")
        for name, tensor in both.items():
            side, _, own = name.partition(".")
            sides.setdefault(side, {})[own] = tensor
        if {*sides} not in ({"before", "after"}, {"before", "gradient"}):
            raise BadInput(
                "`update` takes a file of labelleak's capture, with tensors before.* and after.* "
                "(or gradient.*); use `before` and `after`, or `gradient`"
            )
    if "before" in sides and "gradient" not in sides:
        other = "difference" if "difference" in sides else "after"
        sides[other] = named_like(sides[other], sides["before"]) or sides[other]
        if other == "difference":
            refuse_weights(other, sides[other], sides["before"])
            sides["after"] = _added(sides["before"], sides.pop(other))
    return sides


def _added(before: Tensors, difference: Tensors) -> Tensors:
    """Return the weights after, in float64 so that small differences are not rounded away."""
    after = {}
    for name, change in difference.items():
        start = before.get(name)
        if start is None or start.shape != change.shape:
            raise BadInput(f"the difference of {shown(name)} does not fit the weights before")
        after[name] = start.double() + change.double()
    return after


def _source(source: Source) -> str:
    return Path(source).name if isinstance(source, str | os.PathLike) else "tensors"

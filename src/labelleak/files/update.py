"""Gather an update from its files, its tensors or a capture."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from labelleak.core.tensor_names import as_tensors, name_tensors
from labelleak.core.training import LocalTraining
from labelleak.core.update import ReceivedUpdate
from labelleak.errors import BadInput
from labelleak.files.capture import CapturedUpdate
from labelleak.files.limits import LIMIT
from labelleak.files.notes import Note, read_note
from labelleak.files.tensors import read_tensors

Source = str | os.PathLike[str] | Mapping[str, Tensor]


def gather_update(
    captured: CapturedUpdate | None = None,
    *,
    before: Source | None = None,
    after: Source | None = None,
    gradient: Source | None = None,
    update: Source | None = None,
    made: LocalTraining | None = None,
    max_bytes: int = LIMIT,
) -> ReceivedUpdate:
    """Read an update in one of its forms: capture, before and after, gradient, or one file.

    Args:
        captured: what `labelleak.capture` caught.
        before: weights that the server sent: a path, or tensors by name.
        after: weights that the client returned.
        gradient: the shared gradient, in place of both.
        update: a file of `CapturedUpdate.save`, in place of both.
        made: what is known of the client's training; it wins over what files say of themselves.
        max_bytes: largest file that is read.

    Raises:
        BadInput: if no form or more than one is given, or a file cannot be read.
    """
    if captured is not None:
        if any(form is not None for form in (before, after, gradient, update)):
            raise BadInput("give the update in one form only: the capture, or files")
        known = (made or LocalTraining()).over(captured.made)
        return ReceivedUpdate(
            captured.before,
            captured.after,
            training=known,
            head=captured.head,
            measured=captured.measured,
        )
    forms = {
        "--before and --after": before is not None or after is not None,
        "--gradient": gradient is not None,
        "--update": update is not None,
    }
    if sum(forms.values()) != 1 or (before is None) != (after is None):
        raise BadInput("give the update in one form: --before and --after, --gradient, or --update")
    given = made or LocalTraining()
    if update is not None:
        tensors, noted = _load(update, "update", max_bytes)
        sides = [_side(tensors, f"{side}.") for side in ("before", "after")]
        if not all(sides):
            raise BadInput(
                "--update takes a file of labelleak's capture, with tensors before.* and after.*; "
                "use --before and --after, or --gradient"
            )
        known = given.over(noted.training)
        return ReceivedUpdate(
            sides[0],
            sides[1],
            training=known,
            source=_source(update),
            head=noted.head,
            measured=noted.measured,
        )
    if gradient is not None:
        tensors, noted = _load(gradient, "gradient", max_bytes)
        known = given.over(noted.training)
        return ReceivedUpdate(
            gradient=tensors,
            training=known,
            source=_source(gradient),
            head=noted.head,
            measured=noted.measured,
        )
    assert before is not None
    assert after is not None
    start, noted = _load(before, "before", max_bytes)
    end, noted_after = _load(after, "after", max_bytes)
    known = given.over(noted_after.training).over(noted.training)
    return ReceivedUpdate(
        start,
        end,
        training=known,
        source=_source(after),
        head=noted_after.head or noted.head,
        measured=noted_after.measured if noted_after.measured.known else noted.measured,
    )


def _load(source: Source, wanted: str, max_bytes: int) -> tuple[dict[str, Tensor], Note]:
    if isinstance(source, Mapping):
        return as_tensors(source), Note()
    file = read_tensors(source, max_bytes=max_bytes)
    noted = read_note(file.metadata, file.path)
    if noted.part is not None and noted.part != wanted:
        raise BadInput(
            f"{file.path.name} says that it holds the part {noted.part!r}, not {wanted!r}"
        )
    return name_tensors(file.tensors), noted


def _side(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _source(source: Source) -> str:
    return "tensors" if isinstance(source, Mapping) else Path(source).name

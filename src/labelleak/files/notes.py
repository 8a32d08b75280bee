"""Write an update with what made it, and read it back: labelleak's own safetensors files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from labelleak.core.forms import as_tensors
from labelleak.core.measured import Measured
from labelleak.core.training import LocalTraining
from labelleak.errors import BadInput, shown_path
from labelleak.records.files import write_whole
from labelleak.records.provenance import VERSION
from labelleak.records.reading import parse_json

# The one key of a safetensors file's metadata that labelleak writes.
KEY = "labelleak"


@dataclass(frozen=True)
class Note:
    """What a file says of itself.

    Attributes:
        training: how the client made the update.
        head: module name of the head.
        part: before, after, gradient, or update (both sides in one file).
        measured: what a capture measured beside.
    """

    training: LocalTraining = field(default_factory=LocalTraining)
    head: str | None = None
    part: str | None = None
    measured: Measured = field(default_factory=Measured)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], note: Note) -> None:
    """Write tensors and a note of how they were made as safetensors, whole or not at all.

    Args:
        path: the file.
        tensors: by name.
        note: what the file says of itself.

    Raises:
        BadInput: if it cannot be written.
    """
    from safetensors.torch import save

    known = {"part": note.part, **note.training.to_json(), "head": note.head}
    known |= note.measured.to_json()
    told = {name: value for name, value in known.items() if value is not None}
    text = json.dumps({"labelleak": VERSION, **told}, allow_nan=False)
    # A copy each, since safetensors refuses tensors that share memory (tied weights).
    plain = {n: t.detach().cpu().clone().contiguous() for n, t in as_tensors(tensors).items()}
    write_whole(path, save(plain, metadata={KEY: text}))


def read_note(metadata: Mapping[str, str], where: Path) -> Note:
    """Read what a file says of itself from its metadata; an empty note where it is not labelleak's.

    Raises:
        BadInput: if labelleak's metadata are there and not what it writes.
    """
    if KEY not in metadata:
        return Note()
    name = shown_path(where.name)
    try:
        told = parse_json(metadata[KEY])
    except BadInput as error:
        raise BadInput(f"the text of the labelleak metadata in {name} {error}") from error
    if not isinstance(told, dict):
        raise BadInput(f"the labelleak metadata in {name} are no JSON object")
    head, part = told.get("head"), told.get("part")
    try:
        if not isinstance(head, str | None):
            raise BadInput("the head must be a name")
        part = part if isinstance(part, str) else None
        return Note(LocalTraining.of_json(told), head, part, Measured.of(told))
    except BadInput as error:
        raise BadInput(f"the labelleak metadata in {name} are wrong: {error}") from error

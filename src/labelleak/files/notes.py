"""Write an update with what made it, and read it back: labelleak's own safetensors files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from labelleak.errors import BadInput, shown
from labelleak.records.files import write_whole

# The one key of a safetensors file's metadata that labelleak writes.
KEY = "labelleak"
LARGEST_NUMBER = 10**9


@dataclass(frozen=True, kw_only=True)
class HowMade:
    """How a client made its update, as far as it is known; None where it is not.

    Attributes:
        lr: learning rate.
        batch_size: labels per step.
        local_steps: optimiser steps.
        momentum: SGD momentum.
        dampening: SGD dampening.
        nesterov: whether the momentum is Nesterov's.
        weight_decay: L2 factor.
        proximal: FedProx's pull.
        optimiser: sgd or adam.
        head: module name of the head.
    """

    lr: float | None = None
    batch_size: int | None = None
    local_steps: int | None = None
    momentum: float | None = None
    dampening: float | None = None
    nesterov: bool | None = None
    weight_decay: float | None = None
    proximal: float | None = None
    optimiser: str | None = None
    head: str | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "local_steps"):
            value = getattr(self, name)
            if value is not None and not (_is_whole(value) and 1 <= value <= LARGEST_NUMBER):
                raise BadInput(f"{name} must be a whole number of at least 1, not {shown(value)}")
        for name in ("lr", "momentum", "dampening", "weight_decay", "proximal"):
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and 0 <= value <= LARGEST_NUMBER):
                raise BadInput(f"{name} must be a number of at least 0, not {shown(value)}")
        if self.optimiser not in (None, "sgd", "adam"):
            raise BadInput(f"the optimiser must be sgd or adam, not {shown(self.optimiser)}")
        if self.nesterov not in (None, True, False) or not isinstance(self.head, str | None):
            raise BadInput("nesterov must be true or false, and the head a name")

    def over(self, other: HowMade) -> HowMade:
        """Fill in from another what is not known here.

        >>> HowMade(lr=0.1).over(HowMade(lr=0.5, batch_size=4)).batch_size
        4
        """
        mine = {name: value for name, value in vars(self).items() if value is not None}
        return HowMade(**{**asdict(other), **mine})


def write_tensors(path: Path, tensors: Mapping[str, Tensor], made: HowMade, part: str) -> None:
    """Write tensors and how they were made as safetensors, the old file or the new one.

    Args:
        path: the file.
        tensors: by name.
        made: how the client made the update.
        part: before, after, gradient, or update (both sides in one file).

    Raises:
        BadInput: if it cannot be written.
    """
    from safetensors.torch import save

    from labelleak import __version__

    known = {name: value for name, value in asdict(made).items() if value is not None}
    note = json.dumps({"labelleak": __version__, "part": part, **known})
    # A copy each, since safetensors refuses tensors that share memory (tied weights).
    plain = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    write_whole(path, save(plain, metadata={KEY: note}))


def read_note(metadata: Mapping[str, str], where: Path) -> tuple[HowMade, str | None]:
    """Read how an update was made, and which part of it a file holds, from its metadata.

    Raises:
        BadInput: if labelleak's metadata are there and not what it writes.
    """
    if KEY not in metadata:
        return HowMade(), None
    try:
        note = json.loads(metadata[KEY])
    except (ValueError, RecursionError) as error:
        raise BadInput(f"the labelleak metadata in {where.name} are not JSON") from error
    if not isinstance(note, dict):
        raise BadInput(f"the labelleak metadata in {where.name} are no JSON object")
    known: dict[str, Any] = {f.name: note[f.name] for f in fields(HowMade) if f.name in note}
    try:
        part = note.get("part")
        return HowMade(**known), part if isinstance(part, str) else None
    except BadInput as error:
        raise BadInput(f"the labelleak metadata in {where.name} are wrong: {error}") from error


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) <= LARGEST_NUMBER  # false for NaN too, and safe for ints of any length

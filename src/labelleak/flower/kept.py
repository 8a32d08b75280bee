"""What an auditor works out once and keeps from one update to the next."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from labelleak.attacks.choice import LastChoice
from labelleak.core.battery import Battery
from labelleak.core.head import HeadFinding


@dataclass
class Kept:
    """What an auditor works out once per process, or once for the weights that were sent.

    A copy for another process holds nothing: prepared attacks are no data that could be sent, and
    the weights are large.

    Attributes:
        choice: the attacks.
        module: the auditor's own copy of the model.
        head: the head, as the model has it.
        sent: the weights that the battery was prepared for.
        battery: the prepared attacks.
        said: the events of the whole run that this process has noted.
    """

    choice: LastChoice = field(default_factory=LastChoice)
    module: nn.Module | None = None
    head: HeadFinding | None = None
    sent: Any = None
    battery: Battery | None = None
    said: set[str] = field(default_factory=set)

    def __reduce__(self) -> tuple[type[Kept], tuple[()]]:
        return Kept, ()


__all__ = ["Kept"]

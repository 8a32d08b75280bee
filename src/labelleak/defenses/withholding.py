"""Not sharing the head, or its bias, at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from labelleak.core.update import Memory, Scope, SharedTensors
from labelleak.defenses.composition import Part
from labelleak.defenses.facts import HEAD_ALONE, Ladders
from labelleak.errors import unknown_name


@dataclass(frozen=True)
class Withholding(Part):
    """Leave out the head's bias, its weight, or the whole head; the client keeps it to itself.

    What is withheld is missing from the update that is shared. The server then has no global
    value for it: a withheld head is the client's own, as in FedPer (Arivazhagan et al., 2019).
    The other layers are shared in the clear, and their gradients still depend on the labels.

    Attributes:
        part: ``bias``, ``weight`` or ``head``.

    >>> import torch
    >>> shared = {"fc.weight": torch.ones(1, 2, 4), "fc.bias": torch.ones(1, 2)}
    >>> update = SharedTensors(shared, "fc")
    >>> sent, _ = Withholding("bias").apply(update, np.random.default_rng(0))
    >>> list(sent.tensors)
    ['fc.weight']
    """

    part: str = "head"

    name = "withhold"
    leaves_open = (HEAD_ALONE,)
    ladders: ClassVar[Ladders] = {"withhold": ("withhold:bias", "withhold:head")}
    scope = Scope.ENTRY

    def __post_init__(self) -> None:
        if self.part not in ("bias", "weight", "head"):
            raise unknown_name("part to withhold", self.part, ["bias", "weight", "head"])

    @property
    def label(self) -> str:
        """The text form, its part always named."""
        return f"{self.name}:{self.part}"

    def apply(
        self, update: SharedTensors, rng: np.random.Generator, memory: Memory | None = None
    ) -> tuple[SharedTensors, Memory | None]:
        """Leave it out; nothing is kept."""
        names = {
            "bias": (update.head_bias,),
            "weight": (update.head_weight,),
            "head": (update.head_weight, update.head_bias),
        }
        return update.without(*names[self.part]), memory

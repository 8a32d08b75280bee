"""Not sharing a part of the update at all: the head, its bias, or other layers."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from labelleak.core.update import Memory, Scope, SharedTensors
from labelleak.defenses.composition import Part
from labelleak.defenses.facts import WITHHELD, Ladders
from labelleak.defenses.text import at_least_zero
from labelleak.errors import BadInput, unknown_name


@dataclass(frozen=True)
class Withholding(Part):
    """Leave out the head or other layers; the client keeps them to itself.

    What is withheld is missing from the update that is shared. The server then has no global
    value for it: a withheld head is the client's own, as in FedPer (Arivazhagan et al., 2019).
    The other layers are shared in the clear, and their gradients still depend on the labels.

    Attributes:
        part: ``head``, its ``bias`` or ``weight``, the module name of another layer, or ``last_K``:
            the head and the K - 1 layers that come before it.
        shown_every: of so many rounds one shows it, the first being one; 0 for none. A single
            update is judged as that of a client's first round, so by the round that shows it.
        others: withhold all but the part.

    >>> import torch
    >>> shared = {"fc.weight": torch.ones(1, 2, 4), "fc.bias": torch.ones(1, 2)}
    >>> update = SharedTensors(shared, "fc")
    >>> sent, _ = Withholding("bias").apply(update, np.random.default_rng(0))
    >>> list(sent.tensors)
    ['fc.weight']
    """

    part: str = "head"
    shown_every: int = 0
    others: bool = False

    name = "withhold"
    example = "withhold:bias"
    leaves_open = (WITHHELD,)
    ladders: ClassVar[Ladders] = {
        "withhold": (
            "withhold:bias",
            "withhold:head",
            *(f"withhold:last_{layers}" for layers in range(2, 7)),
        )
    }
    scope = Scope.ENTRY

    def __post_init__(self) -> None:
        at_least_zero(self.shown_every, "the number of rounds")
        if not self.part:
            raise BadInput("name the part to withhold, such as withhold:head")

    @property
    def label(self) -> str:
        """The text form, its part always named."""
        every = [str(self.shown_every)] if self.shown_every else []
        return ":".join([self.name, self.part, *every, *(["others"] if self.others else [])])

    @property
    def hides_head(self) -> bool:
        """Whether no round shows anything of the head."""
        alone = self.part == "head" or self.part.startswith("last_")
        layer = self.part not in ("bias", "weight")
        return not self.shown_every and (not alone and layer if self.others else alone)

    def check_names(self, names: Collection[str], head: str) -> None:
        """Check that a model has the part, and more than that.

        Raises:
            BadInput: if not.
        """
        empty = SharedTensors({}, head)
        own = self._named([*names, empty.head_weight, empty.head_bias], head)
        if not own:
            layers = [name for name in _layers(names, head) if name]
            raise unknown_name("part to withhold", self.part, ["bias", "weight", "head", *layers])
        if not self.others and own >= set(names) and len(_layers(names, head)) > 1:
            raise BadInput(f"{self.label} withholds all of this model, so nothing is shared")

    def apply(
        self, update: SharedTensors, rng: np.random.Generator, memory: Memory | None = None
    ) -> tuple[SharedTensors, Memory | None]:
        """Leave it out; with rounds that show it, the rounds are counted."""
        kept = memory
        if self.shown_every:
            past = memory.rounds if memory else 0
            kept = Memory(past + 1)
            if past % self.shown_every == 0:
                return update, kept
        own = self._named(update.floats, update.head)
        named = set(update.floats) - own if self.others else own
        return update.without(*named), kept

    def _named(self, names: Collection[str], head: str) -> set[str]:
        """Return which parameters the part holds."""
        empty = SharedTensors({}, head)
        weight, bias = empty.head_weight, empty.head_bias
        parts = {"bias": {bias}, "weight": {weight}, "head": {weight, bias}}
        if self.part in parts:
            return parts[self.part]
        if last := re.fullmatch(r"last_([1-9]\d*)", self.part):
            below = _layers(names, head)[:-1]
            layers = below[max(0, len(below) - int(last[1]) + 1) :]
            held = {name for name in names if name.rpartition(".")[0] in layers}
            return parts["head"] | held
        return {name for name in names if name.startswith(f"{self.part}.")}


def _layers(names: Collection[str], head: str) -> list[str]:
    """Name the modules that hold parameters, in order, the head last."""
    own = dict.fromkeys(name.rpartition(".")[0] for name in names)
    return [*(name for name in own if name != head), head]


__all__ = ["Withholding"]

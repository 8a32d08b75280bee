"""What every defense shares: a text form, composition with ``|``, and chains that keep order."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

import numpy as np

from labelleak.core.knowledge import Defense, LabelledData
from labelleak.core.update import Memory, Scope, SharedTensors
from labelleak.core.white_box import WhiteBox
from labelleak.defenses.client import TrainingChange, batch_gradients
from labelleak.defenses.facts import Kind, Ladders
from labelleak.defenses.text import write
from labelleak.errors import BadInput


class Part:
    """Base of all defenses; each says what it does, and takes the defaults here for the rest.

    Attributes:
        name: first word of the text form.
        example: a text form at a strength that bites, with which the tests of all defenses try it.
        scope: how much of the update it must have at hand.
        changes_training: whether the client computes its gradient differently.
        uses_head: whether it is about the head alone, so that the head must be shared.
        drops_zeros: whether it makes zeros, which its client then does not send.
        kind: what it does to an update; None where no order of defenses depends on it.
        leaves_open: a sentence for each thing that it does not cover.
        ladders: by family name, text forms that `labelleak tune` tries, the weakest first.
    """

    name: ClassVar[str]
    example: ClassVar[str] = ""
    scope: Scope = Scope.ENTRY
    changes_training: bool = False
    uses_head: ClassVar[bool] = False
    drops_zeros: ClassVar[bool] = False
    kind: ClassVar[Kind | None] = None
    leaves_open: ClassVar[tuple[str, ...]] = ()
    ladders: ClassVar[Ladders] = {}

    @property
    def label(self) -> str:
        """The text form, which `parse_defense` reads back."""
        return write(self)

    def __str__(self) -> str:
        return self.label

    @property
    def is_off(self) -> bool:
        """Whether its strength is zero, so that it changes nothing."""
        return False

    @property
    def parts(self) -> tuple[Part, ...]:
        """The simple defenses that this one is made of, in order."""
        return (self,)

    @property
    def hides_head(self) -> bool:
        """Whether nothing of the head is ever shared."""
        return False

    def check_names(self, names: Collection[str], head: str) -> None:
        """Check that it can act on a model.

        Args:
            names: of the model's parameters.
            head: module name of its head.

        Raises:
            BadInput: if not.
        """

    def value_bits(self, before: int) -> int:
        """Return the bits that one shared value takes, given what it took before this defense."""
        return before

    def largest_after(
        self, largest: float, classes: int, *, batch_size: int = 1, unit: float = 1.0
    ) -> float:
        """Return the largest L1 norm of a head's bias gradient after this defense.

        The default stands for defenses that only shrink or select. A defense that adds noise or
        rounds up widens the limit, to infinity where it leaves no size impossible.

        Args:
            largest: the largest before it.
            classes: entries of the bias.
            batch_size: labels of a step.
            unit: what one unit of what is shared stands for in the gradient.
        """
        return largest

    def __or__(self, other: Part) -> Chain:
        """Let another defense act on what this one gives."""
        if not isinstance(other, Part):
            return NotImplemented
        return Chain((*self.parts, *other.parts))

    def gradients(
        self,
        model: WhiteBox,
        batches: Sequence[LabelledData],
        rng: np.random.Generator,
        *,
        full: bool = False,
    ) -> SharedTensors:
        """Compute each batch's gradient as the client does, before `apply`."""
        changes = [part for part in self.parts if isinstance(part, TrainingChange)]
        return batch_gradients(model, batches, changes, rng, full=full)

    def apply(
        self, update: SharedTensors, rng: np.random.Generator, memory: Memory | None = None
    ) -> tuple[SharedTensors, Memory | None]:
        """Return what is shared in place of an update, and what the client keeps for its next."""
        raise NotImplementedError


@dataclass(frozen=True)
class Chain(Part):
    """Defenses one after another, in the order in which they were joined.

    An empty chain is no defense at all; its text form is ``none``.

    >>> from labelleak.defenses import Clipping, GaussianNoise
    >>> both = Clipping(norm=1.0) | GaussianNoise(sigma=0.1)
    >>> both.label
    'clip:1|gaussian:0.1'

    Raises:
        BadInput: for an order or a combination that cannot work.
    """

    links: tuple[Part, ...] = ()

    name = "none"

    def __post_init__(self) -> None:
        _check_order(self.links)

    @property
    def label(self) -> str:
        """The text forms of the parts, joined."""
        return "|".join(part.label for part in self.links) or self.name

    def __str__(self) -> str:
        return self.label

    @property
    def is_off(self) -> bool:
        """Whether every part is off."""
        return all(part.is_off for part in self.links)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The simple defenses that this one is made of, in order."""
        return self.links

    @property
    def scope(self) -> Scope:  # type: ignore[override]
        """The widest view that a part needs."""
        return max((part.scope for part in self.links), default=Scope.ENTRY)

    @property
    def hides_head(self) -> bool:
        """Whether a part hides the head."""
        return any(part.hides_head for part in self.links)

    def check_names(self, names: Collection[str], head: str) -> None:
        """Let every part check."""
        for part in self.links:
            part.check_names(names, head)

    @property
    def changes_training(self) -> bool:  # type: ignore[override]
        """Whether a part changes how the client computes its gradient."""
        return any(part.changes_training for part in self.links)

    def value_bits(self, before: int) -> int:
        """Let every part say in turn what a shared value takes."""
        for part in self.links:
            before = part.value_bits(before)
        return before

    def largest_after(
        self, largest: float, classes: int, *, batch_size: int = 1, unit: float = 1.0
    ) -> float:
        """Let every part widen the limit in turn."""
        for part in self.links:
            if not part.is_off:
                largest = part.largest_after(largest, classes, batch_size=batch_size, unit=unit)
        return largest

    def apply(
        self, update: SharedTensors, rng: np.random.Generator, memory: Memory | None = None
    ) -> tuple[SharedTensors, Memory | None]:
        """Apply the parts in order; the memory holds one entry a part."""
        held = memory.parts if memory else (None,) * len(self.links)
        if len(held) != len(self.links):
            raise BadInput(f"this memory is of another defense than {self.label}")
        kept = []
        for part, own in zip(self.links, held, strict=True):
            update, left = part.apply(update, rng, own)
            kept.append(left)
        if not any(kept):
            return update, None
        return update, replace(memory or Memory(), parts=tuple(kept))


def _check_order(parts: Sequence[Part]) -> None:
    transforms: list[Part] = []
    withheld: Part | None = None
    for part in parts:
        if part.changes_training and transforms:
            raise BadInput(
                f"{part.label} changes how the client computes its gradient, "
                f"so it must stand before {transforms[0].label}"
            )
        if part.uses_head and withheld:
            raise BadInput(f"{part.label} acts on the head, which {withheld.label} withholds")
        if part.hides_head:
            withheld = part
        if not part.changes_training:
            transforms.append(part)
    for part, after in pairwise(parts):
        if part.kind is Kind.SERVER is not after.kind:
            raise BadInput(f"the server does {part.label} to what it received: it must stand last")
    _check_repeats(parts)
    _check_training([part.name for part in parts if part.changes_training])


def _check_repeats(parts: Sequence[Part]) -> None:
    for place, part in enumerate(parts):
        earlier = parts[:place]
        if part.changes_training:
            again = part.name in [other.name for other in earlier]
        elif part.kind is Kind.CLIP:  # needed again after what lengthens an update
            again = part.label in [other.label for other in earlier[-1:]]
        else:
            again = part.label in [other.label for other in earlier]
        if again:
            raise BadInput(f"{part.name} stands twice in one chain; give it once")


def _check_training(names: Sequence[str]) -> None:
    if "mixup" in names and "randomised_response" in names[names.index("mixup") :]:
        raise BadInput("mixup leaves no single label to exchange; randomised_response goes first")
    if {"head_dropout", "soteria"} <= set(names):
        raise BadInput(
            "head_dropout and soteria both prune what enters the head, and soteria needs to see "
            "all of it; give one of the two"
        )
    clash = {"mixup", "head_dropout", "soteria"} & set(names)
    if "dpsgd" in names and clash:
        raise BadInput(
            f"dpsgd cannot be combined with {min(clash)}: it clips the gradient of each sample "
            "by itself; combine it with label_smoothing or randomised_response, or with nothing"
        )


def as_part(defense: Defense) -> Part:
    """Take a defense as one of ours, whose parts can be looked at.

    Raises:
        BadInput: for a defense of another making.
    """
    if not isinstance(defense, Part):
        raise BadInput(f"the parts of {type(defense).__name__} are not known; derive it from Part")
    return defense


__all__ = ["Chain", "Part", "as_part"]

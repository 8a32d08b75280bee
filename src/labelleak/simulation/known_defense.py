"""A defense as an attacker's imitations use it: plain gradients are computed once for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256

import numpy as np
import torch

from labelleak.interfaces import Defense, LabelledData
from labelleak.simulation.gradients import HeadTable
from labelleak.updates import Memory, Sees, Update
from labelleak.white_box import WhiteBox

# Bytes of gradients that are kept; the oldest go first.
_KEPT_BYTES = 1024 * 2**20


@dataclass(eq=False)
class Gradients:
    """Plain gradients of one unchanging model, kept by the batches they belong to.

    The same batches imitated for several defenses cost one pass. Where the head alone is wanted and
    the model passes each sample alone, all batches go through the model together.

    Attributes:
        kept: gradients by the batches' labels and pixels, and whether all parameters are there.
    """

    kept: dict[tuple[str, bool], Update] = field(default_factory=dict)

    def of(
        self,
        defense: Defense,
        model: WhiteBox,
        batches: Sequence[LabelledData],
        rng: np.random.Generator,
        full: bool,
    ) -> Update:
        """Give the gradients of batches of one size, computed at most once."""
        key = _name(batches)
        found = self.kept.get((key, full)) or self.kept.get((key, True))
        if found is None:
            found = self._compute(defense, model, batches, rng, full)
            self.kept[key, full] = found
            while len(self.kept) > 1 and sum(map(_bytes, self.kept.values())) > _KEPT_BYTES:
                del self.kept[next(iter(self.kept))]
        head = {found.head_weight, found.head_bias}
        others = [] if full else [name for name in found.tensors if name not in head]
        return found.without(*others)

    def _compute(
        self,
        defense: Defense,
        model: WhiteBox,
        batches: Sequence[LabelledData],
        rng: np.random.Generator,
        full: bool,
    ) -> Update:
        inputs = torch.cat([batch.inputs for batch in batches])
        if full or not model.is_per_sample(inputs):
            return defense.gradients(model, batches, rng, full=full)
        everything = LabelledData(inputs, torch.cat([batch.labels for batch in batches]))
        places = np.arange(len(everything)).reshape(len(batches), -1)
        seen = HeadTable.build(model, everything).gradients(places)
        empty = Update({}, model.head)
        tensors = {empty.head_weight: seen.weight, empty.head_bias: seen.bias}
        return Update({name: t for name, t in tensors.items() if t is not None}, model.head)


@dataclass(frozen=True, eq=False)
class KnownDefense:
    """A defense that an attacker of one unchanging model knows and imitates.

    It does what the defense does; where the client's gradient is the plain one, it is taken from
    `Gradients`, which several defenses share.

    Attributes:
        defense: what the client does.
        plain: the gradients, for this model only.

    >>> from labelleak.defenses import parse_defense
    >>> known = KnownDefense(parse_defense("prune:0.8"), Gradients())
    >>> known.label, known.changes_training
    ('prune:0.8', False)
    """

    defense: Defense
    plain: Gradients

    @property
    def label(self) -> str:
        """The text form of the defense."""
        return self.defense.label

    @property
    def sees(self) -> Sees:
        """How much of an update the defense needs."""
        return self.defense.sees

    @property
    def changes_training(self) -> bool:
        """Whether the defense changes the client's gradient."""
        return self.defense.changes_training

    def gradients(
        self,
        model: WhiteBox,
        batches: Sequence[LabelledData],
        rng: np.random.Generator,
        *,
        full: bool = False,
    ) -> Update:
        """Give each batch's gradient as the client computes it."""
        if self.changes_training:
            return self.defense.gradients(model, batches, rng, full=full)
        return self.plain.of(self.defense, model, batches, rng, full)

    def apply(
        self, update: Update, rng: np.random.Generator, memory: Memory | None = None
    ) -> tuple[Update, Memory | None]:
        """Apply the defense."""
        return self.defense.apply(update, rng, memory)


def _name(batches: Sequence[LabelledData]) -> str:
    """Tell batches apart by their labels and one number a sample."""
    digest = sha256()
    for batch in batches:
        digest.update(batch.labels.numpy().tobytes())
        sums = batch.inputs.reshape(len(batch), -1).double().sum(dim=1)
        digest.update(sums.numpy().tobytes())
    return digest.hexdigest()


def _bytes(update: Update) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in update.tensors.values())


__all__ = ["Gradients", "KnownDefense"]

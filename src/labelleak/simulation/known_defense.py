"""A defense as an attacker's imitations use it: plain gradients are computed once for all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

import numpy as np
import torch

from labelleak.core.knowledge import Defense, LabelledData
from labelleak.core.local_steps import as_update
from labelleak.core.update import Memory, Scope, SharedTensors
from labelleak.core.white_box import WhiteBox
from labelleak.defenses import as_part
from labelleak.simulation.defended import altered_table, is_costly
from labelleak.simulation.gradients import HeadTable

# Bytes of gradients that are kept; the oldest go first.
_KEPT_BYTES = 1024 * 2**20


@dataclass(eq=False)
class Gradients:
    """Plain gradients of one unchanging model, kept by the batches they belong to.

    The same batches imitated for several defenses cost one pass.

    Attributes:
        kept: gradients by the batches' labels and pixels, and whether all parameters are there.
    """

    kept: dict[tuple[str, bool], SharedTensors] = field(default_factory=dict)

    def of(
        self, batches: Sequence[LabelledData], full: bool, compute: Callable[[], SharedTensors]
    ) -> SharedTensors:
        """Return the gradients of batches of one size, computed at most once."""
        key = _name(batches)
        found = self.kept.get((key, full))
        if found is None:
            found = self.kept[key, full] = compute()
            while len(self.kept) > 1 and sum(map(_bytes, self.kept.values())) > _KEPT_BYTES:
                del self.kept[next(iter(self.kept))]
        return found


@dataclass(eq=False)
class Samples:
    """Head inputs and errors of samples of one unchanging model under a costly defense.

    Attributes:
        kept: those of every sample that was met, by its name.
    """

    kept: dict[bytes, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)

    def of(
        self, defense: Defense, model: WhiteBox, batches: Sequence[LabelledData]
    ) -> SharedTensors | None:
        """Put batches together, each sample altered at most once; None where that is not exact."""
        inputs = torch.cat([batch.inputs for batch in batches])
        if not is_costly(as_part(defense)) or not model.is_per_sample(inputs):
            return None
        data = LabelledData(inputs, torch.cat([batch.labels for batch in batches]))
        keys = _keys(data)
        self._alter(defense, model, data, keys)
        order = {key: place for place, key in enumerate(dict.fromkeys(keys))}
        rows = [self.kept[key] for key in order]
        bias = model.head_bias
        table = HeadTable(
            torch.stack([h for h, _ in rows]),
            torch.stack([error for _, error in rows]),
            bias is not None and bias.requires_grad,
        )
        places = np.array([order[key] for key in keys]).reshape(len(batches), -1)
        return as_update(table.gradients(places), model)

    def _alter(
        self, defense: Defense, model: WhiteBox, data: LabelledData, keys: Sequence[bytes]
    ) -> None:
        new = {key: place for place, key in enumerate(keys) if key not in self.kept}
        if new:
            picks = torch.tensor(list(new.values()))
            some = LabelledData(data.inputs[picks], data.labels[picks])
            table = altered_table(model, some, as_part(defense))
            assert table is not None  # a costly change always gives one
            rows = zip(table.inputs, table.errors, strict=True)
            self.kept.update(zip(new, rows, strict=True))


def _keys(data: LabelledData) -> list[bytes]:
    """Name each sample by its label and all that it holds."""
    rows = zip(data.inputs.numpy(), data.labels.tolist(), strict=True)
    return [sha256(row.tobytes()).digest() + label.to_bytes(8, "big") for row, label in rows]


@dataclass(frozen=True, eq=False)
class KnownDefense:
    """A defense that an attacker of one unchanging model knows and imitates.

    It does what the defense does; where the client's gradient is the plain one, it is taken from
    `Gradients`, which several defenses share.

    Attributes:
        defense: what the client does.
        plain: the gradients, for this model only.
        samples: what a costly training-time defense made of samples, for this model only.

    >>> from labelleak.defenses import parse_defense
    >>> known = KnownDefense(parse_defense("prune:0.8"), Gradients())
    >>> known.label, known.changes_training
    ('prune:0.8', False)
    """

    defense: Defense
    plain: Gradients
    samples: Samples = field(default_factory=Samples)

    @property
    def label(self) -> str:
        """The text form of the defense."""
        return self.defense.label

    @property
    def scope(self) -> Scope:
        """How much of an update the defense needs."""
        return self.defense.scope

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
    ) -> SharedTensors:
        """Return each batch's gradient as the client computes it."""
        if self.changes_training:
            found = None if full else self.samples.of(self.defense, model, batches)
            return found or self.defense.gradients(model, batches, rng, full=full)
        return self.plain.of(batches, full, lambda: self._plain(model, batches, rng, full))

    def _plain(
        self, model: WhiteBox, batches: Sequence[LabelledData], rng: np.random.Generator, full: bool
    ) -> SharedTensors:
        """Compute plain gradients, of the head alone in one pass where samples do not mix."""
        inputs = torch.cat([batch.inputs for batch in batches])
        if full or not model.is_per_sample(inputs):
            return self.defense.gradients(model, batches, rng, full=full)
        everything = LabelledData(inputs, torch.cat([batch.labels for batch in batches]))
        places = np.arange(len(everything)).reshape(len(batches), -1)
        return as_update(HeadTable.build(model, everything).gradients(places), model)

    def apply(
        self, update: SharedTensors, rng: np.random.Generator, memory: Memory | None = None
    ) -> tuple[SharedTensors, Memory | None]:
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


def _bytes(update: SharedTensors) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in update.tensors.values())


__all__ = ["Gradients", "KnownDefense", "Samples"]

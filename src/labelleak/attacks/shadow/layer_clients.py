"""Shadow clients whose whole update is kept: gradients of every layer, trained and defended."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from labelleak.attacks.many_clients import SampleGradients, train_together, trains_together
from labelleak.core.counts import Ints
from labelleak.core.draws import draw_each
from labelleak.core.knowledge import Defense, LabelledData
from labelleak.core.lazy import Tensor, torch
from labelleak.core.local_steps import as_seen, take_defended_steps
from labelleak.core.observation import Observation
from labelleak.core.training import FullTraining
from labelleak.core.update import SharedTensors
from labelleak.core.white_box import WhiteBox

# Shadows made one by one are fewer by this; and local steps that are taken side by side.
_SLOWER, _STEPS = 8, 20_000
# Numbers of whole gradients that are held together.
_AT_ONCE = 2**23


@dataclass(frozen=True, eq=False)
class LayerClient:
    """A client whose labels the attacker picks, and whose update of all layers it keeps.

    One step shares the mean of its samples' gradients, several of plain SGD are taken side by
    side. Where samples are tied together, and under defenses that change how the gradient is
    computed, each shadow is made by itself.

    Attributes:
        model: the model that the client was sent.
        data: the attacker's own data.
        training: how the client trains.
        defense: what it does to its update.
    """

    model: WhiteBox
    data: LabelledData
    training: FullTraining
    defense: Defense

    def affords(self, batches: int) -> int:
        """Say how many shadows may be made where the budget is so many quick ones."""
        steps = self.training.local_steps
        if steps > 1 and self._together:
            return max(-(-batches // _SLOWER), min(batches, _STEPS // steps))
        return batches if steps == 1 and self._averages else -(-batches // _SLOWER)

    @cached_property
    def _averages(self) -> bool:
        fits = not self.defense.changes_training
        return fits and SampleGradients.fits(self.model, self.data)

    @cached_property
    def _together(self) -> bool:
        alike = not self.defense.changes_training
        return alike and trains_together(self.model, self.data, self.training)

    def share(self, picks: Ints, rng: np.random.Generator) -> Iterator[Observation]:
        """Share the updates of ``S x N`` batches, in slices.

        Args:
            picks: indices into the data.
            rng: source of noise and the like.
        """
        numbers = sum(p.numel() for p in self.model.module.parameters())
        samples = SampleGradients.of(self.model, self.data) if self._shares_means else None
        size = max(1, _AT_ONCE // numbers)
        for rows in np.split(picks, range(size, len(picks), size)):
            if samples is not None:
                yield self._send(SharedTensors(samples.of_batches(rows), self.model.head), rng)
            elif self.training.local_steps == 1:
                parts = torch.from_numpy(rows)
                batches = [LabelledData(self.data.inputs[p], self.data.labels[p]) for p in parts]
                yield self._send(self.defense.gradients(self.model, batches, rng, full=True), rng)
            else:
                yield self._train(rows, rng)

    @property
    def _shares_means(self) -> bool:
        return self.training.local_steps == 1 and self._averages

    def _send(self, update: SharedTensors, rng: np.random.Generator) -> Observation:
        sent, _ = self.defense.apply(update, rng)
        return as_seen(sent, self.model, trials=update.trials, full=True)

    def _train(self, rows: Ints, rng: np.random.Generator) -> Observation:
        module, head = self.model.module, self.model.head
        before = {name: value.detach().clone() for name, value in module.state_dict().items()}
        names = frozenset(n for n, p in module.named_parameters() if p.requires_grad)
        after = self._take_steps(np.stack([rng.permutation(row) for row in rows]), names, rng)
        moved = {name: torch.nan_to_num(after[name] - before[name]) for name in sorted(names)}
        sent, _ = self.defense.apply(SharedTensors(moved, head), rng)
        there = {name: before[name] + value for name, value in sent.tensors.items()}
        kept = {n: before[n].expand(len(rows), *before[n].shape) for n in names - there.keys()}
        return Observation.from_update(
            before,
            {**before, **kept, **there},
            head=head,
            training=self.training,
            rest=sorted(names),
        )

    def _take_steps(
        self, rows: Ints, names: frozenset[str], rng: np.random.Generator
    ) -> dict[str, Tensor]:
        if self._together:
            return train_together(self.model, self.data, rows, self.training, names)
        each = [
            take_defended_steps(
                self.model,
                self.data,
                np.array_split(row, self.training.local_steps),
                self.training,
                self.defense,
                rng,
            )
            for row in rows
        ]
        return {name: torch.stack([after[name] for after in each]) for name in names}


def pick_samples(
    pool: np.ndarray, labels: np.ndarray, counts: Ints, rng: np.random.Generator
) -> Ints:
    """Draw samples of a pool with given label counts, any of the pool for a class without some."""
    own = [pool[labels[pool] == label] for label in range(counts.shape[1])]
    pools = [part if part.size else pool for part in own]
    classes = np.arange(counts.shape[1])
    return draw_each(pools, np.stack([np.repeat(classes, row) for row in counts]), rng)


__all__ = ["LayerClient", "pick_samples"]

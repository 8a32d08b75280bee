"""Shadow updates as a client would share them: through its local training and its defense."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np

from labelleak.attacks.many_clients import SampleGradients, train_together, trains_together
from labelleak.attacks.shadow.batches import Bank
from labelleak.core.copies import copy_model
from labelleak.core.counts import Ints
from labelleak.core.fingerprints import fingerprint_tensors
from labelleak.core.knowledge import Defense, Knowledge, LabelledData
from labelleak.core.lazy import Tensor, torch
from labelleak.core.local_steps import (
    as_seen,
    as_update,
    bend_gradients,
    make_loss,
    make_optimiser,
    take_defended_steps,
)
from labelleak.core.observation import Observation
from labelleak.core.seeding import torch_seeded
from labelleak.core.training import FullTraining
from labelleak.core.update import ReceivedUpdate, Scope, SharedTensors
from labelleak.core.white_box import WhiteBox

# Shadows made one by one are fewer by this; and local steps that are taken side by side.
_SLOWER, _STEPS = 8, 20_000


@dataclass(frozen=True, eq=False)
class ShadowClient:
    """A client whose labels the attacker picks, with the training and defense that it faces.

    Of one step under a defense that needs no more than the head, the gradient comes from the
    bank. Defenses of the whole update see the mean of its samples' gradients, and SGD takes its
    steps for many shadows side by side (`many_clients`). Where samples are tied together (batch
    norm or dropout in train mode), with Adam, and under defenses that change how the gradient is
    computed, each shadow is made by itself, which is far slower.

    Attributes:
        model: the model that the client was sent.
        data: the attacker's own data.
        training: how the client trains.
        defense: what it does to its update.
        order: the classes in the bank's order.
        bank: samples as they show at the head.
    """

    model: WhiteBox
    data: LabelledData
    training: FullTraining
    defense: Defense
    order: Tensor
    bank: Bank

    @classmethod
    def of(cls, known: Knowledge, order: Tensor, bank: Bank) -> ShadowClient:
        """Imitate the client that is known."""
        assert known.model is not None
        assert known.auxiliary is not None
        assert known.training is not None
        assert known.defense is not None
        training = known.training.filled()
        return cls(known.model, known.auxiliary, training, known.defense, order, bank)

    def affords(self, batches: int) -> int:
        """Say how many shadows may be made where the budget is so many quick ones."""
        if self._from_bank or self._averages:
            return batches
        if self._together:
            return max(-(-batches // _SLOWER), min(batches, _STEPS // self.training.local_steps))
        return -(-batches // _SLOWER)

    @property
    def _from_bank(self) -> bool:
        one = self.training.local_steps == 1
        return one and not self.defense.changes_training and not self._wide

    @cached_property
    def _averages(self) -> bool:
        """Whether means of single samples' gradients are what is defended."""
        if self.training.local_steps > 1 or self.defense.changes_training or not self._wide:
            return False
        return SampleGradients.fits(self.model, self.data)

    @cached_property
    def _together(self) -> bool:
        """Whether local steps are taken side by side: those of SGD with no more than momentum."""
        if self.training.local_steps == 1 or self.defense.changes_training:
            return False
        return trains_together(self.model, self.data, self.training)

    def observer(self) -> Callable[[Ints, np.random.Generator], Observation]:
        """Make ready to show the head's part of what is shared of batches.

        Returns:
            A function of label counts, ``shadows x K`` in the bank's order of classes, in which the
            answer is too, and of a source of samples, noise and the like. What it holds, which may
            be the gradients of all samples, goes when it does.
        """
        if self._from_bank:
            return self._show_from_bank
        samples = SampleGradients.of(self.model, self.data) if self._averages else None
        return partial(self._show, samples)

    def _show_from_bank(self, counts: Ints, rng: np.random.Generator) -> Observation:
        seen = self.bank.observe(counts, rng)
        update = as_update(seen, self.model)
        return self._read(self.defense.apply(update, rng)[0], len(counts))

    def _show(
        self, samples: SampleGradients | None, counts: Ints, rng: np.random.Generator
    ) -> Observation:
        picks = self._pick(counts, rng)
        if self.training.local_steps > 1:
            seen = self._train(picks, rng)
        elif samples is not None:
            seen = self._differentiate(samples, picks, rng)
        else:
            rows = torch.from_numpy(picks)
            batches = [LabelledData(self.data.inputs[row], self.data.labels[row]) for row in rows]
            update = self.defense.gradients(self.model, batches, rng, full=self._wide)
            seen = self._read(self.defense.apply(update, rng)[0], len(counts))
        assert seen.weight is not None
        bias = None if seen.bias is None else seen.bias[:, self.order]
        return Observation(seen.weight[:, self.order], bias)

    def fingerprint(self) -> str:
        """Tell apart clients whose shadows differ: by model, data, training and defense."""
        module = self.model.module
        state, modes = module.state_dict(), [part.training for part in module.modules()]
        learns = [name for name, value in module.named_parameters() if value.requires_grad]
        how = f"{self.training!r} {self.defense.label} {modes} {learns}"
        own = [(how, self.data.inputs), ("labels", self.data.labels)]
        tensors = [
            (name, value) for name, value in state.items() if isinstance(value, torch.Tensor)
        ]
        return fingerprint_tensors([*own, *tensors])

    @property
    def _wide(self) -> bool:
        return self.defense.scope is Scope.UPDATE

    def _read(self, update: SharedTensors, trials: int) -> Observation:
        seen = as_seen(update, self.model, trials=trials)
        if seen.weight is not None:
            return seen
        # Withheld: nothing can be learnt of it.
        return replace(seen, weight=torch.zeros(trials, *self.model.head_module.weight.shape))

    def _pick(self, counts: Ints, rng: np.random.Generator) -> Ints:
        """Draw the attacker's own samples, any of them for a class without data."""
        labels = self.data.labels.numpy()
        everything = np.arange(len(labels))
        pools = [np.flatnonzero(labels == label) for label in self.order.tolist()]
        return np.stack(
            [
                np.concatenate(
                    [
                        rng.choice(pool if pool.size else everything, number)
                        for pool, number in zip(pools, row, strict=True)
                    ]
                )
                for row in counts
            ]
        )

    def _differentiate(
        self, samples: SampleGradients, picks: Ints, rng: np.random.Generator
    ) -> Observation:
        """Defend the whole gradients of batches, and keep what is seen of the head."""
        parts = []
        for rows in np.split(picks, range(samples.at_once, len(picks), samples.at_once)):
            update = SharedTensors(samples.of_batches(rows), self.model.head)
            parts.append(self._read(self.defense.apply(update, rng)[0], len(rows)))
        weights = [part.weight for part in parts if part.weight is not None]
        biases = [part.bias for part in parts if part.bias is not None]
        return Observation(torch.cat(weights), torch.cat(biases) if biases else None)

    def _train(self, picks: Ints, rng: np.random.Generator) -> Observation:
        """Let each shadow train from the model, and share how its weights moved."""
        module = self.model.module
        before = {name: value.detach().clone() for name, value in module.state_dict().items()}
        named = SharedTensors({}, self.model.head)
        kept = {named.head_weight, named.head_bias} & set(before)
        if self._wide:
            kept |= {name for name, _ in module.named_parameters()}
        after = self._take_steps(picks, frozenset(kept), rng)
        moved = {name: torch.nan_to_num(after[name] - before[name]) for name in sorted(kept)}
        sent, _ = self.defense.apply(SharedTensors(moved, self.model.head), rng)
        after = {k: before[k] + sent.tensors.get(k, 0 * own) for k, own in moved.items()}
        received = ReceivedUpdate(
            before, {**before, **after}, training=self.training, task=self.model.task
        )
        return received.observe(self.model.head)

    def _take_steps(
        self, picks: Ints, kept: frozenset[str], rng: np.random.Generator
    ) -> dict[str, Tensor]:
        """Return the tensors after the last step of every shadow, side by side or in turn."""
        rows = np.stack([rng.permutation(row) for row in picks])
        if self._together:
            return train_together(self.model, self.data, rows, self.training, kept)
        turn = self._defend_turn if self.defense.changes_training else self._take_turn
        each = [turn(row, int(rng.integers(2**31))) for row in rows]
        return {name: torch.stack([after[name] for after in each]) for name in kept}

    def _take_turn(self, row: np.ndarray, seed: int) -> dict[str, Tensor]:
        module, how = copy_model(self.model.module), self.training
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        start = [parameter.detach().clone() for parameter in trained]
        optimiser, loss_of = make_optimiser(trained, how), make_loss(how)
        with torch_seeded(seed), torch.enable_grad():
            for step in np.array_split(row, how.local_steps):
                picks = torch.from_numpy(step)
                if len(picks):
                    loss = loss_of(module(self.data.inputs[picks]), self.data.labels[picks])
                    optimiser.zero_grad()
                    torch.autograd.backward(loss)
                    bend_gradients(trained, start, how)
                    optimiser.step()
        return {name: value.detach() for name, value in module.state_dict().items()}

    def _defend_turn(self, row: np.ndarray, seed: int) -> dict[str, Tensor]:
        steps, rng = np.array_split(row, self.training.local_steps), np.random.default_rng(seed)
        return take_defended_steps(self.model, self.data, steps, self.training, self.defense, rng)


__all__ = ["ShadowClient"]

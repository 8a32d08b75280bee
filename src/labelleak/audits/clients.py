"""What the clients of one model share, cell by cell: gradients, or weights after local training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from labelleak.attacks.many_clients import SampleGradients
from labelleak.audits.cell_updates import CellUpdates
from labelleak.audits.label_priors import LabelPriors
from labelleak.audits.plan import CellOptions, Plan
from labelleak.audits.sent_bytes import count_bytes, dense_update, moved_update
from labelleak.core.counts import Ints
from labelleak.core.images import count_images
from labelleak.core.knowledge import LabelledData
from labelleak.core.needs import Need
from labelleak.core.observation import Observation
from labelleak.core.score import Truth, count_labels
from labelleak.core.seeding import stream, whole_number
from labelleak.core.task import Task, labels_each
from labelleak.core.training import FullTraining
from labelleak.core.update import ReceivedUpdate
from labelleak.core.weights import buffer_names
from labelleak.core.white_box import WhiteBox
from labelleak.defenses import Chain
from labelleak.defenses.describe import describe_defense
from labelleak.records.states import State
from labelleak.simulation.aggregates import average_clients
from labelleak.simulation.batches import draw_batches
from labelleak.simulation.client import train_defended, train_locally
from labelleak.simulation.defended import (
    defend_update,
    defended_gradients,
    takes_long,
)
from labelleak.simulation.gradients import HeadTable, autograd_gradients, later_gradients

TABLE, AUTOGRAD = "head_table", "autograd"
# Numbers that the whole gradients of a cell's updates may take together.
_MOST_HELD = 2**28


@dataclass(frozen=True, eq=False)
class Clients:
    """The clients of one model at one stage, all drawing from the victims' data.

    Attributes:
        plan: what is audited.
        model: the model that the server sent.
        initialisation: which of the models it is, for the seeds.
        trials: updates of each cell.
    """

    plan: Plan
    model: WhiteBox
    initialisation: int
    trials: int
    _bytes: dict[tuple[str, FullTraining], float] = field(default_factory=dict)

    def share(self, cell: CellOptions) -> CellUpdates:
        """Let clients draw, train and share under the conditions of a cell."""
        pool, classes = self.plan.roles.victims.labels.numpy(), self.plan.data.num_classes
        task, drawn = self.model.task, self._draw(cell, pool)
        training = self.training(cell)
        extra: dict[str, Any] = {
            "clients": cell.clients,
            "optimizer": describe_training(training),
            **describe_defense(
                cell.defense, local_steps=cell.local_steps, entries=self.model.trained_entries
            ),
            "wire_bytes": self._wire_bytes(cell, drawn[0, 0], training),
        }
        if cell.shares_gradient:
            observation = self._differentiate(drawn, cell)
            extra["gradient"] = self.gradient_path
        else:
            observation = self._train(drawn, training, cell)
            extra["lr"] = cell.lr
            extra["lr_h2"] = float(f"{cell.lr * (self.head_input_energy + 1):.4g}")
        # Whoever makes an update knows its scale and sign, whatever the defense after it does.
        if training.optimiser == "sgd":
            observation = replace(observation, scale=State.held)
        problems = task.problems(classes)
        own = (-1, classes) if task is Task.multilabel else (-1,)
        labels = pool[drawn].reshape(self.trials, cell.clients, *own)
        common = {
            "scheme": cell.scheme.label,
            "batch_size": cell.batch_size,
            "local_steps": cell.local_steps,
            "num_samples": labels[0].size // problems,
            "defense": cell.defense.label,
        }
        each = count_labels(labels, task, classes)
        truth = Truth(each.counts.sum(axis=1), self._images(pool[drawn]))
        priors, bands = self.priors.of(cell), self.priors.bands
        return CellUpdates(
            observation, truth, each, *priors, training, common, extra=extra, bands=bands
        )

    def _images(self, labels: Ints) -> Ints | None:
        """Count the labels of each image of a trial, of maps."""
        if self.model.task is not Task.dense:
            return None
        maps = labels.reshape(self.trials, -1, math.prod(labels.shape[4:]))
        return count_images(maps, self.plan.data.num_classes)

    @cached_property
    def priors(self) -> LabelPriors:
        """How labels come, and how attackers take them to come."""
        return LabelPriors(self.plan, self.model.task)

    def training(self, cell: CellOptions) -> FullTraining:
        """Return the local training of a cell's clients, as an attacker may know it."""
        options = self.plan.options
        return FullTraining(
            cell.lr,
            cell.local_steps,
            cell.batch_size * cell.clients,
            options.momentum,
            options.weight_decay,
            options.optimiser,
        )

    @cached_property
    def gradient_path(self) -> str:
        """Name the way gradients are made: the head table where it is exact, else autograd."""
        wanted, victims = self.plan.options.gradient, self.plan.roles.victims
        exact = wanted != AUTOGRAD and self.model.is_per_sample(victims.inputs)
        return TABLE if exact else AUTOGRAD

    @cached_property
    def head_input_energy(self) -> float:
        """Mean squared length of the victims' head inputs, |h|^2."""
        some = self.plan.roles.victims.inputs[:1000]
        seen = self.model.run_all(some[: max(2, self.model.inputs_at_once(some))])
        return float(seen.inputs.detach().square().sum(dim=1).mean())

    def _shows_all(self, cell: CellOptions) -> bool:
        """Whether the layers below the head are kept: an attack reads them, and they fit."""
        read = any(Need.FULL_GRADIENT in attack.needs for attack in self.plan.attacks)
        fits = self.model.trained_entries * self.trials * cell.clients <= _MOST_HELD
        return read and fits and not (cell.defense.links and takes_long(cell.defense))

    def _wire_bytes(self, cell: CellOptions, steps: np.ndarray, training: FullTraining) -> float:
        """Count the bytes of one client's update: its gradient, or how its weights moved."""
        defense, place = cell.defense, (cell.defense.label, training)
        if place not in self._bytes:
            seed, victims = self.plan.options.seed, self.plan.roles.victims
            if not defense.links:
                sent = dense_update(self.model)
            elif cell.shares_gradient:
                picks = torch.from_numpy(steps.reshape(-1))
                batch = LabelledData(victims.inputs[picks], victims.labels[picks])
                rng = stream(seed, "wire gradient", self.initialisation, defense.label)
                sent = defense.gradients(self.model, [batch], rng, full=True)
            else:
                after = self._train_one(steps, training, defense, seed, seed)
                sent = moved_update(self.model, after)
            rng = stream(seed, "wire", self.initialisation, defense.label)
            self._bytes[place] = count_bytes(self.model, sent, defense, rng)
        return self._bytes[place]

    def _differentiate(self, drawn: np.ndarray, cell: CellOptions) -> Observation:
        """Make the mean of the gradients that the clients of each trial share."""
        defense, full = cell.defense, self._shows_all(cell)
        if not defense.links:  # all clients' samples are one batch then
            return self._gradients(drawn.reshape(len(drawn), -1), full)
        seed = whole_number(self.plan.options.seed, "defense", self.initialisation)
        victims = self.plan.roles.victims
        each = drawn.reshape(-1, drawn.shape[-1])
        sent = defended_gradients(
            self.model,
            victims,
            each,
            defense,
            seed=seed,
            full=full,
            table=self.table if self.gradient_path == TABLE else None,
        )
        return average_clients(sent, drawn.shape[1])

    @cached_property
    def table(self) -> HeadTable:
        """The head table of the victims, built once for all cells."""
        return HeadTable.build(self.model, self.plan.roles.victims)

    def _gradients(self, batches: np.ndarray, full: bool) -> Observation:
        """Make the gradients of ``T x B`` batches; below the head, once they are read."""
        victims, seed = self.plan.roles.victims, self._forward_seed
        if self.gradient_path != TABLE:
            return autograd_gradients(self.model, victims, batches, seed=seed, full=full)
        seen = replace(self.table.gradients(batches), paired=self.model.form.paired)
        if not full:
            return seen
        rest = later_gradients(self.model, victims, batches, lambda: self._samples)
        return replace(seen, rest=rest)

    @cached_property
    def _samples(self) -> SampleGradients | None:
        """The gradient of every victim by itself, where all can be held."""
        return SampleGradients.of_layers(self.model, self.plan.roles.victims)

    @cached_property
    def _forward_seed(self) -> int:
        return whole_number(self.plan.options.seed, "forward", self.initialisation)

    def _draw(self, cell: CellOptions, pool: np.ndarray) -> np.ndarray:
        """Draw ``trials x clients x steps x B`` indices of victims.

        The draw does not depend on learning rate or defense, so that these compare in pairs. A
        scheme speaks of all labels of a client; local steps get them shuffled.
        """
        classes, seed = self.plan.data.num_classes, self.plan.options.seed
        purpose: list[str | int] = [self.initialisation, cell.scheme.label, cell.batch_size]
        if cell.local_steps > 1 or cell.clients > 1:
            purpose += [cell.local_steps, cell.clients]
        rng = stream(seed, "batches", *purpose)
        size = cell.batch_size * cell.local_steps
        revisit = cell.local_steps > 1
        drawn = np.stack(
            [
                draw_batches(cell.scheme, pool, classes, size, self.trials, rng, revisit=revisit)
                for _ in range(cell.clients)
            ],
            axis=1,
        )
        if cell.local_steps > 1:
            drawn = rng.permuted(drawn, axis=2)
        return drawn.reshape(self.trials, cell.clients, cell.local_steps, cell.batch_size)

    def _train(self, drawn: np.ndarray, training: FullTraining, cell: CellOptions) -> Observation:
        """Train every client of every trial, and average the clients of a trial."""
        prefix = f"{self.model.head}." if self.model.head else ""
        before, own = self.model.module.state_dict(), self.plan.options.seed
        names = [n for n in (f"{prefix}weight", f"{prefix}bias") if n in before]
        rest = [n for n in dense_update(self.model).tensors if n not in names]
        below = rest if self._shows_all(cell) else None
        seed = whole_number(own, "local", self.initialisation)
        after: dict[str, list[torch.Tensor]] = {name: [] for name in (*names, *(below or ()))}
        rng = stream(own, "defense", self.initialisation, cell.defense.label)
        for number, clients in enumerate(drawn):
            returned = [
                self._train_one(
                    steps,
                    training,
                    cell.defense,
                    seed + number,
                    whole_number(own, "defended steps", self.initialisation, number, client),
                )
                for client, steps in enumerate(clients)
            ]
            if cell.defense.links:
                returned = [self._defend(before, one, cell.defense, rng) for one in returned]
            for name, kept in after.items():
                kept.append(torch.stack([one[name] for one in returned]).mean(dim=0))
        states = {name: torch.stack(values) for name, values in after.items()}
        total = drawn[0].size * labels_each(self.plan.roles.victims.labels, self.model.task)
        task = self.model.task
        received = ReceivedUpdate(before, states, training=training, num_samples=total, task=task)
        return received.observe(self.model.head, rest=below)

    def _train_one(
        self,
        steps: np.ndarray,
        training: FullTraining,
        defense: Chain,
        seed: int,
        defended_seed: int,
    ) -> dict[str, torch.Tensor]:
        """Train one client; a training-time defense has randomness of the client's own."""
        victims = self.plan.roles.victims
        if not defense.changes_training:
            return train_locally(self.model.module, victims, steps, training, seed=seed)
        return train_defended(self.model, victims, steps, training, defense, seed=defended_seed)

    def _defend(
        self,
        before: Mapping[str, torch.Tensor],
        after: Mapping[str, torch.Tensor],
        defense: Chain,
        rng: np.random.Generator,
    ) -> dict[str, torch.Tensor]:
        # What a head is tied to is shared under the head's name.
        tied = before.keys() - self.model.trained.keys()
        buffers = buffer_names(before, self.model.module) | tied
        sent, _ = defend_update(before, after, defense, rng, head=self.model.head, buffers=buffers)
        return sent


def describe_training(training: FullTraining) -> str:
    """Say in a few words how a client trains.

    >>> describe_training(FullTraining(lr=0.1, local_steps=10, momentum=0.9))
    'sgd lr 0.1 momentum 0.9'
    >>> describe_training(FullTraining(lr=0.1))
    'one step'
    """
    if training.local_steps == 1 and training.optimiser == "sgd":
        return "one step"
    words = [training.optimiser, f"lr {training.lr:g}"]
    if training.momentum:
        words.append(f"momentum {training.momentum:g}")
    if training.weight_decay:
        words.append(f"weight decay {training.weight_decay:g}")
    return " ".join(words)


__all__ = ["CellUpdates", "Clients", "describe_training"]

"""A model at a stage of its training, attacked: what audits, searches and studies all run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from torch import nn

from labelleak.attacks import ADAPTIVE, AdaptiveLayerShadow, AdaptiveShadow
from labelleak.audits.audited_model import as_trained, build, find_head_of, init_of, view_model
from labelleak.audits.cell_updates import CellUpdates
from labelleak.audits.clients import Clients
from labelleak.audits.plan import CellOptions, Plan, dummies_of
from labelleak.audits.training_stages import reach_stages, training_of
from labelleak.core.answers import Answer, make_records
from labelleak.core.battery import Battery
from labelleak.core.copies import copy_model
from labelleak.core.knowledge import Knowledge, LabelledData
from labelleak.core.score import Truth
from labelleak.core.seeding import whole_number
from labelleak.core.task import Task
from labelleak.core.training import FullTraining
from labelleak.core.white_box import WhiteBox
from labelleak.records.provenance import origin
from labelleak.records.record import Record
from labelleak.simulation.defended import takes_long
from labelleak.simulation.designs import own_activation
from labelleak.simulation.known_defense import Gradients, KnownDefense
from labelleak.simulation.models import fingerprint
from labelleak.simulation.training import evaluate

# Labels of text on which a model is tested at most.
MOST_TESTED = 8192


@dataclass(frozen=True, eq=False)
class Stage:
    """One model at one stage of its training, with its clients and its attackers.

    What an attacker learns of the model alone, it learns once: the shadow attack's fit of each
    batch size, the passes over auxiliary data, the head table of the victims.

    Attributes:
        plan: what is audited.
        initialisation: which model.
        steps: its training steps.
        model: the model that the server sent; it does not change afterwards.
        purpose: what the attackers' own random streams are drawn for.
    """

    plan: Plan
    initialisation: int
    steps: int
    model: WhiteBox
    purpose: tuple[int, ...]

    @classmethod
    def of(
        cls,
        plan: Plan,
        initialisation: int,
        steps: int,
        module: nn.Module,
        purpose: tuple[int, ...] | None = None,
    ) -> Stage:
        """Take a module as it is."""
        words = (initialisation, steps) if purpose is None else purpose
        model = view_model(plan.options, plan.data, module)
        return cls(plan, initialisation, steps, model, words)

    @cached_property
    def battery(self) -> Battery:
        """The attacks, prepared for the model."""
        plan, told = self.plan, self.clients.priors.told
        known = Knowledge(
            self.model,
            plan.data.input_shape,
            plan.roles.auxiliary,
            fit_cache=plan.fit_cache,
            expected=plan.expected if self.model.task is Task.classes else (),
        )
        return Battery.prepare(
            plan.attacks,
            known if told is None else replace(known, prior=told),
            plan.num_rows,
            seed=whole_number(plan.options.seed, "battery", *self.purpose),
        )

    @cached_property
    def clients(self) -> Clients:
        """What draws and shares updates of the model."""
        return Clients(self.plan, self.model, self.initialisation, len(self.trials))

    @property
    def trials(self) -> range:
        """Numbers of the initialisation's trials."""
        return self.plan.trials_of(self.initialisation)

    @cached_property
    def _evaluated(self) -> tuple[float, float]:
        data = self.plan.data
        most = MOST_TESTED // data.sequence_length if data.task is Task.tokens else None
        return evaluate(self.model.module, LabelledData(data.x_test[:most], data.y_test[:most]))

    @property
    def accuracy(self) -> float:
        """Test accuracy of the model; of texts on some of them."""
        return round(self._evaluated[0], 6)

    def audit(self, cells: Sequence[CellOptions]) -> Iterator[list[Record]]:
        """Let clients share and attackers answer, a list of records per cell.

        A cell's records do not depend on the other cells.
        """
        gradients = Gradients()
        defenses: dict[str, KnownDefense] = {}
        place: tuple[str, bool, FullTraining] | None = None
        known = self.battery
        for cell in cells:
            shared = self.clients.share(cell)
            label = cell.defense.label
            # One plain gradient leaves an adaptive attacker nothing to adapt to.
            plain = cell.shares_gradient and not cell.defense.links
            if not plain and label not in defenses:
                defenses[label] = KnownDefense(cell.defense, gradients)
            # What was learnt of a client stands for every way of drawing its batch, and goes when
            # another client comes.
            here = (label, cell.shares_gradient, shared.training)
            last = known if here == place else self.battery
            place = here
            known = last.with_batches(
                shared.prior, shared.training, None if plain else defenses[label]
            )
            able, left_out = _imitable(known, cell)
            left_out = {**self.plan.left_out, **left_out}
            yield [
                record
                for trials, part in shared.parts(self.trials)
                for record in self._attack(able, part, trials, left_out, plain=plain)
            ]

    def _attack(
        self,
        battery: Battery,
        shared: CellUpdates,
        trials: Sequence[int],
        left_out: Mapping[str, str],
        *,
        plain: bool,
    ) -> Iterator[Record]:
        """Let the attackers answer updates of as many labels each."""
        outcomes = battery.run(shared.observation, shared.truth, shared.real)
        missing = {**left_out, **battery.not_applicable(shared.observation)}
        if plain:
            missing = {n: why for n, why in missing.items() if not n.endswith("_adaptive")}
        extra = {**shared.extra, **({"not_applicable": missing} if missing else {})}
        for outcome in outcomes:
            beside = shared.score_beside(outcome.estimate.counts)
            yield from self.write(outcome, shared.truth, shared.common, extra, beside, trials)

    def write(
        self,
        answer: Answer,
        truth: Truth,
        common: Mapping[str, Any],
        extra: Mapping[str, Any],
        more: Sequence[Mapping[str, Any]] = (),
        trials: Sequence[int] | None = None,
    ) -> list[Record]:
        """Write an answer as records of this model.

        Args:
            answer: what an attack answered, scored, a trial a row.
            truth: what was really there.
            common: the contract's keys that say how the updates came about.
            extra: keys of ours beside them.
            more: further keys of each trial.
            trials: their numbers, if not all of the initialisation's.
        """
        return make_records(
            answer,
            truth,
            trials=self.trials if trials is None else trials,
            common={**self.common, **common},
            extra={**self.extra, **extra},
            keep_counts=self.plan.options.keep_counts,
            more=more,
        )

    @cached_property
    def common(self) -> dict[str, Any]:
        """The contract's keys that say where records come from."""
        options = self.plan.options
        return origin(
            seed=options.seed,
            data=self.plan.data.name,
            model=options.model,
            initialisation=self.initialisation,
            training_steps=self.steps,
            model_accuracy=self.accuracy,
            num_classes=self.plan.data.num_classes,
            command=self.plan.command,
        )

    @cached_property
    def extra(self) -> dict[str, Any]:
        """Our keys beside them."""
        plan, options, roles = self.plan, self.plan.options, self.plan.roles
        extra: dict[str, Any] = {
            "init": "as given" if plan.as_given else init_of(options),
            "activation": options.activation or own_activation(options.model),
            "mode": options.mode,
            "victims": options.victims,
            "train_size": len(roles.train),
            "auxiliary_size": len(roles.auxiliary),
            "victim_size": len(roles.victims),
            "normalisation": plan.data.normalisation,
            "data_fingerprint": plan.data.fingerprint,
            "model_fingerprint": fingerprint(self.model.module),
            "train_lr": training_of(options, roles.train).lr,
            "train_batch_size": options.train_batch_size,
            "dummies": str(dummies_of(options).value),
            "shadow_batches": options.shadow_batches,
            "numpy": np.__version__,
            "scipy": scipy.__version__,
        }
        if options.users is not None:
            extra["users"] = options.users
            extra["partition"] = options.partition
            extra["per_round"] = options.per_round or options.users
            extra["round_steps"] = options.round_steps
        extra |= plan.text_keys
        if plan.data.task is Task.tokens:
            extra["model_loss"] = round(self._evaluated[1], 4)
        if names := plan.data.told_names:
            extra["class_names"] = list(names)
        if options.weights is not None:
            extra["weights"] = Path(options.weights).name
        found = find_head_of(options, plan.data, self.model.module)
        task = str(self.model.task)
        return {**extra, "head": found.name, "head_found": found.how, "task": task}


def train_stages(plan: Plan, initialisation: int, stages: Sequence[int]) -> Iterator[Stage]:
    """Train one initialisation to each of some stages, and give each as it is there.

    Args:
        plan: what is audited.
        initialisation: which model.
        stages: training steps to stop at.

    Raises:
        BadInput: if training diverges.
    """
    options = plan.options
    model = copy_model(plan.module or build(options, plan.data, initialisation))
    for steps in reach_stages(model, plan.roles.train, options, initialisation, stages):
        kept = copy_model(model).train(options.mode == "train")
        kept = as_trained(options, plan.data, kept, initialisation, steps)
        yield Stage.of(plan, initialisation, steps, kept)


def _imitable(known: Battery, cell: CellOptions) -> tuple[Battery, dict[str, str]]:
    """Leave out attackers that imitate another kind of client, and say of whom it may surprise."""
    if cell.shares_gradient:
        return known, {}
    known = known.without(ADAPTIVE)  # these imitate one shared gradient
    learners = {AdaptiveShadow.name, AdaptiveLayerShadow.name}
    asked = sorted(learners & {attack.name for attack in known.attacks})
    if not (asked and takes_long(cell.defense)):
        return known, {}
    why = f"would compute {cell.defense.label} at every step of every shadow, which takes hours"
    return known.without(learners), {name: f"{name} {why}" for name in asked}


__all__ = ["Stage", "train_stages"]

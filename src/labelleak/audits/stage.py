"""One model at one stage of its training, audited under any number of conditions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch
from torch import nn

import labelleak
from labelleak.attacks import ADAPTIVE, AdaptiveShadow
from labelleak.audits.clients import Clients
from labelleak.audits.plan import CellOptions, Plan, dummies_of, init_of, view_model
from labelleak.core.battery import Battery, make_records
from labelleak.core.interfaces import Knowledge, LabelledData
from labelleak.core.seeding import whole_number
from labelleak.core.training import FullTraining
from labelleak.core.white_box import WhiteBox
from labelleak.records.record import Record
from labelleak.simulation.defended import takes_long
from labelleak.simulation.known_defense import Gradients, KnownDefense
from labelleak.simulation.models import fingerprint, own_activation
from labelleak.simulation.training import accuracy


def audit_model(
    plan: Plan, initialisation: int, stage: int, module: nn.Module
) -> Iterator[list[Record]]:
    """Audit one model under all conditions, a list of records per cell."""
    return AuditedModel.prepare(plan, initialisation, stage, module).audit(plan.cells)


@dataclass(frozen=True, eq=False)
class AuditedModel:
    """One model at one stage with its attackers, ready for cells of any conditions.

    What an attacker learns of the model alone, it learns once: the shadow attack's fit of each
    batch size, the passes over auxiliary data, the head table of the victims.

    Attributes:
        plan: what is audited; of its cells nothing is used.
        initialisation: which model.
        stage: its training steps.
        model: the model that the server sent.
        battery: the attacks, prepared for it.
        clients: what draws and shares updates of it.
        common: the contract's keys of its records.
        extra: ours beside them.
    """

    plan: Plan
    initialisation: int
    stage: int
    model: WhiteBox
    battery: Battery
    clients: Clients
    common: dict[str, Any]
    extra: dict[str, Any]

    @classmethod
    def prepare(
        cls, plan: Plan, initialisation: int, stage: int, module: nn.Module
    ) -> AuditedModel:
        """Prepare every attack for a model."""
        options, data = plan.options, plan.data
        model = view_model(options, data, module)
        battery = Battery.prepare(
            plan.attacks,
            Knowledge(model, data.input_shape, plan.roles.auxiliary, fit_cache=plan.fit_cache),
            data.num_classes,
            seed=whole_number(options.seed, "battery", initialisation, stage),
        )
        clients = Clients(plan, model, initialisation, len(plan.trials_of(initialisation)))
        common, extra = provenance(plan, module, initialisation, stage)
        test = LabelledData(data.x_test, data.y_test)
        common["model_accuracy"] = round(accuracy(module, test), 6)
        return cls(plan, initialisation, stage, model, battery, clients, common, extra)

    def audit(self, cells: Sequence[CellOptions]) -> Iterator[list[Record]]:
        """Let clients share and attackers answer, a list of records per cell.

        A cell's records do not depend on the other cells.
        """
        plan = self.plan
        trials = plan.trials_of(self.initialisation)
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
            missing = {**plan.left_out, **left_out, **able.not_applicable(shared.observation)}
            if plain:
                missing = {n: why for n, why in missing.items() if not n.endswith("_adaptive")}
            more = {"not_applicable": missing} if missing else {}
            yield [
                record
                for outcome in able.run(shared.observation, shared.truth)
                for record in make_records(
                    outcome,
                    shared.truth,
                    trials=trials,
                    common={**self.common, **shared.common},
                    extra={**self.extra, **shared.extra, **more},
                    keep_counts=plan.options.keep_counts,
                    more=shared.score_clients(outcome.estimate.counts),
                )
            ]


def _imitable(known: Battery, cell: CellOptions) -> tuple[Battery, dict[str, str]]:
    """Leave out attackers that imitate another kind of client, and say of whom it may surprise."""
    if cell.shares_gradient:
        return known, {}
    known = known.without(ADAPTIVE)  # these imitate one shared gradient
    asked = any(attack.name == AdaptiveShadow.name for attack in known.attacks)
    if not (asked and takes_long(cell.defense)):
        return known, {}
    why = f"{AdaptiveShadow.name} would compute {cell.defense.label} at every step of every shadow"
    return known.without({AdaptiveShadow.name}), {AdaptiveShadow.name: f"{why}, which takes hours"}


def provenance(
    plan: Plan, module: nn.Module, initialisation: int, stage: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the keys that say where records come from: the contract's, and ours beside them."""
    options, roles = plan.options, plan.roles
    common: dict[str, Any] = {
        "seed": options.seed,
        "data": plan.data.name,
        "model": options.model,
        "initialisation": initialisation,
        "training_steps": stage,
        "num_classes": plan.data.num_classes,
        "labelleak": labelleak.__version__,
        "torch": str(torch.__version__),
        "command": plan.command,
    }
    extra: dict[str, Any] = {
        "init": "as given" if options.weights or plan.module else init_of(options),
        "activation": options.activation or own_activation(options.model),
        "mode": options.mode,
        "victims": options.victims,
        "train_size": len(roles.train),
        "auxiliary_size": len(roles.auxiliary),
        "victim_size": len(roles.victims),
        "normalisation": plan.data.normalisation,
        "data_fingerprint": plan.data.fingerprint,
        "model_fingerprint": fingerprint(module),
        "train_lr": options.train_lr,
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
    for name, choice in (("weights", options.weights), ("head", options.head)):
        if choice is not None:
            extra[name] = Path(choice).name
    return common, extra


__all__ = ["AuditedModel", "audit_model", "provenance"]

"""Turn the options of an audit into what it runs on, refusing what cannot be beforehand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path

import numpy as np
from torch import nn

from labelleak.attacks import (
    ADAPTIVE,
    AdaptiveLayerShadow,
    AdaptiveShadow,
    Dummies,
    LLGStar,
    Shadow,
    dummies_for,
)
from labelleak.attacks.choice import Choice, choose_attacks, choose_for_tokens
from labelleak.audits.audited_model import (
    as_attacked,
    as_trained,
    build,
    check_model,
    has_weights,
    view_model,
)
from labelleak.audits.data_rules import (
    check_classes,
    check_parts,
    check_size,
    choose_schemes,
    read_prior,
    task_of,
    with_own_data,
)
from labelleak.audits.layer_probes import with_layers_alone
from labelleak.audits.options import AuditOptions
from labelleak.core.copies import copy_model
from labelleak.core.interfaces import Attack
from labelleak.core.knowledge import FitCache, LabelledData
from labelleak.core.seeding import stream
from labelleak.core.task import Task
from labelleak.defenses import Chain, parse_defense
from labelleak.errors import BadInput
from labelleak.simulation.batches import Scheme
from labelleak.simulation.data.datasets import Dataset, load_dataset
from labelleak.simulation.models import fingerprint
from labelleak.simulation.partitions import parse_partition, partition_samples
from labelleak.simulation.roles import Roles, divide

NO_DEFENSE = Chain()


@dataclass(frozen=True)
class CellOptions:
    """The conditions of one cell, within a model at a stage.

    Attributes:
        scheme: how a client's labels are drawn.
        batch_size: labels per step of a client.
        local_steps: steps that a client takes.
        lr: learning rate of those steps.
        clients: how many clients' updates are averaged into the one that is seen.
        defense: what each client does to hide its labels.
        plain: whether one step is plain SGD, which shares its gradient.
    """

    scheme: Scheme
    batch_size: int
    local_steps: int = 1
    lr: float = 0.1
    clients: int = 1
    defense: Chain = NO_DEFENSE
    plain: bool = True

    @property
    def shares_gradient(self) -> bool:
        """Return whether the update is the gradient of the clients' samples, scaled (FedSGD)."""
        return self.local_steps == 1 and self.plain


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything an audit runs on, with every name turned into its object."""

    options: AuditOptions
    data: Dataset
    roles: Roles
    attacks: tuple[Attack, ...]
    schemes: tuple[Scheme, ...]
    defenses: tuple[Chain, ...]
    module: nn.Module | None
    command: str
    model_fingerprint: str
    left_out: Mapping[str, str]
    fit_cache: FitCache | None = None
    frequencies: tuple[float, ...] = ()
    as_given: bool = False

    @property
    def text_keys(self) -> dict[str, str | int]:
        """What records of texts say of them; nothing of other data."""
        if self.data.task is not Task.tokens:
            return {}
        own = self.options.own_text
        return {
            "tokens": self.data.normalisation,
            "sequence_length": self.data.sequence_length,
            **({} if own is None else {"own_text": Path(own).name}),
            **({} if self.options.lora is None else {"lora": self.options.lora}),
        }

    @cached_property
    def num_rows(self) -> int:
        """Classes that attacks tell apart: two of each label where an input has several."""
        return self.data.num_classes * (2 if self.data.task is Task.multilabel else 1)

    @cached_property
    def cells(self) -> tuple[CellOptions, ...]:
        """The cells of each unit: every list of conditions multiplies.

        Schemes change fastest, since what attackers learn of a client stands for all of them.
        """
        options = self.options
        return tuple(
            CellOptions(scheme, size, steps, lr, clients, defense, options.optimiser == "sgd")
            for size, steps, lr, clients, defense, scheme in product(
                options.batch_sizes,
                options.local_steps,
                options.lr,
                options.clients,
                self.defenses,
                self.schemes,
            )
        )

    @property
    def expected(self) -> tuple[int, ...]:
        """Numbers of inputs of the updates to come."""
        sizes = (cell.batch_size * cell.local_steps * cell.clients for cell in self.cells)
        return tuple(dict.fromkeys(sizes))

    def trials_of(self, initialisation: int) -> range:
        """Return the numbers of an initialisation's trials; all share the trials nearly evenly."""
        edges = np.linspace(0, self.options.trials, self.options.models + 1).astype(int)
        return range(int(edges[initialisation]), int(edges[initialisation + 1]))


def plan_audit(
    options: AuditOptions,
    *,
    data: Dataset | None = None,
    module: nn.Module | None = None,
    command: str = "",
) -> Plan:
    """Turn options into what the audit runs on, refusing what cannot be before any work is done.

    Raises:
        BadInput: for unknown names, files that cannot be read, or batches larger than the data.
    """
    # The same defense in two spellings is one.
    defenses = tuple(dict.fromkeys(parse_defense(text) for text in options.defenses))
    dataset = data or load_dataset(options.data, options.text_form)
    schemes = choose_schemes(options.schemes, AuditOptions.schemes, dataset)
    if module is not None:
        module = as_attacked(options, dataset, module)
    first = module or build(options, dataset, 0)
    trained = as_trained(options, dataset, first)
    asked = _choose(options, dataset, trained, defenses)
    as_given = module is not None or has_weights(options, dataset, first)
    if as_given and options.initialisations is None:
        options = replace(options, initialisations=1)
    if options.tables == "given" or (options.tables is None and as_given):
        dataset = dataset.as_given()
    roles = divide(
        dataset.x_train,
        dataset.y_train,
        seed=options.seed,
        victims_seen=options.victims == "seen",
    )
    check_parts(roles, len(dataset.x_train))
    roles = with_own_data(options, dataset, roles)
    _check_users(options, roles)
    check_model(options, dataset, trained)
    check_classes(schemes, roles, dataset.num_classes, options.clients)
    check_size(options, schemes, len(roles.victims))
    defenses = _try_defenses(options, dataset, trained, defenses)
    choice = asked.within(2 if dataset.task is Task.multilabel else dataset.num_classes)
    return Plan(
        options,
        dataset,
        roles,
        choice.attacks,
        schemes,
        defenses,
        module,
        command,
        fingerprint(first),
        choice.left_out,
        frequencies=read_prior(options, dataset),
        as_given=as_given,
    )


def refuse_copies(plan: Plan) -> None:
    """Refuse to count one model several times.

    Raises:
        BadInput: if several initialisations were asked for of a model whose weights were given.
    """
    if plan.as_given and plan.options.models > 1:
        raise BadInput(
            "the model has weights of its own, which is one model whatever the seed; leave out "
            "`initialisations`, or give a function that draws the weights"
        )


def _try_defenses(
    options: AuditOptions, data: Dataset, module: nn.Module, defenses: tuple[Chain, ...]
) -> tuple[Chain, ...]:
    """Let every defense that changes training compute one gradient, before any work is begun.

    Where layers are asked for, each defense is returned with all but one withheld beside it.
    """
    tried = copy_model(module).train(options.mode == "train")
    model = view_model(options, data, tried)
    few = LabelledData(data.x_train[:4], data.y_train[:4])
    trained = list(model.trained)
    if options.layers:
        defenses = with_layers_alone(defenses, trained, model.head)
    shared = any(name.rpartition(".")[0] == model.head for name in trained)
    for defense in defenses:
        defense.check_names(trained, model.head)
        for part in defense.links:
            if part.uses_head and not shared:
                raise BadInput(f"{part.label} acts on the head, which is frozen")
        if defense.changes_training:
            defense.gradients(model, [few], stream(options.seed, "try"))
    return defenses


def _check_users(options: AuditOptions, roles: Roles) -> None:
    """Part the training data once, before any work is begun."""
    partition = parse_partition(options.partition)
    if options.users is not None:
        if roles.train.labels.dim() > 1 and options.partition != "iid":
            raise BadInput(
                "maps, or several labels of an input, part no data by class; use `partition` iid"
            )
        rng = stream(options.seed, "partition", 0)
        partition_samples(partition, roles.train.labels.numpy(), options.users, rng)


def _choose(
    options: AuditOptions, data: Dataset, module: nn.Module, defenses: Sequence[Chain]
) -> Choice:
    if task_of(options.task, data) is Task.tokens:
        hidden = any(defense.hides_head for defense in defenses)
        hidden = hidden or not view_model(options, data, module).head_weight.requires_grad
        return choose_for_tokens(options.attacks, no_head=hidden or options.lora is not None)
    choice = choose_attacks(options.attacks, beside=tuple(_adaptive(options)))
    return replace(choice, attacks=tuple(_adjusted(one, options) for one in choice.attacks))


def _adjusted(attack: Attack, options: AuditOptions) -> Attack:
    """Set what the options say of an attack."""
    if isinstance(attack, LLGStar):
        return replace(attack, dummies=dummies_of(options))
    if isinstance(attack, Shadow):
        return replace(attack, batches=options.shadow_batches)
    return attack


def _adaptive(options: AuditOptions) -> Iterator[str]:
    """Name the attackers who know what the client does, where it does anything to know."""
    defended = set(options.defenses) != {"none"}
    if defended:
        yield from ADAPTIVE
    if defended or max(options.local_steps) > 1 or options.optimiser != "sgd":
        yield from (AdaptiveShadow.name, AdaptiveLayerShadow.name)


def dummies_of(options: AuditOptions) -> Dummies:
    """Give LLG*'s dummies: those asked for, or the paper's choice for the data."""
    return Dummies(options.dummies) if options.dummies else dummies_for(Path(options.data).stem)

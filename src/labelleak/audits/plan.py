"""Turn the options of an audit into what it runs on, refusing what cannot be beforehand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
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
from labelleak.core.head import HeadFinding, locate_head
from labelleak.core.interfaces import Attack
from labelleak.core.knowledge import FitCache, LabelledData
from labelleak.core.outputs import as_tensor_model, refuse_probabilities
from labelleak.core.seeding import stream, whole_number
from labelleak.core.task import Task, check_rows
from labelleak.core.weights import load_weights
from labelleak.core.white_box import WhiteBox, lift
from labelleak.defenses import Chain, parse_defense
from labelleak.errors import BadInput, shown_path
from labelleak.simulation.batches import Scheme
from labelleak.simulation.data.datasets import Dataset, load_dataset
from labelleak.simulation.designs import own_init
from labelleak.simulation.models import build_model, fingerprint
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
    asked = _choose(options, dataset)
    schemes = choose_schemes(options.schemes, AuditOptions.schemes, dataset)
    if module is not None:
        module = _as_attacked(options, dataset, module)
    first = module or build(options, dataset, 0)
    as_given = module is not None or _has_weights(options, dataset, first)
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
    _check_model(options, dataset, first)
    check_classes(schemes, roles, dataset.num_classes, options.clients)
    check_size(options, schemes, len(roles.victims))
    if options.layers:
        own = view_model(options, dataset, first)
        defenses = with_layers_alone(defenses, list(own.trained), own.head)
    _try_defenses(options, dataset, first, defenses)
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


def _has_weights(options: AuditOptions, data: Dataset, first: nn.Module) -> bool:
    """Return whether weights were given; a factory gives them if every seed leads to the same."""
    if options.weights or ":" not in options.model:
        return bool(options.weights)
    return fingerprint(build(options, data, 1)) == fingerprint(first)


def _try_defenses(
    options: AuditOptions, data: Dataset, module: nn.Module, defenses: Sequence[Chain]
) -> None:
    """Let every defense that changes training compute one gradient, before any work is begun."""
    tried = copy_model(module).train(options.mode == "train")
    model = view_model(options, data, tried)
    few = LabelledData(data.x_train[:4], data.y_train[:4])
    trained = list(model.trained)
    for defense in defenses:
        defense.check_names(trained, model.head)
        if defense.changes_training:
            defense.gradients(model, [few], stream(options.seed, "try"))


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


def _check_model(options: AuditOptions, data: Dataset, module: nn.Module) -> None:
    """Find the head and pass one batch of the smallest size, before any work is begun."""
    model = view_model(options, data, module)
    trained = copy_model(model.module).train(options.mode == "train")
    tried = WhiteBox(trained, model.head)
    outputs = tried.run(data.x_train[: min(options.batch_sizes)]).outputs
    given, wanted = tuple(outputs.shape[2:]), tuple(data.y_train.shape[1:])
    if given != wanted:
        raise BadInput(
            f"{options.model} gives a class for each of {given}, the data have labels for each of "
            f"{wanted}; models such as fcn give maps"
        )
    if options.gradient == "head_table" and not tried.is_per_sample(data.x_train):
        raise BadInput(
            "the head table is not exact for this model: batch norm or dropout in train mode "
            "ties samples together, or something follows the head; use `gradient` autograd"
        )


def view_model(options: AuditOptions, data: Dataset, module: nn.Module) -> WhiteBox:
    """Find the head of a model, by the name that was given or by tracing."""
    return WhiteBox(module, find_head_of(options, data, module).name)


def find_head_of(options: AuditOptions, data: Dataset, module: nn.Module) -> HeadFinding:
    """Say which layer is a model's head, and how it was found; maps of two may have one channel."""
    task = task_of(options.task, data)
    find = partial(
        locate_head, model=module, name=options.head, example=data.x_train[:2], task=task
    )
    if task is Task.dense and data.num_classes == 2:
        with suppress(BadInput):
            return find(num_classes=1)
    return find(num_classes=check_rows(task, data.num_classes))


def _choose(options: AuditOptions, data: Dataset) -> Choice:
    if task_of(options.task, data) is Task.tokens:
        return choose_for_tokens(options.attacks)
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


def build(options: AuditOptions, data: Dataset, initialisation: int) -> nn.Module:
    """Build the model of an initialisation, with given weights where there are some."""
    model = build_model(
        options.model,
        input_shape=data.input_shape,
        num_classes=check_rows(task_of(options.task, data), data.num_classes),
        activation=options.activation,
        init=init_of(options),
        seed=whole_number(options.seed, "model", initialisation),
        task=task_of(options.task, data),
    )
    if options.weights:
        _load_weights(model, Path(options.weights))
    return (
        _as_attacked(options, data, model)
        if ":" in options.model
        else _lifted(options, data, model)
    )


def _as_attacked(options: AuditOptions, data: Dataset, module: nn.Module) -> nn.Module:
    """Return a user's own model, of what it returns the output of its head, as attackers see it."""
    head, example = find_head_of(options, data, module).name, data.x_train[:2]
    if task_of(options.task, data) is Task.tokens:
        refuse_probabilities(module, head, example)
    else:
        module = as_tensor_model(module, head, example)
    return _lifted(options, data, module)


def _lifted(options: AuditOptions, data: Dataset, module: nn.Module) -> nn.Module:
    return lift(module, task_of(options.task, data), data.y_train)


def init_of(options: AuditOptions) -> str:
    """Name the initialisation: the one asked for, or what goes with the model."""
    return options.init or own_init(options.model, options.activation)


def _load_weights(model: nn.Module, path: Path) -> None:
    """Load trained weights from a file, which may be hostile."""
    from labelleak.files.tensors import read_tensors

    load_weights(model, read_tensors(path).tensors, f"the weights in {shown_path(path)}")

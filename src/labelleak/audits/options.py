"""What an audit is asked to do; checked once, here, whoever asks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, field_validator
from pydantic.dataclasses import dataclass

from labelleak.errors import BadInput

Count = Annotated[int, Field(ge=1)]
Steps = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Factor = Annotated[float, Field(ge=0, allow_inf_nan=False)]

BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
STAGES = (0, 300)


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class AuditOptions:
    """What to audit, how often, and from which seed.

    Attributes:
        data: name or path of the data set.
        model: name of the model, or ``package.module:factory``.
        activation: activation of a named model; None for the model's own.
        init: how parameters are initialised; None for what goes with the model.
        weights: safetensors file of trained weights, in place of an initialisation.
        head: module name of the head; None to find it.
        mode: train (as clients run it) or eval, which matters to batch norm and dropout.
        batch_sizes: samples per batch, each audited.
        schemes: how batches are drawn, each audited.
        local_steps: optimiser steps that a client takes before it shares, each audited.
        lr: learning rate of those steps, each audited; one step of plain SGD shares its gradient
            whatever the rate.
        momentum: SGD momentum of those steps.
        weight_decay: L2 factor of those steps.
        optimiser: sgd or adam.
        clients: how many clients' updates are averaged before the attacker sees them, as under
            secure aggregation, each audited.
        defenses: what clients do to hide their labels, each audited; ``none`` is no defense, and
            ``|`` joins several (``clip:1|gaussian:0.1``).
        attacks: names of attacks, or ``standard``.
        shadow_batches: batches of its own that the shadow attack learns from, for each model and
            number of labels; more make it stronger and slower.
        dummies: what LLG* feeds the model; None for the paper's choice by data set.
        trials: batches per cell, spread over the initialisations.
        initialisations: independently initialised models.
        training_steps: steps of training before the audit, each audited; rounds, with users.
        train_lr: learning rate of that training.
        train_batch_size: samples per step of that training.
        users: train by federated averaging over so many clients; None trains on all data at once.
        partition: how the training data are parted among the users.
        per_round: users drawn for each round; None for all.
        round_steps: local steps of each user in a round.
        victims: unseen, or seen: drawn from what the model was trained on.
        gradient: auto, autograd, or head_table.
        keep_counts: write true and guessed counts into the records; they are private.
        seed: seed of everything random.
    """

    data: str = "digits"
    model: str = "cnn"
    activation: str | None = None
    init: str | None = None
    weights: str | None = None
    head: str | None = None
    mode: Literal["train", "eval"] = "train"
    batch_sizes: Annotated[tuple[Count, ...], Field(min_length=1)] = BATCH_SIZES
    schemes: Annotated[tuple[str, ...], Field(min_length=1)] = ("iid", "unbalanced")
    local_steps: Annotated[tuple[Count, ...], Field(min_length=1)] = (1,)
    lr: Annotated[tuple[Rate, ...], Field(min_length=1)] = (0.1,)
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    weight_decay: Factor = 0.0
    optimiser: Literal["sgd", "adam"] = "sgd"
    clients: Annotated[tuple[Count, ...], Field(min_length=1)] = (1,)
    defenses: Annotated[tuple[str, ...], Field(min_length=1)] = ("none",)
    attacks: Annotated[tuple[str, ...], Field(min_length=1)] = ("standard",)
    shadow_batches: Count = 1000
    dummies: Literal["zeros", "ones", "uniform", "gaussian"] | None = None
    trials: Count = 100
    initialisations: Count | None = None
    training_steps: Annotated[tuple[Steps, ...], Field(min_length=1)] = STAGES
    train_lr: Rate = 0.05
    train_batch_size: Count = 64
    users: Count | None = None
    partition: str = "iid"
    per_round: Count | None = None
    round_steps: Count = 1
    victims: Literal["unseen", "seen"] = "unseen"
    gradient: Literal["auto", "autograd", "head_table"] = "auto"
    keep_counts: bool = False
    seed: Annotated[int, Field(ge=0)] = 0

    @field_validator(
        "batch_sizes",
        "schemes",
        "attacks",
        "training_steps",
        "local_steps",
        "lr",
        "clients",
        "defenses",
    )
    @classmethod
    def _no_repeats(cls, values: tuple[object, ...]) -> tuple[object, ...]:
        repeated = sorted({str(value) for value in values if values.count(value) > 1})
        if repeated:
            raise ValueError(f"lists {', '.join(repeated)} more than once")
        return values

    @property
    def models(self) -> int:
        """Number of independently initialised models: 10 unless said, 1 with given weights."""
        return self.initialisations or (1 if self.weights else min(10, self.trials))


_ADAPTER = TypeAdapter(AuditOptions)


def check_options(**choices: object) -> AuditOptions:
    """Check options that came from outside.

    Raises:
        BadInput: naming the first option that cannot be, and why.

    >>> check_options(trials=20).models
    10
    """
    given = {name: value for name, value in choices.items() if value is not None}
    for name in ("schemes", "attacks", "defenses"):
        if isinstance(given.get(name), str):
            given[name] = (given[name],)
    try:
        options = _ADAPTER.validate_python(given)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).replace("_", "-") if first["loc"] else "options"
        if first["type"] == "too_short":
            raise BadInput(f"--{name} is empty; name at least one") from error
        reason = str(first["msg"]).removeprefix("Value error, ")
        raise BadInput(f"--{name} {first['input']!r}: {reason}") from error
    if options.weights and options.models > 1:
        raise BadInput("--weights gives one model; leave out --initialisations")
    if options.users is None and (options.per_round or options.round_steps > 1):
        raise BadInput("--per-round and --round-steps speak of users; add --users")
    if options.users and options.per_round and options.per_round > options.users:
        raise BadInput(
            f"a round cannot have {options.per_round} of {options.users} users; lower --per-round"
        )
    if options.models > options.trials:
        raise BadInput(
            f"{options.trials} trials cannot be spread over {options.models} initialisations; "
            "raise --trials or lower --initialisations"
        )
    return options

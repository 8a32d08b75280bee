"""What an audit is asked to do; checked once, here, whoever asks."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from labelleak.core.task import Task
from labelleak.errors import BadInput, UnknownOption, unknown_name
from labelleak.records.options import Option, Options
from labelleak.simulation.data.text_form import TextForm, is_text
from labelleak.simulation.lora_form import parse_lora

Data = Annotated[str, Option("Name or path; see `labelleak list data`.")]
ModelName = Annotated[str, Option("Name (`labelleak list models`) or package.module:factory.")]
Activation = Annotated[str | None, Option("relu, sigmoid, tanh, ...; the model's own if left out.")]
Init = Annotated[
    str | None,
    Option("default (PyTorch's), uniform (-0.5 to 0.5, the paper's) or xavier."),
]
Head = Annotated[str | None, Option("Module name of the last linear layer; found if left out.")]
TaskName = Annotated[
    str | None,
    Option(
        "classes, binary (one output), multilabel, dense (a class a pixel) or tokens (next words)."
    ),
]
Attacks = Annotated[
    tuple[str, ...],
    Option("Comma-separated names, standard or rules (quick ones); see `labelleak list attacks`."),
]
Learnt = Annotated[
    Path | None,
    Option("Folder where the shadow attack keeps what it learns, to use it again."),
]
PriorFile = Annotated[
    str | None,
    Option("JSON list of class frequencies that the attacker knows; else the scheme's."),
]
TableForm = Literal["given", "standardised"]
Tables = Annotated[
    TableForm | None,
    Option(
        "Inputs of tables: given, or standardised by their training part; if left out given beside "
        "weights of one's own or an update, else standardised."
    ),
]
_SCHEME = Option("How batches are drawn; see `labelleak list schemes`.")
Scheme = Annotated[str, _SCHEME]
Seed = Annotated[int, Option("Seed of everything random.", min=0)]

BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
STAGES = (0, 300)


@dataclass(frozen=True, kw_only=True)
class AuditOptions(Options):
    """What to audit, how often, and from which seed; each field says what it means.

    A list is audited value by value.

    Raises:
        BadInput: naming the first option that cannot be, and why.

    >>> AuditOptions(trials=20).models
    10
    """

    data: Data = "digits"
    tables: Tables = None
    model: ModelName = "cnn"
    activation: Activation = None
    init: Init = None
    weights: Annotated[str | None, Option("Safetensors file of trained weights for the model.")] = (
        None
    )
    head: Head = None
    lora: Annotated[
        str | None,
        Option(
            "Of texts: clients train LoRA's adapters alone, PART:RANK, such as head:8, "
            "attention:8 or attention:8:16 (alpha)."
        ),
    ] = None
    task: TaskName = None
    mode: Annotated[
        Literal["train", "eval"],
        Option("train (as clients run it) or eval; matters to batch norm."),
    ] = "train"
    batch_sizes: Annotated[
        tuple[int, ...], Option("Samples per batch, comma-separated.", min=1)
    ] = BATCH_SIZES
    schemes: Annotated[tuple[str, ...], _SCHEME] = ("iid", "unbalanced")
    local_steps: Annotated[
        tuple[int, ...],
        Option("Steps that a client takes before it shares, comma-separated.", min=1),
    ] = (1,)
    lr: Annotated[
        tuple[float, ...], Option("Learning rate of those steps, comma-separated.", above=0)
    ] = (0.1,)
    momentum: Annotated[float, Option("SGD momentum of those steps.", min=0, below=1)] = 0.0
    weight_decay: Annotated[float, Option("L2 factor of those steps.", min=0)] = 0.0
    optimiser: Annotated[
        Literal["sgd", "adam", "adamw"], Option("Of those steps: sgd, adam or adamw.")
    ] = "sgd"
    clients: Annotated[
        tuple[int, ...], Option("Clients averaged into one update, comma-separated.", min=1)
    ] = (1,)
    defenses: Annotated[
        tuple[str, ...],
        Option(
            "Such as none,gaussian:0.1 or a chain, clip:1|prune:0.8; see `labelleak list defenses`."
        ),
    ] = ("none",)
    layers: Annotated[bool, Option("Audit also each layer shared alone, and all but the head.")] = (
        False
    )
    attacks: Attacks = ("standard",)
    shadow_batches: Annotated[
        int, Option("Batches that the shadow attack learns from, for each model and N.", min=1)
    ] = 1000
    dummies: Annotated[
        Literal["zeros", "ones", "uniform", "gaussian"] | None,
        Option("LLG*'s inputs: zeros, ones, uniform, gaussian; else the paper's choice."),
    ] = None
    trials: Annotated[int, Option("Batches per cell, over all initialisations.", min=1)] = 100
    initialisations: Annotated[
        int | None, Option("Independent models; 10 if left out, 1 with `weights`.", min=1)
    ] = None
    training_steps: Annotated[
        tuple[int, ...], Option("Training steps before the audit, comma-separated.", min=0)
    ] = STAGES
    train_lr: Annotated[
        float | None, Option("Learning rate of that training; 0.05, of texts 0.003.", above=0)
    ] = None
    train_batch_size: Annotated[int, Option("Samples per step of that training.", min=1)] = 64
    users: Annotated[
        int | None, Option("Train by federated averaging over so many; steps are rounds.", min=1)
    ] = None
    partition: Annotated[
        str, Option("Users' data: iid, dirichlet:ALPHA, pathological:CLASSES, shards:N.")
    ] = "iid"
    per_round: Annotated[int | None, Option("Users drawn for a round; all if left out.", min=1)] = (
        None
    )
    round_steps: Annotated[int, Option("Local steps of a user in a round.", min=1)] = 1
    victims: Annotated[
        Literal["unseen", "seen"],
        Option("unseen, or seen: drawn from what the model was trained on."),
    ] = "unseen"
    gradient: Annotated[
        Literal["auto", "autograd", "head_table"],
        Option("auto, autograd or head_table (same numbers, faster)."),
    ] = "auto"
    prior: PriorFile = None
    auxiliary_size: Annotated[
        int | None, Option("Samples that the attacker holds at most; a fifth if left out.", min=1)
    ] = None
    own_text: Annotated[
        str | None, Option("The attacker's text, where it is of another source than the data.")
    ] = None
    sequence_length: Annotated[int, Option("Labels of a text; texts are cut into such.", min=2)] = (
        64
    )
    vocabulary: Annotated[
        int, Option("Tokens of the vocabulary that is made of the texts' words.", min=4)
    ] = 2000
    tokenizer: Annotated[
        str | None, Option("tokenizer.json in place of words (the extra `text`).")
    ] = None
    keep_counts: Annotated[bool, Option("Write true and guessed counts; private!")] = False
    seed: Seed = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights and self.models > 1:
            raise BadInput("`weights` gives one model; leave out `initialisations`")
        if self.lora is not None:
            parse_lora(self.lora)
            if self.text_form is None:
                raise BadInput("`lora` goes with `task` tokens")
        if self.users is None and (self.per_round or self.round_steps > 1):
            raise BadInput("`per_round` and `round_steps` speak of users; add `users`")
        if self.users and self.per_round and self.per_round > self.users:
            raise BadInput(
                f"a round cannot have {self.per_round} of {self.users} users; lower `per_round`"
            )
        if self.models > self.trials:
            raise BadInput(
                f"{self.trials} trials cannot be spread over {self.models} initialisations; "
                "raise `trials` or lower `initialisations`"
            )

    @property
    def text_form(self) -> TextForm | None:
        """How texts become tokens; None where the data are none."""
        if self.task != Task.tokens and not is_text(self.data):
            return None
        return TextForm(self.sequence_length, self.vocabulary, self.tokenizer)

    @property
    def models(self) -> int:
        """Number of independently initialised models: 10 unless said, 1 with given weights."""
        return self.initialisations or (1 if self.weights else min(10, self.trials))


# A first look in some seconds: what an option is set to where it was left out.
QUICK: Mapping[str, Any] = {
    "batch_sizes": (8,),
    "trials": 20,
    "training_steps": (0,),
    "attacks": ("rules",),
}


def quickened(options: AuditOptions, said: Collection[str]) -> AuditOptions:
    """Return the options of a first look: few batches and quick rules, but for what was said.

    Args:
        options: all of them.
        said: names of those that were given, be it at their default.

    >>> first = quickened(AuditOptions(trials=100), said=["trials"])
    >>> first.trials, first.batch_sizes, first.attacks
    (100, (8,), ('rules',))
    """
    return replace(options, **{k: value for k, value in QUICK.items() if k not in said})


def check_options(**choices: object) -> AuditOptions:
    """Check options that came from outside by name; None leaves one at its default.

    Raises:
        BadInput: naming the first option that cannot be, and why.

    >>> check_options(trials=20).models
    10
    """
    known = [field.name for field in fields(AuditOptions)]
    for name in choices:
        if name not in known:
            raise UnknownOption(str(unknown_name("option", name, known)))
    given = {name: value for name, value in choices.items() if value is not None}
    return AuditOptions(**given)  # type: ignore[arg-type]

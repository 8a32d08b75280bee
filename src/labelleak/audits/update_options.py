"""What is asked about one update: what its attacker holds, how it is answered."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from labelleak.audits.options import (
    Attacks,
    Data,
    Head,
    ModelName,
    PriorFile,
    Scheme,
    Seed,
    Tables,
    TaskName,
)
from labelleak.core.training import BATCH_SIZE, LR, MOMENTUM, WEIGHT_DECAY, FullTraining
from labelleak.errors import BadInput
from labelleak.records.options import Option, Options

Layout = Literal["torch", "keras"]


@dataclass(frozen=True, kw_only=True)
class UpdateOptions(Options):
    """One update, and how it is to be answered; the update comes in one of five forms."""

    before: Annotated[
        str | None, Option("Weights that the server sent: safetensors, npz, pt or Keras's h5.")
    ] = None
    after: Annotated[str | None, Option("Weights that the client returned.")] = None
    gradient: Annotated[str | None, Option("The shared gradient, in place of both.")] = None
    difference: Annotated[
        str | None, Option("Weights after minus before, with `before` or without.")
    ] = None
    update: Annotated[str | None, Option("One file of labelleak's capture, in place of both.")] = (
        None
    )
    num_samples: Annotated[
        int | None, Option("Labels in all, in place of `batch_size`, where batches differ.", min=1)
    ] = None
    layout: Annotated[
        Layout | None,
        Option("torch (weights are outputs x inputs) or keras (inputs x outputs), if asked."),
    ] = None
    head: Head = None
    task: TaskName = None
    auxiliary: Annotated[
        str | None, Option("The attacker's own data, named as for audit.", also="data")
    ] = None
    tables: Tables = None
    truth: Annotated[
        str | None,
        Option("JSON list of true labels or counts, or a file of one, to score against."),
    ] = None
    attacks: Attacks = ("standard",)
    scheme: Annotated[str, Option("How batches are drawn, for the guess without the update.")] = (
        "iid"
    )
    prior: PriorFile = None
    seed: Seed = 0
    scale: Annotated[
        Literal["check", "repair"],
        Option("Repair divides by the one usual factor that own data leave possible."),
    ] = "check"
    max_bytes: Annotated[
        int | None,
        Option("Largest file that is read; 2 GiB, but any safetensors file, unless said.", min=1),
    ] = None


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Options):
    """The model that an attacker holds, by name; `mode` and `input_shape` mean nothing without one.

    Raises:
        BadInput: for another option without a name.
    """

    name: Annotated[
        str | None,
        Option(
            "The attacker's model: a name or package.module:factory, as for audit.", flag="model"
        ),
    ] = None
    init: Annotated[str | None, Option("default, uniform or xavier, for a named model.")] = None
    activation: Annotated[str | None, Option("Activation of a named model.")] = None
    weights: Annotated[
        str | Path | None, Option("The model's weights; those of `before` if left out.")
    ] = None
    mode: Annotated[Literal["train", "eval"], Option("train (as clients run it) or eval.")] = (
        "train"
    )
    input_shape: Annotated[
        tuple[int, ...] | None,
        Option(
            "Shape of an input, as in 1,28,28, without `auxiliary`.",
            min=1,
            below=2**16,
            repeats=True,
        ),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for option in ("init", "activation", "weights"):
            if self.name is None and getattr(self, option) is not None:
                raise BadInput(f"`{option}` needs `name`")


@dataclass(frozen=True, kw_only=True)
class ClientStep(Options):
    """The client that is simulated, to have an update to attack."""

    data: Data = "digits"
    model: ModelName = "cnn"
    init: Annotated[str | None, Option("default, uniform or xavier; what goes with the model.")] = (
        None
    )
    task: TaskName = None
    scheme: Scheme = "unbalanced"
    batch_size: Annotated[int, BATCH_SIZE] = 32
    local_steps: Annotated[int, Option("The client's steps.", min=1)] = 1
    lr: Annotated[float, LR] = 0.1
    momentum: Annotated[float, MOMENTUM] = 0.0
    weight_decay: Annotated[float, WEIGHT_DECAY] = 0.0
    training_steps: Annotated[
        int, Option("Steps that the server's model was trained before.", min=0)
    ] = 0
    seed: Seed = 0

    @property
    def training(self) -> FullTraining:
        """The client's own training."""
        return FullTraining(
            lr=self.lr,
            local_steps=self.local_steps,
            batch_size=self.batch_size,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
        )


__all__ = ["ClientStep", "ModelOptions", "UpdateOptions"]

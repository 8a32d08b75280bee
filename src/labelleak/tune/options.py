"""What a search for a defense is asked to do; checked before any work is done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from labelleak.audits.options import (
    Activation,
    AuditOptions,
    Data,
    Init,
    ModelName,
    Scheme,
    Seed,
    TaskName,
    check_options,
)
from labelleak.errors import BadInput, unknown_name
from labelleak.records.options import Option, Options
from labelleak.records.record import THREAT_MODELS

if TYPE_CHECKING:
    from labelleak.audits.costs import Cohort
    from labelleak.tune.ladders import Family

STANDARD_FAMILIES = (
    "gaussian",
    "clip|gaussian",
    "withhold|gaussian",
    "local_dp",
    "svt",
    "percentile",
    "head_noise",
    "prune",
    "topk",
    "sign",
    "qsgd",
    "withhold",
)


@dataclass(frozen=True, kw_only=True)
class TuneOptions(Options):
    """What to search, against whom, and what must hold; each field says what it means.

    Raises:
        BadInput: naming the first option that cannot be, and why.
    """

    data: Data = "digits"
    model: ModelName = "mlp"
    activation: Activation = None
    init: Init = None
    task: TaskName = None
    attacker: Annotated[
        str, Option("What the attacker holds: update, model or auxiliary (data).")
    ] = "auxiliary"
    target_advantage: Annotated[
        float | None,
        Option("Largest advantage that may be left, 0 to 1; or", min=0, below=1),
    ] = None
    accuracy_budget: Annotated[
        float | None,
        Option("largest loss of test accuracy, such as 0.02.", min=0, below=1),
    ] = None
    families: Annotated[
        tuple[str, ...],
        Option(
            "Families to search, or defenses written out, comma-separated; if left out: "
            f"{', '.join(STANDARD_FAMILIES)}."
        ),
    ] = STANDARD_FAMILIES
    batch_size: Annotated[int, Option("Labels in a batch.", min=1)] = 32
    scheme: Scheme = "unbalanced"
    training_steps: Annotated[
        tuple[int, ...],
        Option("Training before a leak is measured; the worst stage counts.", min=0),
    ] = (0, 300)
    trials: Annotated[int, Option("Batches for each measurement and stage.", min=1)] = 100
    initialisations: Annotated[int, Option("Models of each measurement.", min=1)] = 5
    users: Annotated[int, Option("Clients of the federation that measures cost.", min=1)] = 10
    rounds: Annotated[int, Option("Rounds of that federation.", min=1)] = 150
    lr: Annotated[
        float | None, Option("Its learning rate; what suits the model if left out.", above=0)
    ] = None
    repeats: Annotated[int, Option("Federations that an accuracy is the mean of.", min=1)] = 3
    grid: Annotated[
        int, Option("Measure a plain grid of so many points too, to compare.", min=0)
    ] = 0
    seed: Seed = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.target_advantage is None) == (self.accuracy_budget is None):
            raise BadInput("say what must hold by either `target_advantage` or `accuracy_budget`")
        if self.attacker not in THREAT_MODELS[1:]:
            raise unknown_name("attacker", self.attacker, THREAT_MODELS[1:])

    @property
    def ladders(self) -> tuple[Family, ...]:
        """The families by name.

        Raises:
            BadInput: for an unknown family, or a defense that is off.
        """
        from labelleak.tune.ladders import make_families

        return make_families(self.families)

    @property
    def audit(self) -> AuditOptions:
        """The audit that measures a leak; its defense and seed are put in place of these.

        Raises:
            BadInput: for options that no audit takes.
        """
        return check_options(
            data=self.data,
            model=self.model,
            activation=self.activation,
            init=self.init,
            task=self.task,
            batch_sizes=(self.batch_size,),
            schemes=(self.scheme,),
            training_steps=self.training_steps,
            trials=self.trials,
            initialisations=self.initialisations,
            seed=self.seed,
        )

    @property
    def cohort(self) -> Cohort:
        """The federation that measures cost; the paper's sigmoid CNN takes a larger rate."""
        from labelleak.audits.audited_model import init_of
        from labelleak.audits.costs import Cohort

        init = init_of(self.audit)
        return Cohort(
            model=self.model,
            init=init,
            activation=self.activation,
            task=self.task,
            users=self.users,
            rounds=self.rounds,
            lr=self.lr or (0.5 if init == "uniform" else 0.1),
            batch_size=self.batch_size,
        )


__all__ = ["STANDARD_FAMILIES", "TuneOptions"]

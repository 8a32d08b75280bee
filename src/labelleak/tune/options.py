"""What a search for a defense is asked to do; checked before any work is done."""

from __future__ import annotations

from dataclasses import dataclass

from labelleak.audits.costs import Cohort
from labelleak.audits.options import AuditOptions, check_options
from labelleak.audits.plan import init_of
from labelleak.errors import BadInput, unknown_name
from labelleak.records.record import THREAT_MODELS
from labelleak.tune.ladders import STANDARD_FAMILIES, Family, make_families


@dataclass(frozen=True, kw_only=True)
class TuneOptions:
    """What to search, against whom, and what must hold.

    Attributes:
        data: name or path of the data set.
        model: name of the model, or ``package.module:factory``.
        activation: activation of a named model; None for its own.
        init: how parameters are initialised; None for what goes with the model.
        attacker: what the attacker holds: update, model or auxiliary.
        target_advantage: largest advantage that may be left; or
        accuracy_budget: largest loss of test accuracy that may be paid.
        families: families of defenses to search, or defenses written out.
        batch_size: labels in a batch.
        scheme: how batches are drawn.
        training_steps: steps of training before leakage is measured, each; the worst counts.
        trials: batches for each measurement, over all initialisations and for each stage.
        initialisations: independent models of each measurement.
        users: clients of the federation in which cost is measured.
        rounds: its rounds.
        lr: its clients' learning rate; None for what suits the model.
        repeats: federations that each accuracy is the mean of.
        grid: points of a plain grid to measure beside the search; 0 for none.
        seed: seed of everything random.
    """

    data: str = "digits"
    model: str = "mlp"
    activation: str | None = None
    init: str | None = None
    attacker: str = "auxiliary"
    target_advantage: float | None = None
    accuracy_budget: float | None = None
    families: tuple[str, ...] = STANDARD_FAMILIES
    batch_size: int = 32
    scheme: str = "unbalanced"
    training_steps: tuple[int, ...] = (0, 300)
    trials: int = 100
    initialisations: int = 5
    users: int = 10
    rounds: int = 150
    lr: float | None = None
    repeats: int = 3
    grid: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        given = (self.target_advantage is None) + (self.accuracy_budget is None)
        if given != 1:
            raise BadInput("say what must hold by either --target-advantage or --accuracy-budget")
        if self.attacker not in THREAT_MODELS[1:]:
            raise unknown_name("attacker", self.attacker, THREAT_MODELS[1:])
        for name, value, most in (
            ("target-advantage", self.target_advantage, "1, where the update tells everything"),
            ("accuracy-budget", self.accuracy_budget, "1, the whole accuracy"),
        ):
            if value is not None and not 0 <= value < 1:
                raise BadInput(f"--{name} must lie from 0 to below {most}; not {value:g}")
        counts = ("users", "rounds", "repeats", "batch_size")
        for name in counts:
            if getattr(self, name) < 1:
                raise BadInput(f"--{name.replace('_', '-')} must be at least 1")
        if self.lr is not None and not 0 < self.lr < float("inf"):
            raise BadInput(f"--lr must be a number above 0, not {self.lr:g}")
        if self.grid < 0:
            raise BadInput("--grid must be at least 0, which measures no grid")

    @property
    def ladders(self) -> tuple[Family, ...]:
        """The families by name.

        Raises:
            BadInput: for an unknown family, or a defense that is off.
        """
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
        init = init_of(self.audit)
        return Cohort(
            model=self.model,
            init=init,
            activation=self.activation,
            users=self.users,
            rounds=self.rounds,
            lr=self.lr or (0.5 if init == "uniform" else 0.1),
            batch_size=self.batch_size,
        )


__all__ = ["TuneOptions"]

"""The conditions that the verdicts speak of: nets, batches, local training and defenses."""

from __future__ import annotations

from dataclasses import dataclass

from labelleak.attacks import ATTACKS, RULES
from labelleak.core.needs import Need
from labelleak.core.training import FullTraining

STEPS, BATCH = 10, 8

# Updates of the head alone are measured here.
OF_HEAD = tuple(name for name in RULES if Need.FULL_GRADIENT not in ATTACKS[name].needs)
ONE_STEP = (*OF_HEAD, "rlg", "llbg_measured")

SEVERAL_STEPS = (
    *OF_HEAD,
    "interpolation",
    "llbg_measured",
    "rlu_epochs",
    "soft_label_shares",
    "client_simulation",
)


@dataclass(frozen=True)
class Net:
    """A network with an activation, drawn in some way; LLG's three convolutions unless said."""

    activation: str
    init: str = "default"
    model: str = "cnn"


SIGMOID, RELU, TANH = Net("sigmoid", "uniform"), Net("relu"), Net("tanh")


@dataclass(frozen=True)
class Case:
    """One condition that all attacks are measured under.

    Attributes:
        verdict: a to d, the verdict that it speaks to; llbg or rlu, the paper whose ground it is.
        net: the model.
        size: labels in all, a sample that is visited twice counted twice.
        scheme: how they are drawn.
        stage: training steps of the global model.
        training: how the client trains; None for one step, of which it shares the gradient.
        spread: of several steps, whether each gets the same share of every class, or labels
            are shuffled over the steps.
        plain: take the step weights for those of plain SGD, that is, divide by the steps.
        defense: what is done to the gradient before it is shared.
        epochs: how often the client passes over its samples.
        named: the attacks, if not those that go with one step or several.
    """

    verdict: str
    net: Net
    size: int
    scheme: str = "unbalanced"
    stage: int = 0
    training: FullTraining | None = None
    spread: bool = False
    plain: bool = False
    defense: str = "none"
    epochs: int = 1
    named: tuple[str, ...] = ()

    @property
    def attacks(self) -> tuple[str, ...]:
        """Names of the attacks; those that simulate the client are not told a wrong scale."""
        if self.named:
            return self.named
        if self.training is None:
            return ONE_STEP
        return OF_HEAD if self.plain else SEVERAL_STEPS

    @property
    def how(self) -> FullTraining:
        """How the client trains, one step included."""
        return self.training or FullTraining(lr=1.0, batch_size=self.size)

    @property
    def optimizer(self) -> str:
        """How the client trains, and how that is read, in words."""
        how = self.training
        if how is None:
            return "one step"
        text = f"{how.optimiser} lr {how.lr:g}"
        text += f" momentum {how.momentum:g}" if how.momentum else ""
        text += " divided by T" if self.plain else ""
        return text + (", classes spread over steps" if self.spread else "")

    @property
    def column(self) -> str:
        """The heading of its column."""
        return {
            "a": f"{self.scheme}, N = {self.size}",
            "b": f"{self.stage} steps, {self.scheme}",
            "c": f"{self.stage} steps, {self.optimizer}" if self.stage else self.optimizer,
            "d": self.defense,
            "llbg": f"{self.net.model}, {self.net.activation}",
            "rlu": f"{self.scheme}, epochs {self.epochs}, {self.stage} steps",
        }[self.verdict]


def _local(lr: float, momentum: float = 0.0) -> FullTraining:
    return FullTraining(lr, STEPS, BATCH, momentum)


_ADAM = FullTraining(0.001, STEPS, BATCH, optimiser="adam")

_PUSHED = _local(0.01, momentum=0.9)

_DEFENSES = (
    "none",
    "gaussian:0.01",
    "gaussian:0.1",
    "gaussian:1",
    "prune:0.8",
    "prune:0.9",
    "prune:0.99",
    "sign",
)

_STAGES = ((RELU, 25), (RELU, 80), (RELU, 400), (SIGMOID, 150), (SIGMOID, 400))

_CLIENTS = (
    *((RELU, how, False) for how in (_local(0.01), _local(0.05), _PUSHED)),
    (RELU, _PUSHED, True),
    (RELU, _ADAM, False),
    *((SIGMOID, _local(lr), False) for lr in (0.002, 0.01, 0.1)),
)

_TRAINED = ((RELU, _local(0.05)), (RELU, _ADAM), (SIGMOID, _local(0.01)))

_SCHEMES = ("iid", "unbalanced")

CASES = (
    *(Case("a", n, s, d) for n in (SIGMOID, RELU, TANH) for d in _SCHEMES for s in (8, 32, 128)),
    *(Case("b", net, 32, scheme, stage) for net, stage in _STAGES for scheme in _SCHEMES),
    *(Case("c", n, STEPS * BATCH, training=t, plain=p) for n, t, p in _CLIENTS),
    *(
        Case("c", RELU, STEPS * BATCH, training=_PUSHED, spread=True, plain=p)
        for p in (False, True)
    ),
    *(Case("c", n, STEPS * BATCH, stage=400, training=t) for n, t in _TRAINED),
    *(Case("d", net, 8, defense=defense) for net in (SIGMOID, RELU) for defense in _DEFENSES),
)

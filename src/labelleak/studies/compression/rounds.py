"""What compression hides over several rounds of one client, with and without error feedback."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from scipy import stats

import labelleak
from labelleak.attacks import make_attack
from labelleak.core.battery import Battery, Outcome, make_records
from labelleak.core.counts import Floats, Ints
from labelleak.core.head import find_head
from labelleak.core.interfaces import Knowledge
from labelleak.core.observation import Observation
from labelleak.core.priors import Prior, free_guess
from labelleak.core.score import Truth, advantage, score
from labelleak.core.seeding import stream, whole_number
from labelleak.core.training import FullTraining
from labelleak.core.update import Memory, Update
from labelleak.core.white_box import WhiteBox
from labelleak.defenses import Chain, parse_defense
from labelleak.records.record import Record
from labelleak.simulation.batches import draw_batches, parse_scheme
from labelleak.simulation.data.datasets import Dataset
from labelleak.simulation.defended import observe
from labelleak.simulation.gradients import autograd_gradients
from labelleak.simulation.known_defense import Gradients, KnownDefense
from labelleak.simulation.models import build_model, own_init
from labelleak.simulation.roles import Roles, divide
from labelleak.simulation.training import Training, train_in_stages

DEFENSES = (
    "none",
    "prune:0.8",
    "prune:0.8:feedback",
    "prune:0.99",
    "prune:0.99:feedback",
    "topk:0.01",
    "topk:0.01:feedback",
    "dgc:0.01",
    "historical_compression:0.8",
)
ATTACKS = ("llg", "llg_star", "llg_plus", "gradient_regression", "gradient_regression_adaptive")
EACH, ANSWERS, UPDATES = "round", "answers pooled", "updates pooled"


@dataclass(frozen=True, kw_only=True)
class RoundsOptions:
    """What is measured.

    Attributes:
        activations: the paper's CNN with each of them.
        schemes: how a client's labels of all rounds are drawn; rounds get them shuffled.
        defenses: what clients do.
        rounds: rounds that each client takes part in, one after the other.
        clients: clients of each model.
        batch_size: labels of a client in a round.
        initialisations: models.
        steps: training steps of the global model from one round to the next, from no training on.
        seed: seed of everything random.
    """

    activations: tuple[str, ...] = ("sigmoid", "relu")
    schemes: tuple[str, ...] = ("iid", "unbalanced")
    defenses: tuple[str, ...] = DEFENSES
    rounds: int = 8
    clients: int = 20
    batch_size: int = 8
    initialisations: int = 5
    steps: int = 10
    seed: int = 0


@dataclass(frozen=True)
class PartPrior:
    """Counts of one round when the labels of all rounds are shuffled into rounds of one size.

    Given c labels of a class in all, a round's are hypergeometric.

    Attributes:
        whole: how the counts of all rounds are distributed.
        rounds: R.

    >>> from labelleak.core.priors import UniformPrior
    >>> shuffled = PartPrior(UniformPrior(), 4).tails(2, 10)
    >>> np.allclose(shuffled, UniformPrior().tails(2, 10))
    True
    """

    whole: Prior
    rounds: int

    def tails(self, num_samples: int, num_classes: int) -> Floats:
        """Give P(c_i >= k) for k = 1 .. N as a ``K x N`` array."""
        total = num_samples * self.rounds
        above = self.whole.tails(total, num_classes)
        ends = np.ones((num_classes, 1)), np.zeros((num_classes, 1))
        chances = np.hstack([ends[0], above]) - np.hstack([above, ends[1]])
        k, c = np.arange(1, num_samples + 1), np.arange(total + 1)[:, None]
        return np.asarray(chances @ stats.hypergeom.sf(k - 1, total, c, num_samples))


@dataclass(eq=False)
class _Client:
    """The clients of one scheme under one defense: what they keep, shared and were answered."""

    memory: Memory | None = None
    sent: list[Observation] = field(default_factory=list)
    answers: dict[str, list[Outcome]] = field(default_factory=lambda: defaultdict(list))


def follow_clients(
    data: Dataset,
    options: RoundsOptions,
    activation: str,
    initialisation: int,
    *,
    command: str = "",
) -> Iterator[list[Record]]:
    """Follow clients over rounds, and attack each update, all answers pooled, and their mean.

    Each client's memory (residual, momentum) lives from round to round. Pooled answers are
    the sums of an attack's counts; pooled updates are the mean of what was sent, attacked on the
    model of the middle round as one update of all labels. The adaptive attacker imitates first
    rounds.

    Args:
        data: a data set of images.
        options: what to measure.
        activation: of the model.
        initialisation: which model.
        command: the command, for the records.

    Returns:
        The records of each round in turn, then those of all rounds together, in any number of
        lists.
    """
    roles = divide(data.x_train, data.y_train, seed=options.seed)
    return _Run(data, roles, options, activation, initialisation, command).records()


@dataclass(frozen=True, eq=False)
class _Run:
    """One model and its clients."""

    data: Dataset
    roles: Roles
    options: RoundsOptions
    activation: str
    initialisation: int
    command: str

    def records(self) -> Iterator[list[Record]]:
        """Return the records of each round, then those of all rounds together."""
        asked = self.options
        drawn = {name: self._draw(name) for name in asked.schemes}
        chains = [parse_defense(text) for text in asked.defenses]
        clients = {(name, chain.label): _Client() for name in drawn for chain in chains}
        middle: Battery | None = None
        for number, model in enumerate(self._models()):
            battery = self._prepare(model, number)
            middle = battery if number == asked.rounds // 2 else middle
            rows: list[Record] = []
            plain = Gradients()
            for chain in chains:
                known = KnownDefense(chain, plain) if chain.links else None
                for name, all_drawn in drawn.items():
                    client = clients[name, chain.label]
                    batches = all_drawn[:, number]
                    sent = self._share(model, batches, chain, client, number)
                    prior = PartPrior(self._prior(name), asked.rounds)
                    battery = battery.with_batches(prior, FullTraining(lr=1.0), known)
                    rows += self._attack(battery, sent, batches, client, name, chain, number)
            yield rows
        assert middle is not None
        for name, all_drawn in drawn.items():
            for chain in chains:
                yield self._pool(middle, all_drawn, clients[name, chain.label], name, chain)

    def _draw(self, scheme: str) -> Ints:
        """Draw ``clients x rounds x N`` victims."""
        asked, pool = self.options, self.roles.victims.labels.numpy()
        rng = stream(asked.seed, "rounds", self.initialisation, scheme)
        size = asked.rounds * asked.batch_size
        drawn = draw_batches(
            parse_scheme(scheme), pool, self.data.num_classes, size, asked.clients, rng
        )
        return rng.permuted(drawn, axis=1).reshape(asked.clients, asked.rounds, -1)

    def _prior(self, scheme: str) -> Prior:
        pool = self.roles.victims.labels.numpy()
        return parse_scheme(scheme).prior(pool, self.data.num_classes)

    def _models(self) -> Iterator[WhiteBox]:
        """Return the global model of each round, none of which changes afterwards."""
        asked, data = self.options, self.data
        module = build_model(
            "cnn",
            input_shape=data.input_shape,
            num_classes=data.num_classes,
            activation=self.activation,
            init=own_init("cnn", self.activation),
            seed=whole_number(asked.seed, "model", self.initialisation),
        )
        head = find_head(module, name=None, example=data.x_train[:2], num_classes=data.num_classes)
        stages = [number * asked.steps for number in range(asked.rounds)]
        rng = stream(asked.seed, "training", self.initialisation)
        for _ in train_in_stages(module, self.roles.train, stages, Training(), rng=rng):
            yield WhiteBox(copy.deepcopy(module), head)

    def _prepare(self, model: WhiteBox, number: int) -> Battery:
        known = Knowledge(model, self.data.input_shape, self.roles.auxiliary)
        seed = whole_number(self.options.seed, "battery", self.initialisation, number)
        attacks = [make_attack(name) for name in ATTACKS]
        return Battery.prepare(attacks, known, self.data.num_classes, seed=seed)

    def _share(
        self, model: WhiteBox, batches: Ints, chain: Chain, client: _Client, number: int
    ) -> Observation:
        """Let all clients share one update, remembering what they hold back."""
        found = autograd_gradients(model, self.roles.victims, batches, full=True)
        empty = Update({}, model.head)
        tensors = {**(found.rest or {}), empty.head_weight: found.weight}
        if found.bias is not None:
            tensors[empty.head_bias] = found.bias
        # In the model's order, which the historical rule goes by.
        names = [name for name, _ in model.module.named_parameters() if name in tensors]
        update = Update({name: tensors[name] for name in names}, model.head)  # type: ignore[misc]
        rng = stream(self.options.seed, "defense", chain.label, self.initialisation, number)
        sent, client.memory = chain.apply(update, rng, client.memory)
        seen = observe(sent, model, batches)
        client.sent.append(seen)
        return seen

    def _attack(
        self,
        battery: Battery,
        sent: Observation,
        batches: Ints,
        client: _Client,
        scheme: str,
        chain: Chain,
        number: int,
    ) -> list[Record]:
        truth = self._truth(batches)
        outcomes = battery.run(sent, truth)
        for outcome in outcomes:
            client.answers[outcome.attack].append(outcome)
        extra = {"kind": EACH, "round": number + 1}
        wiped = [{"head_wiped": bool((row == 0).all())} for row in sent.weight]  # type: ignore[union-attr]
        return self._write(outcomes, truth, scheme, chain, extra, wiped)

    def _pool(
        self, middle: Battery, drawn: Ints, client: _Client, scheme: str, chain: Chain
    ) -> list[Record]:
        """Attack all rounds of each client at once, in two ways."""
        truth = self._truth(drawn.reshape(len(drawn), -1))
        prior = self._prior(scheme)
        together = _mean(client.sent)
        whole = middle.with_batches(prior, FullTraining(lr=1.0), None)
        summed = [_summed(rounds, truth, prior) for rounds in client.answers.values()]
        return [
            *self._write(summed, truth, scheme, chain, {"kind": ANSWERS}),
            *self._write(whole.run(together, truth), truth, scheme, chain, {"kind": UPDATES}),
        ]

    def _truth(self, batches: Ints) -> Truth:
        labels = self.roles.victims.labels.numpy()[batches]
        return Truth.from_labels(labels, self.data.num_classes)

    def _write(
        self,
        outcomes: list[Outcome],
        truth: Truth,
        scheme: str,
        chain: Chain,
        extra: dict[str, Any],
        more: list[dict[str, Any]] | tuple[()] = (),
    ) -> list[Record]:
        asked, first = self.options, self.initialisation * self.options.clients
        size = int(truth.counts[0].sum())
        common: dict[str, Any] = {
            "seed": asked.seed,
            "data": self.data.name,
            "model": "cnn",
            "initialisation": self.initialisation,
            "training_steps": asked.steps * (int(extra.get("round", 1)) - 1),
            "model_accuracy": None,
            "scheme": scheme,
            "num_classes": self.data.num_classes,
            "batch_size": asked.batch_size,
            "local_steps": 1,
            "num_samples": size,
            "defense": chain.label,
            "labelleak": labelleak.__version__,
            "torch": str(torch.__version__),
            "command": self.command,
        }
        named = {"activation": self.activation, "rounds": asked.rounds, **extra}
        trials = range(first, first + asked.clients)
        return [
            row
            for outcome in outcomes
            for row in make_records(
                outcome, truth, trials=trials, common=common, extra=named, more=more
            )
        ]


def _mean(sent: list[Observation]) -> Observation:
    """Take all rounds' updates as one: their mean, which is the gradient of all labels."""
    weights = [one.weight for one in sent if one.weight is not None]
    biases = [one.bias for one in sent if one.bias is not None]
    size = sum(one.num_samples or 0 for one in sent)
    bias = torch.stack(biases).mean(dim=0) if biases else None
    return Observation(torch.stack(weights).mean(dim=0), bias, size)


def _summed(rounds: list[Outcome], truth: Truth, prior: Prior) -> Outcome:
    """Sum an attack's counts of every round, and score them against all labels."""
    counts = np.sum([one.estimate.counts for one in rounds], axis=0)
    result = score(counts, truth)
    _, free = free_guess(prior, int(truth.counts[0].sum()), truth.counts.shape[-1])
    estimate = replace(rounds[0].estimate, counts=counts, notes=())
    gained = advantage(result.asr, free)
    return replace(
        rounds[0], estimate=estimate, score=result, asr_free=free, advantage=gained, flags=()
    )


__all__ = ["ANSWERS", "DEFENSES", "EACH", "UPDATES", "PartPrior", "RoundsOptions", "follow_clients"]

"""What a server learns of each user's label distribution over rounds of a federation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from labelleak.attacks.many_clients import is_vectorised
from labelleak.attacks.users.attacks import USER_ATTACKS, UserAttack
from labelleak.attacks.users.rounds import UserRound, UserUpdate
from labelleak.attacks.users.shadows import ShadowUsers
from labelleak.audits.options import check_options
from labelleak.audits.run import Part, load_once
from labelleak.audits.stage import Stage
from labelleak.core.copies import copy_model
from labelleak.core.counts import Floats, Ints
from labelleak.core.distributions import DistributionScore, compare_distributions
from labelleak.core.interfaces import threat_model
from labelleak.core.knowledge import LabelledData
from labelleak.core.pooling import pooled_shares
from labelleak.core.score import advantage
from labelleak.core.seeding import stream, whole_number
from labelleak.core.training import FullTraining
from labelleak.errors import BadInput
from labelleak.records.record import Record
from labelleak.report.curve_figures import curve_files
from labelleak.report.curves import CurveOptions
from labelleak.report.wording import name_attack
from labelleak.simulation.cohort import Federation, Round, run_rounds
from labelleak.simulation.partitions import parse_partition, partition_samples, split_by_user
from labelleak.studies.options import Asked
from labelleak.studies.study import Found, Study
from labelleak.studies.user_tables import make_users_table

EPOCHS, PARTITIONS, WRITER = (1, 5), ("dirichlet:0.3", "pathological:2"), "writer"
LR = 0.2
# Attacks on one update, whose answers are pooled over rounds.
POOLED = ("llg", "llbg", "llg_plus", "rlu", "gradient_regression")
FIGURE = CurveOptions(
    x="rounds", lines=("attack_title",), panels=("partition", "epochs"), log=True, accuracy=True
)
TITLE = "A user's label distribution over rounds: 1 - L1/2, against all that it holds"
CLAIM = (
    "A server finds the label distribution of a user over rounds: Decaf within 5 % of every class "
    "and with all absent classes, PPA the majority class of nine in ten users on MNIST."
)
TITLES = {name: f"{name_attack(name)}, pooled" for name in POOLED} | {
    attack.name: attack.title for attack in USER_ATTACKS
}


@dataclass(frozen=True)
class Cohort:
    """How large the federation is, and how well the server imitates it.

    Attributes:
        users: all of them take part in every round.
        shown: rounds after which guesses are scored.
        shadows: users that the server imitates.
        batch_size: samples of a local step.
    """

    users: int
    shown: tuple[int, ...]
    shadows: int
    batch_size: int


FULL, QUICK = Cohort(20, (1, 2, 5, 10, 20, 30), 30, 32), Cohort(8, (1, 2, 5, 8), 15, 16)


def plan_users(asked: Asked) -> list[Part]:
    """Plan a federation for each partition and number of local epochs.

    Data that say whose each row is (FEMNIST) are parted by writer, too: those with most samples.
    Twenty users (quick: eight) part the training data and all take part in every round, one epoch
    or five in batches of 32 at learning rate 0.2, from a fresh ReLU CNN. Quick: eight rounds
    of one epoch in batches of 16.
    """
    cohort = QUICK if asked.quick else FULL
    options = check_options(
        data=asked.data,
        seed=asked.seed,
        model=asked.model or "cnn",
        activation=None if asked.model else "relu",
        batch_sizes=(cohort.batch_size,),
        lr=(LR,),
        schemes=("natural",),
        attacks=POOLED,
        trials=cohort.users,
        initialisations=1,
        training_steps=(0,),
        victims="seen",
    )
    return [
        Part(
            options=options,
            measure=partial(watch_users, partition=partition, epochs=epochs, cohort=cohort),
            steps=max(cohort.shown) * (cohort.users + cohort.shadows + 20) * 8 * epochs,
        )
        for partition in (
            *PARTITIONS,
            *([WRITER] if load_once(asked.data).writers is not None else []),
        )
        for epochs in EPOCHS[: 1 if asked.quick else None]
    ]


def watch_users(
    stage: Stage, *, partition: str, epochs: int, cohort: Cohort
) -> Iterator[list[Record]]:
    """Train a federation from one model and guess what each user holds, round after round.

    Args:
        stage: the model that it starts from.
        partition: how users hold the training data.
        epochs: passes of each user over its own samples in a round.
        cohort: how many users and rounds.
    """
    plan, seed = stage.plan, stage.plan.options.seed
    train, users = plan.roles.train, cohort.users
    parts = part_users(stage, partition, users)
    if not is_vectorised(stage.model, train):
        raise BadInput(
            f"{plan.options.model} ties samples together; users are imitated side by side"
        )
    watch = _Watch(stage, parts, epochs, cohort)
    how = Federation(
        FullTraining(lr=LR, batch_size=cohort.batch_size), rounds=max(cohort.shown), epochs=epochs
    )
    extra = {"partition": partition, "epochs": epochs, "users": users, "per_round": users, "lr": LR}
    drawn = whole_number(seed, "user rounds", stage.initialisation)
    test = LabelledData(plan.data.x_test, plan.data.y_test)
    for one in run_rounds(stage.model.module, train, parts, how, test=test, seed=drawn):
        watch.add(one)
        if one.number in cohort.shown:
            known = {"model_accuracy": round(one.accuracy or 0.0, 6)}
            yield list(watch.records(known, {**extra, "rounds": one.number}))


def part_users(stage: Stage, partition: str, users: int) -> tuple[Ints, ...]:
    """Part the training data among users, or take the writers with most samples."""
    plan = stage.plan
    if partition != WRITER:
        rng = stream(plan.options.seed, "users", partition, stage.initialisation)
        labels = plan.roles.train.labels.numpy()
        return partition_samples(parse_partition(partition), labels, users, rng)
    assert plan.data.writers is not None
    _, parts = split_by_user(plan.data.writers[plan.roles.train_rows])
    return tuple(sorted(parts, key=len, reverse=True)[:users])


class _Watch:
    """What every attack has taken in so far, and aside what users hold."""

    def __init__(self, stage: Stage, parts: Sequence[Ints], epochs: int, cohort: Cohort) -> None:
        plan = stage.plan
        self._stage, self._classes = stage, plan.data.num_classes
        labels = plan.roles.train.labels.numpy()
        self._held = [np.bincount(labels[own], minlength=self._classes) for own in parts]
        own = plan.roles.auxiliary
        self._guess = np.bincount(own.labels.numpy(), minlength=self._classes) / len(own)
        self._shadows = ShadowUsers.draw(
            own,
            self._classes,
            [len(part) for part in parts],
            cohort.shadows,
            epochs=epochs,
            batch_size=cohort.batch_size,
            rng=stream(plan.options.seed, "shadow users", stage.initialisation),
        )
        self._attacks: list[UserAttack] = [attack() for attack in USER_ATTACKS]
        self._pooled: dict[str, list[list[Ints]]] = {}
        self._labels, self._steps = 0.0, 0.0

    def add(self, one: Round) -> None:
        """Attack a round on the model that was sent."""
        plan = self._stage.plan
        module = copy_model(self._stage.model.module)
        module.load_state_dict(dict(one.sent))
        at = self._stage.initialisation, self._stage.steps
        now = Stage.of(plan, *at, module, purpose=(one.number,))
        seen = [client.observe(now.model.head) for client in one.clients]
        for name, answer in now.battery.ready.items():
            rounds = self._pooled.setdefault(name, [[] for _ in seen])
            for user, update in enumerate(seen):
                rounds[user].append(answer(update).counts)
        self._labels = float(np.mean([client.num_labels for client in one.clients]))
        self._steps = float(np.mean([len(client.labels) for client in one.clients]))
        returned = tuple(
            UserUpdate(client.client, update, client.update.tensors)
            for client, update in zip(one.clients, seen, strict=True)
        )
        how = FullTraining(lr=LR, batch_size=self._shadows.batch_size)
        what = UserRound(now.model, how, plan.roles.auxiliary, returned, self._shadows)
        for attack in self._attacks:
            attack.add(what)

    def records(self, known: dict[str, Any], extra: dict[str, Any]) -> Iterator[Record]:
        """Score what is known so far, each user and attack."""
        stage = self._stage
        common = {
            **stage.common,
            **known,
            "scheme": extra["partition"],
            "batch_size": self._shadows.batch_size,
            "local_steps": max(1, round(self._steps)),
            "num_samples": max(1, round(self._labels)),
            "defense": "none",
        }
        extra = {**stage.extra, **extra, "population_size": len(stage.plan.roles.auxiliary)}
        free = [compare_distributions(self._guess, held) for held in self._held]
        for name, model, shares in self._answers():
            for user, held in enumerate(self._held):
                found = compare_distributions(shares[user], held)
                who = {"user": user, "labels": int(held.sum())}
                yield _record(name, model, found, free[user], common, {**extra, **who})

    def _answers(self) -> Iterator[tuple[str, str, Floats]]:
        """Give each attack's name, what it holds, and its guess of every user."""
        for attack in self._stage.plan.attacks:
            pooled = np.stack([pooled_shares(own) for own in self._pooled[attack.name]])
            yield attack.name, threat_model(attack), pooled
        for own in self._attacks:
            yield own.name, "auxiliary", own.shares()


def _record(
    name: str,
    model: str,
    found: DistributionScore,
    free: DistributionScore,
    common: dict[str, Any],
    extra: dict[str, Any],
) -> Record:
    asr, asr_free = 1 - found.l1 / 2, 1 - free.l1 / 2
    gained = advantage(asr, asr_free)
    right = 1 - found.absent_wrong
    return Record(
        trial=int(common["initialisation"]) * int(extra["users"]) + int(extra["user"]),
        attack=name,
        threat_model=model,
        adaptive=False,
        asr=round(asr, 6),
        asr_free=round(asr_free, 6),
        advantage=None if gained is None else round(float(gained), 6),
        presence_precision=round(right, 6),
        presence_recall=round(right, 6),
        seconds=0.0,
        flags=(),
        extra={
            **extra,
            "attack_title": TITLES[name],
            **found.keys(),
            "population_l1": round(free.l1, 6),
            "population_majority": free.majority,
        },
        **common,
    )


def _report(found: Found) -> dict[str, str]:
    return {
        **curve_files(found.records, title=TITLE, figure=FIGURE),
        "users.md": make_users_table(found.records),
    }


STUDY = Study(
    parts=plan_users,
    report=_report,
    takes=frozenset({"quick", "model"}),
    claim=CLAIM,
    picture="curves.svg",
    figure=FIGURE,
)

"""Attack the same clients round after round while a federation trains, and pool the answers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from labelleak.audits.run import Part
from labelleak.audits.stage import Stage
from labelleak.core.copies import copy_model
from labelleak.core.counts import Ints
from labelleak.core.interfaces import Attack, threat_model
from labelleak.core.knowledge import LabelledData
from labelleak.core.pooling import pool_rounds, scale_to
from labelleak.core.score import Truth, advantage, score
from labelleak.core.seeding import stream, whole_number
from labelleak.core.training import FullTraining
from labelleak.records.intervals import bootstrap_mean
from labelleak.records.record import Record
from labelleak.report.curve_figures import curve_files
from labelleak.report.curves import CurveOptions
from labelleak.report.markdown import group, span, table
from labelleak.report.wording import name_attack
from labelleak.simulation.cohort import Federation, Round, run_rounds
from labelleak.simulation.partitions import parse_partition, partition_samples
from labelleak.studies.options import cnn_options
from labelleak.studies.study import Asked, Found, Study

ROUNDS, QUICK_ROUNDS = (1, 2, 5, 10, 25), (1, 2, 5, 10)
CLIENTS, PARTITION, BATCH, LR = 10, "dirichlet:0.3", 8, 0.05
# Federations by their local steps; of one step, clients share the gradient.
FEDERATIONS = {1: "FedSGD", 5: "FedAvg, 5 steps"}
FIGURE = CurveOptions(
    x="rounds",
    panels=("activation", "federation", "training_steps"),
    log=True,
    accuracy=True,
)
TITLE = "Answers pooled over rounds: ten Dirichlet 0.3 clients, batches of 8, against their data"


def even_guess_asr(counts: Ints) -> float:
    """Return the expected ASR of as many labels of each class: best where none is favoured.

    Under a prior that treats all classes alike P(c_i >= k) is the same for all i, so the best guess
    without the update (`priors.free_guess`) is even; which classes get the remainder is left
    to chance. With N = q K + r that is ``sum_i ((1 - r/K) min(q, c_i) + r/K min(q + 1, c_i)) / N``.

    >>> even_guess_asr(np.array([4, 0])), even_guess_asr(np.array([1, 0]))
    (0.5, 0.5)
    """
    total, classes = int(counts.sum()), len(counts)
    share, rest = divmod(total, classes)
    less, more = np.minimum(share, counts).sum(), np.minimum(share + 1, counts).sum()
    return float(((1 - rest / classes) * less + rest / classes * more) / total)


def plan_rounds(asked: Asked) -> list[Part]:
    """Plan a federation for each activation of the paper's CNN and each of FedSGD and FedAvg.

    Ten clients with Dirichlet 0.3 shares of the training data all take part in every round. After
    1, 2, 5, 10 and 25 rounds (quick: up to 10) what each round was answered about a client is
    pooled and scored twice: against ``consumed``, all labels behind the rounds'
    updates (`pool_rounds`), and against ``held``, the labels of all of the client's samples, the
    answers scaled to as many (`scale_to`). The second is what the client would hide; batches that
    are drawn from its samples add noise of their own to it. The figure shows the second.

    A federation starts from a fresh model, or from one trained for 300 steps on all clients' data.
    """
    return [
        Part(
            options=cnn_options(
                asked,
                activation,
                batch_sizes=(BATCH,),
                local_steps=(steps,),
                lr=(LR,),
                schemes=("natural",),
                attacks=("llg", "llbg", "llg_plus", "rlu"),
                trials=CLIENTS * (2 if asked.quick else 10),
                initialisations=2 if asked.quick else 10,
                training_steps=(0, 300),
                victims="seen",
            ),
            measure=partial(follow_federation, shown=QUICK_ROUNDS if asked.quick else ROUNDS),
        )
        for activation in ("sigmoid", "relu")
        for steps in FEDERATIONS
    ]


def follow_federation(stage: Stage, shown: Sequence[int]) -> Iterator[list[Record]]:
    """Train one federation from one model and attack all clients in every round.

    Args:
        stage: the model that it starts from.
        shown: rounds after which pooled answers are scored.
    """
    plan, seed = stage.plan, stage.plan.options.seed
    train, (steps,) = plan.roles.train, plan.options.local_steps
    rng = stream(seed, "partition", stage.initialisation)
    parts = partition_samples(parse_partition(PARTITION), train.labels.numpy(), CLIENTS, rng)
    training = FullTraining(lr=LR, local_steps=steps, batch_size=BATCH)
    how = Federation(training, rounds=max(shown), aggregation="fedsgd" if steps == 1 else "fedavg")
    common = {
        **stage.common,
        "scheme": PARTITION,
        "batch_size": BATCH,
        "local_steps": steps,
        "num_samples": BATCH * steps,
        "defense": "none",
    }
    extra = {**stage.extra, "federation": FEDERATIONS[steps], "lr": LR}
    extra |= {"users": CLIENTS, "partition": PARTITION, "per_round": CLIENTS, "round_steps": steps}
    pool = _Pool(stage, parts)
    drawn = whole_number(seed, "rounds", stage.initialisation)
    test = LabelledData(plan.data.x_test, plan.data.y_test)
    for one in run_rounds(stage.model.module, train, parts, how, test=test, seed=drawn):
        pool.add(one)
        if one.number in shown:
            common["model_accuracy"] = round(one.accuracy or 0.0, 6)
            yield list(pool.records(common, {**extra, "rounds": one.number}))


class _Pool:
    """What the attacks answered about each client so far, and aside what is true."""

    def __init__(self, stage: Stage, parts: Sequence[Ints]) -> None:
        self._stage, classes = stage, stage.plan.data.num_classes
        labels = stage.plan.roles.train.labels.numpy()
        self._held = [np.bincount(labels[own], minlength=classes) for own in parts]
        self._consumed = [np.zeros(classes, dtype=np.int64) for _ in parts]
        self._answers: dict[tuple[int, str], list[Ints]] = defaultdict(list)

    def add(self, one: Round) -> None:
        """Attack every client of a round, on the model that it was sent."""
        plan, classes = self._stage.plan, self._stage.plan.data.num_classes
        module = copy_model(self._stage.model.module)
        module.load_state_dict(dict(one.sent))
        at = self._stage.initialisation, self._stage.steps
        battery = Stage.of(plan, *at, module, purpose=(one.number,)).battery
        for client in one.clients:
            self._consumed[client.client] += np.bincount(client.consumed, minlength=classes)
            seen = client.observe("head")
            for name, answer in battery.ready.items():
                self._answers[client.client, name].append(answer(seen).counts)

    def records(self, common: Mapping[str, Any], extra: Mapping[str, Any]) -> Iterator[Record]:
        """Score what is pooled so far, each client and attack against both truths."""
        for attack in self._stage.plan.attacks:
            for client, held in enumerate(self._held):
                answers = self._answers[client, attack.name]
                consumed = self._consumed[client]
                for against, guess, truth in (
                    ("consumed", pool_rounds(answers), consumed),
                    ("held", scale_to(answers, int(held.sum())), held),
                ):
                    keys = {"against": against, "client": client, "labels": int(truth.sum())}
                    yield _record(attack, guess, truth, common, {**extra, **keys})


def _record(
    attack: Attack, guess: Ints, truth: Ints, common: Mapping[str, Any], extra: Mapping[str, Any]
) -> Record:
    found, free = score(guess, Truth(truth)), even_guess_asr(truth)
    gained = advantage(found.asr, free)
    return Record(
        trial=int(common["initialisation"]) * CLIENTS + int(extra["client"]),
        attack=attack.name,
        threat_model=threat_model(attack),
        adaptive=False,
        asr=round(float(found.asr), 6),
        asr_free=round(free, 6),
        advantage=None if gained is None else round(float(gained), 6),
        presence_precision=round(float(found.presence_precision), 6),
        presence_recall=round(float(found.presence_recall), 6),
        seconds=0.0,
        flags=(),
        extra={**extra, "jensen_shannon": round(float(found.jensen_shannon), 6)},
        **common,
    )


def make_rounds_table(rows: Sequence[Record]) -> str:
    """Write, for each federation and attack, the error after one round and what is left of it.

    The error is ``1 - ASR``, the total variation distance between pooled and true label shares.
    If it were nothing but noise that is drawn anew in each round, R rounds would leave
    1/sqrt(R) of it; an error that all rounds share stays. Means are over the clients of an
    initialisation; the share that is left is theirs, with its interval over initialisations.
    """
    last = max((int(row.extra["rounds"]) for row in rows), default=1)
    attacks = group(rows, lambda row: row.attack)
    named = [f"{name_attack(name)}: error of 1 round, of {last}, left" for name in attacks]
    lines = []
    for panel, own in group(rows, _panel).items():
        free = 1 - np.mean([row.asr_free for row in own if row.extra["rounds"] == last])
        entries = (_entry([row for row in own if row.attack == name], last) for name in attacks)
        lines.append([*panel, f"{free:.2f}", *entries])
    title = (
        f"**What {last} rounds leave of the error of one** (1/sqrt({last}) = "
        f"{1 / np.sqrt(last):.2f} if it were noise alone)"
    )
    heads = ["activation", "federation", "model before", "against", "free guess's error"]
    return table([*heads, *named], lines, title=title) + "\n"


def _panel(row: Record) -> tuple[str, str, str, str]:
    extra, steps = row.extra, row.training_steps
    stage = f"{steps} steps" if steps else "fresh"
    return str(extra["activation"]), str(extra["federation"]), stage, str(extra["against"])


def _entry(rows: Sequence[Record], last: int) -> str:
    first, pooled = (
        {
            model: float(np.mean([1 - row.asr for row in own if row.extra["rounds"] == rounds]))
            for model, own in group(rows, lambda row: row.initialisation).items()
        }
        for rounds in (1, last)
    )
    before, after = np.mean(list(first.values())), np.mean(list(pooled.values()))
    left = "-"
    if min(first.values()) > 0:
        ratios = [pooled[model] / first[model] for model in first]
        left = span(bootstrap_mean(ratios, [str(model) for model in first]))
    return f"{before:.3f}, {after:.3f}, {left}"


def _report(found: Found) -> dict[str, str]:
    held = [row for row in found.records if row.extra["against"] == "held"]
    curves = curve_files(held, title=TITLE, figure=FIGURE)
    return {**curves, "rounds.md": make_rounds_table(found.records)}


STUDY = Study(parts=plan_rounds, report=_report, takes=frozenset({"quick"}))

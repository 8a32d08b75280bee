"""Attack the same clients round after round while a federation trains, and pool the answers."""

from __future__ import annotations

import copy
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from labelleak.audits.audit import Progress
from labelleak.audits.options import check_options
from labelleak.audits.plan import Plan, build, plan_audit
from labelleak.audits.stage import provenance
from labelleak.core.battery import Battery
from labelleak.core.counts import Ints
from labelleak.core.interfaces import Attack, Knowledge, LabelledData, threat_model
from labelleak.core.pooling import pool_rounds, scale_to
from labelleak.core.score import Truth, advantage, score
from labelleak.core.seeding import stream, whole_number
from labelleak.core.training import FullTraining
from labelleak.core.white_box import WhiteBox
from labelleak.records.files import write_whole
from labelleak.records.journal import Journal
from labelleak.records.record import Record, read_records
from labelleak.report.curve_figures import write_curves
from labelleak.report.curves import CurveOptions
from labelleak.simulation.cohort import Federation, Round, run_rounds
from labelleak.simulation.data.datasets import load_dataset
from labelleak.simulation.partitions import parse_partition, partition_samples
from labelleak.simulation.training import Training, train_in_stages
from labelleak.studies.rounds_table import make_rounds_table

ROUNDS = (1, 2, 5, 10, 25)
# Steps on all clients' data at once before the federation begins: a fresh and a trained model.
STAGES = (0, 300)
CLIENTS, PARTITION, BATCH, LR = 10, "dirichlet:0.3", 8, 0.05
ATTACKS = ("llg", "llbg", "llg_plus", "rlu")
# Federations by name: local steps and aggregation. Parts of the run are these by activation.
FEDERATIONS = {"FedSGD": 1, "FedAvg, 5 steps": 5}
ACTIVATIONS = ("sigmoid", "relu")
_PARTS = tuple((activation, name) for activation in ACTIVATIONS for name in FEDERATIONS)
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


def plan_rounds(data: str, *, seed: int, quick: bool = False, command: str = "") -> list[Plan]:
    """Plan a federation for each activation of the paper's CNN and each of FedSGD and FedAvg.

    Raises:
        BadInput: for data that cannot be read, or cannot be parted among the clients.
    """
    dataset = load_dataset(data)
    return [
        plan_audit(
            check_options(
                data=data,
                model="cnn",
                activation=activation,
                batch_sizes=(BATCH,),
                local_steps=(FEDERATIONS[name],),
                lr=(LR,),
                schemes=("natural",),
                attacks=ATTACKS,
                trials=CLIENTS * (2 if quick else 10),
                initialisations=2 if quick else 10,
                training_steps=STAGES,
                users=CLIENTS,
                partition=PARTITION,
                round_steps=FEDERATIONS[name],
                train_batch_size=BATCH,
                train_lr=LR,
                victims="seen",
                seed=seed,
            ),
            data=dataset,
            command=command,
        )
        for activation, name in _PARTS
    ]


def run_rounds_experiment(
    data: str,
    out: Path,
    *,
    seed: int,
    quick: bool = False,
    command: str = "",
    overwrite: bool = False,
    progress: Progress = lambda done, total: None,
) -> Path:
    """Measure it on a data set and write records, curves.svg, curves.md and rounds.md.

    Ten clients with Dirichlet 0.3 shares of the training data all take part in every round. After
    1, 2, 5, 10 and 25 rounds (quick: up to 10) what each round was answered about a client is
    pooled and scored twice: against ``consumed``, all labels behind the rounds'
    updates (`pool_rounds`), and against ``held``, the labels of all of the client's samples, the
    answers scaled to as many (`scale_to`). The second is what the client would hide; batches that
    are drawn from its samples add noise of their own to it. The figure shows the second.

    A federation starts from a fresh model, or from one trained for 300 steps on all clients' data.
    An interrupted run goes on where it stopped.

    Args:
        data: name or path of a data set.
        out: the folder; made if it is not there.
        seed: seed of everything random.
        quick: a coarse version.
        command: the command, for the records.
        overwrite: drop another run that lies there.
        progress: called with federations done and federations in all.

    Returns:
        The Markdown file with the tables.

    Raises:
        BadInput: for data that cannot be read, a folder that cannot be written, or training that
            diverges.
    """
    plans = plan_rounds(data, seed=seed, quick=quick, command=command)
    asked = {"experiment": "rounds", "quick": quick, "audits": [asdict(p.options) for p in plans]}
    last = ROUNDS[-2] if quick else ROUNDS[-1]
    with Journal.open(out, asked, overwrite=overwrite) as journal:
        units = [(part, *unit) for part, plan in enumerate(plans) for unit in plan.units]
        progress(len(journal.done), len(units))
        for part, initialisation, stage in [unit for unit in units if unit not in journal.done]:
            records = _attack_federation(plans[part], part, initialisation, stage, last)
            journal.write((part, initialisation, stage), records)
            progress(len(journal.done), len(units))
        rows = read_records(journal.records)
        held = [row for row in rows if row.extra["against"] == "held"]
        write_curves(held, out, title=TITLE, figure=FIGURE)
        target = out / "rounds.md"
        write_whole(target, make_rounds_table(rows) + "\n")
    return target


def _attack_federation(
    plan: Plan, part: int, initialisation: int, stage: int, last: int
) -> list[Record]:
    """Train one federation from one model and attack all clients in every round."""
    options, train, seed = plan.options, plan.roles.train, plan.options.seed
    module = build(options, plan.data, initialisation)
    before = stream(seed, "training", initialisation)
    deque(train_in_stages(module, train, [stage], Training(), rng=before), maxlen=0)
    rng = stream(seed, "partition", initialisation)
    parts = partition_samples(parse_partition(PARTITION), train.labels.numpy(), CLIENTS, rng)
    steps = options.round_steps
    how = Federation(
        FullTraining(lr=LR, local_steps=steps, batch_size=BATCH),
        rounds=last,
        aggregation="fedsgd" if steps == 1 else "fedavg",
    )
    common, extra = provenance(plan, module, initialisation, stage)
    common |= {
        "scheme": PARTITION,
        "batch_size": BATCH,
        "local_steps": steps,
        "num_samples": BATCH * steps,
        "defense": "none",
    }
    extra |= {"part": part, "federation": _PARTS[part][1], "lr": LR}
    pool = _Pool(plan, parts)
    test = LabelledData(plan.data.x_test, plan.data.y_test)
    records: list[Record] = []
    drawn = whole_number(seed, "rounds", initialisation)
    for one in run_rounds(module, train, parts, how, test=test, seed=drawn):
        pool.add(one, module)
        if one.number in ROUNDS:
            common["model_accuracy"] = round(one.accuracy or 0.0, 6)
            more = {**extra, "rounds": one.number}
            records.extend(pool.records(common, more))
    return records


class _Pool:
    """What the attacks answered about each client so far, and aside what is true."""

    def __init__(self, plan: Plan, parts: tuple[Ints, ...]) -> None:
        self._plan, classes = plan, plan.data.num_classes
        labels = plan.roles.train.labels.numpy()
        self._held = [np.bincount(labels[own], minlength=classes) for own in parts]
        self._consumed = [np.zeros(classes, dtype=np.int64) for _ in parts]
        self._answers: dict[tuple[int, str], list[Ints]] = defaultdict(list)

    def add(self, one: Round, like: nn.Module) -> None:
        """Attack every client of a round, on the model that it was sent."""
        plan, classes = self._plan, self._plan.data.num_classes
        module = copy.deepcopy(like)
        module.load_state_dict(dict(one.sent))
        known = Knowledge(WhiteBox(module, "head"), plan.data.input_shape, plan.roles.auxiliary)
        seed = whole_number(plan.options.seed, "battery", one.number)
        battery = Battery.prepare(plan.attacks, known, classes, seed=seed)
        for client in one.clients:
            self._consumed[client.client] += np.bincount(client.consumed, minlength=classes)
            seen = client.observe("head")
            for name, answer in battery.ready.items():
                self._answers[client.client, name].append(answer(seen).counts)

    def records(self, common: Mapping[str, Any], extra: Mapping[str, Any]) -> Iterator[Record]:
        """Score what is pooled so far, each client and attack against both truths."""
        for attack in self._plan.attacks:
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


__all__ = ["even_guess_asr", "plan_rounds", "run_rounds_experiment"]

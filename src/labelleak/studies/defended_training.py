"""A hundred users train with a defense on at every one of them: labels named beside accuracy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from labelleak.attacks.many_clients import batch_gradients, is_vectorised
from labelleak.audits.run import Part
from labelleak.audits.stage import Stage
from labelleak.core.copies import copy_model
from labelleak.core.counts import Ints
from labelleak.core.knowledge import LabelledData
from labelleak.core.local_steps import as_seen
from labelleak.core.score import Truth
from labelleak.core.seeding import stream
from labelleak.core.training import FullTraining
from labelleak.core.update import Memory, SharedTensors
from labelleak.core.white_box import WhiteBox
from labelleak.defenses import Chain
from labelleak.records.record import Record
from labelleak.report.curve_figures import curve_files
from labelleak.report.curves import CurveOptions
from labelleak.report.markdown import group, table
from labelleak.report.wording import name_attack
from labelleak.simulation.batches import prior_of
from labelleak.simulation.known_defense import Gradients, KnownDefense
from labelleak.simulation.partitions import parse_partition, partition_samples
from labelleak.studies.options import Asked, cnn_options
from labelleak.studies.study import Found, Study

BATCH, LR = 8, 0.1
# The paper's three at its strengths, the public code's rules beside them, and the three that leave
# least to attackers of the head in our own table.
PAPERS = (
    "none",
    "gaussian:0.01",
    "gaussian:0.1",
    "gaussian:1",
    "prune:0.2",
    "prune:0.4",
    "prune:0.8",
    "historical_compression:0.8",
    "historical_dp:10:0.1",
    "historical_dp:5:0.1",
    "historical_dp:1:0.1",
)
OURS = ("clip:1|gaussian:1", "sign:scaled", "head_noise:1")
QUICK_DEFENSES = ("none", "gaussian:0.1", "prune:0.8", "historical_dp:1:0.1")
ATTACKS = ("free", "random", "llg", "llg_star", "llg_plus", "gradient_regression")
ADAPTED = ("llg_plus_adaptive", "gradient_regression_adaptive")
FIGURE = CurveOptions(x="rounds_trained", panels=("defense", "scheme"), accuracy=True)
TITLE = "Defenses on at every user while the model learns: FedSGD, batches of 8"
CLAIM = (
    "With noise of 1 or strong compression at every user labels are hidden while the model "
    "learns; compression costs it little, noise and differential privacy much."
)


@dataclass(frozen=True)
class Course:
    """How long users train.

    Attributes:
        users: all of them take part in every round.
        shown: rounds before which all users' updates are attacked.
        partitions: how users hold the training data.
    """

    users: int
    shown: tuple[int, ...]
    partitions: tuple[str, ...]


FULL = Course(100, (0, 50, 100, 200, 400, 600, 800, 1000), ("iid", "dirichlet:0.3"))
QUICK = Course(20, (0, 50), ("dirichlet:0.3",))


def plan_training(asked: Asked) -> list[Part]:
    """Plan a federation for each defense and partition, on the paper's CNN from scratch.

    A hundred users (quick: twenty) share one gradient of a batch of 8 in each of 1,000 rounds
    (quick: 50). Users hold data of their own and draw their batches from these.
    """
    course = QUICK if asked.quick else FULL
    defenses = asked.defenses or (QUICK_DEFENSES if asked.quick else (*PAPERS, *OURS))
    return [
        Part(
            options=cnn_options(
                asked,
                "sigmoid",
                batch_sizes=(BATCH,),
                lr=(LR,),
                schemes=(partition,),
                defenses=(defense,),
                attacks=ATTACKS if defense == "none" else (*ATTACKS, *ADAPTED),
                trials=course.users,
                initialisations=1,
                training_steps=(0,),
                victims="seen",
            ),
            measure=partial(train_defended_users, course=course),
            # A round is one pass for all users together; its samples are what counts.
            steps=max(course.shown) * course.users / 8,
            lists=len(course.shown),
        )
        for partition in course.partitions
        for defense in defenses
    ]


def train_defended_users(stage: Stage, *, course: Course) -> Iterator[list[Record]]:
    """Train one federation with the plan's only defense, and attack all users' updates.

    The users' gradients are made together, defended each, and averaged; the server takes the step.
    A training that ends in numbers that are none ends the records.

    Args:
        stage: the model that it starts from.
        course: how many users, rounds and attacked rounds.
    """
    plan, seed = stage.plan, stage.plan.options.seed
    (defense,), (scheme,) = plan.defenses, plan.schemes
    data, number = plan.roles.train, stage.initialisation
    rng = stream(seed, "partition", scheme.label, number)
    labels = data.labels.numpy()
    parts = partition_samples(parse_partition(scheme.label), labels, course.users, rng)
    module, memory = copy_model(stage.model.module), None
    for done in range(max(course.shown) + 1):
        picks = draw_own(parts, BATCH, stream(seed, "own batches", number, done))
        model = WhiteBox(module, stage.model.head)
        draws = stream(seed, "defense", number, done, defense.label)
        sent, memory = _share(model, data, picks, defense, draws, memory)
        if done in course.shown:
            yield _attack(stage, module, sent, labels[picks], done)
        with torch.no_grad():
            for name, value in module.named_parameters():
                if name in sent.tensors:
                    value.sub_(sent.tensors[name].mean(dim=0), alpha=LR)
        if not all(bool(torch.isfinite(value).all()) for value in module.parameters()):
            return


def draw_own(parts: Sequence[Ints], size: int, rng: np.random.Generator) -> Ints:
    """Draw a batch for each user from its own samples, twice only where it has too few.

    >>> draw_own([np.array([3]), np.array([5, 6])], 2, np.random.default_rng(0)).shape
    (2, 2)
    """
    return np.stack([rng.choice(own, size, replace=len(own) < size) for own in parts])


def _share(
    model: WhiteBox,
    data: LabelledData,
    picks: Ints,
    defense: Chain,
    rng: np.random.Generator,
    memory: Memory | None,
) -> tuple[SharedTensors, Memory | None]:
    """Compute and defend the users' gradients; one by one where the defense changes training."""
    if not defense.changes_training and is_vectorised(model, data):
        update = SharedTensors(batch_gradients(model, data, picks), model.head)
    else:
        rows = torch.from_numpy(picks)
        batches = [LabelledData(data.inputs[row], data.labels[row]) for row in rows]
        update = defense.gradients(model, batches, rng, full=True)
    return defense.apply(update, rng, memory)


def _attack(
    stage: Stage, module: torch.nn.Module, sent: SharedTensors, labels: Ints, done: int
) -> list[Record]:
    """Attack the updates of all users at once, on the model that they were sent."""
    plan = stage.plan
    (defense,), (scheme,), classes = plan.defenses, plan.schemes, plan.data.num_classes
    own = copy_model(module)
    now = Stage.of(plan, stage.initialisation, stage.steps, own, purpose=(done,))
    seen = as_seen(sent, now.model, BATCH, trials=len(labels))
    prior = prior_of(scheme, plan.roles.train.labels.numpy(), classes)
    told = KnownDefense(defense, Gradients()) if defense.links else None
    known = now.battery.with_batches(prior, FullTraining(LR, 1, BATCH), told)
    truth = Truth.from_labels(labels, classes)
    common = {
        "scheme": scheme.label,
        "batch_size": BATCH,
        "local_steps": 1,
        "num_samples": BATCH,
        "defense": defense.label,
    }
    extra = {"rounds_trained": done, "users": len(labels), "partition": scheme.label, "lr": LR}
    return [
        record
        for outcome in known.run(seen, truth)
        for record in now.write(outcome, truth, common, extra)
    ]


def make_training_table(rows: Sequence[Record]) -> str:
    """Write, for each partition, accuracy and ASR early and at the end, a row a defense."""
    parts = []
    for scheme, own in group(rows, lambda row: row.scheme).items():
        names = list(dict.fromkeys(row.attack for row in own if row.attack != "free"))
        lines = []
        for (defense, done), cell in group(own, _place).items():
            means = [_mean([row.asr for row in cell if row.attack == name]) for name in names]
            accuracy = f"{cell[0].model_accuracy or 0.0:.2f}"
            lines.append([defense, done, accuracy, f"{cell[0].asr_free:.2f}", *means])
        heads = ["defense", "rounds", "accuracy", "free guess", *map(name_attack, names)]
        parts.append(table(heads, lines, title=f"Users by {scheme}: ASR while they train"))
    return "\n\n".join(parts) + "\n"


def _place(row: Record) -> tuple[str, int]:
    return row.defense, int(row.extra["rounds_trained"])


def _mean(values: Sequence[float]) -> str:
    return f"{np.mean(values):.2f}" if values else "-"


def _report(found: Found) -> dict[str, str]:
    return {
        **curve_files(found.records, title=TITLE, figure=FIGURE),
        "defended_training.md": make_training_table(found.records),
    }


STUDY = Study(
    parts=plan_training,
    report=_report,
    takes=frozenset({"quick", "defenses"}),
    claim=CLAIM,
    picture="curves.svg",
    figure=FIGURE,
)

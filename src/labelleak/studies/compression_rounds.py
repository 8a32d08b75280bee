"""What compression hides over several rounds of one client, with and without error feedback."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from scipy import stats

from labelleak.audits.run import Part
from labelleak.audits.stage import Stage
from labelleak.core.answers import Answer, Result
from labelleak.core.counts import Floats, Ints
from labelleak.core.local_steps import as_seen
from labelleak.core.observation import Observation
from labelleak.core.priors import Prior, free_guess
from labelleak.core.score import Truth, advantage, score
from labelleak.core.seeding import stream
from labelleak.core.training import FullTraining
from labelleak.core.update import Memory, SharedTensors
from labelleak.defenses import Chain
from labelleak.records.record import Record
from labelleak.report.curve_figures import curve_files
from labelleak.report.curves import CurveOptions
from labelleak.report.markdown import group, table
from labelleak.simulation.batches import Scheme, draw_batches
from labelleak.simulation.gradients import autograd_gradients
from labelleak.simulation.known_defense import Gradients, KnownDefense
from labelleak.studies.compression_finding import spans
from labelleak.studies.defenses import best_of, cohort_of, cost_lines, plan_costs
from labelleak.studies.options import cnn_options
from labelleak.studies.study import Asked, Found, Measurement, Study

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
ACTIVATIONS = ("sigmoid", "relu")
EACH, ANSWERS, UPDATES = "round", "answers pooled", "updates pooled"
# Training steps of the global model from one round to the next, from no training on.
STEPS = 10
FIGURE = CurveOptions(
    x="round", lines=("defense",), panels=("activation", "scheme"), attacks=("strongest",)
)


def plan_rounds(asked: Asked) -> list[Part]:
    """Plan the clients: eight rounds each, of 8 labels; in the quick form two.

    The trials of an initialisation are its clients; its stages, the global model round by round.
    """
    rounds, clients, models = (2, 5, 1) if asked.quick else (8, 20, 5)
    return [
        Part(
            options=cnn_options(
                asked,
                activation,
                batch_sizes=(8,),
                schemes=("iid", "unbalanced"),
                defenses=DEFENSES,
                attacks=ATTACKS,
                trials=clients * models,
                initialisations=models,
                training_steps=tuple(range(0, rounds * STEPS, STEPS)),
            ),
            measure=follow_clients,
            whole=True,
        )
        for activation in ACTIVATIONS
    ]


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
class _Clients:
    """The clients of one scheme under one defense: what they keep, shared and were answered."""

    scheme: Scheme
    defense: Chain
    drawn: Ints
    memory: Memory | None = None
    sent: list[Observation] = field(default_factory=list)
    answers: dict[str, list[Answer]] = field(default_factory=lambda: defaultdict(list))


def follow_clients(*stages: Stage) -> Iterator[list[Record]]:
    """Follow clients over rounds, and attack each update, all answers pooled, and their mean.

    Each client's memory (residual, momentum) lives from round to round. Pooled answers are
    the sums of an attack's counts; pooled updates are the mean of what was sent, attacked on the
    model of the middle round as one update of all labels. The adaptive attacker imitates first
    rounds.

    Args:
        stages: the global model in each round.

    Returns:
        The records of each round in turn, then those of all rounds together.
    """
    plan, rounds = stages[0].plan, len(stages)
    labels = plan.roles.victims.labels.numpy()
    drawn = [(scheme, _draw(stages[0], scheme, rounds)) for scheme in plan.schemes]
    every = [_Clients(scheme, chain, own) for chain in plan.defenses for scheme, own in drawn]
    rounds_of = [
        Stage(plan, one.initialisation, one.steps, one.model, (one.initialisation, number))
        for number, one in enumerate(stages)
    ]
    for number, stage in enumerate(rounds_of):
        rows: list[Record] = []
        plain, battery = Gradients(), stage.battery
        for chain, members in group(every, lambda one: one.defense).items():
            known = KnownDefense(chain, plain) if chain.links else None
            for one in members:
                batches = one.drawn[:, number]
                sent = _share(stage, one, batches, number)
                mixed = PartPrior(_prior(stage, one.scheme), rounds)
                battery = battery.with_batches(mixed, FullTraining(lr=1.0), known)
                truth = Truth.from_labels(labels[batches], plan.data.num_classes)
                outcomes = battery.run(sent, truth)
                for outcome in outcomes:
                    one.answers[outcome.attack].append(outcome)
                extra = {"kind": EACH, "round": number + 1}
                rows += _write(stage, one, outcomes, truth, rounds, extra, _wiped(sent))
        yield rows
    middle, first = rounds_of[rounds // 2], rounds_of[0]
    for one in every:
        held = labels[one.drawn.reshape(len(one.drawn), -1)]
        truth = Truth.from_labels(held, plan.data.num_classes)
        prior = _prior(first, one.scheme)
        whole = middle.battery.with_batches(prior, FullTraining(lr=1.0), None)
        summed = [_summed(answers, truth, prior) for answers in one.answers.values()]
        pooled = {ANSWERS: summed, UPDATES: whole.run(_mean(one.sent), truth)}
        for kind, outcomes in pooled.items():
            yield _write(first, one, outcomes, truth, rounds, {"kind": kind})


def _draw(stage: Stage, scheme: Scheme, rounds: int) -> Ints:
    """Draw ``clients x rounds x N`` victims."""
    plan, clients = stage.plan, len(stage.trials)
    rng = stream(plan.options.seed, "rounds", stage.initialisation, scheme.label)
    size, pool = rounds * plan.options.batch_sizes[0], plan.roles.victims.labels.numpy()
    drawn = draw_batches(scheme, pool, plan.data.num_classes, size, clients, rng)
    return rng.permuted(drawn, axis=1).reshape(clients, rounds, -1)


def _prior(stage: Stage, scheme: Scheme) -> Prior:
    return scheme.prior(stage.plan.roles.victims.labels.numpy(), stage.plan.data.num_classes)


def _share(stage: Stage, clients: _Clients, batches: Ints, number: int) -> Observation:
    """Let all clients share one update, remembering what they hold back."""
    model, chain = stage.model, clients.defense
    found = autograd_gradients(model, stage.plan.roles.victims, batches, full=True)
    empty = SharedTensors({}, model.head)
    tensors = {**(found.rest or {}), empty.head_weight: found.weight}
    if found.bias is not None:
        tensors[empty.head_bias] = found.bias
    # In the model's order, which the historical rule goes by.
    names = [name for name, _ in model.module.named_parameters() if name in tensors]
    update = SharedTensors({name: tensors[name] for name in names}, model.head)  # type: ignore[misc]
    words = ("defense", chain.label, stage.initialisation, number)
    rng = stream(stage.plan.options.seed, *words)
    sent, clients.memory = chain.apply(update, rng, clients.memory)
    seen = as_seen(sent, model, batches.shape[1], trials=len(batches))
    clients.sent.append(seen)
    return seen


def _wiped(sent: Observation) -> list[dict[str, bool]]:
    assert sent.weight is not None
    return [{"head_wiped": bool((row == 0).all())} for row in sent.weight]


def _write(
    stage: Stage,
    clients: _Clients,
    outcomes: Sequence[Answer],
    truth: Truth,
    rounds: int,
    extra: Mapping[str, Any],
    more: Sequence[Mapping[str, Any]] = (),
) -> list[Record]:
    common = {
        "scheme": clients.scheme.label,
        "batch_size": stage.plan.options.batch_sizes[0],
        "local_steps": 1,
        "num_samples": int(truth.counts[0].sum()),
        "defense": clients.defense.label,
    }
    keys = {"rounds": rounds, **extra}
    return [row for one in outcomes for row in stage.write(one, truth, common, keys, more)]


def _mean(sent: Sequence[Observation]) -> Observation:
    """Take all rounds' updates as one: their mean, which is the gradient of all labels."""
    weights = [one.weight for one in sent if one.weight is not None]
    biases = [one.bias for one in sent if one.bias is not None]
    size = sum(one.num_samples or 0 for one in sent)
    bias = torch.stack(biases).mean(dim=0) if biases else None
    return Observation(torch.stack(weights).mean(dim=0), bias, size)


def _summed(rounds: Sequence[Answer], truth: Truth, prior: Prior) -> Answer:
    """Sum an attack's counts of every round, and score them against all labels."""
    counts = np.sum([one.estimate.counts for one in rounds], axis=0)
    result = score(counts, truth)
    _, free = free_guess(prior, int(truth.counts[0].sum()), truth.counts.shape[-1])
    estimate = replace(rounds[0].estimate, counts=counts, notes=())
    gained = advantage(result.asr, free)
    return replace(rounds[0], estimate=estimate, result=Result(result, free, gained), flags=())


def make_round_tables(rows: Sequence[Record]) -> str:
    """Write the strongest attacker's advantage round by round and over all rounds."""
    places = group(rows, lambda row: (str(row.extra["activation"]), row.scheme))
    return "\n\n".join(_rounds(here) for here in places.values()) + "\n"


def _rounds(here: Sequence[Record]) -> str:
    kinds = group(here, lambda row: str(row.extra["kind"]))
    each = group(kinds[EACH], lambda row: int(row.extra["round"]))
    first, last = here[0], max(each)
    best = {f"round {n}": best_of(each[n]) for n in (1, 2, 4, 8, 16, 32) if n <= last}
    best |= {kind: best_of(kinds.get(kind, [])) for kind in (ANSWERS, UPDATES)}
    rows = []
    for key, own in group(kinds[EACH], lambda row: row.defense).items():
        wiped = sum(row.extra["head_wiped"] for row in own) / len(own)
        rows.append([key, *spans(best.values(), key), f"{wiped:.2f}"])
    title = (
        f"**{first.data}, cnn, {first.extra['activation']}, {first.scheme}, {first.batch_size} "
        f"labels a round, {last} rounds** (advantage of the strongest; share of rounds without the "
        "head's weight)"
    )
    return table(["defense", *best, "head wiped"], rows, title=title)


def draw_rounds(rows: Sequence[Record]) -> dict[str, str]:
    """Draw the strongest attacker round by round, a line a defense."""
    each = group(
        (row for row in rows if row.extra["kind"] == EACH), lambda row: int(row.extra["round"])
    )
    best = [row for _, own in sorted(each.items()) for row in best_of(own)]
    return curve_files(best, title="The strongest attacker, round by round", figure=FIGURE)


def make_cost_table(costs: Sequence[Mapping[str, Any]]) -> str:
    """Write accuracy and bytes of each defense, beside none's."""
    places = group(costs, lambda row: (row["data"], row["activation"], row["rounds"]))
    return "\n\n".join(_costs(here) for here in places.values()) + "\n"


def _costs(here: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for key, own in group(here, lambda row: row["defense"]).items():
        found = sorted(row["accuracy"] for row in own)
        sent = sum(row["wire_bytes"] for row in own) / len(own)
        mean = sum(found) / len(found)
        rows.append([key, f"{mean:.3f}", f"{found[0]:.3f} to {found[-1]:.3f}", f"{sent:,.0f}"])
    first = here[0]
    title = (
        f"**{first['data']}, cnn, {first['activation']}, {first['rounds']} rounds of ten clients** "
        f"(mean and range over {len(group(here, lambda row: row['seed']))} federations)"
    )
    return table(["defense", "accuracy", "least to most", "bytes an update"], rows, title=title)


def _plan_costs(asked: Asked) -> list[Measurement]:
    """Plan the federations: two for each activation, in the quick form a short one."""
    seeds, rounds = ((asked.seed,), 20) if asked.quick else ((asked.seed, asked.seed + 1), 150)
    return [
        one
        for activation in ACTIVATIONS
        for one in plan_costs(asked.data, cohort_of(activation, rounds), DEFENSES, seeds)
    ]


def _report(found: Found) -> dict[str, str]:
    return {
        **draw_rounds(found.records),
        "rounds.md": make_round_tables(found.records),
        "costs.jsonl": cost_lines(found.measured),
        "costs.md": make_cost_table(found.measured),
    }


STUDY = Study(
    parts=plan_rounds, measurements=_plan_costs, report=_report, takes=frozenset({"quick"})
)

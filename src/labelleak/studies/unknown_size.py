"""What it costs an attacker in ASR that the batch size must be read from the update."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from labelleak.audits.run import Part
from labelleak.audits.stage import Stage
from labelleak.core.batch_size import BatchSize, MeanPosterior, estimate_batch_size
from labelleak.core.counts import Ints
from labelleak.core.observation import Observation
from labelleak.records.intervals import bootstrap_mean
from labelleak.records.record import Record
from labelleak.report.markdown import group, span, table
from labelleak.report.wording import name_attack
from labelleak.studies.attacks import within_reach
from labelleak.studies.options import cnn_options
from labelleak.studies.study import Asked, Study

FREE = "free"
# The extra key that says where an attack has N from: known or estimated.
SOURCE = "batch_size_source"


def overlap(guess: Ints, truth: Ints) -> float:
    """Give ``sum min(guess, truth) / max(totals)``: ASR where totals agree, and fair where not.

    >>> overlap(np.array([2, 0]), np.array([1, 0])), overlap(np.array([1, 0]), np.array([1, 3]))
    (0.5, 0.25)
    """
    return float(np.minimum(guess, truth).sum() / max(guess.sum(), truth.sum()))


def plan_sizes(asked: Asked) -> list[Part]:
    """Plan one audit for each activation of the paper's CNN.

    Batches of 1, 8, 32 and 128 (as far as the victims' data reach), drawn iid and unbalanced;
    models untrained and trained for 300 steps; 10 initialisations with 20 updates of each cell,
    in the quick form 2 with 5.
    """
    return [
        Part(
            options=cnn_options(
                asked,
                activation,
                batch_sizes=within_reach((1, 8, 32, 128), asked),
                schemes=("iid", "unbalanced"),
                attacks=(FREE, "llg", "llbg", "llg_plus"),
                trials=10 if asked.quick else 200,
                initialisations=2 if asked.quick else 10,
                training_steps=(0, 300),
            ),
            measure=compare_sizes,
        )
        for activation in ("sigmoid", "relu")
    ]


def compare_sizes(stage: Stage) -> Iterator[list[Record]]:
    """Attack updates of a model, N known and estimated."""
    posterior = MeanPosterior.from_model(stage.battery.known)
    for cell in stage.plan.cells:
        shared = stage.clients.share(cell)
        ready = stage.battery.with_batches(shared.prior, shared.training)
        each = [take(shared.observation, row) for row in range(len(stage.trials))]
        sizes = [estimate_batch_size(one, ready.known, posterior=posterior) for one in each]
        for outcome in ready.run(shared.observation, shared.truth):
            extra = {**shared.extra, SOURCE: "known"}
            records = stage.write(outcome, shared.truth, shared.common, extra)
            yield records
            if outcome.attack == FREE:  # it reads nothing from the update, N neither
                continue
            answer = ready.ready[outcome.attack]
            yield [
                _estimated(record, answer(replace(one, num_samples=n.num_samples)).counts, c, n)
                for record, one, n, c in zip(records, each, sizes, shared.truth.counts, strict=True)
            ]


def take(observation: Observation, row: int) -> Observation:
    """Take one of many trials."""
    weight, bias = observation.weight, observation.bias
    return replace(
        observation,
        weight=None if weight is None else weight[row],
        bias=None if bias is None else bias[row],
    )


def _estimated(known: Record, counts: Ints, real: Ints, size: BatchSize) -> Record:
    """Write the record of the same attack on the same update with N estimated.

    Its ASR is the `overlap`; the free guess beside it still knows N, which is the
    harder comparison.
    """
    asr = overlap(counts, real)
    named, there = counts > 0, real > 0
    both = int((named & there).sum())
    gained = None
    if known.advantage is not None:
        gained = round((asr - known.asr_free) / (1 - known.asr_free), 6)
    found = {
        SOURCE: "estimated",
        "estimated_samples": size.num_samples,
        "estimate_confidence": round(size.confidence, 6),
    }
    lost = ("presence_accuracy", "count_accuracy", "exact", "jensen_shannon", "hellinger")
    return replace(
        known,
        asr=round(asr, 6),
        advantage=gained,
        presence_precision=round(both / max(1, int(named.sum())), 6),
        presence_recall=round(both / int(there.sum()), 6),
        extra={**{k: v for k, v in known.extra.items() if k not in lost}, **found},
    )


def make_size_table(records: Sequence[Record]) -> str:
    """Write records as Markdown tables, one per activation and training stage.

    Beside each attack's ASR with N known and estimated stands what the estimate loses, update by
    update, with its interval over initialisations and updates. N found is the share of updates
    whose N was estimated rightly; in brackets the mean probability that the estimate gave itself.
    """
    rows = [row for row in records if row.attack != FREE]
    tables = group(rows, lambda row: (str(row.extra["activation"]), row.training_steps))
    return "\n\n".join(_write_table(*place, own) for place, own in tables.items()) + "\n"


def _write_table(activation: str, steps: int, rows: list[Record]) -> str:
    accuracies = {row.initialisation: row.model_accuracy or 0.0 for row in rows}.values()
    stage = f"trained for {steps} steps" if steps else "untrained"
    title = (
        f"**{rows[0].data}, {activation} CNN, {stage}** (accuracy {min(accuracies):.2f} to "
        f"{max(accuracies):.2f}; {len(accuracies)} models)"
    )
    attacks = group(rows, lambda row: row.attack)
    heads = [f"{name_attack(name)}: N known, estimated, lost" for name in attacks]
    cells = group(rows, lambda row: (row.scheme, row.batch_size)).values()
    columns = ["batches", "N", "free guess", "N found (claimed)", *heads]
    return table(columns, map(_write_row, cells), title=title)


def _write_row(rows: list[Record]) -> list[str]:
    guessed = [row for row in rows if row.extra[SOURCE] == "estimated"]
    found = np.mean([row.extra["estimated_samples"] == row.num_samples for row in guessed])
    claimed = np.mean([row.extra["estimate_confidence"] for row in guessed])
    first = rows[0]
    said = [first.scheme, str(first.batch_size), f"{first.asr_free:.2f}"]
    entries = map(_compare, group(rows, lambda row: row.attack).values())
    return [*said, f"{found:.0%} ({claimed:.0%})", *entries]


def _compare(rows: list[Record]) -> str:
    by = group(rows, lambda row: str(row.extra[SOURCE]))
    known, guessed = (
        {(row.initialisation, row.trial): row.asr for row in by[source]}
        for source in ("known", "estimated")
    )
    lost = [known[trial] - guessed[trial] for trial in known]
    interval = bootstrap_mean(lost, [str(initialisation) for initialisation, _ in known])
    first, second = np.mean(list(known.values())), np.mean(list(guessed.values()))
    return f"{first:.2f}, {second:.2f}, {span(interval)}"


STUDY = Study(
    parts=plan_sizes,
    report=lambda found: {"unknown_size.md": make_size_table(found.records)},
    takes=frozenset({"quick"}),
)

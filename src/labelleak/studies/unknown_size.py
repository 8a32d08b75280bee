"""What it costs an attacker in ASR that the batch size must be read from the update."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from labelleak.audits.audit import Progress
from labelleak.audits.clients import Clients
from labelleak.audits.options import check_options
from labelleak.audits.plan import Plan, build, plan_audit, view_model
from labelleak.audits.stage import provenance
from labelleak.audits.training_stages import reach_stages
from labelleak.core.batch_size import BatchSize, MeanPosterior, estimate_batch_size
from labelleak.core.battery import Battery, make_records
from labelleak.core.counts import Ints
from labelleak.core.interfaces import Knowledge, LabelledData
from labelleak.core.observation import Observation
from labelleak.core.seeding import whole_number
from labelleak.core.white_box import WhiteBox
from labelleak.records.files import write_whole
from labelleak.records.journal import Journal
from labelleak.records.record import Record, read_records
from labelleak.simulation.data.datasets import load_dataset
from labelleak.simulation.roles import divide
from labelleak.simulation.training import accuracy
from labelleak.studies.unknown_size_table import FREE, SOURCE, make_size_table

ACTIVATIONS = ("sigmoid", "relu")
SIZES = (1, 8, 32, 128)
STAGES = (0, 300)
_ATTACKS = (FREE, "llg", "llbg", "llg_plus")


def overlap(guess: Ints, truth: Ints) -> float:
    """Give ``sum min(guess, truth) / max(totals)``: ASR where totals agree, and fair where not.

    >>> overlap(np.array([2, 0]), np.array([1, 0])), overlap(np.array([1, 0]), np.array([1, 3]))
    (0.5, 0.25)
    """
    return float(np.minimum(guess, truth).sum() / max(guess.sum(), truth.sum()))


def plan_sizes(data: str, *, seed: int, quick: bool = False, command: str = "") -> list[Plan]:
    """Plan one audit for each activation of the paper's CNN.

    Batches of 1, 8, 32 and 128 (as far as the victims' data reach), drawn iid and unbalanced;
    models untrained and trained for 300 steps; 10 initialisations with 20 updates of each cell,
    in the quick form 2 with 5.

    Raises:
        BadInput: for data that cannot be read.
    """
    dataset = load_dataset(data)
    reach = len(divide(dataset.x_train, dataset.y_train, seed=seed).victims)
    return [
        plan_audit(
            check_options(
                data=data,
                model="cnn",
                activation=activation,
                batch_sizes=tuple(size for size in SIZES if size <= reach),
                schemes=("iid", "unbalanced"),
                attacks=_ATTACKS,
                trials=10 if quick else 200,
                initialisations=2 if quick else 10,
                training_steps=STAGES,
                seed=seed,
            ),
            data=dataset,
            command=command,
        )
        for activation in ACTIVATIONS
    ]


def run_unknown_size(
    data: str,
    out: Path,
    *,
    seed: int,
    quick: bool = False,
    command: str = "",
    overwrite: bool = False,
    progress: Progress = lambda done, total: None,
) -> Path:
    """Measure it on a data set and write records.jsonl and unknown_size.md into a folder.

    An interrupted run goes on where it stopped.

    Args:
        data: name or path of a data set.
        out: the folder; made if it is not there.
        seed: seed of everything random.
        quick: a coarse version.
        command: the command, for the records.
        overwrite: drop another run that lies there.
        progress: called with units done and units in all.

    Returns:
        The Markdown file.

    Raises:
        BadInput: for data that cannot be read, or a folder that cannot be written.
    """
    plans = plan_sizes(data, seed=seed, quick=quick, command=command)
    asked = {"experiment": "unknown_size", "audits": [asdict(plan.options) for plan in plans]}
    with Journal.open(out, asked, overwrite=overwrite) as journal:
        units = [(part, *unit) for part, plan in enumerate(plans) for unit in plan.units]
        progress(len(journal.done), len(units))
        for part, initialisation in dict.fromkeys((part, i) for part, i, _ in units):
            left = [u[2] for u in units if u[:2] == (part, initialisation)]
            left = [stage for stage in left if (part, initialisation, stage) not in journal.done]
            for stage, records in _measure(plans[part], part, initialisation, left):
                journal.write((part, initialisation, stage), records)
                progress(len(journal.done), len(units))
        target = out / "unknown_size.md"
        write_whole(target, make_size_table(read_records(journal.records)) + "\n")
    return target


def _measure(
    plan: Plan, part: int, initialisation: int, stages: Sequence[int]
) -> Iterator[tuple[int, list[Record]]]:
    """Attack one initialisation's updates at each stage, N known and estimated."""
    options, classes = plan.options, plan.data.num_classes
    module = copy.deepcopy(build(options, plan.data, initialisation))
    for stage in reach_stages(module, plan.roles.train, options, initialisation, stages):
        model = view_model(options, plan.data, module)
        known = Knowledge(model, plan.data.input_shape, plan.roles.auxiliary)
        seed = whole_number(options.seed, "battery", initialisation, stage)
        battery = Battery.prepare(plan.attacks, known, classes, seed=seed)
        common, extra = provenance(plan, module, initialisation, stage)
        test = LabelledData(plan.data.x_test, plan.data.y_test)
        common["model_accuracy"] = round(accuracy(module, test), 6)
        extra = {**extra, "part": part, SOURCE: "known"}
        yield stage, list(_attack(plan, model, battery, initialisation, common, extra))


def _attack(
    plan: Plan,
    model: WhiteBox,
    battery: Battery,
    initialisation: int,
    common: dict[str, object],
    extra: dict[str, object],
) -> Iterator[Record]:
    trials = plan.trials_of(initialisation)
    clients = Clients(plan, model, initialisation, len(trials))
    posterior = MeanPosterior.from_model(battery.known)
    for cell in plan.cells:
        shared = clients.share(cell)
        ready = battery.with_batches(shared.prior, shared.training)
        each = [take(shared.observation, row) for row in range(len(trials))]
        sizes = [estimate_batch_size(one, ready.known, posterior=posterior) for one in each]
        for outcome in ready.run(shared.observation, shared.truth):
            records = make_records(
                outcome,
                shared.truth,
                trials=trials,
                common={**common, **shared.common},
                extra={**extra, **shared.extra},
            )
            yield from records
            if outcome.attack == FREE:  # it reads nothing from the update, N neither
                continue
            answer = ready.ready[outcome.attack]
            for record, one, size, real in zip(
                records, each, sizes, shared.truth.counts, strict=True
            ):
                counts = answer(replace(one, num_samples=size.num_samples)).counts
                yield _estimated(record, counts, real, size)


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
        "estimated_samples": size.num_samples,
        "estimate_confidence": round(size.confidence, 6),
    }
    kept = {
        key: value
        for key, value in known.extra.items()
        if key not in ("presence_accuracy", "count_accuracy", "exact", "jensen_shannon")
    }
    return replace(
        known,
        asr=round(asr, 6),
        advantage=gained,
        presence_precision=round(both / max(1, int(named.sum())), 6),
        presence_recall=round(both / int(there.sum()), 6),
        extra={**kept, SOURCE: "estimated", **found},
    )


__all__ = ["overlap", "plan_sizes", "run_unknown_size", "take"]

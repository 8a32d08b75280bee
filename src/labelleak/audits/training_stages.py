"""Bring a global model to the stages that are audited, by central training or federated rounds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from torch import nn

from labelleak.audits.options import AuditOptions
from labelleak.core.knowledge import LabelledData
from labelleak.core.seeding import stream, whole_number
from labelleak.core.training import FullTraining
from labelleak.simulation.cohort import Federation, run_rounds
from labelleak.simulation.partitions import parse_partition, partition_samples
from labelleak.simulation.training import TEXT_LR, Training, train_in_stages


def training_of(options: AuditOptions, data: LabelledData) -> Training:
    """Return how a global model is trained centrally: by SGD with momentum, of texts by AdamW."""
    plain = Training(batch_size=options.train_batch_size)
    if not data.inputs.is_floating_point():
        plain = replace(plain, lr=TEXT_LR, optimiser="adamw")
    return plain if options.train_lr is None else replace(plain, lr=options.train_lr)


def reach_stages(
    model: nn.Module,
    data: LabelledData,
    options: AuditOptions,
    initialisation: int,
    stages: Sequence[int],
) -> Iterator[int]:
    """Train a model in place and stop at each stage.

    With ``users`` a stage is a number of rounds over that many clients, else a number of SGD steps
    on all data at once.

    Args:
        model: the model; left in train mode.
        data: what it learns from.
        options: how it is trained.
        initialisation: which model it is, for the seeds.
        stages: where to stop.

    Raises:
        BadInput: if training diverges, or the data cannot be parted among so many users.
    """
    if options.users is None:
        training = training_of(options, data)
        rng = stream(options.seed, "training", initialisation)
        yield from train_in_stages(model, data, stages, training, rng=rng)
        return
    model.train()
    if 0 in stages:
        yield 0
    later = [stage for stage in stages if stage]
    if not later:
        return
    rng = stream(options.seed, "partition", initialisation)
    parts = partition_samples(
        parse_partition(options.partition), data.labels.numpy(), options.users, rng
    )
    how = Federation(
        FullTraining(
            lr=training_of(options, data).lr,
            local_steps=options.round_steps,
            batch_size=options.train_batch_size,
        ),
        rounds=max(later),
        per_round=options.per_round or options.users,
        evaluate_every=0,
    )
    seed = whole_number(options.seed, "rounds", initialisation)
    for done in run_rounds(model, data, parts, how, seed=seed):
        if done.number in later:
            model.load_state_dict(dict(done.aggregated))
            model.train()
            yield done.number


__all__ = ["reach_stages", "training_of"]

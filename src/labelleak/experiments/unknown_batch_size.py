"""Measure what it costs an attacker that the batch size must be estimated from the update."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from labelleak.attacks import LLBG, LLG, LLGPlus
from labelleak.batch_size import estimate_batch_size
from labelleak.counts import Ints
from labelleak.interfaces import Attack, Knowledge, prepare
from labelleak.observation import Observation
from labelleak.priors import free_guess
from labelleak.score import Truth
from labelleak.seeding import stream, whole_number
from labelleak.simulation.batches import draw_batches, parse_scheme
from labelleak.simulation.datasets import load_dataset
from labelleak.simulation.gradients import HeadTable
from labelleak.simulation.models import build_model
from labelleak.simulation.roles import divide
from labelleak.simulation.training import Training, accuracy, train_in_stages
from labelleak.white_box import WhiteBox

_ATTACKS: tuple[Attack, ...] = (LLG(), LLBG(), LLGPlus())


@dataclass(frozen=True)
class Cost:
    """Mean success rates of one attack with the batch size known and estimated.

    Attributes:
        attack: its name.
        stage: training steps of the model.
        accuracy: of the model, on the attacker's data.
        batch_size: N.
        right: share of updates whose N was estimated rightly.
        asr_known: with N known.
        asr_estimated: with N estimated, `overlap`.
        asr_free: of the best guess without the update, N known.
    """

    attack: str
    stage: int
    accuracy: float
    batch_size: int
    right: float
    asr_known: float
    asr_estimated: float
    asr_free: float


def overlap(guess: Ints, truth: Ints) -> float:
    """Give ``sum min(guess, truth) / max(totals)``: ASR where totals agree, and fair where not.

    >>> overlap(np.array([2, 0]), np.array([1, 0])), overlap(np.array([1, 0]), np.array([1, 3]))
    (0.5, 0.25)
    """
    return float(np.minimum(guess, truth).sum() / max(guess.sum(), truth.sum()))


def measure_cost(
    *,
    data: str = "digits",
    activation: str = "sigmoid",
    init: str = "uniform",
    stages: Sequence[int] = (0,),
    batch_sizes: Sequence[int] = (8, 32, 128),
    scheme: str = "iid",
    trials: int = 50,
    seed: int = 0,
) -> Iterator[Cost]:
    """Attack the paper's CNN with N known, and with N estimated from the model.

    Args:
        data: data set by name.
        activation: of the CNN.
        init: its initialisation.
        stages: training steps to measure at.
        batch_sizes: N.
        scheme: how batches are drawn.
        trials: batches a cell.
        seed: decides everything.

    Yields:
        One `Cost` for each attack, stage and batch size.
    """
    loaded = load_dataset(data)
    roles = divide(loaded.x_train, loaded.y_train, seed=seed)
    module = build_model(
        "cnn",
        input_shape=loaded.input_shape,
        num_classes=loaded.num_classes,
        activation=activation,
        init=init,
        seed=whole_number(seed, "model"),
    )
    rng = stream(seed, "training")
    for stage in train_in_stages(module, roles.train, stages, Training(), rng=rng):
        model = WhiteBox(module, "head")
        known = Knowledge(model, loaded.input_shape, roles.auxiliary)
        table = HeadTable.build(model, roles.victims)
        right = accuracy(module, roles.auxiliary)
        for size in batch_sizes:
            purpose = stream(seed, "batches", size)
            drawing, pool = parse_scheme(scheme), roles.victims.labels.numpy()
            batches = draw_batches(drawing, pool, loaded.num_classes, size, trials, purpose)
            truth = Truth.from_labels(pool[batches], loaded.num_classes)
            prior = drawing.prior(pool, loaded.num_classes)
            free = free_guess(prior, size, loaded.num_classes)[1]
            for name, hit, sure, guessed in _compare(table.gradients(batches), known, truth, seed):
                yield Cost(name, stage, right, size, hit, sure, guessed, free)


def _compare(
    seen: Observation, known: Knowledge, truth: Truth, seed: int
) -> Iterator[tuple[str, float, float, float]]:
    """Give for each attack the share of right N, and the success with N known and estimated."""
    each = [
        replace(
            seen,
            weight=None if seen.weight is None else seen.weight[trial],
            bias=None if seen.bias is None else seen.bias[trial],
        )
        for trial in range(len(truth.counts))
    ]
    sizes = [estimate_batch_size(one, known).num_samples for one in each]
    hit = float(np.mean([size == seen.num_samples for size in sizes]))
    for attack in _ATTACKS:
        answer = prepare(attack, known, seen.num_classes, stream(seed, "attack", attack.name))
        sure = [
            overlap(answer(one).counts, real) for one, real in zip(each, truth.counts, strict=True)
        ]
        guessed = [
            overlap(answer(replace(one, num_samples=size)).counts, real)
            for one, size, real in zip(each, sizes, truth.counts, strict=True)
        ]
        yield attack.name, hit, float(np.mean(sure)), float(np.mean(guessed))


__all__ = ["Cost", "measure_cost", "overlap"]

"""Audit the auditor: updates known to leak and known not to leak must be told apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from labelleak.attacks import LLG, LLGPlus, LLGStar
from labelleak.core.answers import Answer
from labelleak.core.battery import Battery
from labelleak.core.knowledge import Knowledge, LabelledData
from labelleak.core.observation import Observation
from labelleak.core.priors import UniformPrior
from labelleak.core.score import Truth, count_labels
from labelleak.core.seeding import stream, torch_seeded
from labelleak.core.task import Task
from labelleak.core.task_priors import EachPrior
from labelleak.core.white_box import WhiteBox
from labelleak.records.intervals import Interval, bootstrap_mean
from labelleak.simulation.gradients import HeadTable

CLASSES, LABELS, WIDTH, TRIALS = 10, 5, 32, 400
# Rounding of the interval's ends; anything within is no gain.
SLACK = 1e-9


@dataclass(frozen=True)
class Control:
    """One control: what was fed, what an attack gained from it, and whether that is right."""

    update: str
    attack: str
    num_samples: int
    advantage: Interval
    passed: bool

    def __str__(self) -> str:
        """Say it in one line."""
        gained = self.advantage
        return (
            f"{'ok  ' if self.passed else 'FAIL'} {self.update:<13} {self.attack:<9} "
            f"N={self.num_samples:<3} advantage {gained.mean:+.3f} "
            f"[{gained.low:+.3f}, {gained.high:+.3f}]"
        )


def run_controls(*, seed: int = 0, trials: int = TRIALS) -> Iterator[Control]:
    """Feed the LLG family updates whose leak is known.

    - ``oracle``: row sums are minus the counts, so that everything leaks; advantage must be 1.
    - ``one sample``: the true gradient of one sample on an untrained ReLU model; must be 1.
    - ``zeros``: nothing is in it; the interval must hold 0.
    - ``noise``: nothing is in it. With one sample the interval must hold 0. With more, an
      attack that believes noise does worse than the best guess: nothing gained, at most 0.
    - ``labels``: the same of several labels an input, each with a row of its own.
    """
    rng = stream(seed, "controls")
    model = WhiteBox(_toy(seed), "2")
    inputs = torch.from_numpy(rng.random((200, WIDTH), dtype=np.float32))
    labels = torch.arange(200) % CLASSES
    data = LabelledData(inputs, labels)
    battery = Battery.prepare(
        (LLG(), LLGStar(), LLGPlus()), Knowledge(model, (WIDTH,), data), CLASSES, seed=seed
    )
    for size in (1, 8):
        drawn = rng.integers(CLASSES, size=(trials, size))
        truth = Truth.from_labels(drawn, CLASSES)
        for name, observation in _updates(truth, size, rng):
            for outcome in battery.run(observation, truth):
                if name == "oracle" and outcome.attack != "llg":
                    continue  # measured impacts do not fit a made-up update
                yield _judge(name, size, outcome)
    table = HeadTable.build(model, data)
    picks = rng.integers(len(data), size=(trials, 1))
    truth = Truth.from_labels(labels.numpy()[picks], CLASSES)
    for outcome in battery.run(table.gradients(picks), truth):
        yield _judge("one sample", 1, outcome)
    yield from _several(seed, trials, rng)


def _several(seed: int, trials: int, rng: np.random.Generator) -> Iterator[Control]:
    """Feed LLG one sample with several labels."""
    prior = EachPrior((UniformPrior(),) * LABELS)
    battery = Battery.prepare((LLG(),), Knowledge(prior=prior), 2 * LABELS, seed=seed)
    truth = count_labels(rng.integers(2, size=(trials, 1, LABELS)), Task.multilabel, LABELS)
    for name, observation in _updates(truth, 1, rng):
        for outcome in battery.run(replace(observation, problems=LABELS), truth):
            yield replace(_judge(name, 1, outcome), update=f"labels {name}")


def _updates(
    truth: Truth, size: int, rng: np.random.Generator
) -> Iterator[tuple[str, Observation]]:
    shape = (*truth.counts.shape, WIDTH)
    told = np.broadcast_to(-truth.counts[..., None] / WIDTH, shape)
    for name, weight in (
        ("oracle", told.astype(np.float64)),
        ("zeros", np.zeros(shape)),
        ("noise", rng.standard_normal(shape)),
    ):
        yield name, Observation.from_gradient(weight, num_samples=size)


def _judge(update: str, size: int, outcome: Answer) -> Control:
    assert outcome.advantage is not None
    gained = bootstrap_mean(outcome.advantage, np.arange(len(outcome.advantage)))
    leaky = update in ("oracle", "one sample")
    if leaky:
        passed = gained.low >= 1 - SLACK
    elif update == "noise" and size > 1:
        passed = gained.low <= SLACK
    else:
        passed = gained.low - SLACK <= 0 <= gained.high + SLACK
    return Control(update, outcome.attack, size, gained, passed)


def _toy(seed: int) -> torch.nn.Module:
    with torch_seeded(seed):
        return torch.nn.Sequential(
            torch.nn.Linear(WIDTH, WIDTH), torch.nn.ReLU(), torch.nn.Linear(WIDTH, CLASSES)
        )

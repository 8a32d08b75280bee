"""How long audits will take on this machine: their work counted, and its unit costs measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from labelleak.audits.audited_model import build
from labelleak.audits.options import AuditOptions
from labelleak.audits.run import Part, audit_cells, load_once
from labelleak.core.knowledge import LabelledData
from labelleak.core.training import FullTraining
from labelleak.simulation.client import train_locally
from labelleak.simulation.training import accuracy

# What one answer of DLG takes, in steps of its batch: measured as 150 to 650 (CNN and MLP, N of 2
# and 16, digits).
_DLG_STEPS = 400
# Passes over all data that a stage needs: victims, auxiliary data of each attack that calibrates,
# and the test data. And seconds that one answer of any other attack takes, and its record.
_PASSES, _ANSWER = 4, 0.0015
_SMALL, _LARGE = 8, 64


@dataclass(frozen=True)
class Pace:
    """What this machine takes for one model on one data set, in seconds.

    Attributes:
        step: a training step, before its samples.
        sample: what each sample of a step adds.
        passed: a sample's pass through the model.
        rows: samples of the data set.
    """

    step: float
    sample: float
    passed: float
    rows: int

    def steps(self, number: float, batch_size: int) -> float:
        """Return the time of so many steps of a batch size."""
        return number * (self.step + batch_size * self.sample)


def estimate_seconds(parts: Iterable[Part]) -> float:
    """Estimate how long parts take on one core of this machine; right to a factor of two or so.

    Training, local steps and DLG count as steps of their batch sizes, stages as passes over the
    data, answers at a fixed price. A part with a measure of its own says how many steps it
    takes (`Part.steps`).

    Args:
        parts: what will be run.
    """
    return sum(_seconds(part) for part in parts)


def _seconds(part: Part) -> float:
    asked = part.options
    pace = measure_pace(asked.data, asked.model, asked.activation, asked.init, asked.task)
    stages = len(asked.training_steps) * asked.models
    if part.measure is not audit_cells:
        return stages * pace.steps(part.steps, max(asked.batch_sizes))
    trained = asked.models * max(asked.training_steps)
    each = (asked.users and (asked.per_round or asked.users) * asked.round_steps) or 1
    found = pace.steps(trained * each, asked.train_batch_size)
    found += stages * _PASSES * pace.rows * pace.passed
    sizes = len(asked.schemes) * len(asked.lr) * len(asked.defenses) * sum(asked.clients)
    updates = sizes * asked.trials * len(asked.training_steps)
    for size in asked.batch_sizes:
        for steps in asked.local_steps:
            taken = steps if steps > 1 else 0
            taken += _DLG_STEPS if "dlg" in asked.attacks and steps == 1 else 0
            found += updates * (pace.steps(taken, size) + _ANSWER * len(asked.attacks))
    return found


@lru_cache(maxsize=32)
def measure_pace(
    data: str, model: str, activation: str | None, init: str | None, task: str | None
) -> Pace:
    """Time a few steps and passes of a model on a data set."""
    asked = AuditOptions(data=data, model=model, activation=activation, init=init, task=task)
    held = load_once(data)
    rows = min(len(held.x_train), 500)
    few = LabelledData(held.x_train[:rows], held.y_train[:rows])
    module = build(asked, held, 0)
    rng = np.random.default_rng(0)

    def step(size: int) -> float:
        batches = rng.integers(0, rows, (4, size))
        train_locally(module, few, batches[:1], FullTraining(lr=1e-3))
        return _timed(lambda: train_locally(module, few, batches, FullTraining(lr=1e-3))) / 4

    small, large = step(_SMALL), step(_LARGE)
    sample = max(0.0, (large - small) / (_LARGE - _SMALL))
    with torch.no_grad():
        passed = _timed(lambda: accuracy(module, few)) / rows
    return Pace(max(0.0, small - _SMALL * sample), sample, passed, len(held.x_train))


def _timed(what: Callable[[], object]) -> float:
    begin = time.perf_counter()
    what()
    return time.perf_counter() - begin


def say_duration(seconds: float) -> str:
    """Say a duration as roughly as it is known.

    >>> say_duration(20), say_duration(400), say_duration(9000), say_duration(400_000)
    ('under a minute', '7 minutes', '2.5 hours', '4.6 days')
    """
    if seconds < 60:
        return "under a minute"
    if seconds < 5400:
        minutes = round(seconds / 60)
        return f"{minutes} minute{'s' if minutes > 1 else ''}"
    if seconds < 2 * 86400:
        return f"{seconds / 3600:.1f} hours"
    return f"{seconds / 86400:.1f} days"


__all__ = ["Pace", "estimate_seconds", "measure_pace", "say_duration"]

"""Synthetic records: what an audit could have written, without any training."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from labelleak.records.record import Record

THREATS = {
    "random": "none",
    "free": "none",
    "llg": "update",
    "llg_star": "model",
    "llg_plus": "auxiliary",
}
_SKILL = {"random": -0.4, "free": 0.0, "llg": 0.5, "llg_star": 0.95, "llg_plus": 1.0}


def make_record(**changes: Any) -> Record:
    """Build one record; every field has a plausible default."""
    fields: dict[str, Any] = {
        "trial": 0,
        "seed": 0,
        "attack": "llg",
        "threat_model": "update",
        "adaptive": False,
        "data": "digits",
        "model": "cnn",
        "initialisation": 0,
        "training_steps": 0,
        "model_accuracy": 0.1,
        "scheme": "iid",
        "num_classes": 10,
        "batch_size": 32,
        "local_steps": 1,
        "num_samples": 32,
        "defense": "none",
        "asr": 0.75,
        "asr_free": 0.6,
        "advantage": 0.375,
        "presence_precision": 1.0,
        "presence_recall": 0.9,
        "seconds": 0.01,
        "flags": (),
        "labelleak": "0.1.0",
        "torch": "2.6.0",
        "command": "labelleak audit --data digits --seed 0 --out runs/digits",
        "extra": {"init": "uniform", "victims": "unseen"},
    }
    return Record(**fields | changes)


def make_records(
    *,
    batch_sizes: Iterable[int] = (1, 8, 32),
    schemes: Iterable[str] = ("iid", "unbalanced"),
    stages: Iterable[int] = (0, 200),
    attacks: Iterable[str] = tuple(THREATS),
    initialisations: int = 3,
    trials: int = 5,
    **changes: Any,
) -> list[Record]:
    """Build a full grid of records whose numbers look like those of an audit."""
    rng = np.random.default_rng(7)
    rows = []
    grid = itertools.product(stages, schemes, range(initialisations), batch_sizes, attacks)
    for steps, scheme, initialisation, size, attack in grid:
        free = _free_rate(size, scheme)
        skill = _skill(attack, steps, size) + 0.04 * rng.normal()
        for trial in range(trials):
            rate = free + (1 - free) * (skill + 0.1 * rng.normal())
            asr = min(max(round(rate * size), 0), size) / size
            rows.append(
                make_record(
                    trial=trial,
                    attack=attack,
                    threat_model=THREATS[attack],
                    initialisation=initialisation,
                    training_steps=steps,
                    model_accuracy=0.1 if steps == 0 else 0.91,
                    scheme=scheme,
                    batch_size=size,
                    num_samples=size,
                    asr=asr,
                    asr_free=free,
                    advantage=(asr - free) / (1 - free),
                    **changes,
                )
            )
    return rows


def _free_rate(size: int, scheme: str) -> float:
    rise = 0.1 + 0.8 * (math.log2(size) / 7) if size > 1 else 0.1
    return rise if scheme == "iid" else 0.1 + 0.45 * (rise - 0.1)


def _skill(attack: str, steps: int, size: int) -> float:
    if attack == "llg":
        return 1.0 - (0.12 if steps == 0 else 0.3) * math.log2(size)
    return _SKILL[attack] - (0.12 * math.log2(size) if steps and _SKILL[attack] > 0 else 0)

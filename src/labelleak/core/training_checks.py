"""Check what attacks assume of a client's training, as far as it was told."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from labelleak.core.assumptions import Flag, one_flag, raise_flag
from labelleak.core.knowledge import Knowledge
from labelleak.core.task import Task
from labelleak.core.told_loss import undoes
from labelleak.core.training import LocalTraining
from labelleak.records.assumptions import Assumption
from labelleak.records.states import State

_NOT_KNOWN: dict[str, Any] = {"figure": np.asarray(np.nan), "otherwise": State.not_known}


def assumed_loss(
    task: Task | None, training: LocalTraining, loss: str | None = None
) -> Iterator[Flag]:
    """Say of maps that the plain loss was assumed, where nobody told it and no capture saw it.

    Args:
        task: what the labels are.
        training: what was told of the client's.
        loss: the kind that a capture saw.
    """
    told = training.class_weights is not None and training.label_smoothing is not None
    if task is Task.dense and loss is None and not told:
        yield raise_flag("loss_assumed")


def check_training(known: Knowledge) -> list[Flag]:
    """Check what is known of the client's training; what nobody told is not known.

    >>> from labelleak.core.training import LocalTraining
    >>> flags = check_training(Knowledge(training=LocalTraining(lr=0.1, clip_norm=1.0)))
    >>> [flag.name for flag in flags if flag.raised]
    ['gradient_clipping']
    """
    how = (known.training or LocalTraining()).filled()
    adaptive, clipped = how.optimiser != "sgd", how.clip_norm < math.inf
    weights = how.class_weights or (1.0,)
    spread, several = max(weights) / min(weights), known.has_several
    each = one_flag("class_weights", spread > 1 and not several, spread)
    if several and spread > 1:  # each label's rows were divided by its weight
        each = replace(each, otherwise=State.repaired)
    smooth = one_flag("label_smoothing", how.label_smoothing > 0, how.label_smoothing)
    undone = undoes(known.training)
    if Assumption.EQUAL_CLASSES in undone and not several:
        each = _undone(each)
    if Assumption.HARD_LABELS in undone:
        smooth = _undone(smooth)
    return [
        flag if told in how.known else replace(flag, **_NOT_KNOWN)
        for told, flag in (
            ("momentum", one_flag("momentum", how.momentum > 0, how.momentum)),
            ("optimiser", one_flag("adaptive_optimiser", adaptive, float(adaptive))),
            (
                "clip_norm",
                one_flag("gradient_clipping", clipped, how.clip_norm if clipped else 0.0),
            ),
            ("label_smoothing", smooth),
            ("class_weights", each),
        )
    ]


def _undone(flag: Flag) -> Flag:
    return replace(flag, raised=np.asarray(False), otherwise=State.repaired)


__all__ = ["assumed_loss", "check_training"]

"""What is said of one update beside the answers: what was undone, what a capture saw."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from labelleak.core.assumptions import Flag
from labelleak.core.knowledge import LabelledData
from labelleak.core.measured import Measured
from labelleak.core.observation import Observation
from labelleak.core.scale import StepPath
from labelleak.core.task import BY_POSITION, Task
from labelleak.core.update import ReceivedUpdate
from labelleak.records.states import State


def notes_of(update: ReceivedUpdate, seen: Observation) -> tuple[str, ...]:
    """Return what the reader of an answer should know of the update."""
    return (
        *_momentum_note(update),
        *_labels_note(update, seen),
        *_measured_notes(update),
    )


def as_told(flag: Flag, update: ReceivedUpdate) -> Flag:
    """Take back steps that nobody told, and momentum that was taken out."""
    undone = update.gradient is None and StepPath.of(update.training).momentum
    if flag.name == "momentum" and flag.raised.any() and undone:
        # Out of the weights' change; see Observation.from_update.
        return replace(flag, raised=np.asarray(False), otherwise=State.repaired)
    if flag.name == "several_local_steps" and update.training.local_steps is None:
        return replace(flag, figure=np.asarray(np.nan), otherwise=State.not_known)
    return flag


def _momentum_note(update: ReceivedUpdate) -> tuple[str, ...]:
    if update.gradient is not None or not StepPath.of(update.training).momentum:
        return ()
    return (
        f"momentum {update.training.momentum:g} was taken out of the update, its buffer taken to "
        "have been empty at the start",
    )


def _labels_note(update: ReceivedUpdate, seen: Observation) -> tuple[str, ...]:
    """Say of several labels how their losses were taken to add up, where nobody told."""
    if seen.problems == 1 or update.measured.loss is not None or update.training.class_weights:
        return ()
    if seen.summed:
        return ("some label's bias gradient is too large for a mean: its loss was read as a sum",)
    weights = f"{seen.problems},{seen.problems},..."
    return (f"the loss is taken as its labels' mean; of their sum give class weights {weights}",)


def few_pixels(own: LabelledData | None, seen: Observation, task: Task | None) -> tuple[str, ...]:
    """Say how many images the labels are of, or that fewer were told than one image has."""
    size = seen.num_samples
    if own is None or size is None or task not in BY_POSITION or own.labels.dim() < 2:
        return ()
    least = int((own.labels.flatten(1) >= 0).sum(1).min())
    most = own.labels[0].numel()
    whole, rest = divmod(size, most)
    # Where positions have no label, their number tells no number of inputs.
    if size >= least and (rest or least < most or task is not Task.dense):
        return ()
    if size >= least:
        return (
            f"the labels of {whole} inputs as the attacker's own are: each has 1/{whole} of the "
            "counts on average",
        )
    return (
        f"{size} labels were told, and each of the attacker's own inputs has {least} or more: "
        "`batch_size` counts positions with a label, not inputs",
    )


def measured_flags(measured: Measured) -> tuple[Flag, ...]:
    """Flag what a capture measured or could not explain."""
    told = {
        "class_weights": measured.weighted,
        "adaptive_optimiser": measured.optimiser is not None,
        "capture_doubtful": measured.doubtful,
    }
    return tuple(
        Flag(name, np.asarray(True), np.asarray(1.0)) for name, raised in told.items() if raised
    )


def _measured_notes(update: ReceivedUpdate) -> tuple[str, ...]:
    """Repeat what the capture has to say, made safe to show where it came from a file."""
    return tuple("".join(filter(str.isprintable, note)) for note in update.measured.notes or ())


__all__ = ["as_told", "few_pixels", "measured_flags", "notes_of"]

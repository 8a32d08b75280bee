"""Sum up the steps that were seen of a head: how its update was made, and what is in doubt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from torch import nn

from labelleak.core.measured import Measured
from labelleak.core.scale import StepPath
from labelleak.core.training import OPTIMISERS, LocalTraining
from labelleak.errors import few
from labelleak.files.gathered_rows import COARSE, GatheredRows, Step
from labelleak.files.head_watch import HeadWatch
from labelleak.files.optimiser_steps import SGD_OPTIONS, StepOptions
from labelleak.files.sigmoid_weights import read_weights
from labelleak.files.softmax_weights import read_class_weights

# Below it, two measured figures are one; and two weights of labels.
SAME, SAME_WEIGHT = 1e-4, 1e-3


@dataclass(frozen=True)
class TrainingSummary:
    """How an update was made, as it was measured at the head.

    Attributes:
        head: module name of the head, where it is known.
        made: what is known of the training; None where it is not.
        measured: what else was measured.
        notes: what is to be said.
        doubts: what the capture could not explain, so that sizes may be wrong.
    """

    head: str | None
    made: LocalTraining
    measured: Measured
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()


def summarise(watch: HeadWatch, given_lr: float | None = None) -> TrainingSummary:
    """Sum up what was seen of a head.

    Args:
        watch: what was seen.
        given_lr: learning rate that the user told, which wins over what was measured.
    """
    steps = watch.steps
    notes, doubts = list(watch.notes), list(watch.doubts)
    if not steps:
        notes.append(f"the head {watch.name!r} did not move: no step on it was seen")
        nothing = (LocalTraining(), Measured())
        return TrainingSummary(watch.name, *nothing, tuple(notes), tuple(doubts))
    for step in steps:
        doubts.extend(step.doubts)
    told = {
        **_sizes(steps, notes, by_position=not isinstance(watch.layer, nn.Linear)),
        **_loss(steps, notes, doubts, watch.rows),
        **_optimiser(steps, notes, doubts),
    }
    _compare_rates(told, given_lr, notes)
    if told.get("loss_scale") == 1 and "gradient_scale" not in told and not doubts:
        told |= {"clip_norm": math.inf, "proximal": 0.0}  # neither had an effect
    training = {f.name: told[f.name] for f in fields(LocalTraining) if f.name in told}
    measured = {f.name: told[f.name] for f in fields(Measured) if f.name in told}
    measured["optimiser"] = told.get("unknown_optimiser")
    return TrainingSummary(
        watch.name,
        LocalTraining(local_steps=len(steps), **training),
        Measured(**measured),
        tuple(dict.fromkeys(notes)),
        tuple(dict.fromkeys(doubts)),
    )


def _sizes(steps: Sequence[Step], notes: list[str], *, by_position: bool) -> dict[str, Any]:
    """Say how many labels there were a step, or in all where that varies."""
    if by_position and any(step.gathered.loss in ("unknown", "softmax") for step in steps):
        notes.append("the batch size is not known: maps may be resized before their loss")
        return {}
    counts = [step.gathered.rows for step in steps]
    known = [count for count in counts if count is not None]
    if len(known) < len(counts):
        notes.append("the batch size is not known: rounding hides whether some rows took part")
        return {}
    if min(known) == max(known):
        return {"batch_size": known[0]}
    sizes = ", ".join(map(str, known[:8])) + (", ..." if len(known) > 8 else "")
    notes.append(f"the batch size varies over the steps ({sizes}): {sum(known)} labels in all")
    return {"num_samples": sum(known)}


def _loss(
    steps: Sequence[Step], notes: list[str], doubts: list[str], classes: int
) -> dict[str, Any]:
    """Say which loss it was, and its scale; of one logit it is that of a sigmoid."""
    one = classes == 1
    gathered = [step.gathered for step in steps]
    losses = {g.loss for g in gathered}
    loss = losses.pop() if len(losses) == 1 else "unknown"
    scales = [g.scale for g in gathered]
    told: dict[str, Any] = {"loss": loss}
    if one:
        told["loss"] = "bce" if loss == "cross_entropy" else "unknown"
    if loss in ("cross_entropy", "bce") and None not in scales:
        known = [scale for scale in scales if scale is not None]
        told |= _scale(known, [g.rows or 0 for g in gathered], notes)
        if any(g.rough for g in gathered):
            doubts.append("the loss's scale was read off half precision, to some percent only")
    elif one and loss != "cross_entropy":
        doubts.append("the loss at the one output is no binary cross-entropy (a squared error?)")
    elif loss in ("cross_entropy", "softmax"):
        doubts.append(
            "the loss at the head is a softmax's, but its targets cannot be told from its scale"
        )
    elif loss == "row_weighted":
        doubts.append(
            "rows of one class weigh differently in the loss (focal?), so its scale is not known"
        )
    else:
        said = "unknown" if loss == "unknown" else {"bce": "binary cross-entropy"}.get(loss, loss)
        doubts.append(f"the loss at the head is no softmax cross-entropy ({said})")
    shares = [r.smoothing for g in gathered for r in g.readings if r.smoothing is not None]
    if shares and max(shares) - min(shares) < 0.01:
        told["label_smoothing"] = round(float(np.mean(shares)), 4)
    if all(g.scale is not None for g in gathered):
        told |= {} if any(g.weighted for g in gathered) else {"class_weights": ()}
    told |= _weights(gathered, notes)
    if any(g.weighted for g in gathered):
        told |= _class_weights(gathered, classes, notes, doubts)
    if any(r.loss == "cross_entropy" and r.labels is None for g in gathered for r in g.readings):
        notes.append("targets are soft: labels are mixed")
    return told


def _weights(gathered: Sequence[GatheredRows], notes: list[str]) -> dict[str, Any]:
    """Say how a binary cross-entropy weighs its labels, where all steps show the same."""
    rough = COARSE if any(one.coarse for one in gathered) else SAME_WEIGHT
    found = read_weights([reading for one in gathered for reading in one.readings], rough)
    if found is None or any(one.weights is None for one in gathered):
        return {}
    told: dict[str, Any] = {}
    for name, what, values in (
        ("class_weights", "labels weigh", found.classes),
        ("pos_weight", "labels that are there weigh", found.positives),
    ):
        told[name] = tuple(float(f"{w:.6g}") for w in values) if bool((values != 1).any()) else ()
        if told[name]:
            times = ", ".join(f"{w:g}" for w in told[name][:8])
            notes.append(f"{what} in the loss: {times}{', ...' if len(values) > 8 else ''}")
    return told


def _class_weights(
    gathered: Sequence[GatheredRows], classes: int, notes: list[str], doubts: list[str]
) -> dict[str, Any]:
    """Say how a softmax cross-entropy weighs its classes, or that its rows weigh differently."""
    rough = 3 * COARSE if any(one.coarse for one in gathered) else SAME_WEIGHT
    readings = [reading for one in gathered for reading in one.readings]
    found = read_class_weights(readings, classes, rough)
    if found is None:
        notes.append("rows weigh differently in the loss: class weights, or weights of their own")
        if any(reading.smoothing for reading in readings):
            doubts.append(
                "class weights cannot be measured beside label smoothing; tell both "
                "(`class_weights`, `label_smoothing`)"
            )
        return {"weighted": True}
    times = ", ".join(f"{w:g}" for w in found[:8])
    notes.append(f"classes weigh in the loss: {times}{', ...' if len(found) > 8 else ''}")
    return {"class_weights": found}


def _scale(scales: Sequence[float], rows: Sequence[int], notes: list[str]) -> dict[str, Any]:
    """Say what the loss is of the mean loss."""
    if all(abs(s - 1) < SAME for s in scales):
        return {"loss_scale": 1.0}
    if max(scales) < 0:
        notes.append("the loss is maximised: its sign was turned")
    if all(abs(s / n - 1) < SAME for s, n in zip(scales, rows, strict=True)):
        notes.append("the loss is summed over the rows; its gradient was divided by their number")
    else:
        low, high = min(scales), max(scales)
        times = f"{low:g}" if high - low < SAME * abs(high) else f"{low:g} to {high:g}"
        notes.append(f"the loss is {times} times the mean loss; its gradient was divided by that")
    return {"loss_scale": float(np.mean(scales))}


def _compare_rates(told: dict[str, Any], given: float | None, notes: list[str]) -> None:
    """Take a learning rate that was given, where another was measured, out of the gradient."""
    if given is None or "lr" not in told or abs(told["lr"] / given - 1) < SAME:
        return
    notes.append(f"the learning rate that was given is {given:g}; the steps had {told['lr']:.6g}")
    told["gradient_scale"] = told.get("gradient_scale", 1.0) * told["lr"] / given


def _optimiser(steps: Sequence[Step], notes: list[str], doubts: list[str]) -> dict[str, Any]:
    """Say what moved the head, and how far."""
    names = {step.optimiser for step in steps}
    rates = [step.lr for step in steps]
    if not steps[0].taken:
        notes.append("no step was taken: the gradient itself is taken as the update")
        return {"gradient_scale": steps[0].used_over_mean} if steps[0].used_over_mean else {}
    if names == {None}:
        return _by_hand(rates, notes)
    if names != {"sgd"}:
        named = sorted("by hand" if name is None else name for name in names)
        name = named[0] if len(named) == 1 else f"unknown ({few(named)})"
        notes.append(f"the optimiser is {name}: its update is no multiple of the gradient")
        if any(step.gathered.evaluations > 1 for step in steps):
            notes.append("the optimiser evaluates the loss several times a step")
        known = [rate for rate in rates if rate is not None]
        lr = {"lr": float(np.mean(known))} if len(known) == len(rates) else {}
        return {("optimiser" if name in OPTIMISERS else "unknown_optimiser"): name, **lr}
    return _sgd(steps, notes, doubts)


def _by_hand(rates: Sequence[float | None], notes: list[str]) -> dict[str, Any]:
    known = [rate for rate in rates if rate is not None]
    if len(known) < len(rates):
        return {}
    mean = float(np.mean(known))
    notes.append(f"steps were taken by hand, {mean:.6g} times the gradient of the mean loss")
    return {"optimiser": "sgd", "lr": mean}


def _sgd(steps: Sequence[Step], notes: list[str], doubts: list[str]) -> dict[str, Any]:
    """Say what SGD did: learning rates are averaged as they move the weights."""
    options = [step.options["weight"] for step in steps if "weight" in step.options]
    if len(options) < len(steps):
        doubts.append("no group of the optimiser holds the head's weight")
        return {"optimiser": "sgd"}
    told: dict[str, Any] = {"optimiser": "sgd"}
    for name in SGD_OPTIONS:
        values = {getattr(how, name) for how in options}
        if len(values) == 1:
            told[name] = values.pop()
        else:
            doubts.append(f"{name} varies over the steps")
    _compare_bias(steps, told, doubts)
    if any(how.maximise for how in options):
        doubts.append("the optimiser maximises the loss")
    rates = np.array([how.lr or 0.0 for how in options])
    weights = _moving(rates, options[0])
    path = {name: told[name] for name in SGD_OPTIONS if name in told and name != "weight_decay"}
    plain = StepPath.of(LocalTraining(**path), len(steps)).weights
    if rates.max() - rates.min() > SAME * rates.max():
        told["lr"] = float(weights.sum() / plain.sum())
        notes.append(
            f"the learning rate varies over the steps ({rates.min():g} to {rates.max():g}); "
            f"{told['lr']:.6g} moves the head as far"
        )
    else:
        told["lr"] = float(rates[0])
    over = [step.used_over_mean for step in steps]
    known = [value for value in over if value is not None]
    if len(known) == len(over):
        scale = float(weights @ np.array(known) / weights.sum())
        if abs(scale - 1) > SAME:
            told["gradient_scale"] = scale
            notes.append(
                f"the gradient that moved the head is {scale:.6g} times that of the mean loss"
            )
    return told


def _compare_bias(steps: Sequence[Step], told: dict[str, Any], doubts: list[str]) -> None:
    """Compare the group that holds the bias with that of the weight."""
    biased = [step for step in steps if "bias" in step.gathered.gradient]
    pairs = [(step.options["weight"], step.options.get("bias")) for step in biased]
    if any(bias is None for _, bias in pairs):
        doubts.append("no group of the optimiser holds the head's bias")
        return
    decays = {None if bias is None else bias.weight_decay for _, bias in pairs}
    if told.get("weight_decay") and decays == {0.0}:
        told["decays_bias"] = False
    elif any(bias is not None and bias.weight_decay != w.weight_decay for w, bias in pairs):
        doubts.append("the weight decays of the head's weight and bias differ")
    names = ("lr", "momentum", "dampening", "nesterov")
    if any(getattr(bias, n) != getattr(w, n) for w, bias in pairs for n in names):
        doubts.append("the head's weight and bias are trained with different options")


def _moving(rates: np.ndarray, how: StepOptions) -> np.ndarray:
    """Return how far each step's gradient moves the weights in all, momentum included."""
    momentum, tail = how.momentum or 0.0, 0.0
    weights = np.zeros(len(rates))
    for t in reversed(range(len(rates))):
        tail = rates[t] + momentum * tail
        enters = 1.0 if t == 0 or how.nesterov else 1 - (how.dampening or 0.0)
        weights[t] = rates[t] + momentum * tail if how.nesterov else enters * tail
    return weights if momentum else rates


__all__ = ["TrainingSummary", "summarise"]

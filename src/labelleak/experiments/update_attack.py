"""Attack one update: a user's own, from files, tensors or a capture."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from labelleak.adapters.capture import CapturedUpdate
from labelleak.adapters.file_checks import LIMIT
from labelleak.adapters.files import read_tensors
from labelleak.adapters.head import find_head
from labelleak.adapters.heads_by_shape import locate_head
from labelleak.adapters.update_files import HowMade
from labelleak.adapters.updates import Source, Update, gather_update, observe
from labelleak.assumptions import Flag, check_update
from labelleak.attacks import make_attack
from labelleak.battery import COSTLY, MANY_CLASSES, STANDARD, Answer, Battery, Outcome
from labelleak.errors import BadInput
from labelleak.experiments.truth_files import read_truth
from labelleak.experiments.update_report import AttackResult, UpdateReport, scale_scores
from labelleak.interfaces import Knowledge, LabelledData, LocalTraining
from labelleak.observation import Observation
from labelleak.priors import UniformPrior, free_guess
from labelleak.score import Truth
from labelleak.seeding import torch_seeded, whole_number
from labelleak.simulation.datasets import Dataset, load_dataset
from labelleak.simulation.models import build_model, own_init
from labelleak.simulation.user_models import call_factory
from labelleak.white_box import WhiteBox

AS_BUILT = "the model's weights are as it was built; give --weights if the client had others"


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The model that an attacker holds, by name.

    Attributes:
        name: a name of ``labelleak list models``, or ``package.module:factory``; None for none.
        init: how a named model is initialised; None for what goes with it.
        activation: activation of a named model; None for its own.
        weights: file of trained weights, in any format of `read_tensors`.
        mode: train (as clients run it) or eval.
        input_shape: of one input, where no auxiliary data tell it.
    """

    name: str | None = None
    init: str | None = None
    activation: str | None = None
    weights: str | None = None
    mode: str = "train"
    input_shape: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.mode not in ("train", "eval"):
            raise BadInput(f"the mode must be train or eval, not {self.mode!r}")
        for name in ("init", "activation", "weights"):
            if self.name is None and getattr(self, name) is not None:
                raise BadInput(f"--{name} needs --model")


def attack_update(
    captured: CapturedUpdate | None = None,
    *,
    before: Source | None = None,
    after: Source | None = None,
    gradient: Source | None = None,
    update: Source | None = None,
    made: HowMade | None = None,
    head: str | None = None,
    model: nn.Module | ModelOptions | str | None = None,
    auxiliary: str | Dataset | LabelledData | None = None,
    truth: str | os.PathLike[str] | Sequence[int] | Mapping[str, Any] | None = None,
    attacks: Sequence[str] = ("standard",),
    seed: int = 0,
    max_bytes: int = LIMIT,
) -> UpdateReport:
    """Say which labels one update gives away.

    Takes the update in one of four forms: a capture, weights before and after, a gradient, or
    the file of a capture. An attack that lacks what it needs (model, auxiliary data, bias) is
    not run, and the report says why.

    Args:
        captured: what `labelleak.capture` caught.
        before: weights that the server sent, as a file or tensors by name.
        after: weights that the client returned.
        gradient: the shared gradient of the mean loss.
        update: a file of `CapturedUpdate.save`.
        made: learning rate, batch size, steps, ...; wins over what files say of themselves.
        head: module name of the last linear layer; found by shape or model if left out.
        model: what a white-box attacker holds. A module is used as it is; a named one takes the
            weights before the update where they are given.
        auxiliary: labelled data of the attacker's own, or a data set's name.
        truth: true labels or counts, to score the answers; see `read_truth`.
        attacks: names, or ``standard``.
        seed: seed of the attacks' randomness.
        max_bytes: largest file that is read.

    Raises:
        BadInput: for anything that cannot be, and where no attack at all can answer.

    >>> weight = torch.tensor([[-0.5, -0.5], [0.25, 0.25], [0.25, 0.25]])
    >>> report = attack_update(gradient={"fc.weight": weight}, made=HowMade(batch_size=1),
    ...                        truth=[0], attacks=["llg"])
    >>> report.results[0].counts, report.results[0].asr
    ((1, 0, 0), 1.0)
    """
    names = _attack_names(attacks)
    found = _gather(captured, before, after, gradient, update, made, max_bytes)
    data = load_dataset(auxiliary) if isinstance(auxiliary, str) else auxiliary
    options = ModelOptions(name=model) if isinstance(model, str) else model
    view, place, notes = _view(found, head or found.made.head, options, data, seed, max_bytes)
    seen = observe(found, place, None if view is None else view.module)
    known = _knowledge(found.made, view, options, data)
    left_out = _left_out(names, attacks, seen.num_classes)
    battery = Battery.prepare(
        [make_attack(name) for name in names if name not in left_out],
        known,
        seen.num_classes,
        seed=seed,
    )
    missing = {**left_out, **battery.not_applicable(seen)}
    if len(missing) == len(names):
        raise BadInput(_nothing_applies(missing, seen))
    return _report(battery, seen, found, view, options, place, notes, missing, truth, seed)


def _gather(
    captured: CapturedUpdate | None,
    before: Source | None,
    after: Source | None,
    gradient: Source | None,
    update: Source | None,
    made: HowMade | None,
    max_bytes: int,
) -> Update:
    if captured is not None:
        if any(form is not None for form in (before, after, gradient, update)):
            raise BadInput("give the update in one form only: the capture, or files")
        before, after = captured.before, captured.after
        made = (made or HowMade()).over(captured.made)
    return gather_update(
        before=before, after=after, gradient=gradient, update=update, made=made, max_bytes=max_bytes
    )


def _attack_names(attacks: Sequence[str]) -> list[str]:
    names: list[str] = []
    for name in attacks:
        names.extend(STANDARD if name == "standard" else (name,))
    for name in names:
        make_attack(name)
    if not names:
        raise BadInput("name at least one attack, or standard")
    return list(dict.fromkeys(names))


def _left_out(names: Sequence[str], asked: Sequence[str], num_classes: int) -> dict[str, str]:
    """Say which attacks of the standard battery are too slow for so many classes."""
    slow = COSTLY & set(names) - set(asked) if num_classes > MANY_CLASSES else set()
    why = f"is left out above {MANY_CLASSES} classes; name it in --attacks to run it"
    return {name: f"{name} {why}" for name in sorted(slow)}


def _view(
    update: Update,
    head: str | None,
    model: nn.Module | ModelOptions | None,
    data: Dataset | LabelledData | None,
    seed: int,
    max_bytes: int,
) -> tuple[WhiteBox | None, str, tuple[str, ...]]:
    """Find the head, and build the attacker's model where one is granted."""
    if model is None or (isinstance(model, ModelOptions) and model.name is None):
        return None, locate_head(update.tensors, head), ()
    example = _example(model, data)
    if isinstance(model, nn.Module):
        place = find_head(model, name=head, example=example)
        locate_head(update.tensors, place)
        return WhiteBox(model, place), place, ()
    classes = data.num_classes if isinstance(data, Dataset) else _classes(update, head)
    module, notes = _build(model, update, classes, example, seed, max_bytes)
    place = find_head(module, name=head, example=example, num_classes=classes)
    locate_head(update.tensors, place)
    return WhiteBox(module.train(model.mode == "train"), place), place, notes


def _classes(update: Update, head: str | None) -> int:
    place = locate_head(update.tensors, head)
    prefix = f"{place}." if place else ""
    return len(
        next(update.tensors[n] for n in (f"{prefix}weight", f"{prefix}bias") if n in update.tensors)
    )


def _example(
    model: nn.Module | ModelOptions, data: Dataset | LabelledData | None
) -> torch.Tensor | None:
    if data is not None:
        return (data.x_train if isinstance(data, Dataset) else data.inputs)[:2]
    shape = model.input_shape if isinstance(model, ModelOptions) else None
    return None if shape is None else torch.zeros(2, *shape)


def _build(
    options: ModelOptions,
    update: Update,
    num_classes: int,
    example: torch.Tensor | None,
    seed: int,
    max_bytes: int,
) -> tuple[nn.Module, tuple[str, ...]]:
    """Build a named model with the weights that the client was sent, as far as they are known."""
    assert options.name is not None
    number = whole_number(seed, "model", 0)
    if example is not None:
        module = build_model(
            options.name,
            input_shape=tuple(example.shape[1:]),
            num_classes=num_classes,
            activation=options.activation,
            init=options.init or own_init(options.name, options.activation),
            seed=number,
        )
    elif ":" in options.name:
        with torch_seeded(number):
            module = call_factory(options.name, seed=number, num_classes=num_classes)
    else:
        raise BadInput(
            f"the model {options.name} needs the shape of an input; give --auxiliary data, or "
            "--input-shape, as in --input-shape 1,28,28"
        )
    if options.weights is not None:
        weights = read_tensors(options.weights, max_bytes=max_bytes).tensors
    elif update.before is not None:
        weights = update.before
    else:
        return module, (AS_BUILT,)
    try:
        module.load_state_dict(dict(weights))
    except RuntimeError as error:
        why = str(error).splitlines()[-1].strip()
        raise BadInput(f"the weights do not fit the model {options.name}: {why}") from error
    return module, ()


def _knowledge(
    made: HowMade,
    view: WhiteBox | None,
    model: nn.Module | ModelOptions | None,
    data: Dataset | LabelledData | None,
) -> Knowledge:
    own = LabelledData(data.x_train, data.y_train) if isinstance(data, Dataset) else data
    training = None
    if made.batch_size is not None:
        training = LocalTraining(
            lr=made.lr or 1.0,  # one step of plain SGD shares the gradient whatever its rate
            local_steps=made.local_steps or 1,
            batch_size=made.batch_size,
            momentum=made.momentum or 0.0,
            weight_decay=made.weight_decay or 0.0,
            optimiser="adam" if made.optimiser == "adam" else "sgd",
        )
    shape = None if own is None else tuple(own.inputs.shape[1:])
    if shape is None and isinstance(model, ModelOptions):
        shape = model.input_shape
    return Knowledge(view, shape, own, training=training)


def _nothing_applies(missing: Mapping[str, str], seen: Observation) -> str:
    if seen.num_samples is None:
        return "every attack asked for needs the number of labels; give --batch-size"
    return f"no attack asked for can answer: {next(iter(missing.values()))}"


def _report(
    battery: Battery,
    seen: Observation,
    update: Update,
    view: WhiteBox | None,
    model: nn.Module | ModelOptions | None,
    head: str,
    notes: tuple[str, ...],
    missing: Mapping[str, str],
    told: Any,
    seed: int,
) -> UpdateReport:
    truth = None if told is None else _truth(told, seen)
    guess, asr_free = None, None
    if seen.num_samples is not None:
        counts, asr_free = free_guess(UniformPrior(), seen.num_samples, seen.num_classes)
        guess = tuple(int(n) for n in counts)
    one = _as_trial(seen)
    outcomes = () if truth is None else tuple(battery.run(one, Truth(truth.counts[None])))
    answers: Sequence[Answer | Outcome] = outcomes or tuple(battery.answer(one))
    name = type(model).__name__ if isinstance(model, nn.Module) else (model and model.name)
    return UpdateReport(
        tuple(_result(answer) for answer in answers),
        head,
        seen.num_classes,
        seen.num_samples,
        update.made,
        guess,
        asr_free,
        dict(_checked((*battery.flags, *check_update(seen, battery.known)))),
        dict(missing),
        notes,
        update.source,
        name or "unknown",
        seed,
        truth,
        outcomes,
    )


def _truth(told: Any, seen: Observation) -> Truth:
    if seen.num_samples is None:
        raise BadInput("scoring against the truth needs --batch-size")
    return read_truth(told, seen.num_classes, seen.num_samples)


def _as_trial(seen: Observation) -> Observation:
    """Give a lone update a trial dimension of one."""
    if seen.trials:
        raise BadInput(
            f"give one update at a time; this head has {len(seen.trials) + 2} dimensions"
        )
    return replace(
        seen,
        weight=None if seen.weight is None else seen.weight[None],
        bias=None if seen.bias is None else seen.bias[None],
        rest=None if seen.rest is None else {n: t[None] for n, t in seen.rest.items()},
    )


def _result(answer: Answer | Outcome) -> AttackResult:
    scored = answer if isinstance(answer, Outcome) else None
    gained = None if scored is None or scored.advantage is None else float(scored.advantage[0])
    return AttackResult(
        answer.attack,
        answer.threat_model,
        tuple(int(n) for n in answer.estimate.counts[0]),
        scale_scores(answer.estimate.scores[0]),
        tuple(sorted({f.name for f in answer.flags if f.raised.any()})),
        answer.seconds,
        None if scored is None else float(scored.score.asr[0]),
        gained,
    )


def _checked(flags: Sequence[Flag]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (f.name, {"failed": bool(f.raised.any()), "figure": float(f"{np.max(f.figure):.4g}")})
        for f in flags
    ]


__all__ = ["HowMade", "ModelOptions", "UpdateReport", "attack_update"]

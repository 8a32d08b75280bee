"""Attack one update: a user's own, from files, tensors or a capture."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from labelleak.attacks import STANDARD, make_attack, slow_attacks
from labelleak.audits.answers import AttackResult, UpdateReport, scale_scores
from labelleak.audits.attacker_model import ModelOptions, view_update
from labelleak.audits.standing import ScaleMode, Settled, settle
from labelleak.core.assumptions import Flag, check_update, not_checked
from labelleak.core.batch_size import BatchSize, estimate_batch_size
from labelleak.core.battery import Answer, Battery, Outcome
from labelleak.core.head import HeadFinding
from labelleak.core.interfaces import FitCache, Knowledge, LabelledData
from labelleak.core.observation import Observation
from labelleak.core.priors import Prior, free_guess
from labelleak.core.scale import StepPath
from labelleak.core.score import Truth
from labelleak.core.training import LocalTraining
from labelleak.core.white_box import WhiteBox
from labelleak.errors import BadInput, NotApplicable
from labelleak.files.capture import CapturedUpdate
from labelleak.files.limits import LIMIT
from labelleak.files.measured import Measured
from labelleak.files.truth import read_truth
from labelleak.files.update import Source, Update, gather_update, observe
from labelleak.records.states import State
from labelleak.simulation.batches import parse_scheme
from labelleak.simulation.data.datasets import Dataset, load_dataset


def attack_update(
    captured: CapturedUpdate | None = None,
    *,
    before: Source | None = None,
    after: Source | None = None,
    gradient: Source | None = None,
    update: Source | None = None,
    made: LocalTraining | None = None,
    head: str | None = None,
    model: nn.Module | ModelOptions | str | None = None,
    auxiliary: str | Dataset | LabelledData | None = None,
    truth: str | os.PathLike[str] | Sequence[int] | Mapping[str, Any] | None = None,
    attacks: Sequence[str] = ("standard",),
    scheme: str = "iid",
    seed: int = 0,
    scale: ScaleMode = "check",
    max_bytes: int = LIMIT,
    fit_cache: FitCache | None = None,
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
        scheme: how batches are drawn, for the guess without the update: a name of
            ``labelleak list schemes``; natural takes the auxiliary labels as the pool.
        seed: seed of the attacks' randomness.
        scale: ``check`` says what own data tell of the update's scale and sign; ``repair`` divides
            by the factor of the one usual cause that explains it (a summed loss, a sign, ...).
        max_bytes: largest file that is read.
        fit_cache: where attacks keep what they learn; see `FolderFitCache`.

    Raises:
        BadInput: for anything that cannot be, and where no attack at all can answer.

    >>> import torch
    >>> from labelleak.core.training import LocalTraining
    >>> weight = torch.tensor([[-0.5, -0.5], [0.25, 0.25], [0.25, 0.25]])
    >>> report = attack_update(gradient={"fc.weight": weight}, made=LocalTraining(batch_size=1),
    ...                        truth=[0], attacks=["llg"])
    >>> report.results[0].counts, report.results[0].asr
    ((1, 0, 0), 1.0)
    """
    names = _attack_names(attacks)
    found = _gather(captured, before, after, gradient, update, made, max_bytes)
    data = load_dataset(auxiliary) if isinstance(auxiliary, str) else auxiliary
    options = ModelOptions(name=model) if isinstance(model, str) else model
    named = head or found.head
    view, head_found, notes = view_update(found, named, options, data, seed, max_bytes)
    seen = observe(found, head_found.name, None if view is None else view.module)
    known = _knowledge(found.made, seen.num_samples, view, options, data)
    size, why = _estimate_size(seen, known)
    if size is not None:
        steps = seen.local_steps
        seen = replace(seen, num_samples=size.num_samples)
        made = replace(found.made, batch_size=size.num_samples // steps)
        found = replace(found, made=made)
        known = _knowledge(made, seen.num_samples, view, options, data)
    prior = _prior(scheme, known.auxiliary, seen.num_classes)
    known = replace(known, fit_cache=fit_cache, prior=prior)
    _one_at_a_time(seen)
    settled = settle(seen, known, "check" if size is not None else scale)
    seen = settled.observation
    left_out = slow_attacks(set(names) - set(attacks), seen.num_classes)
    battery = Battery.prepare(
        [make_attack(name) for name in names if name not in left_out],
        known,
        seen.num_classes,
        seed=seed,
    )
    told = (_as_told(flag, found) for flag in battery.flags)
    battery = replace(battery, flags=(*told, *settled.flags, *_measured_flags(found.measured)))
    missing = {**left_out, **battery.not_applicable(seen)}
    if len(missing) == len(names):
        raise BadInput(_nothing_applies(missing, seen, why))
    case = _Case(
        update=found,
        seen=seen,
        head=head_found,
        model=_name_of(options),
        scheme=scheme,
        missing=missing,
        notes=(*notes, *why, *_momentum_note(found), *_measured_notes(found)),
        size=size,
        seed=seed,
        settled=settled,
    )
    return case.report(battery, None if truth is None else _truth(truth, seen, size))


@dataclass(frozen=True, eq=False, kw_only=True)
class _Case:
    """One update under attack, and what its report says beside the answers."""

    update: Update
    seen: Observation
    head: HeadFinding
    model: str
    scheme: str
    missing: Mapping[str, str]
    notes: tuple[str, ...]
    size: BatchSize | None
    seed: int
    settled: Settled

    def report(self, battery: Battery, truth: Truth | None) -> UpdateReport:
        """Let every attack answer, and score the answers where the truth is known."""
        seen, guess, asr_free = self.seen, None, None
        if seen.num_samples is not None:
            counts, asr_free = free_guess(battery.known.prior, seen.num_samples, seen.num_classes)
            guess = tuple(int(n) for n in counts)
        one = _as_trial(seen)
        outcomes = () if truth is None else tuple(battery.run(one, Truth(truth.counts[None])))
        answers: Sequence[Answer | Outcome] = outcomes or tuple(battery.answer(one))
        return UpdateReport(
            results=tuple(_result(answer) for answer in answers),
            head=self.head.name,
            head_found=self.head.how,
            head_evidence=self.head.evidence,
            head_rivals=self.head.rivals,
            num_classes=seen.num_classes,
            num_samples=seen.num_samples,
            made=self.update.made,
            noted_head=self.update.head,
            free_guess=guess,
            asr_free=asr_free,
            checked=self._checked((*battery.flags, *check_update(seen, battery.known))),
            scale=self.settled.scale,
            sign=self.settled.sign,
            not_applicable=dict(self.missing),
            notes=self.notes,
            source=self.update.source,
            model=self.model,
            seed=self.seed,
            scheme=self.scheme,
            estimated=self.size,
            truth=truth,
            outcomes=outcomes,
        )

    def _checked(self, flags: Sequence[Flag]) -> dict[str, dict[str, Any]]:
        """Say of each assumption whether it failed, by what figure, and what is known of it."""
        found = [_as_told(flag, self.update) for flag in (*flags, *not_checked(flags))]
        return {
            flag.name: {
                "failed": bool(flag.raised.any()),
                "figure": _figure(flag),
                "state": str(flag.state),
            }
            for flag in found
        }


def _as_told(flag: Flag, update: Update) -> Flag:
    """Take back steps that nobody told, and momentum that was taken out."""
    if flag.name == "momentum" and flag.raised.any() and update.gradient is None:
        # Out of the weights' change; see Observation.from_update.
        return replace(flag, raised=np.asarray(False), otherwise=State.repaired)
    if flag.name == "several_local_steps" and update.made.local_steps is None:
        return replace(flag, figure=np.asarray(np.nan), otherwise=State.not_known)
    return flag


def _figure(flag: Flag) -> float | None:
    figure = float(np.max(flag.figure))
    return float(f"{figure:.4g}") if np.isfinite(figure) else None


def _estimate_size(seen: Observation, known: Knowledge) -> tuple[BatchSize | None, tuple[str, ...]]:
    """Read the number of labels off the update where nobody told it; say how sure, or why not."""
    if seen.num_samples is not None:
        return None, ()
    try:
        size = estimate_batch_size(seen, known)
    except NotApplicable as reason:
        return None, (str(reason),)
    ties = ", ".join(str(n) for n, _ in size.ties[1:])
    also = f"; nearly as likely: {ties}" if ties else ""
    return size, (
        f"{size.num_samples} labels were read off the bias gradient, with confidence "
        f"{size.confidence:.2f}{also} (assumed: {size.assumes}); give --batch-size if it is known",
    )


def _prior(scheme: str, own: LabelledData | None, num_classes: int) -> Prior:
    drawn = parse_scheme(scheme)
    if drawn.label == "natural" and own is None:
        raise BadInput("the scheme natural needs a pool of labels; give --auxiliary")
    pool = np.zeros(0, dtype=np.int64) if own is None else own.labels.numpy()
    return drawn.prior(pool, num_classes)


def _momentum_note(update: Update) -> tuple[str, ...]:
    if update.gradient is not None or not StepPath.of(update.made).momentum:
        return ()
    return (
        f"momentum {update.made.momentum:g} was taken out of the update, its buffer taken to have "
        "been empty at the start",
    )


def _measured_flags(measured: Measured) -> tuple[Flag, ...]:
    """Flag what a capture measured or could not explain."""
    told = {
        "class_weights": measured.weighted,
        "adaptive_optimiser": measured.optimiser is not None,
        "capture_doubtful": measured.doubtful,
    }
    return tuple(
        Flag(name, np.asarray(True), np.asarray(1.0)) for name, raised in told.items() if raised
    )


def _measured_notes(update: Update) -> tuple[str, ...]:
    """Repeat what the capture has to say, made safe to show where it came from a file."""
    return tuple("".join(filter(str.isprintable, note)) for note in update.measured.notes or ())


def _name_of(model: nn.Module | ModelOptions | None) -> str:
    if isinstance(model, nn.Module):
        return type(model).__name__
    return (model and model.name) or "unknown"


def _gather(
    captured: CapturedUpdate | None,
    before: Source | None,
    after: Source | None,
    gradient: Source | None,
    update: Source | None,
    made: LocalTraining | None,
    max_bytes: int,
) -> Update:
    if captured is not None:
        if any(form is not None for form in (before, after, gradient, update)):
            raise BadInput("give the update in one form only: the capture, or files")
        before, after = captured.before, captured.after
        made = (made or LocalTraining()).over(captured.made)
    found = gather_update(
        before=before, after=after, gradient=gradient, update=update, made=made, max_bytes=max_bytes
    )
    if captured is None:
        return found
    return replace(found, head=captured.head, measured=captured.measured)


def _attack_names(attacks: Sequence[str]) -> list[str]:
    names: list[str] = []
    for name in attacks:
        names.extend(STANDARD if name == "standard" else (name,))
    for name in names:
        make_attack(name)
    if not names:
        raise BadInput("name at least one attack, or standard")
    return list(dict.fromkeys(names))


def _knowledge(
    made: LocalTraining,
    num_samples: int | None,
    view: WhiteBox | None,
    model: nn.Module | ModelOptions | None,
    data: Dataset | LabelledData | None,
) -> Knowledge:
    own = LabelledData(data.x_train, data.y_train) if isinstance(data, Dataset) else data
    training = made if made.batch_size is not None else None
    if training is None and num_samples is not None:
        training = replace(made, batch_size=math.ceil(num_samples / (made.local_steps or 1)))
    shape = None if own is None else tuple(own.inputs.shape[1:])
    if shape is None and isinstance(model, ModelOptions):
        shape = model.input_shape
    return Knowledge(view, shape, own, training=training)


def _nothing_applies(missing: Mapping[str, str], seen: Observation, why: Sequence[str]) -> str:
    if seen.num_samples is None:
        return f"give --batch-size: {'; '.join(why)}"
    return f"no attack asked for can answer: {next(iter(missing.values()))}"


def _truth(told: Any, seen: Observation, size: BatchSize | None) -> Truth:
    if seen.num_samples is None:
        raise BadInput("scoring against the truth needs --batch-size")
    try:
        return read_truth(told, seen.num_classes, seen.num_samples)
    except BadInput as error:
        if size is None:
            raise
        raise BadInput(f"{error}; its size was only estimated, give --batch-size") from error


def _one_at_a_time(seen: Observation) -> None:
    if seen.trials:
        raise BadInput(
            f"give one update at a time; this head has {len(seen.trials) + 2} dimensions"
        )


def _as_trial(seen: Observation) -> Observation:
    """Return a lone update a trial dimension of one."""
    return replace(
        seen,
        weight=None if seen.weight is None else seen.weight[None],
        bias=None if seen.bias is None else seen.bias[None],
        rest=None if seen.rest is None else {n: t[None] for n, t in seen.rest.items()},
    )


def _result(answer: Answer | Outcome) -> AttackResult:
    scored = answer if isinstance(answer, Outcome) else None
    gained = None if scored is None or scored.advantage is None else float(scored.advantage[0])
    told = answer.estimate.expected_asr
    scores = answer.estimate.scores[0]
    return AttackResult(
        answer.attack,
        answer.threat_model,
        tuple(int(n) for n in answer.estimate.counts[0]),
        scale_scores(scores) if told is None else tuple(round(float(p), 6) for p in scores),
        tuple(sorted({f.name for f in answer.flags if f.raised.any()})),
        answer.seconds,
        None if scored is None else float(scored.score.asr[0]),
        gained,
        None if told is None else round(float(told[0]), 6),
    )


__all__ = ["LocalTraining", "ModelOptions", "UpdateReport", "attack_update"]

"""Attack one update: a user's own, from files, tensors or a capture."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

import numpy as np
from torch import nn

from labelleak.attacks.choice import Choice, choose_attacks, going_beside
from labelleak.attacks.text.input_tokens import embeddings_in
from labelleak.audits.answers import CAUTIONS, UpdateReport
from labelleak.audits.attacker_model import ModelOptions, is_as_built, view_update
from labelleak.audits.options import TableForm
from labelleak.audits.standing import ScaleMode, Settled, Told, settle
from labelleak.audits.update_case import UpdateCase
from labelleak.audits.update_doubts import refuse_weights_of, share_doubt, update_doubts
from labelleak.audits.update_notes import as_told, few_pixels, measured_flags, notes_of
from labelleak.audits.update_options import Layout
from labelleak.audits.update_prior import beliefs
from labelleak.core.assumptions import raise_flag
from labelleak.core.batch_size import BatchSize, estimate_batch_size
from labelleak.core.battery import Battery
from labelleak.core.head import HeadFinding
from labelleak.core.head_shapes import key_of
from labelleak.core.head_sums import shared_sums
from labelleak.core.knowledge import FitCache, Knowledge, LabelledData
from labelleak.core.needs import Need
from labelleak.core.observation import Observation
from labelleak.core.priors import Prior
from labelleak.core.score import Truth
from labelleak.core.task import Task, next_tokens, read_task
from labelleak.core.token_heads import LOW_RANK, TIED
from labelleak.core.training import LocalTraining
from labelleak.core.training_checks import assumed_loss
from labelleak.core.update import ReceivedUpdate
from labelleak.core.white_box import WhiteBox
from labelleak.errors import BadInput, NotApplicable, names_checked, shown, unknown_name
from labelleak.files.capture import CapturedUpdate
from labelleak.files.truth import labels_in, read_many, read_maps, read_truth
from labelleak.files.update import Source, gather_update
from labelleak.simulation.data.datasets import Dataset
from labelleak.simulation.data.given import dataset_of, own_data
from labelleak.simulation.user_models import name_factory


@names_checked
@shared_sums()
def attack_update(
    captured: CapturedUpdate | None = None,
    *,
    before: Source | None = None,
    after: Source | None = None,
    gradient: Source | None = None,
    difference: Source | None = None,
    update: Source | None = None,
    made: LocalTraining | None = None,
    num_samples: int | None = None,
    layout: Layout | None = None,
    head: str | None = None,
    task: str | None = None,
    model: nn.Module | ModelOptions | str | None = None,
    auxiliary: Any = None,
    tables: str | None = None,
    truth: str | os.PathLike[str] | Sequence[int] | Mapping[str, Any] | None = None,
    attacks: str | Sequence[str] = ("standard",),
    scheme: str = "iid",
    prior: str | os.PathLike[str] | Sequence[float] | None = None,
    seed: int = 0,
    scale: ScaleMode = "check",
    max_bytes: int | None = None,
    fit_cache: FitCache | None = None,
) -> UpdateReport:
    """Say which labels one update gives away.

    Takes the update in one of five forms: a capture, weights before and after, a gradient, a
    difference, or the file of a capture; the documentation's page on forms of
    an update lists what each may hold. An attack that
    lacks what it needs (model, auxiliary data, bias) is not run, and the report says why.

    Args:
        captured: what `labelleak.capture` caught.
        before: weights that the server sent: a file, or arrays of any framework, by name or in a
            list as Flower and Keras send it.
        after: weights that the client returned.
        gradient: the shared gradient of the mean loss.
        difference: weights after minus before, alone or with before.
        update: a file of `CapturedUpdate.save`.
        made: learning rate, batch size, steps, ...; wins over what files say of themselves.
        num_samples: labels behind the update in all, where the batches differ in size.
        layout: ``torch`` (weights are outputs x inputs) or ``keras`` (inputs x outputs), where
            names and biases do not tell.
        head: module name of the last linear layer; found by shape or model if left out.
        task: what the labels are: ``classes``, ``binary`` (one output tells one of two classes),
            ``dense`` (a class for each pixel, labels counted over all of them) or ``tokens`` (a
            language model's next tokens; N is positions with a label); told by a convolution, by
            the loss that a capture saw, or by truth of 0 and 1 where left out.
        model: what a white-box attacker holds. A module is used as it is; a named one takes the
            weights before the update where they are given.
        auxiliary: labelled data of the attacker's own: `LabelledData`, or as `audit` takes data.
        tables: ``standardised`` scales own tables by their training part, as an audit of a fresh
            model does; else they are taken as given, as the model behind the update must be fed.
        truth: true labels or counts, to score the answers; see `read_truth`, of masks `read_maps`.
        attacks: names, ``standard`` or ``rules``.
        scheme: how batches are drawn, for the guess without the update: a name of
            ``labelleak list schemes``; natural takes the auxiliary labels as the pool.
        prior: class frequencies that the attacker knows, in place of the scheme's: a list, or a
            JSON file of one; of several labels the share of inputs with each.
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
    found = gather_update(
        captured,
        before=before,
        after=after,
        gradient=gradient,
        difference=difference,
        update=update,
        made=made,
        num_samples=num_samples,
        layout=layout,
        head=head,
        task=read_task(task),
        max_bytes=max_bytes,
    )
    asked = choose_attacks(attacks, beside=going_beside(task, found.trained.local_steps))
    data, options = _by_name(auxiliary, model, tables)
    found, view, place, notes = view_update(
        found, head or found.head, options, data, seed, max_bytes, _labels_told(truth, data)
    )
    held = replace(_holds(view, options, data, found), fit_cache=fit_cache)
    drawn = beliefs(scheme, prior, held.auxiliary, found.task)
    case, missing, more = _make_case(found, place, held, asked, drawn.prior, scale, seed)
    about: dict[str, Any] = {"model": _name_of(options), "scheme": drawn.drawn, "seed": seed}
    about["notes"] = tuple(dict.fromkeys((*more, *notes, *drawn.notes)))  # doubts come first
    return _answered(case.report(_truth(truth, case), not_applicable=missing, **about), case)


def _answered(report: UpdateReport, case: UpdateCase) -> UpdateReport:
    """Refuse a report without an answer, where each attack found in the update what stops it."""
    if not report.answers:
        raise BadInput(_nothing_applies(report.not_applicable, case.settled.observation, ()))
    return report


def _by_name(
    data: Any, model: nn.Module | ModelOptions | str | None, tables: str | None
) -> tuple[Dataset | LabelledData | None, nn.Module | ModelOptions | None]:
    """Load data and say of a model what its name does, where names were given."""
    if tables is not None and tables not in get_args(TableForm):
        raise unknown_name("form of `tables`", str(tables), get_args(TableForm))
    if data is not None and not isinstance(data, LabelledData):
        found = dataset_of(data)
        # What it was before it was standardised is asked for no more.
        data = replace(found, given=None) if tables == "standardised" else found.as_given()
    return (
        data,
        model
        if model is None or isinstance(model, nn.Module | ModelOptions)
        else ModelOptions(name=name_factory(model)),
    )


def _labels_told(truth: Any, data: Dataset | LabelledData | None) -> Sequence[int] | None:
    """Return labels from which the task of a head with one output may be told."""
    own = _own(data)
    return labels_in(truth) or (None if own is None else np.unique(own.labels.numpy()).tolist())


def _make_case(
    update: ReceivedUpdate,
    head: HeadFinding,
    held: Knowledge,
    asked: Choice,
    believed: Callable[[Observation], Prior],
    scale: ScaleMode,
    seed: int,
) -> tuple[UpdateCase, dict[str, str], tuple[str, ...]]:
    """Observe an update, settle its size, scale and sign, and prepare the attacks for it.

    Returns:
        The case, the attacks that cannot answer with the reason of each, and what is to be said.
    """
    refuse_weights_of(update, held.model)
    seen = update.observe(head.name, rest=_kept(update, head, held.model, asked))
    size, why = _estimate_size(seen, held if held.weights_known else replace(held, model=None))
    held = replace(held, batch_told=update.training.batch_size is not None)
    seen, update = _sized(seen, update, size)
    training = _known_training(update.trained, seen)
    held = replace(held, training=training, prior=believed(seen))
    _one_at_a_time(seen)
    mode = "check" if size is not None else scale
    settled = settle(seen, held, mode, Told.of(update))
    seen, choice = settled.observation, asked.within(seen.num_classes)
    battery = Battery.prepare(choice.attacks, held, seen.num_classes, seed=seed, lenient=True)
    doubts = {**update_doubts(update, seen, held, told=size is None), **share_doubt(update, head)}
    battery, missing = _applicable(battery, choice, settled, update, why)
    battery = replace(battery, flags=(*battery.flags, *map(raise_flag, doubts)))
    case = UpdateCase(update, settled, head, size, battery, doubts)
    odd = [f"the head {shown(head.name)}: {e}" for e in (TIED, LOW_RANK) if e in head.evidence]
    few = few_pixels(held.auxiliary, seen, update.task)
    noted = (words for flag, words in doubts.items() if flag not in CAUTIONS)  # these stand above
    return case, missing, (*noted, *why, *odd, *few, *notes_of(update, seen))


def _sized(
    seen: Observation, update: ReceivedUpdate, size: BatchSize | None
) -> tuple[Observation, ReceivedUpdate]:
    """Take over a number of labels that was estimated."""
    if size is None:
        return seen, update
    told = replace(update.training, batch_size=size.num_samples // seen.local_steps)
    return replace(seen, num_samples=size.num_samples), replace(update, training=told)


def _applicable(
    battery: Battery,
    choice: Choice,
    settled: Settled,
    update: ReceivedUpdate,
    why: Sequence[str],
) -> tuple[Battery, dict[str, str]]:
    """Add to the flags what was settled and measured, and say which attacks cannot answer."""
    told = (as_told(flag, update) for flag in battery.flags)
    loss = assumed_loss(update.task, update.training, update.measured.loss)
    flags = (*told, *settled.flags, *measured_flags(update.measured), *loss)
    battery = replace(battery, flags=flags)
    missing = {**choice.left_out, **battery.not_applicable(settled.observation)}
    if len(missing) == len(choice.attacks) + len(choice.left_out):
        raise BadInput(_nothing_applies(missing, settled.observation, why))
    return battery, missing


def _known_training(told: LocalTraining, seen: Observation) -> LocalTraining | None:
    """Return the training that attackers may imitate, which needs the labels of a step."""
    if told.batch_size is not None or seen.num_samples is None:
        return None if told.batch_size is None else told
    return replace(told, batch_size=math.ceil(seen.num_samples / seen.local_steps))


def _kept(
    update: ReceivedUpdate, head: HeadFinding, view: WhiteBox | None, asked: Choice
) -> Collection[str] | None:
    """Name the tensors beside the head that attacks read: the model's, or a token embedding.

    None are kept where other heads' losses moved them, too.
    """
    if head.beside or not any(Need.FULL_GRADIENT in attack.needs for attack in asked.attacks):
        return None
    named, own = update.tensors, key_of(head.name)
    if view is not None:
        shapes = {n: p.shape for n, p in view.module.named_parameters() if p.requires_grad}
        if update.covers(shapes):
            return shapes
    if update.task is not Task.tokens or own not in named:
        return None
    found = embeddings_in(named, len(named[own]))
    return [name for name in found if named[name] is not named[own]]


def _holds(
    view: WhiteBox | None,
    options: nn.Module | ModelOptions | None,
    data: Dataset | LabelledData | None,
    found: ReceivedUpdate,
) -> Knowledge:
    """Return what the attacker holds before anything is read off the update."""
    known = not is_as_built(options, found)
    return Knowledge(view, _shape(options, data), _own(data, found.task), weights_known=known)


def _own(data: Dataset | LabelledData | None, task: Task | None = None) -> LabelledData | None:
    own = own_data(data)
    if own is None or task is not Task.tokens:
        return own
    return LabelledData(own.inputs, next_tokens(own.inputs, own.labels))


def _shape(
    model: nn.Module | ModelOptions | None, data: Dataset | LabelledData | None
) -> tuple[int, ...] | None:
    own = _own(data)
    if own is not None:
        return tuple(own.inputs.shape[1:])
    return model.input_shape if isinstance(model, ModelOptions) else None


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
        f"{size.confidence:.2f}{also} (assumed: {size.assumes}); give `batch_size` if it is known",
    )


def _name_of(model: nn.Module | ModelOptions | None) -> str:
    if isinstance(model, nn.Module):
        return type(model).__name__
    return (model and model.name) or "unknown"


def _nothing_applies(missing: Mapping[str, str], seen: Observation, why: Sequence[str]) -> str:
    if seen.num_samples is None:
        return f"give `batch_size`: {'; '.join(why)}"
    return f"no attack asked for can answer: {next(iter(missing.values()))}"


def _truth(told: Any, case: UpdateCase) -> Truth | None:
    if told is None:
        return None
    seen, size = case.settled.observation, case.size
    if seen.num_samples is None:
        raise BadInput("scoring against the truth needs `batch_size`")
    try:
        if seen.problems > 1:
            return read_many(told, seen.problems, seen.num_samples)
        read = read_maps if case.update.task is Task.dense else read_truth
        return read(told, seen.num_classes, seen.num_samples)
    except BadInput as error:
        if size is None:
            raise
        raise BadInput(f"{error}; its size was only estimated, give `batch_size`") from error


def _one_at_a_time(seen: Observation) -> None:
    if seen.trials:
        raise BadInput(
            f"give one update at a time; this head has {len(seen.trials) + 2} dimensions"
        )


__all__ = ["LocalTraining", "ModelOptions", "UpdateReport", "attack_update"]

"""How a client trained, as far as the auditor, the configuration sent and the client tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from labelleak.core.likeness import Laid
from labelleak.core.priors import UniformPrior
from labelleak.core.scale import StepPath
from labelleak.core.task import read_task
from labelleak.core.training import LocalTraining
from labelleak.errors import BadInput, unknown_name
from labelleak.flower.claims import num_examples, steps_in, steps_said
from labelleak.flower.findings import Sender
from labelleak.flower.forms import AsWeights, Form, Returns, form_of

if TYPE_CHECKING:
    from labelleak.flower.auditor import Auditor

Arrays = Mapping[str, Tensor]


@dataclass(frozen=True)
class Trained:
    """How a client's update came about.

    Attributes:
        training: what is known, one step assumed where the number is not.
        total: labels behind the update in all; None where that is not known.
        steps_known: whether the number of steps was told.
        form: the form in which the reply is read.
        evenly: how often each label came of batches that the guess takes to be drawn evenly; 0
            where a prior was told.
    """

    training: LocalTraining
    total: int | None
    steps_known: bool
    form: Form
    evenly: int = 0

    @property
    def rate(self) -> float:
        """What the mean gradient moved the weights by, per unit."""
        return StepPath.of(self.training).rate


def how_trained(auditor: Auditor, sender: Sender, form: Form) -> Trained:
    """Put together what is known of a client's training.

    A gradient holds no optimiser's terms, so it is read as one plain step's.
    """
    known = sender.local_steps or auditor.local_steps
    steps, lr = known or 1, sender.lr or auditor.lr
    size = None if auditor.batch_size is None else auditor.batch_size * sender.clients
    total = sender.num_samples
    if size is not None and known is not None and auditor.epochs is None:
        total = size * steps
    total = len(sender.labels) if sender.labels else total
    if total is None and known is None and form.kind is not Returns.gradient:
        size = None  # a batch of a step tells no total
    size = size or (total and max(1, total // steps))
    told = replace(auditor.told, lr=lr, local_steps=steps, batch_size=size)
    if form.kind is Returns.gradient:
        told = LocalTraining(
            lr=lr or 1.0,
            local_steps=steps,
            batch_size=size,
            momentum=0.0,
            weight_decay=0.0,
            proximal=0.0,
            optimiser="sgd",
            loss_share=auditor.loss_share,
        )
    sure = known is not None or form.kind is Returns.gradient
    evenly = (auditor.epochs or 1) if isinstance(auditor.prior, UniformPrior) else 0
    return Trained(told, total, sure, form, evenly)


def common_form(
    auditor: Auditor, before: Arrays, replies: Sequence[Arrays], *, strict: bool
) -> Form:
    """Return the form of replies, which must have the same.

    Raises:
        BadInput: if they differ in it; and as `form_of`.
    """
    laid = Laid(before)
    forms = [form_of(before, reply, auditor.returns, strict=strict, laid=laid) for reply in replies]
    if len({form.kind for form in forms}) > 1:
        raise BadInput("updates audited together need the same form")
    return forms[0]


def as_weights(
    auditor: Auditor,
    before: Arrays,
    replies: Sequence[Arrays],
    senders: Sequence[Sender],
    trained: Trained,
) -> list[Arrays]:
    """Turn replies into the weights that they stand for, control terms undone."""
    kind = trained.form.kind
    if kind is Returns.weights and auditor.control is None:
        return list(replies)
    rate = trained.rate
    return [
        AsWeights(before, reply, kind, rate, auditor.control_of(sender))
        for reply, sender in zip(replies, senders, strict=True)
    ]


def training_told(
    auditor: Auditor, metrics: Mapping[str, Any], note: Callable[..., None]
) -> tuple[int | None, int | None]:
    """Return the labels behind a reply and its local steps, as the client tells them.

    Args:
        auditor: what it was told of epochs, batch size and metrics.
        metrics: what the client reports.
        note: writes an event.
    """
    said = num_examples(metrics, auditor.epochs or 1)
    if said.refused:
        note("num_examples_refused", said=said.refused)
    labels = None if said.value is None else said.value * (auditor.epochs or 1)
    return labels, steps_told(auditor, said.value, metrics, note)


def steps_told(
    auditor: Auditor, samples: int | None, metrics: Mapping[str, Any], note: Callable[..., None]
) -> int | None:
    """Return a client's local steps: by its metric, else by its samples and the epochs."""
    if auditor.steps_metric is not None:
        claim = steps_said(metrics, auditor.steps_metric)
        if claim.value is not None:
            return claim.value
        note("steps_refused", metric=auditor.steps_metric, said=claim.refused)
    return steps_in(samples, auditor.batch_size, auditor.epochs)


def check_told(auditor: Auditor) -> None:
    """Refuse options that say nothing, or two things at once.

    Raises:
        BadInput: naming the option.
    """
    read_task(auditor.task)
    if auditor.returns is not None and auditor.returns not in set(Returns):
        raise unknown_name("form of reply", str(auditor.returns), [str(one) for one in Returns])
    if auditor.epochs is None:
        return
    LocalTraining(local_steps=auditor.epochs)
    if auditor.local_steps is not None:
        raise BadInput("say local_steps or epochs, not both")
    if auditor.batch_size is None:
        raise BadInput("epochs need batch_size, since steps are ceil(samples / batch_size)")


__all__ = [
    "Trained",
    "as_weights",
    "check_told",
    "common_form",
    "how_trained",
    "steps_told",
    "training_told",
]

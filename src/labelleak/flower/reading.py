"""Read a federation's updates: the head's part of them, the truth behind them, what is in doubt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import inf
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from labelleak.core.assumptions import Flag, raise_flag
from labelleak.core.frequencies import prior_of_frequencies
from labelleak.core.head import HeadFinding
from labelleak.core.head_shapes import key_of
from labelleak.core.images import count_split
from labelleak.core.knowledge import LabelledData
from labelleak.core.limits import LARGEST
from labelleak.core.observation import Observation
from labelleak.core.priors import Prior, RepeatedPrior
from labelleak.core.reparametrised import fold
from labelleak.core.scale import StepPath
from labelleak.core.score import Truth, pair_counts
from labelleak.core.task import Task, read_task
from labelleak.core.task_priors import EachPrior
from labelleak.core.training import LocalTraining
from labelleak.core.training_checks import assumed_loss
from labelleak.core.update import ReceivedUpdate
from labelleak.core.white_box import transposed
from labelleak.defenses import parse_defense
from labelleak.errors import BadInput
from labelleak.files.frequencies import read_frequencies
from labelleak.flower.findings import Sender
from labelleak.flower.naming import UNCERTAIN, stack
from labelleak.flower.trainings import Trained


def receive(
    before: Mapping[str, Tensor],
    afters: Sequence[Mapping[str, Tensor]],
    head: str,
    trained: Trained,
    task: str | None,
    model: nn.Module | None = None,
) -> ReceivedUpdate:
    """Take the head's part of the updates, one trial each, with what is known of them.

    Args:
        before: weights that the server sent.
        afters: weights that the clients returned.
        head: module name of the head.
        trained: how the clients trained.
        task: what the labels are, where it was told.
        model: tells a transposed convolution, where there is one.
    """
    turned = None if model is None else isinstance(model.get_submodule(head), transposed())
    names = [key_of(head, part) for part in ("weight", "bias")]
    both = [fold(after, before) for after in afters]
    sent, returned = both[0].before or {}, [one.tensors for one in both]
    start = {name: sent[name] for name in names if name in sent}
    end = {n: stack(n, start.get(n), returned) for n in names if n in returned[0]}
    return ReceivedUpdate(
        start,
        end,
        training=trained.training,
        head=head,
        num_samples=trained.total,
        task=read_task(task),
        transposed=turned,
    )


def after_defense(
    defense: str, seen: Observation, batch_size: int | None, training: LocalTraining
) -> Observation:
    """Return what was seen with the longest bias gradient that a declared defense leaves possible.

    Args:
        defense: its text; a name of the user's own has a law that is not known.
        seen: what was observed.
        batch_size: labels of a step; None where that is not known.
        training: how the clients trained, as far as it is known.
    """
    if defense == "none":
        return seen
    try:
        declared = parse_defense(defense)
    except BadInput:  # a name of the user's own, for the records
        return replace(seen, largest=inf)
    size, unit = batch_size or 1, 1 / StepPath.of(training).rate
    largest = declared.largest_after(LARGEST, seen.num_classes, batch_size=size, unit=unit)
    return replace(seen, largest=largest)


def drawn_by(
    told: Prior | Sequence[float] | str | Path, num_classes: int, problems: int, epochs: int
) -> Prior:
    """Return how the labels of a round are distributed: each epoch uses the same samples again.

    Args:
        told: a prior, of each of several labels; or frequencies.
        num_classes: rows of the softmax problems together.
        problems: labels of a sample that are told one by one.
        epochs: passes over a client's samples.

    Raises:
        BadInput: for frequencies that cannot be read or do not fit.

    >>> drawn_by([3, 1], 2, 1, 1).shares
    (0.75, 0.25)
    """
    if isinstance(told, str | Path | Sequence):
        told = prior_of_frequencies(read_frequencies(told), num_classes, problems)
    parts = told.each if isinstance(told, EachPrior) else (told,) * problems
    each = parts if epochs == 1 else tuple(RepeatedPrior(one, epochs) for one in parts)
    return each[0] if problems == 1 else EachPrior(each)


def check_own(own: LabelledData | None, task: Task) -> None:
    """Refuse own data with several labels an input for a task that has one.

    Raises:
        BadInput: naming the task that they suit.
    """
    if own is not None and own.labels.dim() == 2 and task in (Task.classes, Task.binary):
        raise BadInput(
            f"the auxiliary data have a row of labels for each input, so the task is not {task}; "
            "say `task` multilabel if each label is there or not"
        )


def flags_of(
    sender: Sender, found: HeadFinding, trained: Trained, task: Task, *, assumed: bool
) -> Iterator[Flag]:
    """Raise what is known of an update otherwise than from its entries."""
    if found.how == UNCERTAIN:
        yield raise_flag("head_uncertain", 1 + len(found.rivals))
    if found.beside and trained.training.loss_share is None:
        yield raise_flag("loss_share_unknown", 1 + len(found.beside))
    if assumed:
        yield raise_flag("task_assumed")
    yield from assumed_loss(task, trained.training)
    if trained.form.doubt:
        yield raise_flag("reply_form_uncertain")
    if not trained.steps_known:
        yield raise_flag("steps_unknown")
    for name in sender.flags:
        yield raise_flag(name)


def truth_of(senders: Sequence[Sender], observation: Observation, axes: int = 0) -> Truth | None:
    """Count the labels of the senders, if they are known.

    Args:
        senders: whose they are.
        observation: the updates.
        axes: dimensions of an image where labels are maps; each is counted if all have as many.
    """
    if senders[0].labels is None:
        return None
    if not senders[0].labels:
        raise BadInput(f"client {senders[0].client} names no label behind its update")
    labels = np.asarray([sender.labels for sender in senders])
    if observation.problems > 1:
        rows = labels.reshape(len(senders), -1, observation.problems)
        if rows.max(initial=0) > 1:
            raise BadInput("labels of a multilabel task are rows of 0 and 1, a number a class")
        return Truth(pair_counts(rows.sum(axis=1), rows.shape[1]))
    truth = Truth.from_labels(labels, observation.num_classes)
    told = [sender.images for sender in senders]
    if axes < 1 or any(one.axes != axes or len(one.sizes) != len(told[0].sizes) for one in told):
        return truth
    each = zip(labels, told, strict=True)
    images = [count_split(own, one.sizes, observation.num_classes) for own, one in each]
    return Truth(truth.counts, np.stack(images))


def one_label_each(sender: Sender, head: Tensor | None) -> Sender:
    """Return a sender of several labels a sample with the number of its samples alone.

    Args:
        sender: its labels are rows of 0 and 1, one after the other.
        head: the head's weight or bias, a row a class.

    Raises:
        BadInput: if the labels are no whole rows.
    """
    if sender.labels is None or head is None:
        return sender
    samples, rest = divmod(len(sender.labels), len(head))
    rows = sender.images.sizes if sender.images.axes == 1 else ()
    if any(size != len(head) for size in rows):
        raise BadInput(
            "some of the reported labels are missing (negative or no number), and what a loss "
            "that leaves them out makes of the others is not read; report a 0 or 1 for each"
        )
    if rest:
        raise BadInput(
            f"{len(sender.labels)} labels are no rows of {len(head)}; a multilabel task has a 0 or "
            "1 for each class"
        )
    return replace(sender, labels=None, num_samples=samples)


__all__ = [
    "after_defense",
    "check_own",
    "drawn_by",
    "flags_of",
    "one_label_each",
    "receive",
    "truth_of",
]

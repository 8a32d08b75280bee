"""Audit an update in every reading that cannot be ruled out, so that doubt alone blocks nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from labelleak.core.entries import moves_alike
from labelleak.core.head import AmbiguousHead, HeadFinding
from labelleak.core.knowledge import LabelledData
from labelleak.core.priors import expected_shares
from labelleak.core.task import Task
from labelleak.errors import BadInput
from labelleak.flower.auditor import Auditor
from labelleak.flower.findings import UNCERTAIN, Finding, Sender
from labelleak.flower.forms import Form, Returns, UncertainForm
from labelleak.flower.reading import drawn_by

Arrays = Mapping[str, Tensor]
# Layers that are audited in place of a head that cannot be told; each costs an audit.
MOST_HEADS = 8
# Shares of the loss that are tried beside that of heads of equal weight: 3.2 to 0.03.
SHARES = tuple(0.75**power for power in range(-4, 13) if power)
SIGMOID_MAPS = (
    "these maps are unlike those of a softmax: each class may have a sigmoid of its own, which is "
    "not read for maps; give the Auditor the defense, or the optimiser if it is no SGD"
)


def audit_readings(
    auditor: Auditor, before: Arrays, after: Arrays, sender: Sender, limit: float
) -> Finding:
    """Audit one update; where its head or its form is in doubt, in each reading that is left.

    The true reading is among them, so an update that no reading shows to leak does not leak. A
    head has a row for each label, or one row for two, and the client knows its labels, so layers of
    other rows are left out.

    Args:
        auditor: how to audit.
        before: weights that the server sent.
        after: what is about to leave.
        sender: whose it is, with its labels.
        limit: advantage above which the doubt is raised.

    Returns:
        What was found; in doubt, in the reading that gives most away, flagged.

    Raises:
        AmbiguousHead: if the head is in doubt, and a reading is above the limit or none possible.
        UncertainForm: the same of the form.
        BadInput: as `Auditor.audit`; where the model or own data fail an attack; and for maps
            unlike a softmax's, unless a declared defense or optimiser explains them.
    """
    try:
        plain = auditor.audit(before, after, sender, strict=True)
        if unread := _unread(plain):
            raise BadInput(unread)
        others = (
            *_as_rows(auditor, before, after, sender, plain),
            *_as_sigmoids(auditor, before, after, sender, plain),
            *_as_shares(auditor, before, after, sender, plain),
        )
        able = [one for one in (plain, *others) if _is_able(one)]
        return max(able or [plain], key=lambda one: one.worst)
    except (UncertainForm, AmbiguousHead) as doubt:
        found = list(_readings(auditor, before, after, sender, doubt))
        shares = [s for one in found for s in _as_shares(auditor, before, after, sender, one)]
        found += filter(_is_able, shares)
        worst = max(found, key=lambda one: (not one.impossible, one.worst), default=None)
        if worst is None or worst.impossible or max(one.worst for one in found) > limit:
            raise
        if any(map(_unread, filter(_is_able, found))):
            raise
        return worst


def _as_rows(
    auditor: Auditor, before: Arrays, after: Arrays, sender: Sender, found: Finding
) -> Iterator[Finding]:
    """Read labels 0 and 1 of many rows as several a sample, too, where nobody said the task."""
    labels, rows = sender.labels or (), found.observation.num_classes
    untold = auditor.task is None and found.task is Task.classes
    if untold and rows > 2 and max(labels, default=2) < 2 and len(labels) % rows == 0:
        told = replace(auditor, task="multilabel")
        yield told.audit(before, after, sender, head=found.head, strict=True)


def _as_sigmoids(
    auditor: Auditor, before: Arrays, after: Arrays, sender: Sender, found: Finding
) -> Iterator[Finding]:
    """Read an update unlike a softmax's as that of a sigmoid a class, or a rank.

    Labels are then one-hot, or a row of ones up to their rank, as ordinal regressions have it.
    """
    if found.task is not Task.classes or not found.raises("not_cross_entropy"):
        return
    classes, labels = found.observation.num_classes, np.asarray(sender.labels or ())
    prior = drawn_by(auditor.prior, classes, 1, 1)
    shares = expected_shares(prior, len(labels), classes)
    for rows in (np.eye(classes, dtype=np.int64), np.tri(classes, k=-1, dtype=np.int64)):
        own = auditor.auxiliary
        if own is not None:
            own = LabelledData(own.inputs, torch.from_numpy(rows)[own.labels])
        drawn = (shares @ rows).clip(1e-6, 1 - 1e-6).tolist()
        told = replace(auditor, task="multilabel", auxiliary=own, prior=drawn)
        each = replace(sender, labels=tuple(rows[labels].ravel().tolist()))
        yield told.audit(before, after, each, head=found.head, strict=True)


def _unread(found: Finding) -> str:
    """Say what was not read of an update: by an attack that failed, or by any; else nothing."""
    for name, why in found.unfed.items():
        return f"{name} could not answer: {why}"
    # An adaptive optimiser that was told explains it as a defense does, where signs allow it.
    adaptive = found.raises("adaptive_optimiser") and not moves_alike(found.observation).any()
    explained = found.observation.largest is not None or adaptive
    maps = found.task is Task.dense and found.raises("not_cross_entropy")
    return SIGMOID_MAPS if maps and not explained else ""


def _as_shares(
    auditor: Auditor, before: Arrays, after: Arrays, sender: Sender, found: Finding
) -> Iterator[Finding]:
    """Read the head's loss as a share of a loss of several heads, where nobody told which."""
    if not found.raises("loss_share_unknown"):
        return
    assert found.trained is not None
    equal = 1 / (1 + len(found.head.beside))
    doubted = replace(sender, flags=(*sender.flags, "loss_share_unknown"))
    for share in sorted({equal, *SHARES}):
        told = replace(auditor, loss_share=share)  # and the doubt stays
        form = found.trained.form
        yield told.audit(before, after, doubted, head=found.head, form=form, strict=True)


def _is_able(found: Finding) -> bool:
    """Return whether a reading is possible, as the true one is."""
    return not found.impossible and not found.refuted


def _readings(
    auditor: Auditor, before: Arrays, after: Arrays, sender: Sender, doubt: Exception
) -> Iterator[Finding]:
    if isinstance(doubt, AmbiguousHead):
        yield from _heads(auditor, before, after, sender, None, doubt)
        return
    for kind in Returns:
        form = Form(kind, str(doubt))
        try:
            yield auditor.audit(before, after, sender, form=form, strict=True)
        except AmbiguousHead as other:
            yield from _heads(auditor, before, after, sender, form, other)


def _fits(rows: int, task: str | None, labels: Sequence[int]) -> bool:
    """Return whether labels may be those of a head with so many rows; one row tells 0 from 1."""
    if task == Task.multilabel:
        return len(labels) % rows == 0
    one = rows == 1 and max(labels, default=0) < 2
    if task == Task.binary:
        return one
    return rows > max(labels, default=0) or (one and task is None)


def _heads(
    auditor: Auditor,
    before: Arrays,
    after: Arrays,
    sender: Sender,
    form: Form | None,
    doubt: AmbiguousHead,
) -> Iterator[Finding]:
    """Audit every layer that may be the head.

    Raises:
        AmbiguousHead: if these are too many, or may not be all.
    """
    pairs = zip(doubt.candidates, doubt.rows, strict=False)
    fitting = [name for name, rows in pairs if _fits(rows, auditor.task, sender.labels or ())]
    if not 0 < len(fitting) <= MOST_HEADS:
        raise doubt
    for name in fitting:
        rivals = tuple(other for other in fitting if other != name)
        head = HeadFinding(name, UNCERTAIN, (str(doubt),), rivals)
        yield auditor.audit(before, after, sender, head=head, form=form, strict=True)


__all__ = ["audit_readings"]

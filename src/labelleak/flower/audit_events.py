"""Events of a client's own audit: what it did not try, and what of an update is in doubt."""

from __future__ import annotations

from labelleak.core.limits import suspect
from labelleak.flower.auditor import Auditor
from labelleak.flower.events import note_once
from labelleak.flower.findings import Finding
from labelleak.records.flags import FLAGS

MODEL_NOT_GIVEN = (
    "the Auditor has no model, so the usual server of a federation, which holds it, was not tried: "
    "give it model= and input_shape="
)

LOSS_NOT_TOLD = (
    "the Auditor was not told {options}, so updates are judged as those of a plain loss: a server "
    "that knows another may read more; tell them (() or 0 for none)"
)


def say_loss_assumed(auditor: Auditor, finding: Finding) -> None:
    """Note once that the loss was taken to be plain, as far as nobody told it."""
    names = ("class_weights", "label_smoothing")
    names = ("pos_weight", *names[1:]) if finding.observation.paired else names
    untold = [name for name in names if getattr(auditor, name) is None]
    if untold and LOSS_NOT_TOLD not in auditor._kept:
        auditor._kept[LOSS_NOT_TOLD] = True
        reason = LOSS_NOT_TOLD.format(options=" and ".join(untold))
        note_once(auditor.home, "loss_not_told", reason=reason)


def say_untried(auditor: Auditor) -> None:
    """Note once that an auditor tries a weaker server than the usual one, if it does."""
    if auditor.model is None and "model_not_given" not in auditor._kept:
        auditor._kept["model_not_given"] = True
        note_once(auditor.home, "model_not_given", reason=MODEL_NOT_GIVEN)


def say_doubts(auditor: Auditor, finding: Finding) -> None:
    """Note what of an update cannot be as it was told."""
    limits, sender = finding.limits, finding.sender
    why = {name: f"{FLAGS[name].says}: {FLAGS[name].advice}" for name in finding.refuted}
    if limits is not None and limits.scale.any():
        why["impossible_scale"] = suspect(limits, finding.observation, auditor.momentum)
    elif limits is not None and limits.sign.any():
        why["impossible_sign"] = FLAGS["impossible_sign"].says
    for name, reason in why.items():
        auditor.note(name, round=sender.round, client=sender.client, reason=reason)


__all__ = ["say_doubts", "say_loss_assumed", "say_untried"]

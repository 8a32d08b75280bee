"""Events of a client's own audit: what it did not try, and what of an update is in doubt."""

from __future__ import annotations

from labelleak.core.limits import suspect
from labelleak.flower.auditor import Auditor
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


_STEPS = "several_local_steps"
STEPS_NOT_TRIED = (
    "clients take several local steps, and every attack that was tried assumes one: an attacker of "
    'several may read more. Give the Auditor model=, auxiliary= and attacks=["rules", '
    '"interpolation", "soft_label_shares"]; client_simulation is the slow third'
)
PRIOR_ASSUMED = (
    "a client's labels are unlike batches drawn evenly over the classes, which the guess without "
    "the update takes them for; what leaks of such updates is judged beside what that guess names "
    "of them, while the records' advantages are below it. Give Auditor(prior=...)"
)


def say_assumed(auditor: Auditor, finding: Finding, *, acts: bool) -> None:
    """Note once each what an audit assumed and did not try.

    Args:
        auditor: whose events they are.
        finding: an update's.
        acts: whether updates leave or not by what is found, so that more must be said.
    """
    if acts:
        say_untried(auditor)
        say_loss_assumed(auditor, finding)
        say_steps_untried(auditor, finding)
    say_prior_assumed(auditor, finding)


def say_loss_assumed(auditor: Auditor, finding: Finding) -> None:
    """Note once that the loss was taken to be plain, as far as nobody told it."""
    names = ("class_weights", "label_smoothing")
    names = ("pos_weight", *names[1:]) if finding.observation.paired else names
    untold = [name for name in names if getattr(auditor, name) is None]
    if untold:
        reason = LOSS_NOT_TOLD.format(options=" and ".join(untold))
        auditor.note_once("loss_not_told", reason=reason)


def say_prior_assumed(auditor: Auditor, finding: Finding) -> None:
    """Note once that labels are unlike the even batches that the guess assumed."""
    if finding.unsuited.any():
        auditor.note_once("prior_assumed", reason=PRIOR_ASSUMED)


def say_steps_untried(auditor: Auditor, finding: Finding) -> None:
    """Note once that every attack that was tried assumes one step, where clients take several."""
    read = [one for one in finding.answers if one.threat_model != "none"]
    bent = [any(f.name == _STEPS and f.raised.any() for f in one.flags) for one in read]
    if read and all(bent):
        auditor.note_once("several_steps_not_tried", reason=STEPS_NOT_TRIED)


def say_untried(auditor: Auditor) -> None:
    """Note once that an auditor tries a weaker server than the usual one, if it does."""
    if auditor.model is None:
        auditor.note_once("model_not_given", reason=MODEL_NOT_GIVEN)


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


__all__ = [
    "say_assumed",
    "say_doubts",
    "say_loss_assumed",
    "say_prior_assumed",
    "say_steps_untried",
    "say_untried",
]

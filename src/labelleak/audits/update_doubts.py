"""What one update refutes of what was told: its form, and the number of its labels."""

from __future__ import annotations

from labelleak.audits.attacker_model import AS_BUILT
from labelleak.core.batch_size import BatchSize, estimate_batch_size
from labelleak.core.head_finding import HeadFinding, listed, module_shown
from labelleak.core.knowledge import Knowledge
from labelleak.core.likeness import doubt_weights, refuse_weights
from labelleak.core.limits import is_clean
from labelleak.core.observation import Observation
from labelleak.core.task import Task
from labelleak.core.training import LocalTraining
from labelleak.core.update import ReceivedUpdate
from labelleak.core.white_box import WhiteBox
from labelleak.errors import NotApplicable

STEPS_ASSUMED = (
    "the number of local steps was not told, and 1 was taken: with more, N and the size of the "
    "gradient are others, and counts are wrong; give `local_steps`"
)
# Confidence from which another number is believed more than the one that was told.
_SURE = 0.99
# Classes up to which the number is looked at; of more it takes long.
_MOST_CLASSES = 1000


def refuse_weights_of(update: ReceivedUpdate, view: WhiteBox | None) -> None:
    """Refuse weights that were given as a gradient or a difference.

    Raises:
        BadInput: naming the form, and what tells.
    """
    own = None if view is None else view.module.state_dict()
    for said, given in (("gradient", update.gradient), ("difference", update.difference)):
        if given is not None:
            refuse_weights(said, given, own)


def update_doubts(
    update: ReceivedUpdate, seen: Observation, known: Knowledge, *, told: bool
) -> dict[str, str]:
    """Return the flags to raise of what was told of an update, each with a note.

    Args:
        update: as it was received.
        seen: the same at the head.
        known: the model and data that are held.
        told: whether the number of labels was told, and not read off the update.
    """
    if seen.head_is_still:
        return {
            "head_unchanged": "the head did not change at all, so no answer rests on this update: "
            "the client did not train, or the weights before and after are the same"
        }
    found = {}
    if update.contradicted:
        found["training_contradicted"] = "; ".join(update.contradicted)
    if update.gradient is None and update.training.local_steps is None:
        found["steps_unknown"] = STEPS_ASSUMED
    if not known.weights_known:
        found["weights_assumed"] = AS_BUILT
    form = ""
    if update.before is not None and update.after is not None and not update.measured.known:
        form = doubt_weights(update.before, update.after)
    if form:
        found["reply_form_uncertain"] = f"the weights after do not look like weights: {form}"
    shown = other_size(seen, known, update.training) if told else None
    if shown is not None:
        found["samples_inconsistent"] = (
            f"the bias gradient looks like that of {shown.num_samples} labels or a multiple "
            f"(confidence {shown.confidence:.2f}), not of {seen.num_samples}"
        )
    return found


def share_doubt(update: ReceivedUpdate, head: HeadFinding) -> dict[str, str]:
    """Return the flag of a head that shares the loss with others, where its share is not known."""
    measured = update.measured
    known = update.training.loss_share is not None or measured.gradient_scale is not None
    if not head.beside or known or measured.holds_scale:
        return {}
    return {
        "loss_share_unknown": f"{listed(head.beside)} learnt beside the head "
        f"{module_shown(head.name)}, by losses of their own; its share of the loss was taken as 1, "
        "and counts are wrong if it is another: give `loss_share`"
    }


def other_size(seen: Observation, known: Knowledge, told: LocalTraining) -> BatchSize | None:
    """Return the number of labels that the update shows, where it is not the one that was told.

    Counts are whole numbers for the right N and its multiples, by the model's posteriors on own
    data (`estimate_batch_size`). So a multiple of the number shown is not refuted, nor is anything
    after several steps, of an unknown scale, or where labels were told to be soft or weighted.

    Args:
        seen: the update, with the number that was told.
        known: the model and data that are held.
        told: how the client trained, as far as it is known.
    """
    soft = bool(told.label_smoothing) or len({*(told.class_weights or ())}) > 1
    plain = seen.problems == 1 and not seen.paired and seen.local_steps == 1 and not soft
    held = known.model is not None and known.auxiliary is not None and known.weights_known
    if seen.num_samples is None or seen.bias is None or not (plain and held and seen.lr_known):
        return None
    few = known.model is not None and known.model.task is Task.classes
    if not few or seen.num_classes > _MOST_CLASSES or not bool(is_clean(seen)):
        return None
    try:
        shown = estimate_batch_size(seen, known)
    except NotApplicable:
        return None
    sure = shown.confidence > _SURE and seen.num_samples % shown.num_samples != 0
    return shown if sure else None


__all__ = ["other_size", "refuse_weights_of", "share_doubt", "update_doubts"]

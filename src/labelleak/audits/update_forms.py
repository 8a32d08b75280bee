"""Whether one update is of the form that it was given in: weights, a gradient or a difference."""

from __future__ import annotations

from labelleak.core.likeness import doubt_weights, refuse_weights
from labelleak.core.update import ReceivedUpdate
from labelleak.core.white_box import WhiteBox


def refuse_weights_of(update: ReceivedUpdate, view: WhiteBox | None) -> None:
    """Refuse weights that were given as a gradient or a difference.

    Raises:
        BadInput: naming the form, and what tells.
    """
    own = None if view is None else view.module.state_dict()
    for said, given in (("gradient", update.gradient), ("difference", update.difference)):
        if given is not None:
            refuse_weights(said, given, own)


def form_doubt(update: ReceivedUpdate) -> str:
    """Say why the weights after do not look like weights; empty where a capture made them."""
    if update.before is None or update.after is None or update.measured.known:
        return ""
    return doubt_weights(update.before, update.after)


__all__ = ["form_doubt", "refuse_weights_of"]

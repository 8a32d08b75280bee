"""The states of an assumption: held, failed, repaired, impossible, or not known."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from enum import StrEnum
from typing import Any

from labelleak.records.flags import FLAGS, Doubt


class State(StrEnum):
    """What is known of an assumption.

    Attributes:
        held: it was told or measured, and holds.
        failed: it was told or measured, and does not hold.
        not_known: nobody told it, and it cannot be measured here.
        repaired: it did not hold, and was undone before the attacks.
        impossible: no update of the assumed kind looks like this one.
    """

    held = "held"
    failed = "failed"
    not_known = "not_known"
    repaired = "repaired"
    impossible = "impossible"


IMPOSSIBLE = ("impossible_scale", "impossible_sign")


def doubts(
    flags: Iterable[str], kinds: Collection[Doubt] = tuple(Doubt), *, defended: bool = False
) -> list[str]:
    """Name the raised flags with which a low figure is no evidence of safety.

    Args:
        flags: names of the raised flags; those that no release raises are left out.
        kinds: the kinds of doubt that count.
        defended: whether a defense was declared, which explains entries unlike the loss.

    >>> doubts(["task_assumed", "momentum", "pos_weight"])
    ['task_assumed', 'pos_weight']
    >>> doubts(["pos_weight"], defended=True)
    []
    """
    counted = {Doubt.untold} & {*kinds} if defended else kinds
    return [name for name in flags if name in FLAGS and FLAGS[name].doubt in counted]


def is_settled(extra: Mapping[str, Any], flags: Iterable[str] = (), defense: str = "none") -> bool:
    """Return whether what a record's figures rest on holds; audits made it and do not say.

    Scale and sign must hold, and no flag may be raised with which a low figure shows nothing.

    >>> is_settled({}), is_settled({"scale": "held", "sign": "not_known"})
    (True, False)
    >>> is_settled({"scale": "held"}, ["task_assumed"])
    False
    """
    said = [extra[key] for key in ("scale", "sign") if key in extra]
    held = all(state == State.held for state in said)
    return held and not (said and doubts(flags, defended=defense != "none"))


__all__ = ["IMPOSSIBLE", "State", "doubts", "is_settled"]

"""The states of an assumption: held, failed, repaired, impossible, or not known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any


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


# Flags of a loss that weighs labels otherwise than was told, or may.
WEIGHED = frozenset({"pos_weight", "pos_weight_assumed"})


def is_settled(extra: Mapping[str, Any], flags: Iterable[str] = ()) -> bool:
    """Return whether a record's scale and sign hold; audits made them and do not say.

    Of sigmoids the scale holds where the weight of positives is known.

    >>> is_settled({}), is_settled({"scale": "held", "sign": "not_known"})
    (True, False)
    """
    held = all(extra.get(key, State.held) == State.held for key in ("scale", "sign"))
    return held and WEIGHED.isdisjoint(flags)


__all__ = ["IMPOSSIBLE", "State", "is_settled"]

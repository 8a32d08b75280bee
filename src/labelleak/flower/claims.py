"""What a client says of itself and its training: short, in range, and never taken for a key."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from labelleak.errors import shown

NUM_EXAMPLES = ("num-examples", "num_examples")
PARTITION = "partition-id"
# No client of a federation trains on more; what it says beyond that is refused, and said to be.
# What an audit costs hangs on neither: they enter in closed form.
MOST_SAMPLES, MOST_STEPS = 10**9, 10**5
MOST_LETTERS = 60
# Names of what SCAFFOLD, FedDyn and their kind send beside or among the weights.
_CONTROL = re.compile(r"control|variate|scaffold|feddyn", re.IGNORECASE)


@dataclass(frozen=True)
class Claim:
    """A number that a client said, if it can be believed.

    Attributes:
        value: the number; None where none was said, or none that can be.
        refused: what was said instead, short and printable; empty where nothing is wrong.
    """

    value: int | None = None
    refused: str = ""


def num_examples(metrics: Mapping[str, Any], epochs: int = 1) -> Claim:
    """Return the number of examples that a reply says it was trained on, in so many epochs.

    >>> num_examples({"num-examples": 32}).value, num_examples({"num-examples": -5}).refused
    (32, "'-5'")
    """
    most = MOST_SAMPLES // epochs
    said = [_whole(metrics[name], most) for name in NUM_EXAMPLES if name in metrics]
    believed = [claim for claim in said if claim.value is not None]
    return next(iter([*believed, *said]), Claim(refused="nothing"))


def steps_said(metrics: Mapping[str, Any], metric: str) -> Claim:
    """Return the local steps that a reply says it took."""
    return _whole(metrics.get(metric, "nothing"), MOST_STEPS)


def _whole(said: object, most: int) -> Claim:
    number = isinstance(said, (int, float)) and not isinstance(said, bool)
    if number and 1 <= said <= most:  # type: ignore[operator]
        return Claim(int(said))  # type: ignore[call-overload]
    return Claim(refused=_short(said))


def partition_of(said: object) -> tuple[str | None, str]:
    """Return the partition that a client claims, and what it claimed if that cannot be shown.

    >>> partition_of(3), partition_of("a" * 100)[0], partition_of([1, 2])
    (('3', ''), None, (None, "'[1, 2]'"))
    """
    if said is None:
        return None, ""
    text = str(said) if isinstance(said, int) and abs(said) < 2**63 else said
    if not isinstance(text, str) or not 0 < len(text) <= MOST_LETTERS:
        return None, _short(said)
    return (text, "") if text.isascii() and text.isprintable() else (None, _short(said))


def _short(said: object) -> str:
    if isinstance(said, (list, tuple, bytes)):
        said = said[: MOST_LETTERS + 1]
    if isinstance(said, int) and abs(said) >= 2**63:
        return "a number of more than 64 bits"
    return shown(said)


def lr_said(records: Iterable[Mapping[str, Any]], key: str) -> float | None:
    """Return the learning rate in a message's configuration; None if there is none."""
    for record in records:
        said = record.get(key)
        number = isinstance(said, (int, float)) and not isinstance(said, bool)
        if number and 0 < said < math.inf:  # type: ignore[operator]
            return float(said)  # type: ignore[arg-type]
    return None


def controls_named(names: Iterable[str]) -> bool:
    """Return whether a name is one of SCAFFOLD's or FedDyn's terms.

    >>> controls_named(["fc.weight", "control_fc.weight"]), controls_named(["fc.bias"])
    (True, False)
    """
    return any(_CONTROL.search(name[:200]) for name in names)


def steps_in(samples: int | None, batch_size: int | None, epochs: int | None) -> int | None:
    """Return the steps of so many epochs: ceil(n / B) in each; None where that is not known.

    >>> steps_in(70, 32, 2), steps_in(70, None, 2)
    (6, None)
    """
    if samples is None or batch_size is None or epochs is None:
        return None
    steps = -(-samples // batch_size) * epochs
    return steps if steps <= MOST_STEPS else None


__all__ = [
    "MOST_SAMPLES",
    "MOST_STEPS",
    "NUM_EXAMPLES",
    "PARTITION",
    "Claim",
    "controls_named",
    "lr_said",
    "num_examples",
    "partition_of",
    "steps_in",
    "steps_said",
]

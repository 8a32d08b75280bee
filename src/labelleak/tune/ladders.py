"""Families of defenses, each a ladder of settings from the weakest to the strongest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from labelleak.defenses import parse_defense, remarks
from labelleak.errors import BadInput, unknown_name

RUNGS_PER_DECADE = 4


def _decades(low: int, high: int) -> list[float]:
    """Return strengths from 10^low to 10^high, evenly spaced on a logarithmic scale."""
    rungs = range(low * RUNGS_PER_DECADE, high * RUNGS_PER_DECADE + 1)
    return [10.0 ** (rung / RUNGS_PER_DECADE) for rung in rungs]


_NOISE = [f"{sigma:.3g}" for sigma in _decades(-3, 1)]
_KEPT = [f"{keep:.3g}" for keep in reversed(_decades(-4, 0)[:-1])]
_PRUNED = [f"{1 - float(keep):.6g}" for keep in _KEPT]

_LADDERS: dict[str, tuple[str, ...]] = {
    "gaussian": tuple(f"gaussian:{s}" for s in _NOISE),
    "laplace": tuple(f"laplace:{s}" for s in _NOISE),
    "head_noise": tuple(f"head_noise:{s}" for s in _NOISE),
    "clip|gaussian": tuple(f"clip:1|gaussian:{s}" for s in _NOISE),
    "prune": tuple(f"prune:{share}" for share in _PRUNED),
    "topk": tuple(f"topk:{keep}" for keep in _KEPT),
    "topk_feedback": tuple(f"topk:{keep}:feedback" for keep in _KEPT),
    "randomk": tuple(f"randomk:{keep}" for keep in _KEPT),
    "dgc": tuple(f"dgc:{keep}" for keep in _KEPT),
    "sign": ("sign:scaled",),
    "qsgd": tuple(f"qsgd:{2**power}" for power in range(8, -1, -1)),
    "bits": tuple(f"bits:{bits}" for bits in (16, 8, 6, 4, 3, 2)),
    "withhold": ("withhold:bias", "withhold:head"),
    "dpsgd": tuple(f"dpsgd:1:{s}" for s in (f"{x:.3g}" for x in _decades(-2, 2))),
    "label_smoothing": tuple(f"label_smoothing:{a / 10:g}" for a in range(1, 10)),
    "mixup": tuple(f"mixup:{alpha}" for alpha in (0.1, 0.2, 0.4, 1.0, 2.0, 4.0)),
    "head_dropout": tuple(f"head_dropout:{rate / 10:g}" for rate in range(1, 10)),
    "randomised_response": tuple(f"randomised_response:{e}" for e in (8, 4, 2, 1, 0.5, 0.25, 0.1)),
}
# Labels as records write them, with fields at their default left out.
LADDERS = {
    name: tuple(parse_defense(label).label for label in labels) for name, labels in _LADDERS.items()
}


@dataclass(frozen=True)
class Family:
    """Defenses that differ in strength alone.

    Attributes:
        name: as on the command line.
        labels: text forms, the weakest first.
    """

    name: str
    labels: tuple[str, ...]


def make_family(text: str) -> Family:
    """Take a family by name; a defense with its strength written out is a family of one.

    Raises:
        BadInput: for an unknown name, a defense that cannot be, or one that is off.

    >>> make_family("sign").labels, make_family("clip:2|gaussian:0.1").labels
    (('sign:scaled',), ('clip:2|gaussian:0.1',))
    """
    if text in LADDERS:
        return Family(text, LADDERS[text])
    if ":" not in text:
        raise unknown_name("family of defenses", text, LADDERS)
    chain = parse_defense(text)
    if chain.is_off:
        raise BadInput(f"{remarks(chain)[0]}; give a strength, or a family such as gaussian")
    return Family(chain.label, (chain.label,))


def make_families(texts: Sequence[str]) -> tuple[Family, ...]:
    """Take families by name; as `make_family`."""
    return tuple(make_family(text) for text in texts)


def spread(families: Sequence[Family], points: int) -> list[tuple[Family, int]]:
    """Lay a plain grid over families: about as many rungs of each, evenly over its ladder.

    A short ladder gives all its rungs, and longer ones what it leaves over.

    Args:
        families: what to lay it over.
        points: how many in all; fewer where the ladders are too short together.

    >>> found = spread([make_family("sign"), make_family("qsgd")], 4)
    >>> [family.labels[rung] for family, rung in found]
    ['sign:scaled', 'qsgd:256', 'qsgd:16', 'qsgd:1']
    """
    chosen: list[tuple[Family, int]] = []
    left = points
    waiting = sorted(families, key=lambda family: len(family.labels))
    for place, family in enumerate(waiting):
        number = min(len(family.labels), left // (len(waiting) - place))
        left -= number
        last = len(family.labels) - 1
        rungs = {round(last * i / max(1, number - 1)) for i in range(number)}
        chosen += [(family, rung) for rung in sorted(rungs)]
    return chosen


__all__ = ["LADDERS", "Family", "make_families", "make_family", "spread"]

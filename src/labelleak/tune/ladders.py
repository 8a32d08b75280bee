"""Families of defenses, each a ladder of settings from the weakest to the strongest."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from labelleak.defenses import DEFENSES, parse_defense, remarks
from labelleak.errors import BadInput, unknown_name
from labelleak.report.markdown import table

# Labels as records write them, with fields at their default left out.
LADDERS = {
    name: tuple(parse_defense(label).label for label in labels)
    for defense in DEFENSES.values()
    for name, labels in defense.ladders.items()
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

    A short ladder gives all its rungs, and longer ones what it leaves over. A ladder of which only
    one rung is taken gives its middle: its end, the weakest setting, would say nothing.

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
        if number == 1:
            rungs = {last // 2}
        else:
            rungs = {round(last * i / (number - 1)) for i in range(number)}
        chosen += [(family, rung) for rung in sorted(rungs)]
    return chosen


def list_families(standard: Sequence[str]) -> str:
    """Return as Markdown which families are searched by default, how far, and which others are.

    Args:
        standard: names of those that are searched unless others are named.

    >>> print(list_families(["sign", "qsgd"]).split("\\n\\n")[0])
    | family | settings | weakest | strongest |
    |---|---|---|---|
    | `sign` | 1 | `sign:scaled` | `sign:scaled` |
    | `qsgd` | 9 | `qsgd:256` | `qsgd:1` |
    """
    heads = ["family", "settings", "weakest", "strongest"]
    rows = []
    for name in standard:
        labels = LADDERS[name]
        ends = [f"`{text}`" for text in (name, labels[0], labels[-1])]
        rows.append([ends[0], str(len(labels)), *ends[1:]])
    others = ", ".join(f"`{name}`" for name in LADDERS if name not in standard)
    more = f"Others by name: {others}; or any defense written out."
    return f"{table(heads, rows)}\n\n{textwrap.fill(more, 100, break_on_hyphens=False)}"


__all__ = ["LADDERS", "Family", "list_families", "make_families", "make_family", "spread"]

"""What lists, flags and pages say of an attack; the attack holds it as an attribute."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from labelleak.records.assumptions import Assumption

# Attacks that solve a system of K classes for every trial leave the battery above so many.
MANY_CLASSES = 256


@dataclass(frozen=True)
class Card:
    """What is known of an attack beside its name, its needs and its source.

    Attributes:
        title: its name as the literature writes it, for pages and tables.
        assumes: what it takes for granted; flags that say otherwise concern it.
        standard: whether it is in the standard battery.
        learns: whether it fits a model of its own first, so that it is no quick rule.
        quick_up_to: largest number of classes for which it stays in the battery; above, it must
            be named. None: it is quick for any number.
        plain: what it does, in one sentence for a reader who knows no formula.
    """

    title: str
    assumes: frozenset[Assumption] = frozenset()
    standard: bool = False
    learns: bool = False
    quick_up_to: int | None = None
    plain: str = ""

    def renamed(self, title: str, plain: str, *, quick_up_to: int | None = None) -> Card:
        """Return the card of an attack of the same kind: all but its title, sentence and limit."""
        return replace(self, title=title, plain=plain, quick_up_to=quick_up_to or self.quick_up_to)

    def without(self, assumption: Assumption) -> Card:
        """Return the card of an attack that does not assume something."""
        return replace(self, assumes=self.assumes - {assumption})


def card_of(attack: Any) -> Card:
    """Return the card of an attack; one that has none may assume anything.

    >>> class Own:
    ...     name = "own"
    >>> card_of(Own).title, len(card_of(Own).assumes) == len(Assumption)
    ('own', True)
    """
    card = getattr(attack, "card", None)
    return card if isinstance(card, Card) else Card(attack.name, frozenset(Assumption))


__all__ = ["MANY_CLASSES", "Card", "card_of"]

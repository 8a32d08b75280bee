"""The attacks, one file a family; a new one is its file and one line here."""

from __future__ import annotations

from labelleak.attacks.baselines import FreeGuess, RandomGuess
from labelleak.attacks.llg import LLG, Dummies, LLGPlus, LLGStar, dummies_for
from labelleak.errors import unknown_name
from labelleak.interfaces import Attack

ATTACKS: dict[str, type[Attack]] = {
    attack.name: attack
    for attack in (
        RandomGuess,
        FreeGuess,
        LLG,
        LLGStar,
        LLGPlus,
    )
}


def make_attack(name: str) -> Attack:
    """Build the attack of a name, with its default options.

    Raises:
        BadInput: for a name that is no attack; the sentence names the nearest one.

    >>> make_attack("llg").name
    'llg'
    """
    if name not in ATTACKS:
        raise unknown_name("attack", name, ATTACKS)
    return ATTACKS[name]()


__all__ = [
    "ATTACKS",
    "LLG",
    "Dummies",
    "FreeGuess",
    "LLGPlus",
    "LLGStar",
    "RandomGuess",
    "dummies_for",
    "make_attack",
]

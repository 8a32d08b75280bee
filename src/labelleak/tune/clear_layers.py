"""Which defenses leave layers in the clear, and whether anybody who was asked reads them."""

from __future__ import annotations

from labelleak.defenses import Part, parse_defense
from labelleak.defenses.facts import HEAD_ALONE, WITHHELD, Kind


def is_attacked(label: str, attacker: str) -> bool:
    """Return whether an attacker reads every layer that a defense shares in the clear.

    Attackers of the layers below the head hold auxiliary data. One who holds less reads the head
    alone, so a defense of the head alone leaves the others to nobody who was asked.

    >>> is_attacked("withhold:head", "auxiliary"), is_attacked("head_noise:1", "model")
    (True, False)
    """
    return attacker == "auxiliary" or not leaves_layers_clear(label)


def leaves_layers_clear(label: str) -> bool:
    """Return whether all parts of a defense leave layers below the head as they are, or scale them.

    >>> leaves_layers_clear("withhold:last_2"), leaves_layers_clear("withhold:head|gaussian:1")
    (True, False)
    """
    return all(_leaves_clear(part) for part in parse_defense(label).parts)


def _leaves_clear(part: Part) -> bool:
    spared = {HEAD_ALONE, WITHHELD} & {*part.leaves_open}
    return bool(spared) or part.is_off or part.kind in (Kind.CLIP, Kind.SERVER)


__all__ = ["is_attacked", "leaves_layers_clear"]

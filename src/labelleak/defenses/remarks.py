"""What must be said of a chain of defenses: parts that are off, orders that defeat themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from labelleak.core.knowledge import Defense
from labelleak.defenses.composition import Part, as_part
from labelleak.defenses.facts import Kind

_SAVES = {Kind.SPARSE, Kind.COARSE}


def remarks(defense: Defense) -> tuple[str, ...]:
    """Return one sentence for each thing about a defense that its user may not expect.

    >>> from labelleak.defenses import parse_defense
    >>> remarks(parse_defense("gaussian:0"))
    ('gaussian:0 is off: at this strength it changes nothing',)
    """
    parts = as_part(defense).parts
    return tuple(dict.fromkeys((*_off(parts), *_orders(parts), *_alone(parts))))


def _off(parts: tuple[Part, ...]) -> Iterator[str]:
    for part in parts:
        if part.is_off:
            yield f"{part.label} is off: at this strength it changes nothing"


def _orders(parts: tuple[Part, ...]) -> Iterator[str]:
    active = [part for part in parts if not part.is_off]
    for place, first in enumerate(active):
        later = active[place + 1 :]
        if first.kind in _SAVES:
            yield from _filled(first, later)
        clip = next((part for part in later if part.kind is Kind.CLIP), None)
        bounded = any(part.kind is Kind.CLIP for part in active[:place])
        if first.kind is Kind.NOISE and clip and not bounded:
            yield (
                f"{clip.label} after {first.label} bounds noise and update together; clip "
                "first if the noise is to be private"
            )
        hider = next((part for part in later if part.hides_head), None)
        if first.kind is Kind.NOISE and first.uses_head and hider:
            yield f"{first.label} is lost: {hider.label} leaves out all that it changes"


def _filled(first: Part, later: Sequence[Part]) -> Iterator[str]:
    """Say of noise that undoes what was saved, unless something saves again after it."""
    noises = [place for place, part in enumerate(later) if part.kind is Kind.NOISE]
    if not noises or any(part.kind in _SAVES for part in later[noises[-1] + 1 :]):
        return
    whole = [later[place] for place in noises if not later[place].uses_head]
    noise = whole[0] if whole else later[noises[0]]
    where, there = ("every entry", "") if whole else ("the head's entries", " there")
    yield (
        f"{noise.label} after {first.label} fills {where} with floats again, so nothing is saved "
        f"on the wire{there}"
    )


def _alone(parts: tuple[Part, ...]) -> Iterator[str]:
    kinds = {part.kind for part in parts if not part.is_off}
    if kinds == {Kind.CLIP}:
        yield "clipping alone scales an update and keeps its signs and ratios: it hides no label"
    if Kind.SERVER in kinds:
        yield "what the server does to an update does not hide it from that server"


__all__ = ["remarks"]

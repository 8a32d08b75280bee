"""What must be said of a chain of defenses: parts that are off, orders that defeat themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from labelleak.core.interfaces import Defense
from labelleak.defenses.composition import Part, as_part

_SPARSE = {"topk", "randomk", "prune", "threshold", "dgc"}
_COARSE = {"sign", "qsgd", "bits", "float16"}
_NOISE = {"gaussian", "laplace", "exponential", "head_noise"}
_CLIPS = {"clip", "clip_layers"}


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
        if first.name in _SPARSE | _COARSE:
            yield from _filled(first, later)
        clip = next((part for part in later if part.name in _CLIPS), None)
        bounded = any(part.name in _CLIPS for part in active[:place])
        if first.name in _NOISE and clip and not bounded:
            yield (
                f"{clip.label} after {first.label} bounds noise and update together; clip "
                "first if the noise is to be private"
            )
        if first.name == "head_noise" and any(part.label == "withhold:head" for part in later):
            yield f"{first.label} is lost: withhold:head leaves out all that it changes"


def _filled(first: Part, later: Sequence[Part]) -> Iterator[str]:
    """Say of noise that undoes what was saved, unless something saves again after it."""
    noises = [place for place, part in enumerate(later) if part.name in _NOISE]
    if not noises or any(part.name in _SPARSE | _COARSE for part in later[noises[-1] + 1 :]):
        return
    whole = [later[place] for place in noises if later[place].name != "head_noise"]
    noise = whole[0] if whole else later[noises[0]]
    where, there = ("every entry", "") if whole else ("the head's entries", " there")
    yield (
        f"{noise.label} after {first.label} fills {where} with floats again, so nothing is saved "
        f"on the wire{there}"
    )


def _alone(parts: tuple[Part, ...]) -> Iterator[str]:
    names = {part.name for part in parts if not part.is_off}
    if names and names <= _CLIPS:
        yield "clipping alone scales an update and keeps its signs and ratios: it hides no label"
    if "server_noise" in names:
        yield "noise that the server adds does not hide an update from that server"


__all__ = ["remarks"]

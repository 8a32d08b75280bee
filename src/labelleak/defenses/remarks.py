"""What must be said of a chain of defenses: parts that are off, orders that defeat themselves."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from labelleak.defenses.composition import Part, as_part
from labelleak.interfaces import Defense

_SPARSE = {"topk", "randomk", "prune", "threshold", "dgc"}
_COARSE = {"sign", "qsgd", "bits", "float16"}
_NOISE = {"gaussian", "laplace", "exponential", "head_noise"}
_CLIPS = {"clip", "clip_layers"}


def remarks(defense: Defense) -> tuple[str, ...]:
    """Give one sentence for each thing about a defense that its user may not expect.

    >>> from labelleak.defenses import parse_defense
    >>> remarks(parse_defense("gaussian:0"))
    ('gaussian:0 is off: at this strength it changes nothing',)
    """
    parts = as_part(defense).parts
    return (*_off(parts), *_orders(parts), *_alone(parts))


def _off(parts: tuple[Part, ...]) -> Iterator[str]:
    for part in parts:
        if part.is_off:
            yield f"{part.label} is off: at this strength it changes nothing"


def _orders(parts: tuple[Part, ...]) -> Iterator[str]:
    active = [part for part in parts if not part.is_off]
    for first, second in pairwise(active):
        if first.name in _SPARSE | _COARSE and second.name in _NOISE:
            yield (
                f"{second.label} after {first.label} fills every entry with floats again, so "
                "nothing is saved on the wire"
            )
        if first.name in _NOISE and second.name in _CLIPS:
            yield (
                f"{second.label} after {first.label} bounds noise and update together; clip "
                "first if the noise is to be private"
            )


def _alone(parts: tuple[Part, ...]) -> Iterator[str]:
    names = {part.name for part in parts if not part.is_off}
    if names and names <= _CLIPS:
        yield "clipping alone scales an update and keeps its signs and ratios: it hides no label"
    if "server_noise" in names:
        yield "noise that the server adds does not hide an update from that server"


__all__ = ["remarks"]

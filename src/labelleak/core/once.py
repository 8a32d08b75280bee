"""Figures of an observation that several checks ask for, worked out once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from operator import is_
from typing import Concatenate, ParamSpec, TypeVar

from labelleak.core.head_sums import locked
from labelleak.core.observation import Observation

Figure = TypeVar("Figure")
Told = ParamSpec("Told")


def once(
    measure: Callable[Concatenate[Observation, Told], Figure],
) -> Callable[Concatenate[Observation, Told], Figure]:
    """Keep what a function says of an observation with it, for an observation does not change.

    It is kept under the function's name, for what was told beside the last time: for the very
    objects, since equal ones may hold numbers of other kinds. Arrays may not be written to any
    more, since whoever asks gets the same ones.

    >>> @once
    ... def largest(observation, factor=1.0):
    ...     return factor * observation.bias_gradient.max()
    >>> seen, factor = Observation.from_gradient(None, [-0.5, 0.5]), 2.0
    >>> largest(seen) is largest(seen), largest(seen, factor) is largest(seen, factor)
    (True, True)
    """
    name = f"once {measure.__module__}.{measure.__qualname__}"

    @wraps(measure)
    def asked(observation: Observation, /, *told: Told.args, **named: Told.kwargs) -> Figure:
        held, beside = vars(observation), (*told, *named, *named.values())
        # Read once and written whole: another thread may ask with other things told beside.
        kept: tuple[tuple[object, ...], Figure] | None = held.get(name)
        if kept is None or not are_same(kept[0], beside):
            kept = held[name] = beside, locked(measure(observation, *told, **named))
        return kept[1]

    return asked


def are_same(before: Sequence[object], now: Sequence[object]) -> bool:
    """Return whether two sequences hold the very same objects.

    >>> are_same((), []), are_same(([],), ([],))
    (True, False)
    """
    return len(before) == len(now) and all(map(is_, before, now))


__all__ = ["are_same", "once"]

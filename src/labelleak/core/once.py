"""Figures of an observation that several checks ask for, worked out once."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
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
        before = held.get(name, (None, None))[0]
        same = before is not None and len(before) == len(beside)
        if not same or any(old is not new for old, new in zip(before, beside, strict=True)):
            held[name] = beside, locked(measure(observation, *told, **named))
        kept: Figure = held[name][1]
        return kept

    return asked


__all__ = ["once"]

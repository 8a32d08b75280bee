"""Figures of an observation that several checks ask for, worked out once."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TypeVar

from labelleak.core.head_sums import locked
from labelleak.core.observation import Observation

Figure = TypeVar("Figure")
Told = TypeVar("Told")


def once_each(measure: Callable[[Observation], Figure]) -> Callable[[Observation], Figure]:
    """Keep what a function says of an observation with it, for an observation does not change.

    It is kept under the function's name. Arrays may not be written to any more, since whoever
    asks gets the same ones.

    >>> @once_each
    ... def largest(observation):
    ...     return observation.bias_gradient.max()
    >>> seen = Observation.from_gradient(None, [-0.5, 0.5])
    >>> largest(seen) is largest(seen)
    True
    """
    name = f"once {measure.__module__}.{measure.__qualname__}"

    @wraps(measure)
    def asked(observation: Observation) -> Figure:
        held = vars(observation)
        if name not in held:
            held[name] = locked(measure(observation))
        kept: Figure = held[name]
        return kept

    return asked


def once_of(
    measure: Callable[[Observation, Told], Figure],
) -> Callable[[Observation, Told], Figure]:
    """Keep what a function says of an observation and of something told beside, for the last told.

    It is kept with the observation, so another update is measured anew, and only for the very
    object that was told: an equal one may hold numbers of other kinds.

    >>> @once_of
    ... def scaled(observation, factor):
    ...     return (factor * observation.bias_gradient,)
    >>> seen, factor = Observation.from_gradient(None, [-0.5, 0.5]), 2.0
    >>> scaled(seen, factor) is scaled(seen, factor)
    True
    """
    name = f"once {measure.__module__}.{measure.__qualname__}"

    @wraps(measure)
    def asked(observation: Observation, told: Told) -> Figure:
        held = vars(observation)
        if name not in held or held[name][0] is not told:
            held[name] = told, locked(measure(observation, told))
        kept: Figure = held[name][1]
        return kept

    return asked


__all__ = ["once_each", "once_of"]

"""What attacks cannot do without, by name."""

from __future__ import annotations

from enum import Enum
from functools import cache


class Need(Enum):
    """Something that an attack cannot do without."""

    WEIGHT = "the gradient of the head's weight"
    BIAS = "the gradient of the head's bias"
    NUM_SAMPLES = "the number of samples behind the update"
    MODEL = "the model"
    AUXILIARY = "auxiliary data of the attacker's own"
    PRIOR = "a prior over label counts"
    TRAINING = "the client's local training (learning rate, steps, optimiser)"
    FULL_GRADIENT = "the gradient of every parameter, not of the head alone"
    DEFENSE = "the defense that the client uses"


# What most attacks begin with: counts read off one gradient of the head, or off what the model
# shows of data of the attacker's own.
READS_WEIGHT = frozenset({Need.WEIGHT, Need.NUM_SAMPLES})
READS_BIAS = frozenset({Need.BIAS, Need.NUM_SAMPLES})
OWN_DATA = frozenset({Need.NUM_SAMPLES, Need.MODEL, Need.AUXILIARY})


@cache
def in_order(needs: frozenset[Need]) -> tuple[Need, ...]:
    """Return needs in the order in which they are told, worked out once for all that ask.

    >>> [need.name for need in in_order(READS_BIAS)]
    ['BIAS', 'NUM_SAMPLES']
    """
    return tuple(need for need in Need if need in needs)


__all__ = ["OWN_DATA", "READS_BIAS", "READS_WEIGHT", "Need", "in_order"]

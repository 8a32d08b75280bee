"""What an attack is, and what it answers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, Protocol

import numpy as np

from labelleak.core.card import Card
from labelleak.core.counts import Floats, Ints
from labelleak.core.knowledge import Knowledge
from labelleak.core.needs import Need, in_order
from labelleak.core.observation import Observation
from labelleak.errors import BadInput, NotApplicable

# Which part of an observation each need stands for.
_CARRIED = {
    Need.WEIGHT: "weight",
    Need.BIAS: "bias",
    Need.NUM_SAMPLES: "num_samples",
    Need.FULL_GRADIENT: "rest",
}


@dataclass(frozen=True, eq=False)
class Estimate:
    """An attack's answer.

    Attributes:
        counts: guessed label counts, ``*R x K`` whole numbers, each row summing to N.
        scores: how strongly each class is thought present, ``*R x K``; larger is likelier.
        notes: what the attack wants said about its answer.
        expected_asr: ``*R``, the ASR that the attack expects of its counts; its scores are then
            probabilities, P(c_i >= 1 | update). None where scores only rank the classes.
    """

    counts: Ints
    scores: Floats
    notes: tuple[str, ...] = ()
    expected_asr: Floats | None = None


Prepared = Callable[[Observation], Estimate]


class Attack(Protocol):
    """A way to guess label counts from an observation.

    ``prepare`` does what is costly once per model; what it returns is cheap, works on many
    trials at once, and sees nothing but the observation. Neither sees the truth, the disk,
    the clock or global random state.
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[Need]]
    cite: ClassVar[str]
    card: ClassVar[Card]
    # Whether it takes data of several labels an input position by position.
    by_position: ClassVar[bool] = False

    def prepare(self, known: Knowledge, num_classes: int, rng: np.random.Generator) -> Prepared:
        """Get ready to attack updates of one model."""
        ...


class Rule(Attack):
    """An attack that prepares nothing: it answers each observation by itself."""

    def prepare(self, known: Knowledge, num_classes: int, rng: np.random.Generator) -> Prepared:
        """Return `answer`; nothing is prepared."""
        return self.answer

    @abstractmethod
    def answer(self, observation: Observation) -> Estimate:
        """Guess the label counts of every trial."""


def threat_model(attack: Attack) -> str:
    """Name what an attack must hold: none, update, model or auxiliary; see the record's key."""
    return _threat_model(frozenset(attack.needs))


@cache
def _threat_model(needs: frozenset[Need]) -> str:
    for need, name in ((Need.AUXILIARY, "auxiliary"), (Need.MODEL, "model")):
        if need in needs:
            return name
    return "update" if needs & {Need.WEIGHT, Need.BIAS, Need.FULL_GRADIENT} else "none"


def prepare(
    attack: Attack, known: Knowledge, num_classes: int, rng: np.random.Generator
) -> Prepared:
    """Prepare an attack with no more knowledge than it needs, and check needs at each call.

    Raises:
        NotApplicable: if a need of the attack is not granted; the returned function raises it
            if the observation lacks what the attack needs, and BadInput if its classes differ.
    """
    _refuse_missing(attack, known.holds, "granted")
    reads_inputs = Need.MODEL in attack.needs and not getattr(attack, "by_position", False)
    if reads_inputs and attack.needs & {Need.FULL_GRADIENT, Need.DEFENSE}:
        known.refuse_maps(attack.name)
    ready = attack.prepare(known.granted(attack.needs), num_classes, rng)

    def answer(observation: Observation) -> Estimate:
        if observation.num_classes != num_classes:
            raise BadInput(
                f"{attack.name} was prepared for {num_classes} classes, "
                f"the observation has {observation.num_classes}"
            )
        refuse_observation(attack, observation)
        return ready(observation)

    return answer


def _refuse_missing(attack: Attack, holds: Callable[[Need], bool], what: str) -> None:
    for need in in_order(frozenset(attack.needs)):  # a set of one's own may be a plain one
        if not holds(need):
            raise NotApplicable(f"{attack.name} needs {need.value}, which is not {what}")


def refuse_observation(attack: Attack, observation: Observation) -> None:
    """Check that an observation carries what an attack needs.

    Raises:
        NotApplicable: naming the first thing that is missing.
    """
    for need, part in _carried(frozenset(attack.needs)):
        if getattr(observation, part) is None:
            raise NotApplicable(f"{attack.name} needs {need.value}, which is not known")


@cache
def _carried(needs: frozenset[Need]) -> tuple[tuple[Need, str], ...]:
    """Return those needs that an observation carries, each with the name that it has there."""
    return tuple((need, _CARRIED[need]) for need in in_order(needs) if need in _CARRIED)


def refuse_still_head(attack: Attack, observation: Observation) -> None:
    """Check that the head moved, for attacks that read nothing else.

    Raises:
        NotApplicable: if it did not.
    """
    reads = attack.needs & {Need.WEIGHT, Need.BIAS}
    if reads and Need.FULL_GRADIENT not in attack.needs and observation.head_is_still:
        raise NotApplicable(
            f"{attack.name} reads the head, which is not in this update or did not move (frozen, "
            "withheld or without an adapter)"
        )


def samples(observation: Observation) -> int:
    """Return N, for attacks that declare that they need it."""
    if observation.num_samples is None:
        raise NotApplicable(f"this attack needs {Need.NUM_SAMPLES.value}, which is not known")
    return int(observation.num_samples)  # numpy's own would seed other draws


__all__ = [
    "Attack",
    "Estimate",
    "Prepared",
    "Rule",
    "prepare",
    "refuse_observation",
    "refuse_still_head",
    "samples",
    "threat_model",
]

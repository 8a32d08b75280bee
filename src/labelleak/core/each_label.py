"""An attack on several labels: each class is a problem of its own, attacked by itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from labelleak.core.interfaces import Attack, Estimate, Prepared, prepare, samples
from labelleak.core.knowledge import Knowledge
from labelleak.core.needs import Need
from labelleak.core.observation import Observation
from labelleak.core.pos_weight import PositiveWeight
from labelleak.core.training import weight_each
from labelleak.errors import NotApplicable


@dataclass(frozen=True)
class EachLabel:
    """Lets an attack on two classes, absent and present, answer for every class in turn.

    Attributes:
        attack: the attack.
        weights: how much a label that is there weighs in the client's loss, label by label; what
            is not 1 is undone.
    """

    attack: Any
    weights: tuple[float, ...] = ()

    def __getattr__(self, name: str) -> Any:
        """Return what is known of the attack."""
        if name.startswith("__") or "attack" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.attack, name)

    def prepare(self, known: Knowledge, num_classes: int, rng: np.random.Generator) -> Prepared:
        """Get ready class by class, by the same draws, so that the order of classes is nothing."""
        seed, several = int(rng.integers(2**31)), known.has_several
        ready = [
            self._of_label(
                known.of_label(number) if several else known, weight, np.random.default_rng(seed)
            )
            for number, weight in enumerate(weight_each(self.weights, num_classes // 2))
        ]

        def answer(observation: Observation) -> Estimate:
            found = [one(observation.of_problem(number)) for number, one in enumerate(ready)]
            told = [one.expected_asr for one in found if one.expected_asr is not None]
            return Estimate(
                np.concatenate([one.counts for one in found], axis=-1),
                np.concatenate([one.scores for one in found], axis=-1),
                tuple(dict.fromkeys(note for one in found for note in one.notes)),
                np.mean(told, axis=0) if len(told) == len(found) else None,
            )

        return answer

    def _of_label(self, known: Knowledge, weight: float, rng: np.random.Generator) -> Prepared:
        """Get ready for one label; where own data cannot serve it, it is taken to be as in them."""
        if {Need.FULL_GRADIENT, Need.DEFENSE} & set(self.attack.needs):
            known.refuse_maps(self.attack.name)
            if weight != 1:
                raise NotApplicable(f"{self.attack.name} reads layers that pos_weight bent, too")
        try:
            ready = prepare(self.attack, known, 2, rng)
            if weight == 1:
                return ready
            undo = PositiveWeight.of(known.granted(self.attack.needs), weight).undo
            return lambda seen: ready(undo(seen))
        except NotApplicable:
            own = known.auxiliary
            if own is None or len(np.unique(own.labels.numpy())) > 1:
                raise
            return _like_own(float(own.labels[0]))


def _like_own(positive: float) -> Prepared:
    """Return an attack that takes every sample to have a label, or none."""

    def answer(observation: Observation) -> Estimate:
        share = np.broadcast_to(np.array([1 - positive, positive]), (*observation.trials, 2))
        counts = (share * samples(observation)).astype(np.int64)
        return Estimate(counts, np.array(share), ("own_data_one_sided",))

    return answer


def for_each_label(
    attacks: Iterable[Attack], weights: tuple[float, ...] = ()
) -> tuple[Attack, ...]:
    """Return attacks that answer for every class in turn."""
    return tuple(cast(Attack, EachLabel(attack, weights)) for attack in attacks)


__all__ = ["EachLabel", "for_each_label"]

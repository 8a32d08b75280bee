"""What a search for a defense gives: points, confirmed settings, the front."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from labelleak.tune.leaks import Leak
from labelleak.tune.measurements import MeanCost


@dataclass(frozen=True, eq=False)
class Point:
    """One defense with what was measured of it.

    Attributes:
        label: its text form.
        family: the family that it is of.
        leak: what the strongest attacker gained.
        cost: what it costs; None where it was not trained with.
        attacked: whether every layer that it shares in the clear was attacked. If not, its
            advantage says nothing of those, and it is not recommended.
    """

    label: str
    family: str
    leak: Leak
    cost: MeanCost | None = None
    attacked: bool = True


@dataclass(frozen=True, eq=False)
class Confirmed:
    """A setting with what it did in the search and on fresh seeds.

    Attributes:
        point: as the search measured it.
        leak: on seeds that the search never saw, to attackers who know the defense too.
        without: the leak without a defense, on the same seeds.
        cost: on seeds that the search never saw.
        seed: seed of that audit.
    """

    point: Point
    leak: Leak
    without: Leak
    cost: MeanCost
    seed: int

    @property
    def on_fresh_seeds(self) -> Point:
        """The point with what was measured there."""
        return replace(self.point, leak=self.leak, cost=self.cost)


@dataclass(frozen=True, eq=False)
class Missed:
    """A setting that held in the search and not on fresh seeds.

    Attributes:
        point: as the search measured it.
        leak: on fresh seeds, of the first model alone where that or the cost had missed already;
            None where the cost of a budget had.
        cost: on fresh seeds; None where the leak of the first model had missed already.
        seed: seed of that audit.
    """

    point: Point
    leak: Leak | None
    cost: MeanCost | None
    seed: int


@dataclass(frozen=True, eq=False)
class Answer:
    """What a search found.

    Attributes:
        baseline: no defense.
        points: every defense that was measured.
        recommended: the best setting that holds on fresh seeds; None where none does.
        surpassed: settings that hold there too and did worse.
        missed: settings that held in the search and missed on fresh seeds.
        closest: the best found where nothing holds.
        grid: the best of a plain grid, likewise confirmed; None where no grid was asked for, or
            none of its points holds.
        grid_points: points of that grid; 0 without one.
    """

    baseline: Point
    points: tuple[Point, ...]
    recommended: Confirmed | None
    surpassed: tuple[Confirmed, ...] = ()
    missed: tuple[Missed, ...] = ()
    closest: Point | None = None
    grid: Confirmed | None = None
    grid_points: int = 0

    @property
    def front(self) -> tuple[Point, ...]:
        """The points that no other one beats in both leakage and accuracy, least leakage first."""
        return pareto_front([self.baseline, *self.points])


def pareto_front(points: Sequence[Point]) -> tuple[Point, ...]:
    """Keep those that no other beats in both; only what was trained with and attacked counts.

    >>> pareto_front([])
    ()
    """
    known = [(p.leak.bound, -p.cost.accuracy, p) for p in points if p.cost and p.attacked]
    kept: list[Point] = []
    best = float("inf")
    for _, lost, point in sorted(known, key=lambda one: one[:2]):
        if lost < best:
            kept.append(point)
            best = lost
    return tuple(kept)


__all__ = [
    "Answer",
    "Confirmed",
    "Missed",
    "Point",
    "pareto_front",
]

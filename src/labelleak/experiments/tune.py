"""Search the cheapest defense that works: families of rising strength, leak against accuracy.

The rule. Within a family leakage falls, and cost rises, with strength. So for a target of
leakage each family is searched by bisection for its weakest rung that meets the target (the upper
end of the advantage's interval, at the worst training stage); only these are trained with, and the
one that keeps most accuracy is the candidate. For a budget of accuracy it is the other way round:
the strongest rung within the budget by bisection, then the one that leaks least. Intervals of the
search were looked at many times, so the candidate is measured again on data splits, models and
batches that the search never saw; where it misses there, the next stronger (for a budget,
the next weaker) rung of its family takes its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from labelleak.defenses import parse_defense
from labelleak.experiments.costs import refuse_unlearnt
from labelleak.experiments.families import Family, spread
from labelleak.experiments.ladders import first_holding, last_holding
from labelleak.experiments.leaks import Leak
from labelleak.experiments.measurements import NONE, MeanCost, Measurements


@dataclass(frozen=True, eq=False)
class Point:
    """One defense with what was measured of it.

    Attributes:
        label: its text form.
        family: the family that it is of.
        leak: what the strongest attacker gained.
        cost: what it costs; None where it was not trained with.
        readable: whether anything of the head is shared. If not, these attackers have nothing to
            read: an advantage of 0 then says nothing of the layers that are shared.
    """

    label: str
    family: str
    leak: Leak
    cost: MeanCost | None = None
    readable: bool = True


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


@dataclass(frozen=True, eq=False)
class Answer:
    """What a search found.

    Attributes:
        baseline: no defense.
        points: every defense that was measured.
        recommended: the setting that holds on fresh seeds; None where none does.
        missed: settings that held in the search and missed on fresh seeds.
        closest: the best found where nothing holds.
        grid: the best of a plain grid, likewise confirmed; None where no grid was asked for, or
            none of its points holds.
        grid_points: points of that grid; 0 without one.
    """

    baseline: Point
    points: tuple[Point, ...]
    recommended: Confirmed | None
    missed: tuple[Confirmed, ...] = ()
    closest: Point | None = None
    grid: Confirmed | None = None
    grid_points: int = 0

    @property
    def front(self) -> tuple[Point, ...]:
        """The points that no other one beats in both leakage and accuracy, least leakage first."""
        return pareto_front([self.baseline, *self.points])


def pareto_front(points: Sequence[Point]) -> tuple[Point, ...]:
    """Keep those that no other beats in both; only what was trained with and can be read counts.

    >>> pareto_front([])
    ()
    """
    known = [(p.leak.bound, -p.cost.accuracy, p) for p in points if p.cost and p.readable]
    kept: list[Point] = []
    best = float("inf")
    for _, lost, point in sorted(known, key=lambda one: one[:2]):
        if lost < best:
            kept.append(point)
            best = lost
    return tuple(kept)


@dataclass(eq=False)
class Search:
    """One search, over measurements that are made when they are first asked for."""

    measured: Measurements
    points: dict[str, Point] = field(default_factory=dict)
    missed: list[Confirmed] = field(default_factory=list)

    def run(self) -> Answer:
        """Search, confirm, and compare with a plain grid where one is asked for.

        Raises:
            BadInput: if the model learns nothing without a defense, or nothing is left to leak.
        """
        options = self.measured.options
        self.measured.expect(1, 2)
        baseline = self._trained(self._point(NONE, NONE))
        refuse_unlearnt(_cost(baseline).accuracy, self.measured.data, options.rounds)
        if self._enough(baseline.leak):
            unneeded = self._confirm(baseline, 1)
            if self._enough(unneeded.leak):
                return Answer(baseline, (), unneeded)
        families = [_readable(family) for family in options.ladders]
        families = [family for family in families if family.labels]
        self._expect(families)
        found = [point for family in families for point in self._best_of(family)]
        for family in options.ladders:
            self._show_unreadable(family)
        chosen = self._settle(found, families)
        grid = self._grid(families) if options.grid else None
        points = tuple(p for p in self.points.values() if p.label != NONE)
        closest = None if chosen else self._closest(points)
        return Answer(baseline, points, chosen, tuple(self.missed), closest, grid, options.grid)

    def _expect(self, families: Sequence[Family]) -> None:
        questions = sum(len(family.labels).bit_length() for family in families)
        if self.measured.options.target_advantage is None:
            self.measured.expect(len(families) + 1, questions + 1)
        else:
            self.measured.expect(questions + 1, len(families) + 1)

    def _enough(self, leak: Leak) -> bool:
        """Whether a target is met; a budget alone never says that it is enough."""
        target = self.measured.options.target_advantage
        return target is not None and leak.bound <= target

    def _affordable(self, cost: MeanCost) -> bool:
        budget = self.measured.options.accuracy_budget
        return budget is not None and cost.loss <= budget

    def _holds(self, leak: Leak, cost: MeanCost) -> bool:
        return self._enough(leak) or self._affordable(cost)

    def _best_of(self, family: Family) -> list[Point]:
        """Search a family; at most one point comes of it, trained with."""
        labels = family.labels
        if self.measured.options.target_advantage is not None:
            rung = first_holding(
                len(labels), lambda r: self._enough(self._point(labels[r], family.name).leak)
            )
        else:
            rung = last_holding(len(labels), lambda r: self._affordable(self._paid(labels[r])))
        return [] if rung is None else [self._trained(self._point(labels[rung], family.name))]

    def _settle(self, found: Sequence[Point], families: Sequence[Family]) -> Confirmed | None:
        """Confirm the best point on fresh seeds; one that misses gives way to the next rung."""
        candidates = list(found)
        ladders = {family.name: family.labels for family in families}
        step = -1 if self.measured.options.target_advantage is None else 1
        fresh = 0
        while candidates:
            best = min(candidates, key=self._order)
            candidates.remove(best)
            fresh += 1
            confirmed = self._confirm(best, fresh)
            if self._holds(confirmed.leak, confirmed.cost):
                return confirmed
            self.missed.append(confirmed)
            rung = ladders[best.family].index(best.label) + step
            if 0 <= rung < len(ladders[best.family]):
                label = ladders[best.family][rung]
                candidates.append(self._trained(self._point(label, best.family)))
        return None

    def _order(self, point: Point) -> tuple[float, float]:
        """Best first: most accuracy for a target, least leakage for a budget."""
        bound, accuracy = point.leak.bound, _cost(point).accuracy
        if self.measured.options.target_advantage is not None:
            return -accuracy, bound
        return bound, -accuracy

    def _confirm(self, point: Point, fresh: int) -> Confirmed:
        measured = self.measured
        return Confirmed(
            point,
            measured.leak(point.label, fresh),
            measured.leak(NONE, fresh),
            measured.cost(point.label, fresh=True),
            measured.leak_seed(fresh),
        )

    def _closest(self, points: Sequence[Point]) -> Point | None:
        """The point that leaks least, trained with."""
        readable = [point for point in points if point.readable]
        if self.measured.options.target_advantage is None or not readable:
            return None
        return self._trained(min(readable, key=lambda p: (p.leak.bound, p.leak.advantage.mean)))

    def _grid(self, families: Sequence[Family]) -> Confirmed | None:
        """Measure a plain grid in full, and confirm its best point as the search does its own."""
        laid = spread(families, self.measured.options.grid)
        self.measured.expect(len(laid), len(laid))
        points = [self._trained(self._point(f.labels[rung], f.name)) for f, rung in laid]
        usable = [p for p in points if self._holds(p.leak, _cost(p))]
        for fresh, point in enumerate(sorted(usable, key=self._order), start=1):
            confirmed = self._confirm(point, fresh)
            if self._holds(confirmed.leak, confirmed.cost):
                return confirmed
        return None

    def _show_unreadable(self, family: Family) -> None:
        for label in family.labels:
            if not is_readable(label):
                self._trained(self._point(label, family.name))

    def _point(self, label: str, family: str) -> Point:
        if label not in self.points:
            leak = self.measured.leak(label)
            self.points[label] = Point(label, family, leak, readable=is_readable(label))
        return self.points[label]

    def _trained(self, point: Point) -> Point:
        if point.cost is None:
            cost = self._paid(point.label)
            point = Point(point.label, point.family, point.leak, cost, point.readable)
            self.points[point.label] = point
        return point

    def _paid(self, label: str) -> MeanCost:
        return self.measured.cost(label)


def is_readable(label: str) -> bool:
    """Tell whether a defense shares anything of the head.

    >>> is_readable("withhold:bias"), is_readable("gaussian:1|withhold:head")
    (True, False)
    """
    return all(part.label != "withhold:head" for part in parse_defense(label).parts)


def _readable(family: Family) -> Family:
    return Family(family.name, tuple(label for label in family.labels if is_readable(label)))


def _cost(point: Point) -> MeanCost:
    assert point.cost is not None
    return point.cost


__all__ = ["Answer", "Confirmed", "Point", "Search", "is_readable", "pareto_front"]

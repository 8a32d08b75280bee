"""Search the cheapest defense that works: families of rising strength, leak against accuracy.

Within a family, leakage falls and cost rises with strength. For a target of leakage, bisection
finds the weakest rung of each family that meets the target: the upper end of the advantage's
interval, at the worst training stage, must not lie above it. All families are searched together,
so that what an attacker learns of a model is learned once.

What is cheap is asked first. Rules judge every rung; attackers that learn from batches of their own
cost 20 times as much and judge the candidate on fresh seeds, since a rung that a rule breaks is
broken. Models are
trained with the rungs that were found only, one federation each; the one that kept the most
accuracy is trained in full, until one that was trained in full is best.

For a budget of accuracy, bisection finds the strongest rung of each family within the budget. It
trains one federation per rung, then all of them for the rungs it found. The candidate is the rung
that leaks least.

The search looks at many intervals and picks the best, which flatters the candidate. So the
candidate is measured again on data splits, models and batches that the search never saw. If it
misses there, the next stronger rung of its family takes its place (for a budget, the next weaker).
Where it holds and does clearly worse there than another one did in the search, that one is
confirmed too, and the better of them on fresh seeds is recommended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from labelleak.audits.costs import answer_accuracy, refuse_unlearnt
from labelleak.tune.answers import (
    Answer,
    Confirmed,
    Missed,
    Point,
)
from labelleak.tune.bisection import Rung, first_holding, last_holding
from labelleak.tune.clear_layers import is_attacked
from labelleak.tune.ladders import Family, spread
from labelleak.tune.leaks import Leak
from labelleak.tune.measurements import NONE, MeanCost, Measurements

# Federations per rung during bisection over costs; the rungs it finds are then measured in full.
_SCREEN = 1
# How much worse than another's figure in the search a confirmed one must be for that other to be
# confirmed too, in accuracy or advantage; and how many are confirmed at most.
_WORSE, _MOST_CONFIRMED = 0.05, 3
# Share of what a model learns beyond a constant answer that a setting must leave it.
_KEPT = 0.5
# Text form of a defense, and the family that it is of.
Setting = tuple[str, str]


@dataclass(eq=False)
class Search:
    """One search, over measurements that are made when they are first asked for."""

    measured: Measurements
    points: dict[str, Point] = field(default_factory=dict)
    missed: list[Missed] = field(default_factory=list)

    def run(self) -> Answer:
        """Search, confirm, and compare with a plain grid where one is asked for.

        Raises:
            BadInput: if the model learns nothing without a defense, or nothing is left to leak.
        """
        measured, options = self.measured, self.measured.options
        families = [_attacked(family, options.attacker) for family in measured.families]
        families = [family for family in families if family.labels]
        self._expect(families)
        refuse_unlearnt(measured.cost(NONE).accuracy, measured.data, options.rounds)
        if self._has_target:
            # Every family's first question beside it: all share what attackers learn of a model.
            measured.measure_leaks([NONE, *(family.labels[-1] for family in families)])
        baseline = self._trained(self._point(NONE, NONE))
        if baseline.attacked and self._enough(baseline.leak):
            unneeded = self._confirm(baseline, 1)
            if isinstance(unneeded, Confirmed):
                return Answer(baseline, (), unneeded)
        found = self._best_of_each(families)
        self._train(
            [
                (one, family.name)
                for family in measured.families
                for one in family.labels
                if not is_attacked(one, options.attacker)
            ]
        )
        ladders = {family.name: family.labels for family in families}
        held = self._settle(found, ladders, self.missed)
        grid = self._grid(families) if options.grid else None
        closest = None if held else self._closest()  # which trains with it
        points = tuple(p for p in self.points.values() if p.label != NONE)
        return Answer(
            baseline=self.points[NONE],
            points=points,
            recommended=held[0] if held else None,
            surpassed=tuple(held[1:]),
            missed=tuple(self.missed),
            closest=closest,
            grid=grid,
            grid_points=options.grid,
        )

    def _expect(self, families: Sequence[Family]) -> None:
        questions = sum(len(family.labels).bit_length() for family in families)
        if self._has_target:
            self.measured.expect(questions + 4, len(families) + 3)
        else:
            self.measured.expect(len(families) + 4, questions + 3)

    @property
    def _has_target(self) -> bool:
        return self.measured.options.target_advantage is not None

    def _enough(self, leak: Leak) -> bool:
        """Whether a target is met; a budget alone never says that it is enough."""
        target = self.measured.options.target_advantage
        return target is not None and leak.bound <= target

    def _affordable(self, cost: MeanCost) -> bool:
        budget = self.measured.options.accuracy_budget
        return budget is not None and cost.loss <= budget

    def _keeps(self, cost: MeanCost) -> bool:
        """Whether the model still learns; for a budget that is what the budget says."""
        constant = answer_accuracy(self.measured.data)
        return not self._has_target or cost.accuracy - constant >= _KEPT * (
            cost.accuracy + cost.loss - constant
        )

    def _best_of_each(self, families: Sequence[Family]) -> list[Point]:
        """Return at most one point of each family, with its cost."""

        def enough(asked: Sequence[Rung]) -> list[bool]:
            settings = [(families[f].labels[rung], families[f].name) for f, rung in asked]
            return [p.attacked and self._enough(p.leak) for p in self._points(settings)]

        def affordable(asked: Sequence[Rung]) -> list[bool]:
            labels = [families[f].labels[rung] for f, rung in asked]
            self.measured.measure_costs(labels, repeats=_SCREEN)
            costs = [self.measured.cost(label, repeats=_SCREEN) for label in labels]
            return [self._affordable(cost) for cost in costs]

        lengths = [len(family.labels) for family in families]
        rungs = (
            first_holding(lengths, enough)
            if self._has_target
            else last_holding(lengths, affordable)
        )
        found = {
            family.name: rung
            for family, rung in zip(families, rungs, strict=True)
            if rung is not None
        }
        if not self._has_target:
            self._step_down(found, families)
        repeats = _SCREEN if self._has_target else None
        best = [(f.labels[found[f.name]], f.name) for f in families if f.name in found]
        return self._train(best, repeats)

    def _step_down(self, found: dict[str, int], families: Sequence[Family]) -> None:
        """Take weaker rungs where the mean over all federations exceeds the budget."""
        labels = {family.name: family.labels for family in families}
        doubted = set(found)
        while doubted:
            self.measured.measure_costs([labels[name][found[name]] for name in sorted(doubted)])
            for name in sorted(doubted):
                if self._affordable(self.measured.cost(labels[name][found[name]])):
                    doubted.remove(name)
                elif found[name]:
                    found[name] -= 1
                else:
                    doubted.remove(name)
                    del found[name]

    def _settle(
        self, found: Sequence[Point], ladders: Mapping[str, Sequence[str]], missed: list[Missed]
    ) -> list[Confirmed]:
        """Return the points confirmed on fresh seeds, the best there first.

        Args:
            found: points with their costs.
            ladders: families whose next rung takes the place of one that does not hold.
            missed: told which did not hold on fresh seeds.
        """
        candidates, held = [point for point in found if point.attacked], list[Confirmed]()
        fresh = 0
        while candidates and len(held) < _MOST_CONFIRMED:
            best = min(candidates, key=self._order)
            if held and not self._promises_more(best, held[0]):
                break
            candidates.remove(best)
            if _cost(best).federations < self.measured.options.repeats:
                candidates += self._train([(best.label, best.family)])
                continue
            if not self._keeps(_cost(best)):
                break  # the others keep less
            fresh += 1
            confirmed = self._confirm(best, fresh)
            if isinstance(confirmed, Confirmed):
                held = sorted([*held, confirmed], key=lambda one: self._order(one.on_fresh_seeds))
                continue
            missed.append(confirmed)
            candidates += self._next(best, ladders.get(best.family, ()))
        return held

    def _promises_more(self, point: Point, held: Confirmed) -> bool:
        """Whether a point did clearly better in the search than another on fresh seeds."""
        return self._order(point)[0] < self._order(held.on_fresh_seeds)[0] - _WORSE

    def _next(self, point: Point, labels: Sequence[str]) -> list[Point]:
        """Return the next stronger rung of a ladder, with its cost; for a budget the weaker."""
        rung = labels.index(point.label) + (1 if self._has_target else -1) if labels else -1
        if not 0 <= rung < len(labels):
            return []
        return self._train([(labels[rung], point.family)], _SCREEN if self._has_target else None)

    def _order(self, point: Point) -> tuple[float, float]:
        """Best first: most accuracy for a target, least leakage for a budget."""
        bound, accuracy = point.leak.bound, _cost(point).accuracy
        return (-accuracy, bound) if self._has_target else (bound, -accuracy)

    def _confirm(self, point: Point, fresh: int) -> Confirmed | Missed:
        """Measure a point anew, what is cheap first, and the rest only where that holds.

        What misses is told by any of its measurements, so their order decides what it takes to
        find out, and nothing else: what is confirmed has met all of them.
        """
        measured, label, seed = self.measured, point.label, self.measured.leak_seed(fresh)
        leak, target = None, measured.options.target_advantage
        if target is not None:
            leak = measured.first_leak(label, fresh)
            if leak.advantage.low > target:  # with its whole interval
                return Missed(point, leak, None, seed)
        cost = measured.cost(label, fresh=True)
        if not (self._keeps(cost) if self._has_target else self._affordable(cost)):
            return Missed(point, leak, cost, seed)
        leak = self._judged(label, fresh)
        if self._has_target and not self._enough(leak):
            return Missed(point, leak, cost, seed)
        return Confirmed(point, leak, measured.leak(NONE, fresh), cost, seed)

    def _judged(self, label: str, fresh: int) -> Leak:
        """Return the leak to all attackers; where rules alone miss a target, to them."""
        measured = self.measured
        measured.measure_leaks([NONE, label], fresh)
        leak = measured.leak(label, fresh)
        if self._has_target and not self._enough(leak):
            return leak
        measured.measure_leaks([label], fresh, learners=True)
        return measured.leak(label, fresh)

    def _closest(self) -> Point | None:
        """Return the point that leaks least to all attackers, with its cost."""
        attacked = [p for p in self.points.values() if p.attacked and p.label != NONE]
        if not self._has_target or not attacked:
            return None
        while True:
            labels = [point.label for point in attacked]
            attacked = [self.points[label] for label in labels]
            best = min(attacked, key=lambda p: (p.leak.bound, p.leak.advantage.mean))
            if not best.leak.at_least:
                return self._trained(best)
            self.measured.measure_leaks([best.label], learners=True)
            self.points[best.label] = replace(best, leak=self.measured.leak(best.label))

    def _grid(self, families: Sequence[Family]) -> Confirmed | None:
        """Return the best point of a plain grid, confirmed as the search confirms its own."""
        laid = spread(families, self.measured.options.grid)
        self.measured.expect(len(laid), len(laid))
        settings = [(family.labels[rung], family.name) for family, rung in laid]
        if self._has_target:
            usable = [point for point in self._points(settings) if self._enough(point.leak)]
            usable = self._train([(point.label, point.family) for point in usable], _SCREEN)
        else:
            usable = [p for p in self._train(settings) if self._affordable(_cost(p))]
        return next(iter(self._settle(usable, {}, [])), None)

    def _points(self, settings: Sequence[Setting]) -> list[Point]:
        labels = [label for label, _ in settings]
        self.measured.measure_leaks(labels, learners=not self._has_target)
        return [self._point(label, family) for label, family in settings]

    def _point(self, label: str, family: str) -> Point:
        if label not in self.points:
            leak = self.measured.leak(label)
            attacked = self.measured.attacked(label)
            self.points[label] = Point(label, family, leak, attacked=attacked)
        return self.points[label]

    def _train(self, settings: Sequence[Setting], repeats: int | None = None) -> list[Point]:
        """Return points with their costs, of so many federations at least."""
        self.measured.measure_costs([label for label, _ in settings], repeats=repeats)
        return [self._trained(point, repeats) for point in self._points(settings)]

    def _trained(self, point: Point, repeats: int | None = None) -> Point:
        wanted = repeats or self.measured.options.repeats
        if point.cost is None or point.cost.federations < wanted:
            cost = self.measured.cost(point.label, repeats=repeats)
            self.points[point.label] = replace(self.points[point.label], cost=cost)
        return self.points[point.label]


def _attacked(family: Family, attacker: str) -> Family:
    return Family(family.name, tuple(one for one in family.labels if is_attacked(one, attacker)))


def _cost(point: Point) -> MeanCost:
    assert point.cost is not None
    return point.cost


__all__ = ["Search"]

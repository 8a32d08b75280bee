"""Compare two audits: before and after a defense, last quarter and this."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labelleak.errors import BadInput, shown_path
from labelleak.records.cells import Cell
from labelleak.records.files import write_whole
from labelleak.records.intervals import Interval
from labelleak.records.rounds import federated
from labelleak.records.whole import read_frame
from labelleak.report import wording
from labelleak.report.about import NOBODY, About
from labelleak.report.headlines import harm
from labelleak.report.page import Tables, day_of, fill, opening_of
from labelleak.report.verdict import Verdict


@dataclass(frozen=True)
class Change:
    """One server in one case of both audits."""

    case: str
    server: str
    before: Cell
    after: Cell
    difference: Interval

    @property
    def trials(self) -> int:
        """Trials of the audit that has fewer."""
        return min(self.before.trials, self.after.trials)


@dataclass(frozen=True)
class Side:
    """One of the two audits.

    Attributes:
        name: the file.
        when: the day of its records.
        tables: its records; of several defenses those of one.
        verdict: what they show.
        defense: the defense that it is compared by, where the file holds several.
    """

    name: str
    when: str
    tables: Tables
    verdict: Verdict
    defense: str = ""


def difference(before: Interval, after: Interval) -> Interval:
    """Return after minus before with its interval, of two that are independent.

    The ends are those of Zou and Donner, "Construction of confidence limits about effect measures"
    (Statistics in Medicine, 2008): the distances of each mean from its own ends, squared and added.
    Where both audits share their batches, the interval is wider than it need be.

    >>> found = difference(Interval(0.5, 0.2, 0.9), Interval(0.5, 0.5, 0.5))
    >>> round(found.low, 3), round(found.mean, 3), round(found.high, 3)
    (-0.4, 0.0, 0.3)
    """
    mean = after.mean - before.mean
    low = mean - math.hypot(after.mean - after.low, before.high - before.mean)
    high = mean + math.hypot(after.high - after.mean, before.mean - before.low)
    return Interval(mean, low, high)


def say_change(change: Interval | None, why: str = "") -> str:
    """Say whether the leak grew, fell, or neither can be shown, or why it cannot be compared."""
    if change is None:
        return f"Not comparable: {why or 'in one of them nothing was left to learn'}."
    if change.high < 0:
        return f"The advantage fell by {_span(-change.mean, -change.high, -change.low)}."
    said = _span(change.mean, change.low, change.high)
    if change.low > 0:
        return f"The advantage rose by {said}."
    return f"These records show no change: the advantage moved by {said}."


def _span(*ends: float) -> str:
    return wording.span(Interval(*ends), 2, wording.INTERVAL)


def read_side(path: Path) -> Side:
    """Read one audit.

    Raises:
        BadInput: if it cannot be read or holds no records.
    """
    tables = Tables.of(read_frame(path))
    if not tables.records:
        raise BadInput(f"{shown_path(path)} holds no records; run `labelleak audit` first")
    tables, defense = _of_one_defense(tables)
    name = f"{path.parent.name}/{path.name}" if path.parent.name else path.name
    return Side(name, day_of(path), tables, tables.verdict, defense)


def _of_one_defense(tables: Tables) -> tuple[Tables, str]:
    """Keep the records of the defense that leaves least, where there are several.

    The verdict of all would be that of no defense, and two of those show no change. In a
    federation a client's policy defends some updates and not others, so all stay.
    """
    names = sorted(tables.records.distinct("defense"))
    if len(names) < 2 or federated(tables.records):
        return tables, ""
    parts = {
        name: Tables.of(row for row in tables.records if row.defense == name) for name in names
    }
    best = min(names, key=lambda name: _left(parts[name].verdict))
    return parts[best], f"{best}, which leaves least of {wording.list_words(names, 9)}"


def _left(verdict: Verdict) -> tuple[bool, tuple[float, float]]:
    """Order verdicts by what they leave; one in doubt shows nothing, so it comes last."""
    worst = verdict.worst
    if worst is None or worst.advantage is None:
        return True, harm(None)
    return bool(worst.doubt), harm(worst.advantage)


def say_defenses(before: Side, after: Side) -> str:
    """Say by which defenses files of several are compared; nothing where each has one."""
    if not before.defense and not after.defense:
        return ""
    named = [side.defense or side.tables.records[0].defense for side in (before, after)]
    return f"Compared by defense: before, {named[0]}; after, {named[1]}."


def say_comparison(before: Side, after: Side) -> str:
    """Say in a few sentences what changed and by what it was compared."""
    moved = say_change(overall(before, after), why_not_comparable(before, after))
    return " ".join(filter(None, (moved, say_defenses(before, after))))


def changes(before: Side, after: Side) -> list[Change]:
    """Return every server and case that both audits measured; the defense may differ."""
    first = {_case(cell): cell for cell in before.verdict.cells}
    found = []
    for cell in after.verdict.cells:
        other = first.get(_case(cell))
        if other is not None and other.advantage is not None and cell.advantage is not None:
            stage = wording.capital(wording.name_training(cell.training_steps, cell.init))
            case = f"{stage}, {cell.scheme}, batch of {cell.batch_size}"
            if {other.defense, cell.defense} != {"none"}:
                case += f" (defense: {other.defense} before, {cell.defense} after)"
            moved = difference(other.advantage, cell.advantage)
            found.append(Change(case, cell.threat_model, other, cell, moved))
    return found


def _case(cell: Cell) -> tuple[Any, ...]:
    return (
        cell.threat_model,
        cell.training_steps,
        cell.scheme,
        cell.num_classes,
        cell.batch_size,
        cell.local_steps,
        cell.num_samples,
    )


def overall(before: Side, after: Side) -> Interval | None:
    """Return how the advantage of the worst attacker that was tried in both moved."""
    if why_not_comparable(before, after):
        return None
    ends = [_worst(side, before, after) for side in (before, after)]
    return difference(ends[0], ends[1]) if ends[0] and ends[1] else None


def _worst(side: Side, before: Side, after: Side) -> Interval | None:
    """Return the worst advantage of a side: in its own case if both are judged by that one.

    A server that one side did not try, or a case that it lacks, would show as a change.
    """
    servers = _servers(before) & _servers(after)
    judged = [one.verdict.judged for one in (before, after)]
    found = [one.advantage for one in side.verdict.exposures if one.server in servers]
    if judged[0] is not None and judged[1] is not None and _case(judged[0]) != _case(judged[1]):
        both = [one for one in changes(before, after) if one.server in servers]
        found = [(one.before if side is before else one.after).advantage for one in both]
    return max(found, key=harm, default=None)


def _servers(side: Side) -> set[str]:
    return {one.server for one in side.verdict.exposures}


def why_not_comparable(before: Side, after: Side) -> str:
    """Say why a change between two audits has no meaning; nothing where it may have one."""
    for name, side in (("before", before), ("after", after)):
        if side.verdict.mixed:
            return f"the records {name} are not of one run"
    rows = [side.tables.records for side in (before, after)]
    kinds = [bool(federated(one)) for one in rows]
    if kinds[0] != kinds[1]:
        words = ["a federation" if kind else "an audit of simulated clients" for kind in kinds]
        return f"the records before are of {words[0]}, those after of {words[1]}"
    for key, words_of in (("data", "data"), ("num_classes", "numbers of classes")):
        values = [sorted(one.distinct(key)) for one in rows]
        if not {*values[0]} & {*values[1]}:
            named = [wording.list_words(map(str, one), 4) for one in values]
            return f"they are of other {words_of}, {named[0]} before and {named[1]} after"
    if not _servers(before) & _servers(after):
        return "no server was tried in both"
    if not kinds[0] and not changes(before, after):
        return (
            "no case was measured in both: they share no server with the same batch size, labels, "
            "local steps, way to draw batches and stage of training"
        )
    return ""


def apart(before: Side, after: Side) -> list[str]:
    """Name what else the audits differ in, so that nobody takes it for the defense's work."""
    found = []
    for key, name in (
        ("data", "data"),
        ("model", "model"),
        ("defense", "defenses"),
        ("attack", "attacks"),
        ("batch_size", "batch sizes"),
        ("scheme", "ways to draw batches"),
        ("training_steps", "stages of training"),
        ("labelleak", "versions of labelleak"),
    ):
        values = [sorted(side.tables.records.distinct(key)) for side in (before, after)]
        if values[0] != values[1]:
            listed = [wording.list_words(map(str, one), 4) for one in values]
            found.append(f"{name}: {listed[0]} before, {listed[1]} after")
    return found


def compare(before: Side, after: Side, about: About = NOBODY) -> str:
    """Return the page that compares two audits as one self-contained HTML text."""
    sides = [(side, opening_of(side.tables.records, side.verdict)) for side in (before, after)]
    context = {
        "about": about,
        "sides": sides,
        "grades": sides[0][1]["grades"],
        "track": sides[0][1]["track"],
        "said": say_comparison(before, after),
        "changes": changes(before, after),
        "apart": apart(before, after),
    }
    return fill("comparison.html.j2", context)


def write_comparison(paths: Sequence[Path], page: Path, about: About = NOBODY) -> list[Side]:
    """Write the page of two files of records.

    Raises:
        BadInput: if one cannot be read or holds nothing, or the page cannot be written.
    """
    before, after = map(read_side, paths)
    write_whole(page, compare(before, after, about))
    return [before, after]


__all__ = [
    "Change",
    "Side",
    "apart",
    "changes",
    "compare",
    "difference",
    "overall",
    "read_side",
    "say_change",
    "say_comparison",
    "say_defenses",
    "why_not_comparable",
    "write_comparison",
]

"""Lay out the state of a running audit or federation for the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from labelleak.records.frame import RecordFrame
from labelleak.records.record import Record
from labelleak.records.repeats import count_once
from labelleak.records.rounds import Course, client_of, follow_rounds, is_federated
from labelleak.records.strongest import worst_cases
from labelleak.report import wording
from labelleak.report.actions import follow_actions, say_action_counts
from labelleak.report.federation_words import say_untried
from labelleak.report.headlines import judged_cells
from labelleak.report.opening import say_verdict
from labelleak.report.terminal import inert
from labelleak.report.verdict import reach_verdict

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

_MOST_FLAGS = 6


def view(records: Sequence[Record], source: str, unreadable: int = 0) -> Group:
    """Return the view of the records so far.

    Raises:
        BadInput: if two records of one trial disagree.
    """
    from rich.console import Group
    from rich.table import Table

    rows = count_once(records)
    said = [f"{source}: {wording.count(len(rows), 'record')}"]
    if unreadable:
        said.append(f"{wording.count(unreadable, 'line')} left out: no record")
    if not rows:
        return Group(inert("; ".join([*said, "waiting"])))
    table = Table(title_justify="left")
    courses = follow_rounds(rows)
    if courses:
        federated = [row for row in rows if is_federated(row)]
        said.append(f"last round {max(row.extra['round'] for row in federated)}")
        said.append(f"clients seen {len({client_of(row) for row in federated})}")
        said += [say_action_counts(action_counts) for action_counts in follow_actions(rows)[:1]]
        _fill_courses(table, courses, RecordFrame(rows).titles)
    else:
        _fill_cells(table, rows)
    told = [say_verdict(reach_verdict(rows))]
    if untried := say_untried(rows):
        told.append(f"{untried}.")
    return Group(inert("; ".join(said)), table, *map(inert, (" ".join(told), _flags(rows))))


def _fill_courses(table: Table, courses: Sequence[Course], titles: Mapping[str, str]) -> None:

    for name in ("server", "defense", "advantage so far", "last round", "worst client", "attack"):
        table.add_column(name, overflow="fold")
    for course in courses:
        worst, last = course.clients[0], course.rounds[-1]
        row = (
            wording.SHORT_SERVERS[course.threat_model],
            "on" if course.defended else "off",
            wording.span(course.advantage, course.updates),
            wording.span(last.advantage, last.clients),
            f"{worst.name}: {wording.number(worst.advantage.mean)}",
            wording.name_chosen([(attack, False) for attack in course.attacks], titles),
        )
        table.add_row(*map(inert, row))


def _fill_cells(table: Table, rows: Sequence[Record]) -> None:

    for name in ("server", "advantage", "attack", "where"):
        table.add_column(name, overflow="fold")
    for cell in judged_cells(worst_cases(rows)):
        where = f"batch size {cell.batch_size}, scheme {cell.scheme}"
        row = (
            wording.SHORT_SERVERS[cell.threat_model],
            wording.span(cell.advantage, cell.trials),
            wording.name_attacker(cell),
            f"{where}, {wording.name_stage(cell.training_steps, cell.init)}",
        )
        table.add_row(*map(inert, row))


def _flags(rows: Sequence[Record]) -> str:
    raised = Counter(flag for row in rows for flag in row.flags)
    if not raised:
        return "flags: none"
    shown = [f"{name} ({number:,} records)" for name, number in raised.most_common(_MOST_FLAGS)]
    more = len(raised) - _MOST_FLAGS
    return f"flags: {', '.join(shown)}{f' and {more} more' if more > 0 else ''}"

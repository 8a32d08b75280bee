"""What the page's section on a federation shows: rounds, clients, attacks and updates' fates."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from labelleak.records.frame import RecordFrame
from labelleak.records.intervals import bootstrap_means
from labelleak.records.record import THREAT_MODELS, Record
from labelleak.records.rounds import (
    Course,
    OverRounds,
    client_of,
    federated,
    is_defended,
    mean_rates,
)
from labelleak.report import wording
from labelleak.report.actions import ACTIONS, follow_actions, say_action_counts
from labelleak.report.federation_figures import draw_clients, draw_rounds, name_course
from labelleak.report.federation_words import findings, most_informed

_MOST_CLIENTS = 5
_MOST_ROUNDS = 20


@dataclass(frozen=True)
class AttackOverRounds(OverRounds):
    """What one attack named."""

    attack: str


def section(courses: Sequence[Course], records: Sequence[Record]) -> dict[str, Any] | None:
    """Gather what the section shows; None where records have no rounds."""
    from markupsafe import Markup

    if not courses:
        return None
    action_counts = follow_actions(records)
    named = [(wording.capital(name_course(course, courses)), course) for course in courses]
    return {
        "action_counts": action_counts[:1] + action_counts[1:][-_MOST_ROUNDS:],
        "earlier": max(0, len(action_counts) - 1 - _MOST_ROUNDS),
        "action_summary": say_action_counts(action_counts[0]) if action_counts else "",
        "actions": ACTIONS[::-1],
        "findings": findings(courses),
        "rounds": Markup(draw_rounds(courses, prefix="rounds")),
        "clients": Markup(draw_clients(courses, prefix="clients")),
        "both": len({course.defended for course in courses}) == 2,
        "tables": [
            (
                wording.capital(name_course(course, courses)),
                course.clients[:_MOST_CLIENTS],
                max(0, len(course.clients) - _MOST_CLIENTS),
            )
            for course in most_informed(courses)
        ],
        "courses": named,
        "attacks": over_rounds(records),
    }


def over_rounds(records: Sequence[Record]) -> list[AttackOverRounds]:
    """Average each attack over rounds and clients, with the defense off and on.

    >>> over_rounds([])
    []
    """
    titles = RecordFrame.of(records).titles
    groups: dict[Any, list[Record]] = defaultdict(list)
    for row in federated(records):
        if row.advantage is not None and row.threat_model != "none":
            name = wording.name_attack(row.attack, row.adaptive, titles)
            server = THREAT_MODELS.index(row.threat_model)
            groups[server, name, is_defended(row)].append(row)
    columns: list[Any] = [
        ([row.advantage for row in rows], [client_of(row) for row in rows])
        for rows in groups.values()
    ]
    spans = bootstrap_means(columns) if columns else []
    found = [(key, span, rows) for (key, rows), span in zip(groups.items(), spans, strict=True)]
    return [
        AttackOverRounds(THREAT_MODELS[server], defended, span, *mean_rates(rows), attack=name)
        for (server, name, defended), span, rows in sorted(found, key=lambda item: item[0])
    ]


__all__ = ["AttackOverRounds", "over_rounds", "section"]

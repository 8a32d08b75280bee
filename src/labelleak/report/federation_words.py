"""Say in plain words what the rounds of a federation gave away."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from labelleak.records.record import Record
from labelleak.records.rounds import Course, federated
from labelleak.report import wording


def findings(courses: Sequence[Course]) -> list[str]:
    """Return the outcome for the server that holds most, with the defense off and on."""
    return [_finding(course, courses) for course in most_informed(courses)]


def most_informed(courses: Sequence[Course]) -> list[Course]:
    """Return the courses of the server that holds most."""
    return [course for course in courses if course.threat_model == courses[-1].threat_model]


def say_untried(records: Iterable[Record]) -> str:
    """Say that no attack of the usual server was run on a federation, if so; else nothing.

    >>> say_untried([])
    ''
    """
    held = {row.threat_model for row in federated(records)}
    if not held or held & {"model", "auxiliary"}:
        return ""
    return "The usual server, which holds the model, was not tried: give the Auditor model="


def _finding(course: Course, courses: Sequence[Course]) -> str:
    server = wording.SERVERS[course.threat_model]
    worst = course.clients[0]
    peak = max(course.rounds, key=lambda r: r.advantage.mean)
    state = ""
    if any(other.defended for other in courses):
        state = "With the defense on, " if course.defended else "With the defense off, "
    said = (
        f"{state}{server} has advantage {wording.span(course.advantage, course.updates)} over "
        f"{wording.count(len(course.rounds), 'round')} and "
        f"{wording.count(len(course.clients), 'client')}: it names "
        f"{wording.share(course.asr)} of the labels, the best guess without the update "
        f"{wording.share(course.free)}."
    )
    if peak.advantage.mean > min(r.advantage.mean for r in course.rounds):
        said += f" It is highest in round {peak.number} ({wording.number(peak.advantage.mean)})."
    if worst.advantage.mean > course.clients[-1].advantage.mean:
        said += (
            f" Client {worst.name} gives away most: {wording.number(worst.advantage.mean)} over "
            f"{wording.count(worst.rounds, 'round')}; client {course.clients[-1].name} least: "
            f"{wording.number(course.clients[-1].advantage.mean)}."
        )
    return said[:1].upper() + said[1:]

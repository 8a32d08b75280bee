"""The verdict of a page: what the worst attacker gains, in a word of a fixed scale.

The word follows the upper end of the 95 % interval, so few trials never make it milder. Where
there are too few trials, or where the scale, sign, task or loss of the update is in doubt, a low
figure shows nothing, and no word below a moderate leak is given. `docs/scale.md` says why the
bounds are these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from labelleak.records.cells import Cell
from labelleak.records.intervals import Interval
from labelleak.records.mixing import say_mixed
from labelleak.records.record import Record
from labelleak.records.rounds import Course, federated, follow_rounds, outside_rounds
from labelleak.records.states import IMPOSSIBLE, is_settled
from labelleak.records.strongest import worst_cases
from labelleak.report import wording
from labelleak.report.actions import all_blocked, follow_actions, say_policy
from labelleak.report.headlines import case_of, harm, judged_cells, labels_of, strongest
from labelleak.report.unread import find_unread

ENOUGH_TRIALS = 20
_MODERATE = 0.2


@dataclass(frozen=True)
class Grade:
    """One word of the scale, which holds up to an advantage."""

    most: float
    word: str
    short: str


GRADES = (
    Grade(0.05, "These attackers found no leak above 0.05", "none above 0.05"),
    Grade(_MODERATE, "Small leak", "small"),
    Grade(0.5, "Moderate leak", "moderate"),
    Grade(0.8, "Large leak", "large"),
    Grade(1.0, "Nearly everything leaks", "nearly everything"),
)
UNDECIDED = Grade(0.0, "Not decided", "not decided")


@dataclass(frozen=True)
class Exposure:
    """What one server learns from an update in the case that a page judges by.

    Attributes:
        server: its threat model.
        attackers: the attacks that were strongest, in words.
        advantage: what it gained; None where nothing was left to learn.
        asr: share of labels named.
        free: the same of the best guess without the update.
        labels: labels behind an update; None in a federation, where updates differ.
        what: those labels in words.
        trials: updates behind the figures.
        groups: models, or clients, that the trials spread over.
        doubt: why a low figure would show nothing; empty where nothing is in doubt.
    """

    server: str
    attackers: str
    advantage: Interval | None
    asr: Interval
    free: float
    labels: int | None
    what: str
    trials: int
    groups: int
    doubt: str

    def to_json(self) -> dict[str, Any]:
        """Return the figures as plain values."""
        return {
            "threat_model": self.server,
            "attacks": self.attackers,
            "advantage": _ends(self.advantage),
            "asr": self.asr.mean,
            "asr_free": self.free,
            "labels": self.labels,
            "updates": self.trials,
            "groups": self.groups,
            "doubt": self.doubt,
        }

    @property
    def thin(self) -> bool:
        """Whether there are too few trials for a low figure to mean anything."""
        return self.trials < ENOUGH_TRIALS

    def named(self, rate: float) -> str:
        """Say how many labels a share of them is."""
        if self.labels is None or self.labels == 1:
            return wording.share(rate)
        return f"{wording.labels_named(rate, self.labels)} of {self.labels}".replace(
            f"all {self.labels} of", "all of"
        )


def _ends(interval: Interval | None) -> dict[str, float] | None:
    return None if interval is None else vars(interval).copy()


def grade(exposure: Exposure | None) -> Grade:
    """Return the word for what an attacker gained.

    >>> grade(None).word
    'Not decided'
    """
    if exposure is None or exposure.advantage is None:
        return UNDECIDED
    if (exposure.thin or exposure.doubt) and exposure.advantage.low < _MODERATE:
        return UNDECIDED
    return next(g for g in GRADES if exposure.advantage.high <= g.most or g is GRADES[-1])


def worst(exposures: Sequence[Exposure]) -> Exposure | None:
    """Return the exposure that reaches highest; of equals, that of the server that holds least."""
    return max(exposures, key=lambda one: harm(one.advantage), default=None)


def _of_cells(cells: Sequence[Cell]) -> tuple[list[Exposure], Cell | None]:
    """Return what each server learns in the worst case at the headline's batch size.

    Args:
        cells: the strongest attackers' cells, as `worst_cases` gives them.

    Returns:
        One exposure a threat model, all in the same case, and the cell that the case is of.
    """
    chosen = judged_cells(cells)
    if not chosen:
        return [], None
    judged = strongest(chosen)
    return [_of_cell(cell) for cell in chosen if case_of(cell) == case_of(judged)], judged


def _of_cell(cell: Cell) -> Exposure:
    return Exposure(
        cell.threat_model,
        wording.name_attacker(cell),
        cell.advantage,
        cell.asr,
        cell.free,
        cell.num_labels,
        labels_of(cell),
        cell.trials,
        cell.initialisations,
        wording.doubt(cell),
    )


@dataclass(frozen=True)
class Verdict:
    """What a page judges, and by what.

    Attributes:
        grade: the word; none is given to records of several runs of a federation.
        worst: what the worst attacker gains; None where no attack read an update.
        exposures: every server in the same case.
        judged: the cell that the case is of; None in a federation.
        cells: the strongest attackers' cells of everything that was audited outside of rounds.
        courses: what each server learned over the rounds of a federation.
        fates: what clients' policies did to their updates, in a clause; empty where nothing.
        no_update_left: whether they withheld all.
        unread: conditions under which no attack could read the update.
        mixed: why the records are not of one run, and what to do; empty where they may be.
    """

    grade: Grade
    worst: Exposure | None
    exposures: tuple[Exposure, ...]
    judged: Cell | None
    cells: tuple[Cell, ...]
    courses: tuple[Course, ...]
    mixed: str = ""
    fates: str = ""
    no_update_left: bool = False
    unread: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the word with its figures as plain values."""
        return {
            "word": self.grade.word,
            "worst": None if self.worst is None else self.worst.to_json(),
            "servers": [exposure.to_json() for exposure in self.exposures],
            "mixed": self.mixed,
            "fates": self.fates,
            "unread": list(self.unread),
        }


def reach_verdict(records: Sequence[Record], cells: Sequence[Cell] | None = None) -> Verdict:
    """Judge records: those of a federation's rounds if there are any, else the worst case.

    Args:
        records: what was measured, each trial once.
        cells: what `worst_cases` gives for them, where it is known already.

    >>> reach_verdict([]).grade.word
    'Not decided'
    """
    courses = follow_rounds(records)
    if courses or cells is None:
        cells = worst_cases(outside_rounds(records))
    exposures, judged = _of_courses(courses, records) if courses else _of_cells(cells)
    found, mixed, actions = worst(exposures), say_mixed(records), follow_actions(records)
    return Verdict(
        UNDECIDED if mixed else grade(found),
        found,
        tuple(exposures),
        judged,
        tuple(cells),
        tuple(courses),
        mixed,
        say_policy(actions),
        all_blocked(actions),
        find_unread(records),
    )


def _of_courses(
    courses: Sequence[Course], records: Sequence[Record]
) -> tuple[list[Exposure], None]:
    """Return what each server learns over the rounds, with the defense off where both are there."""
    off = [course for course in courses if not course.defended] or list(courses)
    rows = federated(records)
    unsettled = sum(
        not is_settled(row.extra, row.flags, row.defense) or bool({*IMPOSSIBLE} & {*row.flags})
        for row in rows
    )
    doubt = ""
    if unsettled:
        doubt = (
            f"The scale, sign, task or loss of {wording.share(unsettled / len(rows))} of the "
            "updates is not known to hold, so a low figure here is no evidence of safety."
        )
    found = [
        Exposure(
            course.threat_model,
            wording.name_chosen([(name, False) for name in course.attacks]),
            course.advantage,
            Interval(course.asr, course.asr, course.asr),
            course.free,
            None,
            "the labels behind a client's update of a round",
            course.updates,
            len(course.clients),
            doubt,
        )
        for course in off
    ]
    return found, None


__all__ = [
    "ENOUGH_TRIALS",
    "GRADES",
    "UNDECIDED",
    "Exposure",
    "Grade",
    "Verdict",
    "grade",
    "reach_verdict",
]

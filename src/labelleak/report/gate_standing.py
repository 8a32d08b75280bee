"""Judge what figures rest on: a low one shows nothing where updates cannot be as they were told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from labelleak.errors import few
from labelleak.records.cells import Cell
from labelleak.records.events import EVENTS, Failures, read_failures
from labelleak.records.flags import FLAGS, Doubt
from labelleak.records.journal import say_unfinished
from labelleak.records.states import IMPOSSIBLE, doubts
from labelleak.report import wording
from labelleak.report.policy import Policy

BELOW_GUESS = (
    "every attack that reads the update does worse than the guess without it, so the reported "
    "labels may not be those of these updates, or stronger attacks are lacking: check what "
    "report_labels is given, and give the Auditor the model and own data"
)
# Rules that judge what lies beside the records, which alone do not bear it out.
FINISHED, AUDITED = "finished", "audited"


@dataclass(frozen=True)
class Finding:
    """What one rule of a policy found in one cell."""

    rule: str
    cell: str
    passed: bool
    said: str


def judge_standing(cells: Sequence[Cell], policy: Policy, name: str) -> Iterator[Finding]:
    """Fail what is impossible or refuted, and where the policy asks for it what is not known."""
    for flag in IMPOSSIBLE:
        if most := _raised(cells, flag):
            yield _of_flag(flag, most, name)
    if policy.on_refuted == "fail":
        yield from _judge_refuted(cells, policy, name)
    if policy.on_unknown == "fail":
        most = max(cell.unsettled for cell in cells)
        said = "scale, sign, task and loss of every update hold"
        if most:
            why = few(sorted({one for cell in cells for one in doubts(dict(cell.flags))}), 100)
            said = (
                "scale, sign, task or loss is not known to hold in "
                f"{wording.count(most, 'trial')}{why and f' (raised: {why})'}"
            )
        yield Finding("on_unknown", name, not most, said)


def judge_beside(records: Path) -> tuple[list[Finding], list[Finding]]:
    """Judge what lies beside a file of records: first whether its run ended, last its events."""
    left = say_unfinished(records)
    first = [Finding(FINISHED, "all", False, left)] if left else []
    return first, list(judge_failures(read_failures(records.parent)))


def judge_failures(failures: Failures) -> Iterator[Finding]:
    """Fail where updates left unaudited, of which no record speaks.

    The reasons stay in the events: they may name labels, and findings are published.
    """
    if failures.audits:
        said = f"{replace(failures, reason='', trainings=0)}; {EVENTS} says why"
        yield Finding(AUDITED, "all", not failures.left, said)


def _judge_refuted(cells: Sequence[Cell], policy: Policy, name: str) -> Iterator[Finding]:
    """Fail what cannot be as it was told, unless the policy tolerates a share of it.

    An audit made its updates itself, and says of none that it is not settled. A defense explains
    both odd entries and attacks that answer noise.
    """
    if not any(cell.unsettled for cell in cells) or cells[0].defense != "none":
        return
    raised = {flag for cell in cells for flag, number in cell.flags if number}
    for flag in doubts(sorted(raised), [Doubt.refuted]):
        if flag not in policy.flags:
            yield _of_flag(flag, _raised(cells, flag), name)
    able = [cell.advantage for cell in cells if cell.threat_model != "none" and cell.advantage]
    best = max(able, key=lambda one: one.high, default=None)
    if best is not None and best.high < 0 and cells[0].trials >= policy.min_trials:
        yield Finding(
            "on_refuted", name, False, f"{BELOW_GUESS} (at best {wording.number(best.mean)})"
        )


def _raised(cells: Sequence[Cell], flag: str) -> int:
    return max(dict(cell.flags).get(flag, 0) for cell in cells)


def _of_flag(flag: str, most: int, name: str) -> Finding:
    said = f"{FLAGS[flag].says}, in {wording.count(most, 'trial')}: {FLAGS[flag].advice}"
    return Finding(flag, name, False, said)


__all__ = [
    "AUDITED",
    "BELOW_GUESS",
    "FINISHED",
    "Finding",
    "judge_beside",
    "judge_failures",
    "judge_standing",
]

"""What to do next: more evidence where it lacks, a defense where something leaks."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from labelleak.records.mixing import WHAT_TO_DO
from labelleak.records.record import Record
from labelleak.records.rounds import Course
from labelleak.report.defenses import Comparison, Row
from labelleak.report.verdict import GRADES, Verdict
from labelleak.report.wording import capital, number, points, span

_TARGET = 0.2


@dataclass(frozen=True)
class Advice:
    """One thing to do next, and the command that does it, if there is one."""

    says: str
    command: str = ""


def next_steps(
    records: Sequence[Record], verdict: Verdict, comparisons: Sequence[Comparison]
) -> list[Advice]:
    """Say what to do: more evidence where it lacks, a defense where something leaks."""
    worst, word, steps = verdict.worst, verdict.grade, []
    if verdict.mixed:
        return [Advice(f"{capital(WHAT_TO_DO)}.")]
    if worst is not None and worst.doubt:
        steps.append(Advice("Settle the scale and sign of the update first; the flags say how."))
    if worst is None or worst.thin:
        enough = "updates of 10 clients" if verdict.courses else "trials on 10 models"
        steps.append(Advice(f"Gather more evidence: at least 100 {enough}."))
    if word is not GRADES[0]:
        steps += _defend(comparisons, verdict.courses, records)
    if word is GRADES[0]:
        steps.append(
            Advice("Audit again when the model, the data or the clients' training changes.")
        )
    return steps


def _defend(
    comparisons: Sequence[Comparison], courses: Sequence[Course], records: Sequence[Record]
) -> list[Advice]:
    on = [course for course in courses if course.defended]
    if on and len(on) < len(courses):
        most = max(on, key=lambda course: course.advantage.high)
        return [
            Advice(
                "Keep the clients' defense on: with it the strongest server's advantage is "
                f"{span(most.advantage, most.updates)}."
            )
        ]
    best = _best_defense(comparisons, known=any(record.adaptive for record in records))
    measured = [Advice(best)] if best else []
    search = "a cheaper one" if measured else "the cheapest defense that works"
    return [
        *measured,
        _search(records[0], search),
        Advice("Larger batches, and averaging several clients before the server looks, help too."),
    ]


def _search(record: Record, wanted: str) -> Advice:
    """Advise a search on the data and model of the records; of others, on ones that are like them.

    Records of a federation name its data and model for people, and no search can load them.
    """
    says, of = f"Search for {wanted}:", ["--data", record.data, "--model", record.model]
    if not record.command.startswith("labelleak "):
        of = ["--data", "DATA", "--model", "MODULE:FUNCTION"]
        says = (
            f"Search for {wanted}, on DATA like the clients' (see labelleak list data) and "
            "the FUNCTION of MODULE.py that builds the model:"
        )
    words = ["labelleak", "tune", "--target-advantage", f"{_TARGET:g}", *of, *_of_task(record)]
    return Advice(says, shlex.join(words))


def _of_task(record: Record) -> list[str]:
    """Return the options that a search needs for a task, where its data do not show it."""
    task = record.extra.get("task")
    return {
        "binary": ["--task", "binary"],
        "multilabel": ["--scheme", "natural"],
        "dense": ["--scheme", "natural"],
        "tokens": ["--task", "tokens"],
    }.get(str(task), [])


def _best_defense(comparisons: Sequence[Comparison], *, known: bool) -> str:
    """Name the defense that left least of those measured, and what it costs; nothing if none."""
    for comparison in comparisons[:1]:
        reach = {row.defense: _reach(row) for row in comparison.rows}
        least = min(comparison.rows, key=lambda row: reach[row.defense])
        if least.defense == "none" or reach[least.defense] >= reach.get("none", 9.0):
            return "None of the defenses measured lowers the leak."
        cost = least.costs.get("accuracy_cost")
        price = "its cost in accuracy was not measured"
        if isinstance(cost, int | float):
            price = f"it costs {points(cost)} of accuracy"
        blind = "" if known else ", to attackers who do not know it"
        return (
            f"Of the defenses measured, {least.defense} leaves least: at most "
            f"{number(max(0.0, reach[least.defense]))}{blind}; {price}."
        )
    return ""


def _reach(row: Row) -> float:
    """Return the highest upper end that any server reaches under a defense."""
    strongest = (leakage.strongest for leakage in row.leakages.values())
    ends = [cell.advantage.high for cell in strongest if cell and cell.advantage]
    return max(ends, default=9.0)


__all__ = ["Advice", "next_steps"]

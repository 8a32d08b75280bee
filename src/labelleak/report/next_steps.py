"""What to do next: more evidence where it lacks, a defense where something leaks."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from labelleak.records.cells import Cell
from labelleak.records.flags import FLAGS
from labelleak.records.frame import RecordFrame
from labelleak.records.mixing import WHAT_TO_DO
from labelleak.records.record import Record
from labelleak.records.rounds import is_federated
from labelleak.records.states import IMPOSSIBLE, doubts
from labelleak.report.defenses import Comparison, Row
from labelleak.report.verdict import GRADES, UNDECIDED, Verdict
from labelleak.report.wording import AS_GIVEN, capital, number, points, span

_TARGET = 0.2
# Doubts that advice is given on.
_MOST = 3
# Options of an audit that say what the model is and mean the same to a search.
_TAKEN = ("--activation", "--init")


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
    if worst is not None and worst.doubt and word is UNDECIDED:
        steps += _settle(records)
    if worst is None or worst.thin:
        enough = "updates of 10 clients" if verdict.courses else "trials on 10 models"
        steps.append(Advice(f"Gather more evidence: at least 100 {enough}."))
    if word is not GRADES[0]:
        steps += _defend(comparisons, verdict, records)
    if word is GRADES[0]:
        steps.append(
            Advice("Audit again when the model, the data or the clients' training changes.")
        )
    return steps


def _settle(records: Sequence[Record]) -> list[Advice]:
    """Say how to remove the doubts that make a low figure no evidence, where that can be done.

    What scale and sign a Flower client's update has nobody sees in its message, whatever is told.
    """
    frame = RecordFrame.of(records)
    rows = [row for row, doubted in zip(frame, frame.unsettled, strict=False) if doubted]
    raised = {flag for row in rows for flag in doubts(row.flags, defended=row.defense != "none")}
    raised |= {flag for flags in frame.distinct("flags") for flag in flags if flag in IMPOSSIBLE}
    found = [Advice(f"Settle {name}: {FLAGS[name].advice}.") for name in sorted(raised)[:_MOST]]
    if any(map(is_federated, rows)):
        one = rows[0]
        words = ["labelleak", "audit", "--data", "DATA", "--model", "MODULE:FUNCTION"]
        sizes = ["--batch-sizes", str(one.batch_size), "--local-steps", str(one.local_steps)]
        found.append(
            Advice(
                "No setting of the Auditor settles scale and sign, since the messages do not show "
                "them: audit the same training in simulation, where both are known, on DATA like "
                "the clients' and the FUNCTION of MODULE.py that builds the model:",
                shlex.join([*words, *sizes, *_of_task(str(one.extra.get("task")))]),
            )
        )
    elif not found:
        found.append(
            Advice(
                "Settle the scale and sign of the update: give own data and the model, or take the "
                "update by labelleak.capture in the client's training."
            )
        )
    return found


def _defend(
    comparisons: Sequence[Comparison], verdict: Verdict, records: Sequence[Record]
) -> list[Advice]:
    courses = verdict.courses
    on = [course for course in courses if course.defended]
    if on and len(on) < len(courses):
        most = max(on, key=lambda course: course.advantage.high)
        return [
            Advice(
                "Keep the clients' defense on: with it the strongest server's advantage is "
                f"{span(most.advantage, most.updates)}."
            )
        ]
    best = _best_defense(comparisons, known=any(RecordFrame.of(records).distinct("adaptive")))
    measured = [Advice(best)] if best else []
    search = "a cheaper one" if measured else "the cheapest defense that works"
    return [
        *measured,
        _search(records[0], verdict.judged, search),
        Advice("Larger batches, and averaging several clients before the server looks, help too."),
    ]


def _search(record: Record, judged: Cell | None, wanted: str) -> Advice:
    """Advise a search on the data and model of the records; of others, on ones that are like them.

    Records of a federation name its data and model for people, and no search can load them. A
    search trains models of its own, which is said where weights were given.
    """
    says, of = f"Search for {wanted}:", ["--data", record.data, "--model", record.model]
    if record.extra.get("init") == AS_GIVEN:
        says = f"Search for {wanted}, on models that the search trains itself:"
    if not record.command.startswith("labelleak "):
        of = ["--data", "DATA", "--model", "MODULE:FUNCTION"]
        says = (
            f"Search for {wanted}, on DATA like the clients' (see labelleak list data) and "
            "the FUNCTION of MODULE.py that builds the model:"
        )
    words = ["labelleak", "tune", "--target-advantage", f"{_TARGET:g}", *of]
    return Advice(says, shlex.join([*words, *_as_audited(record), *_of_case(record, judged)]))


def _as_audited(record: Record) -> list[str]:
    """Return the options of the audit's command that a search takes as they are."""
    try:
        said = shlex.split(record.command)
    except ValueError:  # a record from outside may say anything
        return []
    pairs = [word.split("=", 1) for word in said if word.startswith("--") and "=" in word]
    pairs += [[a, b] for a, b in pairwise(said) if a.startswith("--") and "=" not in a]
    found = dict(pair for pair in pairs if pair[0] in _TAKEN)
    return [word for name in _TAKEN if name in found for word in (name, found[name])]


def _of_case(record: Record, judged: Cell | None) -> list[str]:
    """Return the options by which a search tries the case that was judged."""
    task = str(record.extra.get("task"))
    told = ["--task", task] if task in ("binary", "tokens") else []
    if judged is None or not record.command.startswith("labelleak"):
        return told  # a federation's batches are none that a search could draw
    return [*told, "--batch-size", str(judged.batch_size), "--scheme", judged.scheme]


def _of_task(task: str) -> list[str]:
    """Return the options of an audit that the task asks for."""
    if task in ("binary", "tokens"):
        return ["--task", task]
    return ["--schemes", "natural"] if task in ("multilabel", "dense") else []


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

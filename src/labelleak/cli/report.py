"""`labelleak report`: the page of records, or of two files of them side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labelleak.cli.options import command
from labelleak.cli.results import Shown, paths, print_json, print_wrapped, say_verdict
from labelleak.cli.terminal import say, uncollected
from labelleak.errors import BadInput
from labelleak.records.files import write_whole
from labelleak.records.options import Option, Options
from labelleak.records.unscored import is_unscored
from labelleak.report.about import About

if TYPE_CHECKING:
    from labelleak.records.record import Record
    from labelleak.report.page import Tables
    from labelleak.report.verdict import Verdict


_EVIDENCE = "evidence.json"


@dataclass(frozen=True, kw_only=True)
class ReportRun(Options):
    """Where the page goes."""

    out: Annotated[
        Path | None, Option("Page to write; report.html, or comparison.html, beside the last.")
    ] = None


@command
@uncollected()
def report(
    records: Annotated[
        list[Path],
        typer.Argument(
            help="A records.jsonl or estimates.jsonl file, or its folder; or two to be compared."
        ),
    ],
    page: ReportRun,
    about: About,
    shown: Shown,
) -> None:
    """Render the page of an audit again from its records, or compare two; needs no torch."""
    from labelleak.records.journal import records_file

    records = [records_file(place) for place in records]
    if len(records) > 2:
        raise BadInput(f"a report is of one file of records or of two, not of {len(records)}")
    if is_unscored(records[0]):
        _conclude_unscored(records, page.out or records[0].with_name("report.html"), about, shown)
    elif len(records) == 2:
        _compare(records, page.out or records[-1].with_name("comparison.html"), about, shown)
    else:
        conclude(records[0], page.out or records[0].with_name("report.html"), about, shown)


def _conclude_unscored(records: list[Path], page: Path, about: About, shown: Shown) -> None:
    """Write the page of answers without a score: there is no verdict on them, and no evidence."""
    from labelleak.report.unscored import ADVICE, say_unscored, write_unscored_page

    if len(records) > 1:
        raise BadInput("answers without a score cannot be compared; give one file of them")
    rows = write_unscored_page(records[0], page, about)
    if shown.json:
        print_json({"unscored": len(rows), **paths(estimates=records[0], report=page)})
        return
    say(f"{say_unscored(rows)}\n{ADVICE}\n\nestimates {records[0]}\nreport    {page}")


def _compare(records: list[Path], page: Path, about: About, shown: Shown) -> None:
    from labelleak.report.comparison import (
        overall,
        say_comparison,
        why_not_comparable,
        write_comparison,
    )

    sides = write_comparison(records, page, about)
    moved = overall(*sides)
    if shown.json:
        change = None if moved is None else vars(moved)
        found = [side.verdict.to_json() | {"defense": side.defense} for side in sides]
        why = why_not_comparable(*sides)
        told = {"change": change, "not_comparable": why, "page": str(page)}
        print_json({"before": found[0], "after": found[1], **told})
        return
    for name, side in zip(("Before", "After"), sides, strict=True):
        say(f"{name}: {say_verdict(side.verdict)}")
    say(f"\n{say_comparison(*sides)}\n\npage     {page}")


def conclude(
    records: Path, page: Path, about: About, shown: Shown, held: Sequence[Record] | None = None
) -> None:
    """Write the page of a file of records, with its evidence beside it, and print the findings.

    Args:
        records: the file.
        page: where the page goes.
        about: what the page says of its system.
        shown: how the findings are printed.
        held: all that the file holds, where it need not be read.
    """
    from labelleak.report import write_report
    from labelleak.report.docless import import_docless
    from labelleak.report.evidence import make_evidence, to_text
    from labelleak.report.page import day_of, say_beside

    import_docless()
    found = write_report(records, page, about, held)
    verdict = found.verdict
    evidence = page.with_name(_EVIDENCE if page.stem == "report" else f"{page.stem}.{_EVIDENCE}")
    filed = make_evidence(
        found.records, records, when=day_of(records), about=about, verdict=verdict
    )
    write_whole(evidence, to_text(filed))
    if shown.json:
        print_json(
            _summary(found, verdict) | paths(records=records, report=page, evidence=evidence)
        )
        return
    _show(found, verdict)
    if beside := say_beside(found, records):
        say(f"\nNote: {beside}.")
    say(f"\nrecords  {records}\nreport   {page}\nevidence {evidence}")


def _summary(found: Tables, verdict: Verdict) -> dict[str, Any]:
    from labelleak.report.scope import not_applicable

    return {
        "verdict": verdict.to_json(),
        "flags": {flag.name: {"runs": flag.trials, "of": flag.of} for flag in found.flags},
        "not_applicable": not_applicable(found.records),
    }


def _show(found: Tables, verdict: Verdict) -> None:
    """Print the table, the sentence of each server, what to beware of, and last the verdict."""
    from rich.console import Console

    from labelleak.report import headline, summary_table
    from labelleak.report.terminal import inert

    console = Console()
    if found.cells and not verdict.courses:
        console.print(summary_table(found.cells, found.worst))
        for sentence in headline(found.worst):
            console.print(inert(sentence), highlight=False)
    for case in found.layers.shown if found.layers else ():
        console.print(inert(f"{case.say()}."), highlight=False)
    _print_flags(found)
    console.print()
    console.print(inert(say_verdict(verdict)), highlight=False)


def _print_flags(found: Tables) -> None:
    """Say which assumptions did not hold, the most frequent first, and who could not answer."""
    from labelleak.report.remedies import group_reasons
    from labelleak.report.scope import not_applicable

    if found.flags:
        print("\nFlags (an assumption did not hold; see the report for what to do):")
    for flag in found.flags:
        said = f"{flag.trials / flag.of:>4.0%} of runs of {flag.attacks}"
        print_wrapped(f"  {flag.name}", said, indent=28)
    for reason in group_reasons(not_applicable(found.records)):
        say(f"\nNot applicable: {reason}")


__all__ = ["conclude", "report"]

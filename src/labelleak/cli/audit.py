"""`labelleak audit` and `labelleak report`: a simulated client, and the page of its records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from labelleak.audits.options import AuditOptions, Learnt
from labelleak.cli.options import OUT, FullPaths, Overwrite, RecordsFile, command
from labelleak.cli.terminal import command_line, interruptible, progress_bar, say, say_remarks
from labelleak.records.options import Option, Options
from labelleak.report.about import About

if TYPE_CHECKING:
    from labelleak.records.record import Record


@dataclass(frozen=True, kw_only=True)
class AuditRun(Options):
    """Where an audit writes, and what its run may use."""

    out: Annotated[Path, Option("Folder for records.jsonl and report.html.")] = OUT
    overwrite: Overwrite = False
    threads: Annotated[int, Option("Threads for the model's arithmetic.", min=1)] = 1
    learnt: Learnt = None
    full_paths: FullPaths = False


@command
def audit(options: AuditOptions, place: AuditRun, about: About) -> None:
    """Audit a simulated client: how many labels does its shared gradient give away?"""
    import torch

    from labelleak.audits.plan import plan_audit
    from labelleak.audits.run import Part, open_run, run_parts
    from labelleak.files.fit_cache import FolderFitCache

    torch.set_num_threads(place.threads)
    notes = FolderFitCache(place.learnt)
    plan = replace(plan_audit(options, command=command_line(place.full_paths)), fit_cache=notes)
    parts = [Part(options=options, given=plan)]
    say_remarks(options.defenses)
    with (
        open_run(parts, place.out, overwrite=place.overwrite) as journal,
        interruptible(journal.records),
        progress_bar("auditing", "cells") as advance,
    ):
        notes.tell = advance.tell
        run_parts(parts, journal, numbered=False, progress=advance)
    _conclude(journal.records, place.out / "report.html", about)


@dataclass(frozen=True, kw_only=True)
class ReportRun(Options):
    """Where the page goes."""

    out: Annotated[
        Path | None, Option("Page to write; report.html beside the records if left out.")
    ] = None


@command
def report(records: RecordsFile, page: ReportRun, about: About) -> None:
    """Render the page of an audit again from its records; needs no torch."""
    _conclude(records, page.out or records.with_name("report.html"), about)


def _conclude(records: Path, page: Path, about: About) -> None:
    """Write the page and print the findings."""
    from rich.console import Console

    from labelleak.report import headline, summary_table, write_report
    from labelleak.report.terminal import inert

    tables = write_report(records, page, about)
    console = Console()
    console.print(summary_table(tables.cells, tables.worst))
    for sentence in headline(tables.worst):
        console.print(inert(sentence), highlight=False)
    _print_flags(tables.records)
    say(f"\nrecords  {records}\nreport   {page}")


def _print_flags(rows: Sequence[Record]) -> None:
    """Say which assumptions did not hold, the most frequent first."""
    from labelleak.report.scope import flags, not_applicable

    for reason in not_applicable(rows):
        say(f"\nNot applicable: {reason}")
    raised = flags(rows)
    if raised:
        print("\nFlags (an assumption did not hold; see the report for what to do):")
    for flag in raised:
        said = f"{flag.name:<26} {flag.trials / flag.of:>4.0%} of runs of {flag.attacks}"
        say(f"  {said}")


__all__ = ["audit", "report"]

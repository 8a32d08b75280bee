"""`labelleak audit`: a simulated client is attacked, and the page of its records is written."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from labelleak.audits.executors import Executor
from labelleak.audits.options import QUICK, AuditOptions, Learnt, quickened
from labelleak.cli.options import OUT, FullPaths, Overwrite, Packed, command, said
from labelleak.cli.report import conclude
from labelleak.cli.results import Shown
from labelleak.cli.terminal import (
    command_line,
    interruptible,
    progress_bar,
    say_remarks,
    settled,
    uncollected,
)
from labelleak.records.options import Option, Options
from labelleak.report.about import About


@dataclass(frozen=True, kw_only=True)
class AuditRun(Options):
    """Where an audit writes, and what its run may use."""

    out: Annotated[Path, Option("Folder for records.jsonl and report.html.")] = OUT
    overwrite: Overwrite = False
    gzip: Packed = False
    quick: Annotated[
        bool, Option("A first look in some seconds: few batches, quick rules, untrained models.")
    ] = False
    threads: Annotated[int, Option("Threads for the model's arithmetic.", min=1)] = 1
    learnt: Learnt = None
    full_paths: FullPaths = False


@command
def audit(
    options: AuditOptions, place: AuditRun, where: Executor, about: About, shown: Shown
) -> None:
    """Audit a simulated client: how many labels does its shared gradient give away?"""
    with ExitStack() as held:
        with uncollected(last=False):
            from labelleak.audits.plan import plan_audit, refuse_copies
            from labelleak.audits.run import Part, open_run, run_parts
            from labelleak.core.seeding import use_threads
            from labelleak.files.fit_cache import FolderFitCache

            use_threads(place.threads)
            options = quickened(options, said(QUICK)) if place.quick else options
            notes = FolderFitCache(place.learnt)
            plan = plan_audit(options, command=command_line(place.full_paths))
            plan = replace(plan, fit_cache=notes)
            refuse_copies(plan)
            parts = [Part(options=options, given=plan)]
            held.enter_context(settled())  # before the collector wakes and looks at all of it
        say_remarks(options.defenses)
        journal = held.enter_context(
            open_run(parts, place.out, overwrite=place.overwrite, packed=place.gzip)
        )
        held.enter_context(interruptible(journal.records))
        advance = held.enter_context(progress_bar("auditing", "cells"))
        if where.kind == "serial":  # the bar does not reach other processes
            notes.tell = advance.tell
        resumed = bool(journal.done)
        new = run_parts(parts, journal, numbered=False, executor=where, progress=advance)
    with uncollected():
        own = None if resumed else new  # else the file holds more
        conclude(journal.records, place.out / "report.html", about, shown, own)

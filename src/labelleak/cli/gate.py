"""`labelleak gate`: let a pipeline fail where records show more leakage than a policy allows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labelleak.cli.options import RecordsFile, command
from labelleak.cli.results import Shown, print_json
from labelleak.cli.terminal import uncollected
from labelleak.errors import BadInput, shown_path
from labelleak.records.options import Option, Options
from labelleak.report.about import About

if TYPE_CHECKING:
    from labelleak.records.record import Record
    from labelleak.report.evidence import Subject
    from labelleak.report.gate import Finding
    from labelleak.report.policy import Policy

_SHOWN_PASSED = 10
# Where a job's summary is written, as GitHub says.
_SUMMARY = "GITHUB_STEP_SUMMARY"


@dataclass(frozen=True, kw_only=True)
class GateRun(Options):
    """What the records are judged by, and where the findings go."""

    policy: Annotated[Path, Option("TOML file of what is allowed.")]
    junit: Annotated[Path | None, Option("Write the findings here as JUnit XML.")] = None
    summary: Annotated[
        Path | None, Option("Write the findings here as GitHub-flavoured Markdown.")
    ] = None
    released: Annotated[
        Path | None, Option("The update or model that is to leave; its digest is filed.")
    ] = None
    evidence: Annotated[Path | None, Option("Write evidence.json of the verdict here.")] = None
    github_summary: Annotated[bool, Option("Append them to $GITHUB_STEP_SUMMARY too.")] = False


@command
@uncollected()
def gate(records: RecordsFile, asked: GateRun, about: About, shown: Shown) -> None:
    """Judge records by a policy: status 0 if all of it holds, 1 if not, 2 for bad input."""
    from labelleak.records.journal import records_file
    from labelleak.records.whole import read_frame
    from labelleak.report.gate import judge
    from labelleak.report.gate_standing import judge_beside
    from labelleak.report.policy import read_policy

    if asked.released is not None and asked.evidence is None:
        raise BadInput("`released` needs `evidence`, where its digest is filed")
    if asked.github_summary and not os.environ.get(_SUMMARY):
        raise BadInput(f"`github_summary` needs {_SUMMARY}, which is not set; use `summary`")
    records = records_file(records)
    rules = read_policy(asked.policy)
    rows = read_frame(records)
    subject = None if asked.released is None else _subject(rows, asked.released)
    first, last = judge_beside(records)
    findings = [*first, *judge(rows, rules), *last]
    if shown.json:
        passed = all(finding.passed for finding in findings)
        print_json({"passed": passed, "checks": [asdict(finding) for finding in findings]})
    else:
        _show(findings)
    if asked.evidence is not None:
        _file(asked.evidence, records, rows, rules, findings, subject, about)
    _write(asked, findings, records.name)
    if not all(finding.passed for finding in findings):
        raise typer.Exit(1)


def _subject(rows: Sequence[Record], released: Path) -> Subject:
    """Name what is to leave, which must be an update of the records where they hold digests."""
    from labelleak.cli.verify import digest_of
    from labelleak.report.evidence import bind

    return bind(rows, released.name, digest_of(released))


def _file(
    place: Path,
    records: Path,
    rows: Sequence[Record],
    rules: Policy,
    findings: Sequence[Finding],
    subject: Subject | None,
    about: About,
) -> None:
    """Write the evidence of a verdict, bound to the records and to what is to leave."""
    from labelleak.records.files import write_whole
    from labelleak.records.repeats import count_once
    from labelleak.report.evidence import make_evidence, to_text
    from labelleak.report.page import day_of

    filed = make_evidence(
        count_once(rows),
        records,
        when=day_of(records),
        about=about,
        policy=rules,
        checks=findings,
        released=subject,
    )
    write_whole(place, to_text(filed))


def _write(asked: GateRun, findings: Sequence[Finding], source: str) -> None:
    """Write the findings into the files that are asked for."""
    if not (asked.junit or asked.summary or asked.github_summary):
        return
    from labelleak.records.files import write_whole
    from labelleak.report.gate_files import junit, markdown

    text = markdown(findings, source=source)
    if asked.junit is not None:
        write_whole(asked.junit, junit(findings, source=source))
    if asked.summary is not None:
        write_whole(asked.summary, text)
    if asked.github_summary:
        _append(text)


def _append(text: str) -> None:
    place = os.environ[_SUMMARY]
    try:
        with Path(place).open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise BadInput(
            f"cannot append to {shown_path(place)}: {error.strerror or error}"
        ) from error


def _show(findings: Sequence[Finding]) -> None:
    """Print what failed, then what passed in short; findings that say the same are one row."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from labelleak.report.gate import group
    from labelleak.report.terminal import inert

    failed = [finding for finding in findings if not finding.passed]
    passed = [finding for finding in findings if finding.passed]
    console = Console()
    alike = group(passed)
    for title, rows in (("failed", group(failed)), ("passed", alike[:_SHOWN_PASSED])):
        if rows:
            table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
            for name in ("rule", "cell", "found"):
                table.add_column(name, overflow="fold")
            for row in rows:
                table.add_row(*map(inert, (row.rule, row.cell, row.said)))
            console.print(table)
    if len(alike) > _SHOWN_PASSED:
        print(f"and {len(alike) - _SHOWN_PASSED} more findings passed; --json lists all")
    verdict = "FAILED" if failed else "PASSED"
    print(f"gate {verdict}: {len(failed)} of {len(findings)} checks failed")
